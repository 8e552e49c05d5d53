//! The CPU executor: a decoder run eagerly over preallocated buffers with [`crate::kernels::cpu`].
//!
//! `storage` decides how weights are held, `kv_type` keys and values; `weights` packs, `decoder` runs a
//! step, `demand` says beforehand what both will take, and `limit` what the machine can do. A row's
//! logits have the same bits in any batch, chunk, block size and number of threads.

mod decoder;
mod demand;
mod kv_type;
mod limit;
mod measure;
mod squares;
mod storage;
mod weights;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::engine::{ModelRunner, RunnerError, StepInput};
use crate::kernels::cpu::{Bf16, Cpu, F32, Isa, KvShape};
use crate::model::Model;

use decoder::Decoder;
pub use kv_type::KvType;
pub use limit::MachineLimit;
pub(in crate::engine) use limit::step_costs;
pub(in crate::engine) use measure::step_flops;
pub use measure::{Measurement, Workload, blocks_of, measure, step_input, step_time};
pub use squares::{LayerInput, SquareSums};
use storage::Storage;
pub use storage::{Quantize, StorageSummary};

/// What weights, activations and the KV cache are held and multiplied in; sums are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeType {
    /// Single precision, the reference's own numbers.
    F32,
    /// bfloat16: half the memory, and the dot product that CPUs have an instruction for.
    Bf16,
}

impl ComputeType {
    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ComputeType {
    type Err = String;

    /// Takes `f32`, `float32`, `bf16` and `bfloat16`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(format!(
                "unknown type `{name}` to compute in; known: f32, bf16"
            )),
        }
    }
}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// What to compute in.
    pub compute_type: ComputeType,
    /// Which weights are integers.
    pub quantize: Quantize,
    /// What keys and values are held in.
    pub kv_type: KvType,
    /// Threads, the caller's included; at least 1.
    pub threads: usize,
    /// The instruction set.
    pub isa: Isa,
    /// Positions per KV block: a multiple of 16.
    pub block_size: usize,
    /// Blocks of the KV pool.
    pub num_blocks: usize,
    /// The longest sequence, for rotary embeddings that depend on it.
    pub max_model_len: usize,
}

/// A decoder of any element type.
trait Executor: ModelRunner {
    /// Where sums of squares are kept; `None` keeps none.
    fn squares(&mut self) -> &mut Option<SquareSums>;
}

/// The CPU executor.
pub struct CpuRunner {
    decoder: Box<dyn Executor + Send>,
    weight_bytes: u64,
    kv_bytes: u64,
    storage: StorageSummary,
}

impl CpuRunner {
    /// Packs the weights, on all threads and straight from the map, and sets up the KV pool, whose
    /// memory is taken as blocks are first written.
    ///
    /// # Errors
    /// An option is out of range, or the system refused memory or threads.
    pub fn load(model: &Arc<Model>, options: &CpuOptions) -> Result<Self, RunnerError> {
        if options.block_size == 0 || !options.block_size.is_multiple_of(KvShape::BLOCK_SIZE_STEP) {
            return Err(failure(format!(
                "a block size of {} is no multiple of {}",
                options.block_size,
                KvShape::BLOCK_SIZE_STEP
            )));
        }
        if !model.spec.head_dim.is_multiple_of(2) {
            return Err(failure(format!(
                "heads of {} elements cannot be halved",
                model.spec.head_dim
            )));
        }
        options
            .kv_type
            .check(options.compute_type)
            .map_err(failure)?;
        let cpu = Cpu::new(options.isa, options.threads.max(1))
            .map_err(|error| failure(format!("{} threads: {error}", options.threads)))?;
        let no_memory = |error| failure(format!("no memory for the model: {error}"));
        let storage = Storage::new(options.compute_type, options.quantize).summary(model);
        match options.compute_type {
            ComputeType::F32 => Decoder::<F32>::load(model, cpu, options)
                .map(|decoder| Self::of(decoder, storage))
                .map_err(no_memory),
            ComputeType::Bf16 => Decoder::<Bf16>::load(model, cpu, options)
                .map(|decoder| Self::of(decoder, storage))
                .map_err(no_memory),
        }
    }

    fn of<O: crate::kernels::cpu::Arithmetic>(
        decoder: Decoder<O>,
        storage: StorageSummary,
    ) -> Self {
        Self {
            storage,
            weight_bytes: decoder.weight_bytes(),
            kv_bytes: decoder.kv_bytes(),
            decoder: Box::new(decoder),
        }
    }

    /// Sums of squares of what matrices are multiplied with: put zeros here, and every step adds
    /// to them; `None`, as it is at first, costs nothing. The sums must be of this model's sizes.
    pub fn squares(&mut self) -> &mut Option<SquareSums> {
        self.decoder.squares()
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// How the weights are held.
    pub fn storage(&self) -> &StorageSummary {
        &self.storage
    }

    /// Bytes of the KV pool when every block is in use.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }
}

/// An error of this executor.
fn failure(message: impl Into<String>) -> RunnerError {
    RunnerError::backend("cpu", message)
}

impl ModelRunner for CpuRunner {
    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn block_size(&self) -> usize {
        self.decoder.block_size()
    }

    fn num_blocks(&self) -> usize {
        self.decoder.num_blocks()
    }

    fn is_batch_invariant(&self) -> bool {
        self.decoder.is_batch_invariant()
    }

    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        self.decoder.forward(input, logits)
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        self.decoder.copy_block(source, target)
    }
}
