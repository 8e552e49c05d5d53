//! Merging checkpoints tensor by tensor, streaming, with bounded memory.
//!
//! A [`Recipe`] is read and checked, [`Merge::prepare`] opens the models and plans every tensor,
//! [`Merge::write`] computes them block by block from memory-mapped inputs into shards that are
//! opened once. Reading order: `recipe`, `layout`, `plan`, `run`, `task`,
//! `write`, `tensor`, `methods`.
//!
//! The recipe language and the results are those of `mergekit-yaml` 0.1.5; what differs on purpose
//! is listed in `docs/merging.md`.

mod recipe;

mod adapter;
mod architecture;
mod dtype;
mod layout;
mod model;
mod plan;
mod vocabulary;

mod card;
mod check;
mod config;
mod output;
mod randomness;
mod run;
mod task;
mod write;

mod methods;
mod sparsify;
mod tensor;

mod error;

pub use check::{CheckReport, DeltaStatistics, SAFE_DELTA, UNSAFE_DELTA};
pub use dtype::FloatType;
pub use error::{MergeError, Place, ShapeMismatch};
pub use model::Fetch;
pub use randomness::{Randomness, fresh_seed};
pub use recipe::{FilterItem, ModelRef, Parameters, Recipe, Scalar, Setting};
pub use run::{Merge, MergeOptions, Progress};
