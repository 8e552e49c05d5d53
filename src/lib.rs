//! micota: evaluate, merge, convert and train small mathematical reasoners.
//!
//! One package, one room per concern, in reading order. A room may import only the rooms that
//! stand below it in its row of the table in `ARCHITECTURE.md`; `tests/it/tidy.rs` enforces that.

pub mod cli;

pub mod eval;

pub mod grade;
pub mod task;

pub mod engine;
pub mod model;

pub mod convert;
pub mod merge;
pub mod train;

pub mod data;

pub mod formats;
/// Numeric kernels: the folder `src/kernels`, compiled as a crate of its own.
pub use micota_kernels as kernels;

pub mod durable;
pub mod hub;
pub mod random;
pub mod rows;
pub mod yaml;
