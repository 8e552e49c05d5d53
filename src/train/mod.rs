//! Supervised fine-tuning: recipe, rows, batches, decoder with gradients,
//! optimiser, schedule, loop. Reads the recipes and data formats of LLaMA-Factory.

pub mod recipe;

pub mod prepare;
pub mod run;

pub mod dataset;
pub mod encode;
pub mod layout;
pub mod template;
pub mod tokens;

pub mod batch;
pub mod corpus;
pub mod order;
pub mod visit;

pub mod adapter;
pub mod decoder;
pub mod init;
pub mod memory;

pub mod optimizer;
pub mod schedule;
pub mod trainer;

pub mod probe;

mod checkpoint;
mod curve;
mod log;
mod output;
mod parts;
mod tensors;

mod error;

pub use error::TrainError;
