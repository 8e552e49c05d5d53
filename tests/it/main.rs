//! One integration binary, a module per subject.
//!
//! - `cpu_runner`: the CPU executor against transformers, and against itself bit for bit.
//! - `legacy_grading`: the reference graders' verdicts, filters, metric and aggregation.
//! - `gguf_metadata`: GGUF metadata that no decoder can have.
//! - `model_loading`: checkpoints that do not fit their configuration.
//! - `merge`: merges against the reference's, determinism, refusals.
//! - `model_reference`: the reference decoder against transformers, layer by layer.
//! - `quant_blocks`: quantised blocks against the values that ggml reads from them.
//! - `engine`: greedy text of the reference, and the same bits however work is batched.
//! - `generate`: `micota generate` as a user runs it.
//! - `eval_components`: tables, hashes and stop cuts of evaluation output.
//! - `conversion`: GGUF files against llama.cpp's converter.
//! - `eval_replay`: a whole run of the reference harness, replayed.
//! - `gguf_listings`: reads the listings of reference conversions.
//! - `hub_downloads`: the hub room against a server on this machine.
//! - `hostile_models`: model files that lie.
//! - `random_model`: checkpoints with random weights for the others.
//! - `shared`: where golden data lies, if it does.
//! - `symbolic_grading`: mathematical equality against a careful marker.
//! - `task_files`: task files by name, by include, and wrong ones.
//! - `task_prompts`: documents, prompts and few-shot draws of the reference harness.
//! - `tokenizers`: token ids against transformers.
//! - `tidy`: the rules of style that a machine can check.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap in a test is a failed test"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(missing_docs, reason = "tests are read by name")]

mod conversion;
mod cpu_runner;
mod engine;
mod eval_components;
mod eval_replay;
mod generate;
mod gguf_listings;
mod gguf_metadata;
mod hostile_models;
mod hub_downloads;
mod legacy_grading;
mod merge;
mod model_loading;
mod model_reference;
mod quant_blocks;
mod random_model;
mod shared;
mod symbolic_grading;
mod task_files;
mod task_prompts;
mod tidy;
mod tokenizers;
mod train;
