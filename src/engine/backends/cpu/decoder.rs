//! One step of the decoder over a mixed batch.

use std::io;
use std::sync::Arc;

use crate::engine::{ModelRunner, RunnerError, StepInput};
use crate::kernels::cpu::{
    Activation, Arithmetic, AttentionScratch, Cpu, F32, HeadNorms, IntRows, KvCache, Operand, Plan,
    RotaryTable, Rows, SequenceRows, Target, Vector, add_rms_norm, attention, fill_rows, rms_norm,
    rotate_and_store, soft_cap_all,
};
use crate::kernels::reference::AttentionShape;
use crate::model::{self, DecoderSpec, Model, Rope, WeightId};

use super::demand::kv_shape;
use super::storage::Storage;
use super::weights::{Input, LayerWeights, Matrix, Weights, weight};
use super::{CpuOptions, Executor, LayerInput, SquareSums, failure};

/// A packed model, its KV cache and the buffers of a step.
pub(super) struct Decoder<O: Operand> {
    model: Arc<Model>,
    cpu: Cpu,
    weights: Weights<O>,
    activation: Activation,
    ropes: Vec<(Rope, RotaryTable)>,
    cache: KvCache<O>,
    plan: Plan,
    attention: AttentionScratch<O>,
    buffers: Buffers<O>,
    /// Rows that need logits.
    sources: Vec<usize>,
    /// `0..num_rows`.
    every_row: Vec<usize>,
    /// What matrices are multiplied with, while somebody wants to know.
    squares: Option<SquareSums>,
}

/// Activations of a step, grown to the largest step so far.
struct Buffers<O: Operand> {
    /// The residual stream.
    hidden: Rows<F32>,
    normed: Rows<O>,
    qkv: Rows<F32>,
    queries: Rows<O>,
    attended: Rows<O>,
    gated: Rows<O>,
    /// What attention or MLP yields where a norm stands between it and the residual stream.
    branch: Rows<F32>,
    ints: IntBuffers,
}

/// The inputs of products as integers; without rows where all weights are floats.
struct IntBuffers {
    normed: IntRows,
    attended: IntRows,
    gated: IntRows,
}

impl IntBuffers {
    fn reserve(&mut self, rows: usize) {
        self.normed.reserve_rows(rows);
        self.attended.reserve_rows(rows);
        self.gated.reserve_rows(rows);
    }
}

impl<O: Operand> Buffers<O> {
    fn new(spec: &DecoderSpec, storage: Storage) -> Self {
        let (hidden, q_size) = (spec.hidden_size, spec.q_size());
        let ints = |width| IntRows::zeros(0, width, storage.int_format().group());
        Self {
            hidden: Rows::zeros(0, hidden),
            normed: Rows::zeros(0, hidden),
            qkv: Rows::zeros(0, q_size + 2 * spec.kv_size()),
            queries: Rows::zeros(0, q_size),
            attended: Rows::zeros(0, q_size),
            gated: Rows::zeros(0, spec.intermediate_size),
            branch: Rows::zeros(0, hidden),
            ints: IntBuffers {
                normed: ints(hidden),
                attended: ints(q_size),
                gated: ints(spec.intermediate_size),
            },
        }
    }

    fn reserve(&mut self, rows: usize, post_norms: bool, ints: bool) {
        self.hidden.reserve_rows(rows);
        self.normed.reserve_rows(rows);
        self.qkv.reserve_rows(rows);
        self.queries.reserve_rows(rows);
        self.attended.reserve_rows(rows);
        self.gated.reserve_rows(rows);
        if post_norms {
            self.branch.reserve_rows(rows);
        }
        if ints {
            self.ints.reserve(rows);
        }
    }
}

impl<O: Arithmetic> Decoder<O> {
    pub(super) fn load(model: &Arc<Model>, mut cpu: Cpu, options: &CpuOptions) -> io::Result<Self> {
        let spec = &model.spec;
        let shape = kv_shape(
            spec,
            options.kv_type,
            options.block_size,
            options.num_blocks,
        );
        // The pool first: a refusal comes before the long part.
        let cache = KvCache::new(shape)?;
        let storage = Storage::new(options.compute_type, options.quantize);
        let weights = Weights::pack(&mut cpu, model, storage)?;
        let rope = |rope| {
            let rope = Rope::new(rope, options.max_model_len);
            let mut table = RotaryTable::new(rope.inverse_frequencies().len());
            table.reserve(options.max_model_len);
            (rope, table)
        };
        Ok(Self {
            activation: match spec.activation {
                model::Activation::Silu => Activation::Silu,
                model::Activation::GeluTanh => Activation::GeluTanh,
            },
            ropes: spec.rope.iter().map(rope).collect(),
            plan: Plan::new(shape),
            attention: AttentionScratch::new(spec.head_dim, cpu.threads()),
            buffers: Buffers::new(spec, storage),
            sources: Vec::new(),
            every_row: Vec::new(),
            squares: None,
            model: Arc::clone(model),
            cpu,
            weights,
            cache,
        })
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.weights.bytes() as u64
    }

    pub(super) fn kv_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    /// Takes a step's input over: plan, rotary tables, rows that need logits, buffers.
    fn prepare(&mut self, input: &StepInput) -> Result<(), RunnerError> {
        input
            .check_rows(self.model.spec.vocab_size)
            .map_err(failure)?;
        self.sources.clear();
        let (rows, mut positions) = (input.token_ids.len(), 0);
        for sequence in &input.sequences {
            let end = sequence.first_row + sequence.num_rows;
            positions = positions.max(sequence.num_computed_tokens + sequence.num_rows);
            self.sources.extend(end - sequence.num_logits..end);
        }
        let sequences = input.sequences.iter().map(|sequence| SequenceRows {
            num_rows: sequence.num_rows,
            first_position: sequence.num_computed_tokens,
            block_table: &sequence.block_table,
        });
        self.plan
            .set(sequences)
            .map_err(|error| failure(error.to_string()))?;
        for (rope, table) in &mut self.ropes {
            table.extend(positions, |position, cos, sin| {
                rope.cos_sin(position, cos, sin);
            });
        }
        self.every_row.extend(self.every_row.len()..rows);
        let (post_norms, ints) = (self.model.spec.post_norms, self.weights.has_ints());
        self.buffers.reserve(rows, post_norms, ints);
        Ok(())
    }

    fn embed(&mut self, token_ids: &[u32]) {
        let embedding = weight(&self.model, WeightId::Embedding);
        let scale = self.model.spec.embedding_scale;
        let hidden = &mut self.buffers.hidden;
        fill_rows(&mut self.cpu, hidden, token_ids.len(), |row, values| {
            embedding.read_row(token_ids[row] as usize, values);
            if scale != 1.0 {
                for value in values {
                    *value *= scale;
                }
            }
        });
    }

    fn attention_block(&mut self, layer: usize) {
        let Self {
            cpu,
            buffers,
            plan,
            model,
            ..
        } = self;
        let (spec, rows) = (&model.spec, plan.num_rows());
        let weights = &self.weights.layers[layer];
        let eps = spec.rms_norm_eps;
        let every_row = &self.every_row[..rows];
        rms_norm(
            cpu,
            &buffers.hidden,
            every_row,
            &weights.attn_norm,
            eps,
            &mut buffers.normed,
        );
        if let Some(squares) = &mut self.squares {
            squares.add_layer(layer, LayerInput::Attention, &buffers.normed, rows);
        }
        let bias = weights.qkv_bias.as_deref();
        let input = Input {
            rows: &buffers.normed,
            ints: &mut buffers.ints.normed,
            num_rows: rows,
        };
        let qkv = &mut buffers.qkv;
        let target = Target::Replace;
        weights.qkv.multiply_into(cpu, input, bias, target, qkv);
        let norms = weights
            .head_norms
            .as_ref()
            .map(|[query, key]| HeadNorms { query, key, eps });
        let (_, rotary) = &self.ropes[spec.layer_rope[layer]];
        let (cache, queries) = (&mut self.cache, &mut buffers.queries);
        rotate_and_store(cpu, plan, qkv, norms, rotary, cache, layer, queries);
        let shape = AttentionShape {
            num_heads: spec.num_attention_heads,
            num_key_value_heads: spec.num_key_value_heads,
            head_dim: spec.head_dim,
            scale: spec.attention_scale,
            soft_cap: spec.attention_soft_cap,
            window: spec.sliding_window[layer],
        };
        let (scratch, attended) = (&mut self.attention, &mut buffers.attended);
        attention(cpu, plan, &shape, queries, cache, layer, scratch, attended);
        if let Some(squares) = &mut self.squares {
            squares.add_layer(layer, LayerInput::AttentionOutput, attended, rows);
        }
        let post_norm = weights.post_attn_norm.as_ref();
        join(
            cpu,
            &weights.output,
            Input {
                rows: attended,
                ints: &mut buffers.ints.attended,
                num_rows: rows,
            },
            post_norm,
            eps,
            &mut buffers.branch,
            &mut buffers.hidden,
        );
    }

    fn mlp_block(&mut self, layer: usize) {
        let Self {
            cpu,
            buffers,
            plan,
            model,
            ..
        } = self;
        let (eps, rows) = (model.spec.rms_norm_eps, plan.num_rows());
        let weights: &LayerWeights<O> = &self.weights.layers[layer];
        let every_row = &self.every_row[..rows];
        rms_norm(
            cpu,
            &buffers.hidden,
            every_row,
            &weights.ffn_norm,
            eps,
            &mut buffers.normed,
        );
        let input = Input {
            rows: &buffers.normed,
            ints: &mut buffers.ints.normed,
            num_rows: rows,
        };
        let gated = &mut buffers.gated;
        weights.gate_up.multiply(cpu, input, self.activation, gated);
        if let Some(squares) = &mut self.squares {
            squares.add_layer(layer, LayerInput::Mlp, &buffers.normed, rows);
            squares.add_layer(layer, LayerInput::Down, gated, rows);
        }
        let post_norm = weights.post_ffn_norm.as_ref();
        join(
            cpu,
            &weights.down,
            Input {
                rows: gated,
                ints: &mut buffers.ints.gated,
                num_rows: rows,
            },
            post_norm,
            eps,
            &mut buffers.branch,
            &mut buffers.hidden,
        );
    }

    fn head(&mut self, logits: &mut Vec<f32>) {
        let spec = &self.model.spec;
        let rows = self.sources.len();
        // Every value is overwritten, so what is there already need not be cleared.
        logits.resize(rows * spec.vocab_size, 0.0);
        if rows == 0 {
            return;
        }
        let (cpu, buffers) = (&mut self.cpu, &mut self.buffers);
        let (norm, eps) = (&self.weights.final_norm, spec.rms_norm_eps);
        rms_norm(
            cpu,
            &buffers.hidden,
            &self.sources,
            norm,
            eps,
            &mut buffers.normed,
        );
        if let Some(squares) = &mut self.squares {
            squares.add_head(&buffers.normed, rows);
        }
        let input = Input {
            rows: &buffers.normed,
            ints: &mut buffers.ints.normed,
            num_rows: rows,
        };
        let (head, stride) = (&self.weights.head, spec.vocab_size);
        head.multiply(cpu, input, None, Target::Replace, logits, stride);
        if let Some(cap) = spec.logit_soft_cap {
            soft_cap_all(cpu, logits, cap);
        }
    }
}

/// Adds `weights * input` to the residual stream, through a norm where the family has one.
fn join<O: Arithmetic>(
    cpu: &mut Cpu,
    weights: &Matrix<O>,
    input: Input<'_, O>,
    post_norm: Option<&Vector>,
    eps: f32,
    branch: &mut Rows<F32>,
    hidden: &mut Rows<F32>,
) {
    let rows = input.num_rows;
    match post_norm {
        None => weights.multiply_into(cpu, input, None, Target::Add, hidden),
        Some(norm) => {
            weights.multiply_into(cpu, input, None, Target::Replace, branch);
            add_rms_norm(cpu, branch, rows, norm, eps, hidden);
        }
    }
}

impl<O: Arithmetic> ModelRunner for Decoder<O> {
    fn vocab_size(&self) -> usize {
        self.model.spec.vocab_size
    }

    fn block_size(&self) -> usize {
        self.cache.shape().block_size
    }

    fn num_blocks(&self) -> usize {
        self.cache.shape().num_blocks
    }

    fn is_batch_invariant(&self) -> bool {
        true
    }

    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        self.prepare(input)?;
        self.embed(&input.token_ids);
        for layer in 0..self.weights.layers.len() {
            self.attention_block(layer);
            self.mlp_block(layer);
        }
        self.head(logits);
        Ok(())
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        let num_blocks = self.num_blocks();
        for block in [source, target] {
            if block as usize >= num_blocks {
                return Err(failure(format!(
                    "block {block} is not in the pool of {num_blocks} blocks"
                )));
            }
        }
        self.cache.copy_block(source as usize, target as usize);
        Ok(())
    }
}

impl<O: Arithmetic> Executor for Decoder<O> {
    fn squares(&mut self) -> &mut Option<SquareSums> {
        &mut self.squares
    }
}
