//! The whole decoder in plain `f32` with [`crate::kernels::reference`]: one sequence, no cache,
//! every position. Slow; it defines what executors must compute.

use super::weight::{LayerWeight, WeightId};
use super::{Activation, DecoderSpec, Model, Rope, Weight};
use crate::kernels::reference::{self as kernels, AttentionShape};

/// What [`reference_forward`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceOutput {
    /// `[positions, vocab_size]`.
    pub logits: Vec<f32>,
    /// Each `[positions, hidden_size]`: after the embedding, then after every layer but the last,
    /// then after the final norm, as transformers counts `hidden_states`.
    pub hidden_states: Vec<Vec<f32>>,
}

/// Runs the decoder over one sequence from position 0, with rotary embeddings prepared for
/// `context_length` ([`Rope::new`]; transformers takes the sequence's own length).
///
/// # Panics
/// A token id is not below `vocab_size`.
pub fn reference_forward(
    model: &Model,
    token_ids: &[u32],
    context_length: usize,
) -> ReferenceOutput {
    let decoder = Decoder {
        model,
        spec: &model.spec,
        rows: token_ids.len(),
        ropes: rope_tables(&model.spec, token_ids.len(), context_length),
    };
    let mut hidden = decoder.embed(token_ids);
    let mut hidden_states = vec![hidden.clone()];
    for layer in 0..decoder.spec.num_hidden_layers {
        let attended = decoder.attention(layer, &hidden);
        add(&mut hidden, &attended);
        let mixed = decoder.mlp(layer, &hidden);
        add(&mut hidden, &mixed);
        if layer + 1 < decoder.spec.num_hidden_layers {
            hidden_states.push(hidden.clone());
        }
    }
    let hidden = decoder.norm(WeightId::FinalNorm, &hidden);
    let mut logits = decoder.linear(WeightId::Head, None, &hidden);
    if let Some(cap) = decoder.spec.logit_soft_cap {
        for logit in &mut logits {
            *logit = kernels::soft_cap(*logit, cap);
        }
    }
    hidden_states.push(hidden);
    ReferenceOutput {
        logits,
        hidden_states,
    }
}

/// Cosines and sines, each `[positions, rotary_dim / 2]`.
struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

fn rope_tables(spec: &DecoderSpec, positions: usize, context_length: usize) -> Vec<RopeTable> {
    let table = |rope: &super::RopeSpec| {
        let pairs = rope.rotary_dim / 2;
        let rope = Rope::new(rope, context_length);
        let mut cos = vec![0.0; positions * pairs];
        let mut sin = vec![0.0; positions * pairs];
        let rows = cos.chunks_exact_mut(pairs).zip(sin.chunks_exact_mut(pairs));
        for (position, (cos, sin)) in rows.enumerate() {
            rope.cos_sin(position, cos, sin);
        }
        RopeTable { cos, sin, pairs }
    };
    spec.rope.iter().map(table).collect()
}

fn add(residual: &mut [f32], output: &[f32]) {
    for (residual, output) in residual.iter_mut().zip(output) {
        *residual += output;
    }
}

struct Decoder<'a> {
    model: &'a Model,
    spec: &'a DecoderSpec,
    rows: usize,
    ropes: Vec<RopeTable>,
}

impl Decoder<'_> {
    fn weight(&self, id: WeightId) -> Weight<'_> {
        let weight = self.model.weight(id);
        weight.expect("the loader found every weight of the specification")
    }

    fn embed(&self, token_ids: &[u32]) -> Vec<f32> {
        let embedding = self.weight(WeightId::Embedding);
        let mut hidden = vec![0.0; self.rows * self.spec.hidden_size];
        for (row, id) in hidden
            .chunks_exact_mut(self.spec.hidden_size)
            .zip(token_ids)
        {
            embedding.read_row(*id as usize, row);
            row.iter_mut().for_each(|x| *x *= self.spec.embedding_scale);
        }
        hidden
    }

    /// `[rows, in] -> [rows, out]`, reading the weight one row at a time.
    fn linear(&self, weight: WeightId, bias: Option<WeightId>, x: &[f32]) -> Vec<f32> {
        let weight = self.weight(weight);
        let bias = bias.map(|bias| self.weight(bias).to_vec());
        let mut out = vec![0.0; self.rows * weight.rows()];
        let mut of_row = vec![0.0; weight.cols()];
        let mut column = vec![0.0; self.rows];
        for o in 0..weight.rows() {
            weight.read_row(o, &mut of_row);
            let bias = bias.as_ref().map(|bias| &bias[o..=o]);
            kernels::matmul(x, &of_row, bias, weight.cols(), &mut column);
            for (row, value) in column.iter().enumerate() {
                out[row * weight.rows() + o] = *value;
            }
        }
        out
    }

    fn norm(&self, weight: WeightId, x: &[f32]) -> Vec<f32> {
        let weight = self.weight(weight).to_vec();
        let mut out = vec![0.0; x.len()];
        let rows = out.chunks_exact_mut(weight.len());
        for (out, x) in rows.zip(x.chunks_exact(weight.len())) {
            kernels::rms_norm(x, &weight, self.spec.rms_norm_eps, out);
        }
        out
    }

    fn attention(&self, layer: usize, hidden: &[f32]) -> Vec<f32> {
        let id = |weight| WeightId::Layer(layer, weight);
        let bias = |weight| self.spec.qkv_bias.then_some(id(weight));
        let x = self.norm(id(LayerWeight::AttnNorm), hidden);
        let mut q = self.linear(id(LayerWeight::Q), bias(LayerWeight::QBias), &x);
        let mut k = self.linear(id(LayerWeight::K), bias(LayerWeight::KBias), &x);
        let v = self.linear(id(LayerWeight::V), bias(LayerWeight::VBias), &x);
        if self.spec.qk_norm {
            q = self.norm(id(LayerWeight::QNorm), &q);
            k = self.norm(id(LayerWeight::KNorm), &k);
        }
        self.rotate(layer, &mut q);
        self.rotate(layer, &mut k);
        let shape = AttentionShape {
            num_heads: self.spec.num_attention_heads,
            num_key_value_heads: self.spec.num_key_value_heads,
            head_dim: self.spec.head_dim,
            scale: self.spec.attention_scale,
            soft_cap: self.spec.attention_soft_cap,
            window: self.spec.sliding_window[layer],
        };
        let mut attended = vec![0.0; q.len()];
        kernels::attention(&shape, 0, &q, &k, &v, &mut attended);
        let out = self.linear(id(LayerWeight::O), None, &attended);
        if self.spec.post_norms {
            return self.norm(id(LayerWeight::PostAttnNorm), &out);
        }
        out
    }

    /// Rotates every head of every row. *Shapes* `heads`: `[rows, heads, head_dim]`.
    fn rotate(&self, layer: usize, heads: &mut [f32]) {
        let table = &self.ropes[self.spec.layer_rope[layer]];
        let row_len = heads.len() / self.rows.max(1);
        for (position, row) in heads.chunks_exact_mut(row_len.max(1)).enumerate() {
            let here = position * table.pairs..(position + 1) * table.pairs;
            for head in row.chunks_exact_mut(self.spec.head_dim) {
                kernels::rope(head, &table.cos[here.clone()], &table.sin[here.clone()]);
            }
        }
    }

    fn mlp(&self, layer: usize, hidden: &[f32]) -> Vec<f32> {
        let id = |weight| WeightId::Layer(layer, weight);
        let x = self.norm(id(LayerWeight::FfnNorm), hidden);
        let gate = self.linear(id(LayerWeight::Gate), None, &x);
        let up = self.linear(id(LayerWeight::Up), None, &x);
        let activation = match self.spec.activation {
            Activation::Silu => kernels::silu,
            Activation::GeluTanh => kernels::gelu_tanh,
        };
        let mut middle = vec![0.0; gate.len()];
        kernels::gated(&gate, &up, activation, &mut middle);
        let out = self.linear(id(LayerWeight::Down), None, &middle);
        if self.spec.post_norms {
            return self.norm(id(LayerWeight::PostFfnNorm), &out);
        }
        out
    }
}
