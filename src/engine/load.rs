//! From a checkpoint on the disk to an engine that runs it: opens, sizes, packs, reports.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::formats::{Checkpoint, FormatError, Tokenizer};
use crate::kernels::cpu::{Isa, KvShape};
use crate::model::{Model, ModelError};

use super::backends::cpu::{ComputeType, CpuDemand, CpuOptions, CpuRunner};
use super::memory::available_bytes;
use super::sizing::{self, Choices, Demand, SizingError};
use super::{Detokenizer, Engine, EngineConfig, EngineError, RunnerError, Speculation};

/// Positions per KV block when nobody says: whole panels of the CPU's attention kernel.
const DEFAULT_BLOCK_SIZE: usize = 32;

/// What the user may choose; `None` leaves it to the model and the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// What weights are held and multiplied in.
    pub compute_type: ComputeType,
    /// The kernel path; `None` takes the fastest that the CPU has.
    pub kernels: Option<Isa>,
    /// Threads of the model; `None` takes one per core that the process may use.
    pub threads: Option<usize>,
    /// Bytes of the KV pool; `None` takes what can be used of what is free.
    pub kv_bytes: Option<u64>,
    /// Tokens of prompt and answer together; `None` takes what model and pool hold.
    pub max_model_len: Option<usize>,
    /// Sequences in flight.
    pub max_num_seqs: Option<usize>,
    /// Rows of one step.
    pub max_num_batched_tokens: Option<usize>,
    /// Positions of a KV block.
    pub block_size: Option<usize>,
    /// Whether computed blocks are kept and found again.
    pub prefix_caching: bool,
    /// Guessing ahead when few sequences are left.
    pub speculation: Option<Speculation>,
}

impl Default for EngineOptions {
    /// Fastest numbers that the reference's own precision allows, everything else chosen.
    fn default() -> Self {
        Self {
            compute_type: ComputeType::Bf16,
            kernels: None,
            threads: None,
            kv_bytes: None,
            max_model_len: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            block_size: None,
            prefix_caching: true,
            speculation: None,
        }
    }
}

/// What was loaded and how it will run, to be shown and recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The family, as GGUF spells it.
    pub family: &'static str,
    /// Names the checkpoint's contents ([`Checkpoint::fingerprint`]).
    pub fingerprint: String,
    /// Parameters of the model.
    pub num_parameters: u64,
    /// The longest sequence that the checkpoint was made for.
    pub model_max_len: usize,
    /// What weights are held and multiplied in.
    pub compute_type: ComputeType,
    /// The kernel path.
    pub kernels: &'static str,
    /// Threads of the model.
    pub threads: usize,
    /// Bytes of the packed weights.
    pub weight_bytes: u64,
    /// Bytes of the KV pool when every block is in use.
    pub kv_bytes: u64,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Positions per block.
    pub block_size: usize,
    /// The limits in force.
    pub config: EngineConfig,
    /// Time of opening, packing and checking.
    pub load_time: Duration,
}

/// An engine and what it runs.
pub struct LoadedModel {
    /// Ready for requests.
    pub engine: Engine,
    /// The checkpoint's tokenizer, chat templates included.
    pub tokenizer: Arc<Tokenizer>,
    /// What to tell the user.
    pub info: ModelInfo,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The architecture or its weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The memory.
    #[error(transparent)]
    Sizing(#[from] SizingError),
    /// The executor.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The limits.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A flag out of range.
    #[error("{name} is {value}, expected {expected}")]
    InvalidOption {
        /// Which.
        name: &'static str,
        /// What it was.
        value: usize,
        /// What it may be.
        expected: &'static str,
    },
}

impl Detokenizer for Tokenizer {
    fn append_token_bytes(&self, token_id: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.token_bytes(token_id).unwrap_or_default());
    }
}

/// Opens the checkpoint at `path`, chooses the sizes, packs the weights and makes an engine.
///
/// # Errors
/// The checkpoint is damaged or of an unknown kind, an option is out of range, or memory does not
/// suffice; the message says which file, option or size, and what to do.
pub fn load(path: &Path, options: &EngineOptions) -> Result<LoadedModel, LoadError> {
    let begin = Instant::now();
    let threads = match options.threads {
        Some(0) => {
            return Err(LoadError::InvalidOption {
                name: "threads",
                value: 0,
                expected: "at least 1",
            });
        }
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let tokenizer = Arc::new(Tokenizer::from_checkpoint(&checkpoint)?);
    let model = Arc::new(Model::from_checkpoint(checkpoint.clone())?);
    let block_size = options.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let (sizes, demand) = sizes(&model, block_size, options)?;
    let isa = options.kernels.unwrap_or_else(Isa::detect);
    let runner = CpuRunner::load(
        &model,
        &CpuOptions {
            compute_type: options.compute_type,
            threads,
            isa,
            block_size,
            num_blocks: sizes.num_blocks,
            max_model_len: sizes.max_model_len,
        },
    )?;
    let weight_bytes = runner.weight_bytes();
    let config = EngineConfig {
        max_model_len: sizes.max_model_len,
        max_num_seqs: sizes.max_num_seqs,
        max_num_batched_tokens: sizes.max_num_batched_tokens,
        prefix_caching: options.prefix_caching,
        speculation: options.speculation,
    };
    let engine = Engine::new(Box::new(runner), tokenizer.clone(), config)?;
    let info = ModelInfo {
        family: model.spec.family,
        fingerprint: checkpoint.fingerprint().to_owned(),
        num_parameters: model.num_parameters(),
        model_max_len: model.spec.max_position_embeddings,
        compute_type: options.compute_type,
        kernels: isa.name(),
        threads,
        weight_bytes,
        kv_bytes: sizes.num_blocks as u64 * demand.block_bytes,
        num_blocks: sizes.num_blocks,
        block_size,
        config,
        load_time: begin.elapsed(),
    };
    Ok(LoadedModel {
        engine,
        tokenizer,
        info,
    })
}

/// What loading a model would take and leave, known without packing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Bytes of the KV pool when every block is in use.
    pub kv_bytes: u64,
    /// Tokens that the pool holds.
    pub kv_tokens: u64,
    /// Tokens that one sequence may have.
    pub max_model_len: usize,
}

/// The sizes that [`load`] would choose now.
///
/// # Errors
/// An option is out of range, or memory does not suffice.
pub fn plan(model: &Model, options: &EngineOptions) -> Result<MemoryPlan, LoadError> {
    let block_size = options.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let (sizes, demand) = sizes(model, block_size, options)?;
    Ok(MemoryPlan {
        weight_bytes: demand.weight_bytes,
        kv_bytes: sizes.num_blocks as u64 * demand.block_bytes,
        kv_tokens: (sizes.num_blocks * block_size) as u64,
        max_model_len: sizes.max_model_len,
    })
}

/// The sizes for this model, type and block size, and what they were chosen for.
fn sizes(
    model: &Model,
    block_size: usize,
    options: &EngineOptions,
) -> Result<(sizing::Sizes, Demand), LoadError> {
    if block_size == 0 || !block_size.is_multiple_of(KvShape::BLOCK_SIZE_STEP) {
        return Err(LoadError::InvalidOption {
            name: "block_size",
            value: block_size,
            expected: "a multiple of 16",
        });
    }
    let demand = CpuDemand::of(&model.spec, options.compute_type, block_size);
    let demand = Demand {
        model_max_len: model.spec.max_position_embeddings,
        block_size,
        block_bytes: demand.block_bytes,
        weight_bytes: demand.weight_bytes,
        row_bytes: demand.row_bytes,
    };
    let choices = Choices {
        kv_bytes: options.kv_bytes,
        max_model_len: options.max_model_len,
        max_num_seqs: options.max_num_seqs,
        max_num_batched_tokens: options.max_num_batched_tokens,
    };
    let sizes = sizing::choose(&demand, &choices, available_bytes())?;
    Ok((sizes, demand))
}
