//! One integration binary, a module per subject.
//!
//! - `command_line`: help, completions, manual pages, exit codes, the doctor.
//! - `conversion`: GGUF files against llama.cpp's converter.
//! - `cpu_runner`: the CPU executor against transformers, and against itself bit for bit.
//! - `devices`: the executors that the others run on.
//! - `engine_families`: every executor on every family and configuration.
//! - `engine`: greedy text of the reference, and the same bits however work is batched.
//! - `eval_components`: tables, hashes and stop cuts of evaluation output.
//! - `eval_refusals`: what `micota eval` refuses, as a user sees it.
//! - `eval_replay`: a whole run of the reference harness, replayed.
//! - `eval_runs`: whole runs of the demo model: killed, batched otherwise, with every flag.
//! - `eval_servers`: `micota eval` against servers on this machine.
//! - `forecast`: what `micota plan` computes.
//! - `generate`: `micota generate` as a user runs it.
//! - `ggml_layouts`: the ggml executor, however layers lie on devices and blocks in the pool.
//! - `ggml_runner`: the ggml executor's own promises.
//! - `gguf_listings`: reads the listings of reference conversions.
//! - `gguf_metadata`: GGUF metadata that no decoder can have.
//! - `grade_logs`: `micota grade` as a user runs it: formats, repeated samples, judges.
//! - `hostile_models`: model files that lie.
//! - `hub_downloads`: the hub room against a server on this machine.
//! - `importance`: importance matrices against llama.cpp's activations, and their use.
//! - `legacy_grading`: the reference graders' verdicts, filters, metric and aggregation.
//! - `llama_cpp`: llama.cpp itself, for the others to compare with.
//! - `llama_cpp_engine`: llama.cpp's context behind our engine.
//! - `merge`: merges against the reference's, determinism, refusals.
//! - `merge_process`: `micota merge` killed, started again, and its memory.
//! - `model_gguf`: the same decoder from a folder and from GGUF.
//! - `model_llama_cpp`: llama.cpp loads our files and says what our engine says.
//! - `model_loading`: checkpoints that do not fit their configuration.
//! - `model_reference`: the reference decoder against transformers, layer by layer.
//! - `model_sources`: commands on every form that a model comes in.
//! - `quant_blocks`: quantised blocks against the values that ggml reads from them.
//! - `quantising`: quantised files against llama.cpp's, to the byte.
//! - `random_model`: checkpoints with random weights for the others.
//! - `readme`: the README's commands, run as they stand.
//! - `regrading`: logs graded again give the reference's scores and judge files.
//! - `shared`: where golden data lies, if it does.
//! - `symbolic_grading`: mathematical equality against a careful marker.
//! - `synthetic_gguf`: GGUF files of any shape for the others.
//! - `task_files`: task files by name, by include, and wrong ones.
//! - `task_prompts`: documents, prompts and few-shot draws of the reference harness.
//! - `task_rendering`: `micota tasks --render`, data of every kind, groups, few-shot draws.
//! - `tidy`: the rules of style that a machine can check.
//! - `tokenizers`: token ids against transformers.
//! - `train`: training steps against golden runs of LLaMA-Factory.
//! - `train_recipes`: recipes run as a user runs them, against the same runs; resuming, adapters.
//! - `train_rows`: token rows, batches and packs against LLaMA-Factory's.
//! - `train_tokens`: tokenised rows kept between runs, and the model's own chat template.
//! - `train_workshop`: a place to train in, for the others.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap in a test is a failed test"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(missing_docs, reason = "tests are read by name")]

mod command_line;
mod conversion;
mod cpu_runner;
mod devices;
mod engine;
mod engine_families;
mod eval_components;
mod eval_refusals;
mod eval_replay;
mod eval_runs;
mod eval_servers;
mod forecast;
mod generate;
#[cfg(feature = "ggml")]
mod ggml_layouts;
#[cfg(feature = "ggml")]
mod ggml_runner;
mod gguf_listings;
mod gguf_metadata;
mod grade_logs;
mod hostile_models;
mod hub_downloads;
mod importance;
mod legacy_grading;
#[cfg(feature = "ggml")]
mod llama_cpp;
#[cfg(feature = "ggml")]
mod llama_cpp_engine;
mod merge;
mod merge_process;
mod model_gguf;
#[cfg(feature = "ggml")]
mod model_llama_cpp;
mod model_loading;
mod model_reference;
mod model_sources;
mod quant_blocks;
mod quantising;
mod random_model;
mod readme;
mod regrading;
mod shared;
mod symbolic_grading;
mod synthetic_gguf;
mod task_files;
mod task_prompts;
mod task_rendering;
mod tidy;
mod tokenizers;
mod train;
mod train_graph;
mod train_recipes;
mod train_rows;
mod train_tokens;
mod train_workshop;
mod unusual_tokenizers;
