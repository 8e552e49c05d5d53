//! The decoder with gradients: [`DecoderSpec`] executed on candle tensors, loss included.
//!
//! Covers what supervised fine-tuning needs: Qwen2/2.5, Qwen3, Llama and Mistral. Weights keep
//! their Hugging Face names, so that a checkpoint can be written back under them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var};

use super::ops;
use crate::kernels::grad::attention::Shape;
use crate::model::{DecoderSpec, Rope};

/// Rows of tokens with what the model is to learn from them; padded to one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tokens, one vector per row.
    pub input_ids: Vec<Vec<u32>>,
    /// Per token: what it teaches when it is predicted; `None` is masked (-100 in the reference).
    pub labels: Vec<Vec<Option<u32>>>,
    /// Per token: its segment. Attention stays within a segment; 0 is padding.
    pub segments: Vec<Vec<u32>>,
    /// Per token: its position for the rotary embedding.
    pub position_ids: Vec<Vec<u32>>,
}

impl Batch {
    /// Labels that are not masked, counted before the shift (as the reference counts them).
    pub fn num_labels(&self) -> usize {
        self.labels
            .iter()
            .flatten()
            .filter(|label| label.is_some())
            .count()
    }

    /// Tokens, padding included.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.iter().map(Vec::len).sum()
    }
}

/// A low-rank update of one linear layer: `y += scale * B(A(x))`.
pub struct Adapter {
    /// `[rank, in_features]`.
    pub a: Var,
    /// `[out_features, rank]`.
    pub b: Var,
    /// `alpha / rank`, or `alpha / sqrt(rank)` when rank-stabilised.
    pub scale: f64,
}

/// Weights, adapters and the numeric format of matrix products.
pub struct Decoder {
    spec: DecoderSpec,
    weights: BTreeMap<String, Tensor>,
    adapters: BTreeMap<String, Adapter>,
    compute_dtype: DType,
}

impl Decoder {
    /// A decoder over weights under their Hugging Face names (trained ones as [`Var`]s' tensors),
    /// with adapters by module path (`model.layers.0.self_attn.q_proj`).
    ///
    /// `compute_dtype` is what matrix products run in: `F32` or `BF16`; norms, softmax and the
    /// loss are always f32.
    pub fn new(
        spec: DecoderSpec,
        weights: BTreeMap<String, Tensor>,
        adapters: BTreeMap<String, Adapter>,
        compute_dtype: DType,
    ) -> Self {
        Self {
            spec,
            weights,
            adapters,
            compute_dtype,
        }
    }

    /// The sum over the batch's unmasked labels of the negative log-probability, a scalar.
    ///
    /// # Errors
    /// A weight is missing or has another shape than the specification says.
    pub fn loss_sum(&self, batch: &Batch) -> Result<Tensor> {
        let hidden = self.hidden(batch)?;
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for (index, row) in batch.labels.iter().enumerate() {
            for (t, label) in row.iter().enumerate().skip(1) {
                if let Some(label) = label {
                    rows.push((index * row.len() + t - 1) as u32);
                    labels.push(*label);
                }
            }
        }
        if rows.is_empty() {
            return Tensor::zeros((), DType::F32, hidden.device());
        }
        let rows = Tensor::new(rows, hidden.device())?;
        let hidden = hidden.index_select(&rows, 0)?;
        let head = if self.spec.tie_word_embeddings {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        ops::cross_entropy_sum(&self.linear(&hidden, head)?, &Arc::new(labels))
    }

    /// The final norm's output, `[rows * length, hidden_size]`.
    fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let spec = &self.spec;
        let embedding = self.weight("model.embed_tokens.weight")?;
        let device = embedding.device();
        let ids: Vec<u32> = batch.input_ids.iter().flatten().copied().collect();
        let mut x = embedding
            .to_dtype(DType::F32)?
            .index_select(&Tensor::new(ids, device)?, 0)?;
        if spec.embedding_scale != 1.0 {
            x = (x * f64::from(spec.embedding_scale))?;
        }
        let angles = self.angles(batch)?;
        for layer in 0..spec.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            let normed = self.norm(&x, &format!("{path}.input_layernorm"))?;
            let angles = &angles[spec.layer_rope[layer]];
            let attended = self.attention(&normed, &path, layer, batch, angles)?;
            x = (x + attended)?;
            let normed = self.norm(&x, &format!("{path}.post_attention_layernorm"))?;
            let gate = self.linear(&normed, &format!("{path}.mlp.gate_proj"))?;
            let up = self.linear(&normed, &format!("{path}.mlp.up_proj"))?;
            let gated = ops::silu_mul(&gate, &up)?;
            x = (x + self.linear(&gated, &format!("{path}.mlp.down_proj"))?)?;
        }
        self.norm(&x, "model.norm")
    }

    fn attention(
        &self,
        x: &Tensor,
        path: &str,
        layer: usize,
        batch: &Batch,
        angles: &Arc<ops::Angles>,
    ) -> Result<Tensor> {
        let spec = &self.spec;
        let (heads, kv_heads, dim) = (
            spec.num_attention_heads,
            spec.num_key_value_heads,
            spec.head_dim,
        );
        let project = |name: &str, num_heads: usize| -> Result<Tensor> {
            let y = self.linear(x, &format!("{path}.self_attn.{name}_proj"))?;
            let y = if spec.qk_norm {
                let per_head = y.reshape(((), dim))?;
                self.norm(&per_head, &format!("{path}.self_attn.{name}_norm"))?
                    .reshape(((), num_heads * dim))?
            } else {
                y
            };
            ops::rope(&y, angles, num_heads, dim)
        };
        let (q, k) = (project("q", heads)?, project("k", kv_heads)?);
        let v = self.linear(x, &format!("{path}.self_attn.v_proj"))?;
        let shape = Arc::new(Shape {
            batch: batch.input_ids.len(),
            length: batch.input_ids.first().map_or(0, Vec::len),
            num_heads: heads,
            num_kv_heads: kv_heads,
            head_dim: dim,
            scale: spec.attention_scale,
            window: spec.sliding_window[layer],
            segments: batch.segments.iter().flatten().copied().collect(),
        });
        let attended = ops::attention(&q, &k, &v, &shape)?;
        self.linear(&attended, &format!("{path}.self_attn.o_proj"))
    }

    /// Cosines and sines of every row, one set per rotary embedding in use.
    fn angles(&self, batch: &Batch) -> Result<Vec<Arc<ops::Angles>>> {
        let positions: Vec<u32> = batch.position_ids.iter().flatten().copied().collect();
        let length = positions.iter().max().map_or(0, |last| *last as usize + 1);
        let mut sets = Vec::with_capacity(self.spec.rope.len());
        for rope in &self.spec.rope {
            let (rope, half) = (Rope::new(rope, length), rope.rotary_dim / 2);
            let mut angles = ops::Angles {
                cos: vec![0.0; positions.len() * half],
                sin: vec![0.0; positions.len() * half],
            };
            let rows = angles.cos.chunks_mut(half).zip(angles.sin.chunks_mut(half));
            for (position, (cos, sin)) in positions.iter().zip(rows) {
                rope.cos_sin(*position as usize, cos, sin);
            }
            sets.push(Arc::new(angles));
        }
        Ok(sets)
    }

    /// `x W^T + bias`, plus the module's adapter. `x`: `[rows, in_features]`; the result is f32.
    fn linear(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let weight = self.weight(&format!("{path}.weight"))?;
        let mut y = self.product(x, weight)?;
        if let Some(bias) = self.weights.get(&format!("{path}.bias")) {
            y = ops::add_bias(&y, &bias.to_dtype(DType::F32)?)?;
        }
        if let Some(adapter) = self.adapters.get(path) {
            let low = self.product(x, adapter.a.as_tensor())?;
            y = (y + (self.product(&low, adapter.b.as_tensor())? * adapter.scale)?)?;
        }
        Ok(y)
    }

    fn product(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (x, weight) = (
            x.to_dtype(self.compute_dtype)?,
            weight.to_dtype(self.compute_dtype)?,
        );
        x.matmul(&weight.t()?)?.to_dtype(DType::F32)
    }

    fn norm(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let weight = self
            .weight(&format!("{path}.weight"))?
            .to_dtype(DType::F32)?;
        ops::rms_norm(x, &weight, self.spec.rms_norm_eps)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        match self.weights.get(name) {
            Some(weight) => Ok(weight),
            None => candle_core::bail!("the model has no weight named {name}"),
        }
    }
}
