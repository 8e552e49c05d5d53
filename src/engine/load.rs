//! From a checkpoint on the disk to an engine that runs it: opens, sizes, packs, reports.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::formats::{Checkpoint, FormatError, Tokenizer};
use crate::kernels::cpu::{Isa, KvShape};
use crate::model::{Model, ModelError};

use super::backends::cpu::{ComputeType, KvType, Quantize, StorageSummary};
use super::device::{Device, DeviceError};
use super::executor::{self, Executor};
use super::place::Place;
use super::sizing::{self, BatchChoice, Choices, Demand, SizingError, StepCosts};
use super::{
    Detokenizer, Engine, EngineConfig, EngineError, ModelRunner, RunnerError, Speculate,
    Speculation,
};

/// Positions per KV block when nobody says: whole panels of the CPU's attention kernel.
const DEFAULT_BLOCK_SIZE: usize = 32;
/// Positions of a sequence in the middle of its answer, when a batch is chosen.
const EXPECTED_CONTEXT: usize = 1024;
/// The most tokens guessed for a sequence in a step.
const MAX_DRAFT_TOKENS: usize = 15;
/// The most sequences that are guessed for when nobody says: with eight, the rows of drafts were seen to
/// cost what they save.
const MAX_GUESSED_SEQUENCES: usize = 4;
/// What a further row adds to a step of one where nothing is measured.
const USUAL_ROW_COST: f64 = 0.1;

/// What the user may choose; `None` leaves it to the model and the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Where the model runs.
    pub device: Device,
    /// Whose forward pass runs.
    pub executor: Executor,
    /// What weights are held and multiplied in.
    pub compute_type: ComputeType,
    /// Which weights are held as integers.
    pub quantize: Quantize,
    /// What keys and values are held in.
    pub kv_type: KvType,
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
    pub speculation: Speculate,
}

impl Default for EngineOptions {
    /// Fastest numbers that the reference's own precision allows, everything else chosen.
    fn default() -> Self {
        Self {
            device: Device::Auto,
            executor: Executor::Micota,
            compute_type: ComputeType::Bf16,
            quantize: Quantize::Auto,
            kv_type: KvType::Auto,
            kernels: None,
            threads: None,
            kv_bytes: None,
            max_model_len: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            block_size: None,
            prefix_caching: true,
            speculation: Speculate::default(),
        }
    }
}

/// What was loaded and how it will run, to be shown and recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The family, as GGUF spells it.
    pub family: String,
    /// Names the checkpoint's contents ([`Checkpoint::fingerprint`]).
    pub fingerprint: String,
    /// Parameters of the model.
    pub num_parameters: u64,
    /// The longest sequence that the checkpoint was made for.
    pub model_max_len: usize,
    /// What weights are held and multiplied in.
    pub compute_type: ComputeType,
    /// What keys and values are held in.
    pub kv_type: KvType,
    /// Where it runs, with the maker's name.
    pub device: String,
    /// Whose forward pass runs.
    pub executor: Executor,
    /// Whether answers have the same bits whatever else is in the batch.
    pub is_batch_invariant: bool,
    /// How they are held; empty where the executor does not say.
    pub storage: StorageSummary,
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
    /// Why this batch, where the engine chose it.
    pub batch_choice: Option<BatchChoice>,
    /// Time of opening, packing and checking.
    pub load_time: Duration,
}

impl ModelInfo {
    /// What is computed in, in a word: llama.cpp decides for itself.
    pub fn compute_name(&self) -> &'static str {
        match self.executor {
            Executor::Micota => self.compute_type.name(),
            Executor::LlamaCpp => "as stored",
        }
    }

    /// What weights are held in, in words.
    pub fn weights_name(&self) -> String {
        let held: Vec<_> = self.storage.held.keys().copied().collect();
        if held.is_empty() {
            self.compute_name().to_owned()
        } else {
            held.join(" and ")
        }
    }

    /// What keys and values are held in, in a word.
    pub fn kv_name(&self) -> &'static str {
        match self.executor {
            Executor::Micota => self.kv_type.held(self.compute_type),
            Executor::LlamaCpp => "f16",
        }
    }
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
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An option that another executor has.
    #[error("{option} is an option of the CPU executor and has no effect {place}; leave it out")]
    WithoutEffect {
        /// Which.
        option: &'static str,
        /// Where it was to take effect.
        place: String,
    },
    /// llama.cpp's forward pass where it cannot be had.
    #[error("--engine llama.cpp: {0}")]
    NoLlamaCpp(&'static str),
    /// The executor.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The limits.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Types that do not go together.
    #[error("kv_dtype: {0}")]
    KvType(String),
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
    let threads = threads(options)?;
    let place = Place::find(&options.device)?;
    executor::refuse_without_effect(&place, options)?;
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let tokenizer = Arc::new(Tokenizer::from_checkpoint(&checkpoint)?);
    let fingerprint = checkpoint.fingerprint().to_owned();
    let parts = match options.executor {
        Executor::Micota => own_executor(checkpoint, &place, options, threads)?,
        Executor::LlamaCpp => executor::llama_cpp(path, &checkpoint, &place, options, threads)?,
    };
    let config = EngineConfig {
        max_model_len: parts.sizes.max_model_len,
        max_num_seqs: parts.sizes.max_num_seqs,
        max_num_batched_tokens: parts.sizes.max_num_batched_tokens,
        prefix_caching: parts.prefix_caching,
        speculation: parts.speculation,
    };
    let info = ModelInfo {
        family: parts.family,
        fingerprint,
        num_parameters: parts.num_parameters,
        model_max_len: parts.model_max_len,
        compute_type: options.compute_type,
        kv_type: options.kv_type,
        storage: parts.storage,
        device: place.describe(),
        executor: options.executor,
        is_batch_invariant: parts.runner.is_batch_invariant(),
        kernels: parts.kernels,
        threads,
        weight_bytes: parts.weight_bytes,
        kv_bytes: parts.kv_bytes,
        num_blocks: parts.runner.num_blocks(),
        block_size: parts.runner.block_size(),
        config,
        batch_choice: parts.batch_choice,
        load_time: begin.elapsed(),
    };
    Ok(LoadedModel {
        engine: Engine::new(parts.runner, tokenizer.clone(), config)?,
        tokenizer,
        info,
    })
}

/// The threads that were asked for, or one for each core.
fn threads(options: &EngineOptions) -> Result<usize, LoadError> {
    match options.threads {
        Some(0) => Err(LoadError::InvalidOption {
            name: "threads",
            value: 0,
            expected: "at least 1",
        }),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// An executor and what is to be told about it.
pub(super) struct Parts {
    pub(super) runner: Box<dyn ModelRunner>,
    pub(super) sizes: sizing::Sizes,
    pub(super) family: String,
    pub(super) num_parameters: u64,
    pub(super) model_max_len: usize,
    pub(super) kernels: &'static str,
    pub(super) storage: StorageSummary,
    pub(super) weight_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) prefix_caching: bool,
    pub(super) speculation: Option<Speculation>,
    pub(super) batch_choice: Option<BatchChoice>,
}

/// This package's forward pass, on our kernels or as a graph of ggml's.
fn own_executor(
    checkpoint: Arc<Checkpoint>,
    place: &Place,
    options: &EngineOptions,
    threads: usize,
) -> Result<Parts, LoadError> {
    let model = Arc::new(Model::from_checkpoint(checkpoint)?);
    let block_size = options.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let chosen = sizes(&model, place, block_size, options, threads)?;
    let (sizes, demand) = (chosen.sizes, chosen.demand);
    let runner = place.runner(&model, options, &sizes, block_size, threads)?;
    Ok(Parts {
        family: model.spec.family.to_owned(),
        num_parameters: model.num_parameters(),
        model_max_len: model.spec.max_position_embeddings,
        kernels: place.kernels(options),
        storage: runner.storage,
        weight_bytes: runner.weight_bytes,
        kv_bytes: sizes.num_blocks as u64 * demand.memory.block_bytes,
        runner: runner.runner,
        sizes,
        prefix_caching: options.prefix_caching,
        speculation: speculation(options, chosen.costs),
        batch_choice: chosen.batch_choice,
    })
}

/// When to guess. Where nothing is measured, bits depend on the batch, so nobody guesses unasked.
fn speculation(options: &EngineOptions, costs: Option<StepCosts>) -> Option<Speculation> {
    let paying = |max_running, row_cost| Speculation {
        max_draft_tokens: MAX_DRAFT_TOKENS,
        max_running,
        row_cost,
    };
    let row_cost = costs.map(|costs| costs.row_cost());
    match options.speculation {
        Speculate::Never | Speculate::Below(0) => None,
        Speculate::As(speculation) => Some(speculation),
        Speculate::Below(most) => Some(paying(most, row_cost.unwrap_or(USUAL_ROW_COST))),
        Speculate::Auto => row_cost.map(|row_cost| paying(MAX_GUESSED_SEQUENCES, row_cost)),
    }
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
    let place = Place::find(&options.device)?;
    let block_size = options.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let threads = threads(options)?;
    let Chosen { sizes, demand, .. } = sizes(model, &place, block_size, options, threads)?;
    Ok(MemoryPlan {
        weight_bytes: demand.memory.weight_bytes,
        kv_bytes: sizes.num_blocks as u64 * demand.memory.block_bytes,
        kv_tokens: (sizes.num_blocks * block_size) as u64,
        max_model_len: sizes.max_model_len,
    })
}

/// Sizes, and what they were chosen for.
struct Chosen {
    sizes: sizing::Sizes,
    demand: Demand,
    /// Where they were measured.
    costs: Option<StepCosts>,
    batch_choice: Option<BatchChoice>,
}

/// The sizes for this model, type and block size.
fn sizes(
    model: &Model,
    place: &Place,
    block_size: usize,
    options: &EngineOptions,
    threads: usize,
) -> Result<Chosen, LoadError> {
    if block_size == 0 || !block_size.is_multiple_of(KvShape::BLOCK_SIZE_STEP) {
        return Err(LoadError::InvalidOption {
            name: "block_size",
            value: block_size,
            expected: "a multiple of 16",
        });
    }
    options
        .kv_type
        .check(options.compute_type)
        .map_err(LoadError::KvType)?;
    let devices = place.demands(model, options, block_size)?;
    let demand = Demand::total(&devices);
    let longest = options.max_model_len.unwrap_or(demand.model_max_len);
    let context = EXPECTED_CONTEXT.min(longest);
    let guesses = matches!(options.speculation, Speculate::Auto | Speculate::Below(_));
    let measured = if options.max_num_seqs.is_none() || guesses {
        place.step_costs(model, options, threads, context)?
    } else {
        None
    };
    let choice = measured.map(|(limit, costs)| BatchChoice {
        flops: limit.flops,
        bytes_per_s: limit.bytes_per_s,
        context,
        share_of_rate: costs.share_of_rate(costs.batch().0),
    });
    let costs = measured.map(|(_, costs)| costs);
    let usual = costs.map(|costs| costs.batch()).or(place.usual_batch());
    let max_num_seqs = options.max_num_seqs.or(usual.map(|usual| usual.0));
    let choices = Choices {
        kv_bytes: options.kv_bytes,
        max_model_len: options.max_model_len,
        max_num_seqs,
        max_num_batched_tokens: options
            .max_num_batched_tokens
            .or(usual.map(|usual| usual.1.max(max_num_seqs.unwrap_or_default()))),
    };
    Ok(Chosen {
        sizes: sizing::choose_for_all(&devices, &choices)?,
        demand,
        costs,
        batch_choice: choice.filter(|_| options.max_num_seqs.is_none()),
    })
}
