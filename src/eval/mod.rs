//! Evaluation: tasks through the engine to graded, logged, resumable results.
//!
//! A run goes through `execute` (journal first, count later) against a [`Generator`]: the engine, or
//! a server (`endpoint`). `regrade`, `judge` and `compare` work on its logs.
//! Files are lm-evaluation-harness's, byte for byte where it matters (`python_json`, `hashes`,
//! `naming`, `table`); what is ours stands beside them under its own keys.

pub mod execute;
pub mod generate;
pub mod grading;
pub mod hashes;
pub mod make;
pub mod naming;
pub mod python_json;
pub mod record;
pub mod stops;
pub mod table;

pub mod audit;
pub mod output;
pub mod plan;
pub mod prepare;
pub mod results;
pub mod run;
pub mod samples;

pub mod client;
pub mod compare;
pub mod endpoint;
pub mod judge;
pub mod log_reader;
pub mod regrade;

mod error;
mod generator;

pub use error::EvalError;
pub use generator::{Answer, Generator, Load, ScriptedGenerator};
