//! Inference: paged KV cache, continuous batching, sampling; executors behind [`ModelRunner`].
//!
//! `scheduler` and `block_manager` are pure: values in, values out, no tensor type. The loop in
//! `engine` ties them to a runner. This room knows neither tasks nor answers.

mod completion;
mod request;
mod runner;

pub use completion::{Completion, FinishReason, TokenLogprob};
pub use request::{Request, SamplingParams};
pub use runner::{ModelRunner, RunnerError, StepInput, StepSequence};
