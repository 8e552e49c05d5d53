//! The ggml executor: one graph of the decoder, for every device that ggml drives.
//!
//! `device`, `tensor`, `memory` and `stage` are the safe layer over ggml's functions, and the only
//! code here that knows a pointer. `batch` lays a step out, `decoder` builds its graph, `weights`
//! fills the device. `llama_cpp` is a second executor, for architectures that are no family here:
//! it runs llama.cpp's own graph of the file. Bits of a row may depend on the batch: vendors' kernels choose by size.
//! The room's other executor, [`super::cpu`], has no such limits and is faster on a processor.

mod batch;
mod decoder;
mod device;
mod llama_cpp;
mod memory;
mod stage;
mod tensor;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::engine::backends::cpu::ComputeType;
use crate::engine::device::DeviceKind;
use crate::engine::device_demand::kv_type;
use crate::engine::{ModelRunner, RunnerError, StepInput};
use crate::model::{Model, WeightId};

use batch::{Batch, Bounds, GroupShape, Shape, bucket, bucket_positions};
pub use decoder::AttentionPath;
use decoder::{Parts, Pool, StepGraph};
use device::Backend;
pub use device::{DeviceInfo, devices};
pub use llama_cpp::{LlamaCppOptions, LlamaCppRunner, MAX_SEQUENCES};
use stage::Stage;
use tensor::Element;
use weights::{Weights, weight};

/// Graphs that are kept for steps of the same shape. A description is a few hundred kilobytes.
const MAX_GRAPHS: usize = 64;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct GgmlOptions {
    /// Where.
    pub device: DeviceInfo,
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
    // Graphs go before the memory and the device that they refer to.
    graphs: BTreeMap<Shape, Cached>,
    pool: Pool,
    weights: Weights,
    stage: Stage,
    model: Arc<Model>,
    bounds: Bounds,
    attention: AttentionPath,
    exact_gelu: bool,
    kv_bytes: u64,
    num_steps: u64,
    times: StepTimes,
    hidden: Vec<f32>,
    mask: Vec<u16>,
}

/// Where the time of steps went, altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Steps that ran.
    pub num_steps: u64,
    /// Laying out, embedding, and building and planning graphs that were not there.
    pub prepare: Duration,
    /// Writing inputs to the device and reading logits from it.
    pub transfer: Duration,
    /// Running graphs.
    pub compute: Duration,
}

struct Cached {
    step: StepGraph,
    last_used: u64,
}

impl GgmlRunner {
    /// Opens the device, copies the weights, takes the pool's memory and that of the largest
    /// steps.
    ///
    /// # Errors
    /// An option is out of range, the device lacks memory, or it cannot compute the model.
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
        let backend = Backend::open(&options.device, options.threads.max(1)).map_err(failure)?;
        let spec = &model.spec;
        let is_cpu = options.device.kind == DeviceKind::Cpu;
        let kv = Element::Stored(kv_type(options.device.kind, options.compute_type));
        let pool = Pool::allocate(&backend, spec, kv, options.block_size, options.num_blocks)
            .map_err(failure)?;
        let weights = Weights::upload(&backend, model, options.compute_type, options.max_model_len)
            .map_err(failure)?;
        // Kernels for attention in one go compute in half precision on GPUs, and not every one
        // has a soft cap.
        let is_f32 = options.compute_type == ComputeType::F32;
        let exact = is_cpu || !(is_f32 || spec.attention_soft_cap.is_some());
        let attention = options.attention.unwrap_or(match exact {
            true => AttentionPath::Flash,
            false => AttentionPath::Plain,
        });
        let block_bytes = 2 * pool.block_bytes() as u64 * spec.num_hidden_layers as u64;
        let mut runner = Self {
            graphs: BTreeMap::new(),
            pool,
            weights,
            stage: Stage::new(backend),
            model: Arc::clone(model),
            bounds: Bounds {
                vocab_size: spec.vocab_size,
                block_size: options.block_size,
                num_blocks: options.num_blocks,
            },
            attention,
            exact_gelu: !is_cpu,
            kv_bytes: block_bytes * options.num_blocks as u64,
            num_steps: 0,
            times: StepTimes::default(),
            hidden: Vec::new(),
            mask: Vec::new(),
        };
        runner.reserve(options, options.attention.is_some())?;
        Ok(runner)
    }

    /// Takes the memory of the largest steps: a full chunk of the longest prompt, and as many
    /// sequences as there may be, which share the pool. Falls back to plain attention where the
    /// device has no kernel for this model, unless a path was asked for.
    fn reserve(&mut self, options: &GgmlOptions, is_fixed: bool) -> Result<(), RunnerError> {
        let pool_len = options.num_blocks * options.block_size;
        let longest = options.max_model_len.min(pool_len).max(1);
        let sequences = bucket(options.max_num_seqs.max(1));
        let shape = |rows: usize, positions: usize, sequences: usize, outputs: usize| Shape {
            groups: vec![GroupShape {
                rows: bucket(rows),
                positions: bucket_positions(positions),
                sequences,
            }],
            outputs,
        };
        let rows = options.max_num_batched_tokens.clamp(1, longest);
        let shared = pool_len.div_ceil(sequences).clamp(1, longest);
        let largest = [
            shape(rows, longest, 1, 1),
            shape(1, shared, sequences, sequences),
        ];
        for shape in largest {
            let mut step = self.build(&shape);
            if self.attention == AttentionPath::Flash
                && !is_fixed
                && step.check(&self.stage).is_err()
            {
                self.attention = AttentionPath::Plain;
                step = self.build(&shape);
            }
            step.check(&self.stage).map_err(failure)?;
            self.stage.reserve(&step.graph).map_err(|error| {
                failure(format!(
                    "{error}; lower the KV memory, max_num_batched_tokens or max_num_seqs"
                ))
            })?;
        }
        Ok(())
    }

    fn build(&self, shape: &Shape) -> StepGraph {
        StepGraph::build(&self.parts(), shape)
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            spec: &self.model.spec,
            weights: &self.weights,
            pool: &self.pool,
            attention: self.attention,
            exact_gelu: self.exact_gelu,
        }
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.num_bytes
    }

    /// Bytes of the matrices by the type that they are held in.
    pub fn held(&self) -> &BTreeMap<&'static str, u64> {
        &self.weights.held
    }

    /// Bytes of the KV pool.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    /// Bytes of the memory that steps compute in.
    pub fn activation_bytes(&self) -> u64 {
        self.stage.num_bytes() as u64
    }

    /// How attention is computed.
    pub fn attention(&self) -> AttentionPath {
        self.attention
    }

    /// Where the time of all steps so far went.
    pub fn times(&self) -> StepTimes {
        self.times
    }

    /// The median time of gathering the keys and values that a step attends over, in all layers.
    ///
    /// # Errors
    /// The step cannot be run, or the device failed.
    pub fn gather_time(&mut self, input: &StepInput) -> Result<Duration, RunnerError> {
        const REPETITIONS: usize = 9;
        let batch = Batch::new(input, self.bounds).map_err(failure)?;
        let (mut graph, inputs) = StepGraph::gathers(&self.parts(), &batch.shape);
        self.stage.plan(&mut graph).map_err(failure)?;
        for (index, group) in inputs.iter().enumerate() {
            self.stage
                .write(&graph, &group.blocks, &batch.blocks(index));
        }
        let mut times = [Duration::ZERO; REPETITIONS];
        for time in &mut times {
            let start = Instant::now();
            self.stage.run(&graph).map_err(failure)?;
            *time = start.elapsed();
        }
        times.sort();
        Ok(times[REPETITIONS / 2])
    }

    /// Graphs that are ready to run again.
    pub fn num_graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Makes the graph of `shape` ready: it was used before, or is built and planned now.
    fn prepare(&mut self, shape: &Shape) -> Result<(), String> {
        self.num_steps += 1;
        let now = self.num_steps;
        if let Some(cached) = self.graphs.get_mut(shape)
            && self.stage.is_ready(&cached.step.graph)
        {
            cached.last_used = now;
            return Ok(());
        }
        let mut step = self.build(shape);
        step.check(&self.stage)?;
        self.stage.plan(&mut step.graph)?;
        // Where planning moved the memory, the others point to where it was.
        let stage = &self.stage;
        self.graphs
            .retain(|_, cached| stage.is_ready(&cached.step.graph));
        if self.graphs.len() >= MAX_GRAPHS {
            let oldest = self
                .graphs
                .iter()
                .min_by_key(|(_, cached)| cached.last_used);
            let oldest = oldest.map(|(shape, _)| shape.clone());
            oldest.and_then(|shape| self.graphs.remove(&shape));
        }
        let cached = Cached {
            step,
            last_used: now,
        };
        self.graphs.insert(shape.clone(), cached);
        Ok(())
    }

    /// The embedding of every row; rows of padding are zero.
    fn embed(&mut self, batch: &Batch<'_>, token_ids: &[u32]) {
        let embedding = weight(&self.model, WeightId::Embedding);
        let spec = &self.model.spec;
        self.hidden.clear();
        self.hidden
            .resize(batch.sources.len() * spec.hidden_size, 0.0);
        let rows = self.hidden.par_chunks_exact_mut(spec.hidden_size);
        rows.zip(&batch.sources).for_each(|(row, source)| {
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
        let batch = Batch::new(input, self.bounds).map_err(failure)?;
        if batch.sources.is_empty() {
            return Ok(());
        }
        self.embed(&batch, &input.token_ids);
        self.prepare(&batch.shape).map_err(failure)?;
        let prepared = Instant::now();
        let Self {
            graphs,
            stage,
            times,
            hidden,
            mask,
            ..
        } = self;
        let step = &graphs[&batch.shape].step;
        let graph = &step.graph;
        stage.write(graph, &step.hidden, hidden);
        stage.write(graph, &step.positions, &batch.positions);
        stage.write(graph, &step.slots, &batch.slots);
        for (index, group) in step.groups.iter().enumerate() {
            stage.write(graph, &group.blocks, &batch.blocks(index));
            for (window, tensor) in &group.masks {
                batch.mask(index, *window, mask);
                stage.write(graph, tensor, mask);
            }
        }
        if let Some(outputs) = &step.outputs {
            stage.write(graph, outputs, &batch.outputs);
        }
        let written = Instant::now();
        stage.run(graph).map_err(failure)?;
        let computed = Instant::now();
        if let Some(result) = &step.logits {
            stage.read(graph, result, logits);
        }
        times.num_steps += 1;
        times.prepare += prepared - start;
        times.transfer += written - prepared + computed.elapsed();
        times.compute += computed - written;
        Ok(())
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        let num_blocks = self.bounds.num_blocks;
        if let Some(block) = [source, target].iter().find(|b| **b as usize >= num_blocks) {
            return Err(failure(format!(
                "block {block} is not in the pool of {num_blocks} blocks"
            )));
        }
        self.pool.copy_block(source as usize, target as usize);
        Ok(())
    }
}
