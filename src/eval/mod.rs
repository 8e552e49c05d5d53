//! Evaluation: tasks through the engine to graded, logged, resumable results.
//!
//! Files are lm-evaluation-harness's, byte for byte where it matters (`python_json`, `hashes`,
//! `naming`, `table`); what is ours stands beside them under its own keys.

pub mod hashes;
pub mod naming;
pub mod python_json;
pub mod stops;
pub mod table;
