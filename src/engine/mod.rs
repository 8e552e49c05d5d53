//! Inference: paged KV cache, continuous batching, sampling; executors behind [`ModelRunner`].
//!
//! `scheduler` and `block_manager` are pure: values in, values out, no tensor type. The loop in
//! `core` ties them to a runner. This room knows neither tasks nor answers.

mod completion;
mod error;
mod request;
mod statistics;

mod core;
mod generation;

mod block_manager;
mod scheduler;
mod sequence;
mod speculation;

mod detokenizer;
mod sampler;
mod stops;

mod demand;
mod device;
mod executor;
mod forecast;
mod memory;
mod runner;
mod scripted;
mod sizing;

pub mod backends;
mod load;
mod place;

#[cfg(test)]
mod simulation;

pub use self::core::{Engine, EngineConfig};
pub use crate::formats::Tokenizer;
pub use backends::cpu::{ComputeType, KvType, Quantize, StorageSummary};
pub use completion::{Completion, FinishReason, TokenLogprob};
pub use demand::MemoryDemand;
pub use detokenizer::Detokenizer;
pub use device::{Device, DeviceError, DeviceId, DeviceKind, GPU_FEATURES};
pub use error::{EngineError, RequestError};
pub use executor::Executor;
pub use forecast::{DeviceLimit, Expected, Forecast, Plan, forecast};
pub use load::{EngineOptions, LoadError, LoadedModel, MemoryPlan, ModelInfo, load, plan};
pub use memory::available_bytes;
pub use request::{Request, SamplingParams};
pub use runner::{ModelRunner, RunnerError, StepInput, StepSequence};
pub use sampler::SamplerError;
pub use scripted::ScriptedRunner;
pub use sizing::{BatchChoice, SizingError};
pub use speculation::{Speculate, Speculation};
pub use statistics::{Occupancy, Statistics};
pub use stops::cut_at_stop_strings;
