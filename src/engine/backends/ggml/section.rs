//! A stretch of a model's layers on one device: its weights, its part of the KV pool, and the
//! graphs of steps through it. A model on one device is one section.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::RunnerError;
use crate::engine::backends::cpu::ComputeType;
use crate::engine::demand::kv_type;
use crate::engine::device::DeviceKind;
use crate::model::Model;

use super::batch::{Batch, GroupShape, Shape, bucket, bucket_positions};
use super::decoder::{AttentionPath, Parts, Pool, StepGraph};
use super::device::{Backend, DeviceInfo};
use super::memory;
use super::stage::Stage;
use super::tensor::Element;
use super::weights::Weights;
use super::{GgmlOptions, failure};

/// Graphs that are kept for steps of the same shape. A description is a few hundred kilobytes.
const MAX_GRAPHS: usize = 64;

/// Layers on a device.
pub(super) struct Section {
    // Graphs go before the memory and the device that they refer to.
    graphs: BTreeMap<Shape, Cached>,
    pool: Pool,
    weights: Weights,
    stage: Stage,
    model: Arc<Model>,
    layers: Range<usize>,
    attention: AttentionPath,
    on_cpu: bool,
    num_steps: u64,
    pieces: Vec<i32>,
}

struct Cached {
    step: StepGraph,
    last_used: u64,
}

impl Section {
    /// Opens the device, copies the weights of `layers`, takes the memory of their pool and of the
    /// largest steps.
    ///
    /// # Errors
    /// The device lacks memory, or cannot compute the model.
    pub(super) fn load(
        model: &Arc<Model>,
        options: &GgmlOptions,
        device: &DeviceInfo,
        layers: Range<usize>,
    ) -> Result<Self, RunnerError> {
        let backend = Backend::open(device, options.threads.max(1)).map_err(failure)?;
        let spec = &model.spec;
        let on_cpu = device.kind == DeviceKind::Cpu;
        let kv = Element::Stored(kv_type(device.kind, options.compute_type));
        let (block_size, num_blocks) = (options.block_size, options.num_blocks);
        let pool = Pool::allocate(&backend, spec, layers.len(), kv, block_size, num_blocks)
            .map_err(failure)?;
        let weights = Weights::upload(
            &backend,
            model,
            options.compute_type,
            options.max_model_len,
            layers.clone(),
        )
        .map_err(failure)?;
        // Kernels for attention in one go compute in half precision on GPUs, and not every one
        // has a soft cap.
        let is_f32 = options.compute_type == ComputeType::F32;
        let exact = on_cpu || !(is_f32 || spec.attention_soft_cap.is_some());
        let attention = options.attention.unwrap_or(match exact {
            true => AttentionPath::Flash,
            false => AttentionPath::Plain,
        });
        let mut section = Self {
            graphs: BTreeMap::new(),
            pool,
            weights,
            stage: Stage::new(backend),
            model: Arc::clone(model),
            layers,
            attention,
            on_cpu,
            num_steps: 0,
            pieces: Vec::new(),
        };
        section.reserve(options)?;
        Ok(section)
    }

    /// Takes the memory of the largest steps: a full chunk of the longest prompt, and as many
    /// sequences as there may be, which share the pool. Falls back to plain attention where the
    /// device has no kernel for this model, unless a path was asked for.
    fn reserve(&mut self, options: &GgmlOptions) -> Result<(), RunnerError> {
        let pool_len = options.num_blocks * options.block_size;
        let longest = options.max_model_len.min(pool_len).max(1);
        let sequences = bucket(options.max_num_seqs.max(1));
        let shape = |rows: usize, positions: usize, sequences: usize, outputs: usize| Shape {
            groups: vec![GroupShape {
                rows: bucket(rows),
                positions: bucket_positions(positions),
                sequences,
                in_place: false,
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
                && options.attention.is_none()
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
            layers: self.layers.clone(),
            weights: &self.weights,
            pool: &self.pool,
            attention: self.attention,
            on_cpu: self.on_cpu,
        }
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn attention(&self) -> AttentionPath {
        self.attention
    }

    /// Bytes of the memory that steps compute in.
    pub(super) fn activation_bytes(&self) -> u64 {
        self.stage.num_bytes() as u64
    }

    /// Graphs that are ready to run again.
    pub(super) fn num_graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Forgets the graphs of the steps so far.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.clear();
    }

    /// Makes the graph of `shape` ready: it was used before, or is built and planned now.
    ///
    /// # Errors
    /// The device cannot compute it, or lacks the memory.
    pub(super) fn prepare(&mut self, shape: &Shape) -> Result<(), String> {
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

    /// Writes everything that a prepared step reads but its rows.
    ///
    /// # Panics
    /// The step was not prepared.
    pub(super) fn write(&mut self, batch: &Batch) {
        let step = &self.graphs[&batch.shape].step;
        let (stage, graph) = (&self.stage, &step.graph);
        let pieces = &mut self.pieces;
        stage.write(graph, &step.positions, &batch.positions);
        stage.write(graph, &step.slots, &batch.slots);
        for (index, group) in step.groups.iter().enumerate() {
            if let Some(input) = &group.pieces {
                self.pool.number_pieces(&batch.blocks[index], pieces);
                stage.write(graph, input, pieces);
            }
            if let Some(spread) = batch.spreads[index] {
                for window in &group.windows {
                    stage.slide(graph, window, spread.first, spread.spacing);
                }
            }
            for ((_, tensor), mask) in group.masks.iter().zip(&batch.masks[index]) {
                stage.write(graph, tensor, mask);
            }
        }
        if let Some(outputs) = &step.outputs {
            stage.write(graph, outputs, &batch.outputs);
        }
    }

    /// Writes the rows of a prepared step. *Shapes* `rows`: `[rows, hidden_size]`.
    ///
    /// # Panics
    /// The step was not prepared.
    pub(super) fn write_rows(&self, shape: &Shape, rows: &[f32]) {
        let step = &self.graphs[shape].step;
        self.stage.write(&step.graph, &step.hidden, rows);
    }

    /// Takes the rows of a step from the section before, which ran it.
    ///
    /// # Panics
    /// The step was not prepared here or there.
    pub(super) fn take_rows(&self, shape: &Shape, from: &Section) {
        let source = from.graphs[shape].step.result.as_ref();
        let source = source.expect("a section that is not the last one passes its rows on");
        memory::copy(source, &self.graphs[shape].step.hidden);
    }

    /// Runs a step whose inputs were written, and `meanwhile` beside it.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// The step was not prepared.
    pub(super) fn run(&mut self, shape: &Shape, meanwhile: impl FnOnce()) -> Result<(), String> {
        self.stage.run(&self.graphs[shape].step.graph, meanwhile)
    }

    /// Reads the logits of a step that ran; there are none where nobody wanted any.
    ///
    /// # Panics
    /// The step was not prepared.
    pub(super) fn read(&self, shape: &Shape, logits: &mut [f32]) {
        let step = &self.graphs[shape].step;
        if let Some(result) = &step.result {
            self.stage.read(&step.graph, result, logits);
        }
    }

    /// The median time of gathering the keys and values that a step attends over, in these layers,
    /// as if none could be read in place.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn gather_time(&mut self, batch: &Batch) -> Result<Duration, String> {
        const REPETITIONS: usize = 9;
        let mut shape = batch.shape.clone();
        for group in &mut shape.groups {
            group.in_place = false;
        }
        let (mut graph, inputs) = StepGraph::gathers(&self.parts(), &shape);
        self.stage.plan(&mut graph)?;
        for (index, group) in inputs.iter().enumerate() {
            self.pool
                .number_pieces(&batch.blocks[index], &mut self.pieces);
            self.stage.write(&graph, group.pieces(), &self.pieces);
        }
        let mut times = [Duration::ZERO; REPETITIONS];
        for time in &mut times {
            let start = Instant::now();
            self.stage.run(&graph, || {})?;
            *time = start.elapsed();
        }
        times.sort();
        Ok(times[REPETITIONS / 2])
    }
}
