//! The ggml executor: one graph of the decoder, for every device that ggml drives.
//!
//! `device`, `tensor`, `memory` and `stage` are the safe layer over ggml's functions, and the only
//! code here that knows a pointer. `batch` lays a step out, `decoder` builds its graph, `weights`
//! fills a device, `section` puts these together for a stretch of layers, and the runner here
//! sends a step through the sections, one after the other. `llama_cpp` is a second executor, for
//! architectures that are no family here: it runs llama.cpp's own graph of the file. Bits of a row
//! may depend on the batch: vendors' kernels choose by size. The room's other executor,
//! [`super::cpu`], has no such limits and is faster on a processor.

mod batch;
mod decoder;
mod device;
mod llama_cpp;
mod memory;
mod section;
mod split;
mod stage;
mod tensor;
mod weights;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::engine::backends::cpu::ComputeType;
use crate::engine::device::DeviceKind;
use crate::engine::{ModelRunner, RunnerError, StepInput, StepSequence};
use crate::kernels::grad::sums::sum_of_squares;
use crate::model::{Model, WeightId};

use batch::{Ahead, Batch, Bounds};
pub use decoder::AttentionPath;
use decoder::distinct_windows;
pub(in crate::engine) use decoder::max_blocks;
pub use device::{DeviceInfo, devices};
pub use llama_cpp::{LlamaCppOptions, LlamaCppRunner, MAX_SEQUENCES};
use section::Section;
pub use split::split_layers;
use weights::weight;

/// Rows that a thread embeds at least: to wake one beside ggml's own, which do not sleep between
/// steps, takes as long as hundreds of rows.
const MIN_ROWS_PER_THREAD: usize = 256;

/// How far logits that should be the same may lie apart, as a share of their size: kernels that
/// compute in half precision differ by hundredths, wrong ones by all of it.
const MOST_DIFFERENCE: f64 = 0.25;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct GgmlOptions {
    /// Where: at least one device. Of several, each has a stretch of the layers.
    pub devices: Vec<DeviceInfo>,
    /// What to compute in: `Bf16` takes weights as they are stored.
    pub compute_type: ComputeType,
    /// Threads, where the device is a processor.
    pub threads: usize,
    /// Positions per KV block, a multiple of 16.
    pub block_size: usize,
    /// Blocks of the KV pool.
    pub num_blocks: usize,
    /// The longest sequence.
    pub max_model_len: usize,
    /// Sequences in a step, at most.
    pub max_num_seqs: usize,
    /// Rows of a step, at most.
    pub max_num_batched_tokens: usize,
    /// How attention is computed; `None` takes what is exact and fast on the device.
    pub attention: Option<AttentionPath>,
}

/// The ggml executor.
pub struct GgmlRunner {
    /// In the order of the layers.
    sections: Vec<Section>,
    model: Arc<Model>,
    bounds: Bounds,
    times: StepTimes,
    hidden: Vec<f32>,
    /// The windows of attention that there are.
    windows: Vec<Option<usize>>,
    /// The next step, if it is the one that was expected when the last one ran.
    ahead: Option<Ahead>,
}

/// Where the time of steps went, altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Steps that ran.
    pub num_steps: u64,
    /// Laying out, embedding, and building and planning graphs that were not there.
    pub prepare: Duration,
    /// Steps that were laid out while the device computed the step before.
    pub num_laid_out_ahead: u64,
    /// Writing inputs to the device and reading logits from it.
    pub transfer: Duration,
    /// Running graphs.
    pub compute: Duration,
    /// Groups of sequences of similar extent that were attended over.
    pub num_groups: u64,
    /// Those of them whose keys and values were read where they lie, without being gathered.
    pub num_groups_in_place: u64,
}

impl GgmlRunner {
    /// Opens the devices, copies the weights, takes the pool's memory and that of the largest
    /// steps.
    ///
    /// # Errors
    /// An option is out of range, a device lacks memory, or it cannot compute the model.
    pub fn load(model: &Arc<Model>, options: &GgmlOptions) -> Result<Self, RunnerError> {
        if options.block_size == 0 || !options.block_size.is_multiple_of(16) {
            return Err(failure(format!(
                "a block size of {} is no multiple of 16",
                options.block_size
            )));
        }
        if options.num_blocks == 0 || options.num_blocks >= i32::MAX as usize {
            return Err(failure(format!("a pool of {} blocks", options.num_blocks)));
        }
        let spec = &model.spec;
        let layers = split_layers(&options.devices, model).map_err(failure)?;
        let sections = options.devices.iter().zip(layers);
        let sections = sections
            .map(|(device, layers)| Section::load(model, options, device, layers))
            .collect::<Result<_, _>>()?;
        let mut runner = Self {
            sections,
            model: Arc::clone(model),
            bounds: Bounds {
                vocab_size: spec.vocab_size,
                block_size: options.block_size,
                num_blocks: options.num_blocks,
            },
            times: StepTimes::default(),
            hidden: Vec::new(),
            windows: distinct_windows(spec),
            ahead: None,
        };
        let on_cpu = |device: &DeviceInfo| device.kind == DeviceKind::Cpu;
        if !options.devices.iter().all(on_cpu) {
            runner.check_decoding(options)?;
            runner.times = StepTimes::default();
            runner.sections.iter_mut().for_each(Section::forget_graphs);
        }
        Ok(runner)
    }

    /// Computes a text that begins a second block at once, and then again with its last token alone.
    /// A device whose kernels are wrong would answer nonsense, and nothing else would say so; faults
    /// that do not show in these two are not found.
    ///
    /// # Errors
    /// The two differ by more than half precision explains, or are no numbers.
    fn check_decoding(&mut self, options: &GgmlOptions) -> Result<(), RunnerError> {
        let longest = options.max_num_batched_tokens.min(options.max_model_len);
        // The second block lies before the first, so that keys have to be gathered.
        let table: Vec<u32> = (0..options.num_blocks.min(2) as u32).rev().collect();
        let in_blocks = options.block_size * table.len();
        let num_rows = (options.block_size + 1).min(in_blocks).min(longest);
        if num_rows < 2 {
            return Ok(());
        }
        let mut step = |rows: Range<usize>| -> Result<Vec<f32>, RunnerError> {
            let token = |position: usize| (position * 7 + 1) % self.bounds.vocab_size;
            let input = StepInput {
                token_ids: rows
                    .clone()
                    .map(|position| token(position) as u32)
                    .collect(),
                sequences: vec![StepSequence {
                    first_row: 0,
                    num_rows: rows.len(),
                    num_computed_tokens: rows.start,
                    block_table: table.clone(),
                    num_logits: 1,
                }],
            };
            let mut logits = Vec::new();
            self.forward(&input, &mut logits)?;
            Ok(logits)
        };
        let at_once = step(0..num_rows)?;
        step(0..num_rows - 1)?;
        let alone = step(num_rows - 1..num_rows)?;
        let pairs = at_once.iter().zip(&alone);
        let differences: Vec<f32> = pairs.map(|(a, b)| a - b).collect();
        let difference = sum_of_squares(&differences).sqrt();
        let size = sum_of_squares(&at_once).sqrt();
        if difference <= MOST_DIFFERENCE * size {
            return Ok(());
        }
        let names: Vec<&str> = options.devices.iter().map(|d| d.name.as_str()).collect();
        Err(failure(format!(
            "{} gives other logits for a token that is decoded than for the same token at the end of a \
             prompt (they differ by {:.0}% of their size): its driver, or ggml's kernels for it, cannot \
             be trusted with this model; use --device cpu",
            names.join(" and "),
            100.0 * difference / size
        )))
    }

    /// Bytes of the weights on the devices.
    pub fn weight_bytes(&self) -> u64 {
        self.sections.iter().map(|s| s.weights().num_bytes).sum()
    }

    /// Bytes of the matrices by the type that they are held in.
    pub fn held(&self) -> BTreeMap<&'static str, u64> {
        let mut held = BTreeMap::new();
        for (name, bytes) in self.sections.iter().flat_map(|s| &s.weights().held) {
            *held.entry(*name).or_default() += bytes;
        }
        held
    }

    /// Bytes of the KV pool.
    pub fn kv_bytes(&self) -> u64 {
        self.sections.iter().map(|s| s.pool().num_bytes()).sum()
    }

    /// Bytes of the memory that steps compute in.
    pub fn activation_bytes(&self) -> u64 {
        self.sections.iter().map(Section::activation_bytes).sum()
    }

    /// How attention is computed, on the first device.
    pub fn attention(&self) -> AttentionPath {
        self.sections[0].attention()
    }

    /// Where the time of all steps so far went.
    pub fn times(&self) -> StepTimes {
        self.times
    }

    /// The median time of gathering the keys and values that a step attends over, in all layers.
    ///
    /// # Errors
    /// The step cannot be run, or a device failed.
    pub fn gather_time(&mut self, input: &StepInput) -> Result<Duration, RunnerError> {
        let batch = Batch::new(input, self.bounds, &self.windows).map_err(failure)?;
        let sections = self.sections.iter_mut();
        let times = sections.map(|section| section.gather_time(&batch));
        times.sum::<Result<_, _>>().map_err(failure)
    }

    /// Graphs that are ready to run again, on each device.
    pub fn num_graphs(&self) -> usize {
        self.sections[0].num_graphs()
    }

    /// The embedding of every row; rows of padding are zero.
    fn embed(&mut self, batch: &Batch, token_ids: &[u32]) {
        let embedding = weight(&self.model, WeightId::Embedding);
        let spec = &self.model.spec;
        self.hidden.clear();
        self.hidden
            .resize(batch.sources.len() * spec.hidden_size, 0.0);
        let rows = self.hidden.par_chunks_exact_mut(spec.hidden_size);
        let rows = rows.zip(&batch.sources).with_min_len(MIN_ROWS_PER_THREAD);
        rows.for_each(|(row, source)| {
            let Some(source) = *source else { return };
            embedding.read_row(token_ids[source] as usize, row);
            if spec.embedding_scale != 1.0 {
                row.iter_mut()
                    .for_each(|value| *value *= spec.embedding_scale);
            }
        });
    }
}

/// An error of this executor.
fn failure(message: impl Into<String>) -> RunnerError {
    RunnerError::backend("ggml", message)
}

impl ModelRunner for GgmlRunner {
    fn vocab_size(&self) -> usize {
        self.bounds.vocab_size
    }

    fn block_size(&self) -> usize {
        self.bounds.block_size
    }

    fn num_blocks(&self) -> usize {
        self.bounds.num_blocks
    }

    fn is_batch_invariant(&self) -> bool {
        false
    }

    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        // Every value is overwritten, so what is there already need not be cleared.
        logits.resize(input.num_logits() * self.bounds.vocab_size, 0.0);
        let start = Instant::now();
        let batch = match self.ahead.take().and_then(|ahead| ahead.layout_of(input)) {
            Some(batch) => {
                input.check_rows(self.bounds.vocab_size).map_err(failure)?;
                self.times.num_laid_out_ahead += 1;
                batch
            }
            None => Batch::new(input, self.bounds, &self.windows).map_err(failure)?,
        };
        if batch.sources.is_empty() {
            return Ok(());
        }
        self.embed(&batch, &input.token_ids);
        for section in &mut self.sections {
            section.prepare(&batch.shape).map_err(failure)?;
        }
        let prepared = Instant::now();
        let (first, others) = self.sections.split_first_mut().expect("a device");
        first.write(&batch);
        first.write_rows(&batch.shape, &self.hidden);
        let written = Instant::now();
        // While the first device computes, the inputs of the others are written, and the step is laid
        // out that will follow unless a sequence ends, begins or needs a block.
        let meanwhile = || {
            others.iter_mut().for_each(|section| section.write(&batch));
            self.ahead = Ahead::of(input, self.bounds, &self.windows);
        };
        first.run(&batch.shape, meanwhile).map_err(failure)?;
        let mut before = first;
        for section in others {
            section.take_rows(&batch.shape, before);
            section.run(&batch.shape, || {}).map_err(failure)?;
            before = section;
        }
        let computed = Instant::now();
        before.read(&batch.shape, logits);
        let times = &mut self.times;
        times.num_steps += 1;
        times.prepare += prepared - start;
        times.transfer += written - prepared + computed.elapsed();
        times.compute += computed - written;
        let groups = &batch.shape.groups;
        times.num_groups += groups.len() as u64;
        times.num_groups_in_place += groups.iter().filter(|g| g.in_place).count() as u64;
        Ok(())
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        let num_blocks = self.bounds.num_blocks;
        if let Some(block) = [source, target].iter().find(|b| **b as usize >= num_blocks) {
            return Err(failure(format!(
                "block {block} is not in the pool of {num_blocks} blocks"
            )));
        }
        for section in &self.sections {
            section.pool().copy_block(source as usize, target as usize);
        }
        Ok(())
    }
}
