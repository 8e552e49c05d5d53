//! Whose forward pass runs, and llama.cpp's where it is asked for.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

#[cfg(feature = "ggml")]
use super::ModelRunner;
use super::Speculate;
#[cfg(feature = "ggml")]
use super::backends::cpu::StorageSummary;
use super::backends::cpu::{ComputeType, KvType, Quantize};
#[cfg(feature = "ggml")]
use super::backends::ggml::{LlamaCppOptions, LlamaCppRunner};
use super::load::{EngineOptions, LoadError, Parts};
use super::place::Place;
#[cfg(feature = "ggml")]
use super::sizing;
use crate::formats::Checkpoint;
#[cfg(feature = "ggml")]
use crate::formats::Source;

/// llama.cpp takes the memory of every sequence's whole context at once, so what it gets when nobody
/// says is less than what the model could have.
#[cfg(feature = "ggml")]
const LLAMA_CPP_SEQUENCES: usize = 16;
#[cfg(feature = "ggml")]
const LLAMA_CPP_MODEL_LEN: usize = 4096;
#[cfg(feature = "ggml")]
const LLAMA_CPP_BATCHED_TOKENS: usize = 512;

/// Whose forward pass runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// This package's: every family that it knows.
    #[default]
    Micota,
    /// llama.cpp's: every GGUF file that it can read, with a fixed KV memory per sequence.
    LlamaCpp,
}

impl Executor {
    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Micota => "micota",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Executor {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "micota" => Ok(Self::Micota),
            "llama.cpp" | "llama-cpp" | "llama_cpp" => Ok(Self::LlamaCpp),
            _ => Err(format!("unknown engine `{name}`; known: micota, llama.cpp")),
        }
    }
}

/// Refuses options that the executor or device does not have, rather than run without them.
///
/// # Errors
/// The first such option.
pub(super) fn refuse_without_effect(
    place: &Place,
    options: &EngineOptions,
) -> Result<(), LoadError> {
    let is_llama_cpp = options.executor == Executor::LlamaCpp;
    let of_kernels = [
        ("quantize", options.quantize != Quantize::Auto),
        ("kv_dtype", options.kv_type != KvType::Auto),
        ("kernels", options.kernels.is_some()),
    ];
    let of_engine = [
        ("dtype f32", options.compute_type == ComputeType::F32),
        ("kv_memory", options.kv_bytes.is_some()),
        ("block_size", options.block_size.is_some()),
        (
            "speculation",
            matches!(options.speculation, Speculate::Below(_) | Speculate::As(_)),
        ),
    ];
    let kernels = of_kernels
        .into_iter()
        .filter(|_| is_llama_cpp || !place.has_own_kernels());
    let engine = of_engine.into_iter().filter(|_| is_llama_cpp);
    let refused = kernels.chain(engine).find(|(_, given)| *given);
    let Some((option, _)) = refused else {
        return Ok(());
    };
    Err(LoadError::WithoutEffect {
        option,
        place: match options.executor {
            Executor::LlamaCpp => "with llama.cpp".to_owned(),
            Executor::Micota => format!("on {}", place.describe()),
        },
    })
}

/// llama.cpp's forward pass of a GGUF file.
#[cfg(not(feature = "ggml"))]
pub(super) fn llama_cpp(
    _: &Path,
    _: &Checkpoint,
    _: &Place,
    _: &EngineOptions,
    _: usize,
) -> Result<Parts, LoadError> {
    Err(LoadError::NoLlamaCpp(
        "this build is without it; build with `cargo build --release --features ggml`",
    ))
}

/// llama.cpp's forward pass of a GGUF file.
#[cfg(feature = "ggml")]
pub(super) fn llama_cpp(
    path: &Path,
    checkpoint: &Checkpoint,
    place: &Place,
    options: &EngineOptions,
    threads: usize,
) -> Result<Parts, LoadError> {
    let Source::Gguf(metadata) = checkpoint.source() else {
        return Err(LoadError::NoLlamaCpp(
            "it reads GGUF files only; convert the model with `micota convert`",
        ));
    };
    let family = metadata.architecture()?.to_owned();
    let max_num_seqs = options.max_num_seqs.unwrap_or(LLAMA_CPP_SEQUENCES);
    let max_model_len = options.max_model_len.unwrap_or(LLAMA_CPP_MODEL_LEN);
    let max_num_batched_tokens = options
        .max_num_batched_tokens
        .unwrap_or(LLAMA_CPP_BATCHED_TOKENS)
        .max(max_num_seqs);
    let runner = LlamaCppRunner::load(
        path,
        &LlamaCppOptions {
            devices: place.ggml_devices(),
            threads,
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
            max_outputs: max_num_seqs,
        },
    )?;
    let model_max_len = runner.model_max_len();
    Ok(Parts {
        family,
        num_parameters: runner.num_parameters(),
        model_max_len,
        kernels: "llama.cpp",
        storage: stored(checkpoint),
        weight_bytes: runner.weight_bytes(),
        kv_bytes: runner.kv_bytes(),
        sizes: sizing::Sizes {
            num_blocks: runner.num_blocks(),
            max_model_len: max_model_len.min(model_max_len),
            max_num_seqs,
            max_num_batched_tokens,
        },
        runner: Box::new(runner),
        // A stream holds one sequence from its beginning: nothing can be shared or guessed.
        prefix_caching: false,
        speculation: None,
        batch_choice: None,
    })
}

/// What a checkpoint's tensors are stored in, by name.
#[cfg(feature = "ggml")]
fn stored(checkpoint: &Checkpoint) -> StorageSummary {
    let mut summary = StorageSummary::default();
    for tensor in checkpoint.tensors().filter(|tensor| tensor.shape.len() > 1) {
        *summary.held.entry(tensor.dtype.name()).or_default() += tensor.data.len() as u64;
    }
    summary
}
