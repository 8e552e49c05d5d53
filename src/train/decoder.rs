//! The decoder with gradients: [`DecoderSpec`] executed on candle tensors, loss included.
//!
//! Covers what supervised fine-tuning needs: Qwen2/2.5, Qwen3, Llama and Mistral. Weights keep
//! their Hugging Face names, so that a checkpoint can be written back under them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

use super::adapter::generator;
use super::ops;
use crate::kernels::grad::attention::Shape;
use crate::model::{DecoderSpec, Rope};

const EMBEDDING: &str = "model.embed_tokens.weight";

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

    /// Labels that are predicted: those of a row's first position are not.
    pub fn num_predicted(&self) -> usize {
        let labels = self.labels.iter().flat_map(|row| row.iter().skip(1));
        labels.flatten().count()
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

/// What an adapter's inputs lose in one forward pass: nothing outside training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// The share that is dropped.
    pub share: f64,
    /// The run's seed.
    pub seed: u64,
    /// Steps done before this one.
    pub step: usize,
    /// The micro-batch of the step.
    pub micro_batch: usize,
}

/// Weights, adapters and the numeric format of matrix products.
pub struct Decoder {
    spec: DecoderSpec,
    weights: BTreeMap<String, Tensor>,
    adapters: BTreeMap<String, Adapter>,
    compute_dtype: DType,
    recompute: bool,
}

/// What every layer of a pass shares.
struct Pass<'a> {
    batch: &'a Batch,
    angles: Vec<Arc<ops::Angles>>,
    dropout: Dropout,
}

/// The output of one stage of the forward pass, cut out of the graph at both ends so that the
/// backward pass can walk the stages one by one and free each behind it.
struct Stage {
    input: Var,
    /// With its graph; `None` where it is computed again.
    output: Option<Tensor>,
}

impl Decoder {
    /// A decoder over weights under their Hugging Face names (trained ones as [`Var`]s' tensors),
    /// with adapters by module path (`model.layers.0.self_attn.q_proj`).
    ///
    /// `compute_dtype` is what matrix products run in: `F32` or `BF16`; norms, softmax and the
    /// loss are always f32. With `recompute`, the backward pass computes each layer again instead
    /// of keeping its activations; the gradients are the same.
    pub fn new(
        spec: DecoderSpec,
        weights: BTreeMap<String, Tensor>,
        adapters: BTreeMap<String, Adapter>,
        compute_dtype: DType,
        recompute: bool,
    ) -> Self {
        Self {
            spec,
            weights,
            adapters,
            compute_dtype,
            recompute,
        }
    }

    /// What it is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The sum over the batch's unmasked labels of the negative log-probability.
    ///
    /// # Errors
    /// A weight is missing or has another shape than the specification says.
    pub fn loss_sum(&self, batch: &Batch) -> Result<f64> {
        let pass = self.pass(batch, Dropout::default())?;
        let mut x = self.embed(batch)?.detach();
        for layer in 0..self.spec.num_hidden_layers {
            x = self.layer(&x, layer, &pass)?.detach();
        }
        Ok(f64::from(self.head_loss(&x, batch)?.to_scalar::<f32>()?))
    }

    /// The sum of [`Self::loss_sum`] times `share`. Its gradients are handed to `accept`, one
    /// store per stage of the backward pass: a tensor that is used in several stages occurs in
    /// several stores.
    ///
    /// # Errors
    /// As [`Self::loss_sum`].
    pub fn backward(
        &self,
        batch: &Batch,
        share: f64,
        dropout: Dropout,
        accept: &mut dyn FnMut(&GradStore) -> Result<()>,
    ) -> Result<f64> {
        let pass = self.pass(batch, dropout)?;
        let embedded = self.embed(batch)?;
        let mut x = embedded.detach();
        let mut stages = Vec::with_capacity(self.spec.num_hidden_layers);
        for layer in 0..self.spec.num_hidden_layers {
            let input = Var::from_tensor(&x)?;
            let output = self.layer(input.as_tensor(), layer, &pass)?;
            x = output.detach();
            stages.push(Stage {
                input,
                output: (!self.recompute).then_some(output),
            });
        }
        let last = Var::from_tensor(&x)?;
        drop(x);
        let loss = (self.head_loss(last.as_tensor(), batch)? * share)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let store = loss.backward()?;
        accept(&store)?;
        let Some(mut gradient) = store.get(last.as_tensor()).cloned() else {
            return Ok(value);
        };
        drop((store, loss, last));
        for (layer, stage) in stages.into_iter().enumerate().rev() {
            let output = match stage.output {
                Some(output) => output,
                None => self.layer(stage.input.as_tensor(), layer, &pass)?,
            };
            let store = ops::seed(&output, &gradient)?.backward()?;
            accept(&store)?;
            match store.get(stage.input.as_tensor()) {
                Some(next) => gradient = next.clone(),
                None => return Ok(value),
            }
        }
        if self.weight(EMBEDDING)?.is_variable() {
            accept(&ops::seed(&embedded, &gradient)?.backward()?)?;
        }
        Ok(value)
    }

    fn pass<'a>(&self, batch: &'a Batch, dropout: Dropout) -> Result<Pass<'a>> {
        Ok(Pass {
            batch,
            angles: self.angles(batch)?,
            dropout,
        })
    }

    /// Loss of the final residual stream `x`: `[rows * length, hidden_size]`. Only rows with a
    /// label pass the norm and the head.
    fn head_loss(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
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
            return Tensor::zeros((), DType::F32, x.device());
        }
        let x = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
        let hidden = self.norm(&x, "model.norm")?;
        let head = if self.spec.tie_word_embeddings {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        let logits = self.linear(&hidden, head, Dropout::default())?;
        ops::cross_entropy_sum(&logits, &Arc::new(labels))
    }

    /// Rows of the embedding, `[rows * length, hidden_size]`.
    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let embedding = self.weight(EMBEDDING)?;
        let ids: Vec<u32> = batch.input_ids.iter().flatten().copied().collect();
        let ids = Tensor::new(ids, embedding.device())?;
        let x = embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        if self.spec.embedding_scale == 1.0 {
            Ok(x)
        } else {
            x * f64::from(self.spec.embedding_scale)
        }
    }

    fn layer(&self, x: &Tensor, layer: usize, pass: &Pass<'_>) -> Result<Tensor> {
        let path = format!("model.layers.{layer}");
        let normed = self.norm(x, &format!("{path}.input_layernorm"))?;
        let x = (x + self.attention(&normed, &path, layer, pass)?)?;
        let normed = self.norm(&x, &format!("{path}.post_attention_layernorm"))?;
        let linear = |x: &Tensor, name: &str| {
            self.linear(x, &format!("{path}.mlp.{name}_proj"), pass.dropout)
        };
        let gated = ops::silu_mul(&linear(&normed, "gate")?, &linear(&normed, "up")?)?;
        x + linear(&gated, "down")?
    }

    fn attention(&self, x: &Tensor, path: &str, layer: usize, pass: &Pass<'_>) -> Result<Tensor> {
        let (spec, batch) = (&self.spec, pass.batch);
        let angles = &pass.angles[spec.layer_rope[layer]];
        let linear = |x: &Tensor, name: &str| {
            self.linear(x, &format!("{path}.self_attn.{name}_proj"), pass.dropout)
        };
        let (heads, kv_heads, dim) = (
            spec.num_attention_heads,
            spec.num_key_value_heads,
            spec.head_dim,
        );
        let project = |name: &str, num_heads: usize| -> Result<Tensor> {
            let y = linear(x, name)?;
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
        let v = linear(x, "v")?;
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
        linear(&attended, "o")
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
    fn linear(&self, x: &Tensor, path: &str, dropout: Dropout) -> Result<Tensor> {
        let weight = self.weight(&format!("{path}.weight"))?;
        let mut y = self.product(x, weight)?;
        if let Some(bias) = self.weights.get(&format!("{path}.bias")) {
            y = ops::add_bias(&y, bias)?;
        }
        if let Some(adapter) = self.adapters.get(path) {
            let low = if dropout.share > 0.0 {
                let Dropout {
                    share,
                    seed,
                    step,
                    micro_batch,
                } = dropout;
                let key = format!("{path} {step} {micro_batch}");
                let dropped = ops::dropout(x, share, generator(seed, &key))?;
                self.product(&dropped, adapter.a.as_tensor())?
            } else {
                self.product(x, adapter.a.as_tensor())?
            };
            y = (y + (self.product(&low, adapter.b.as_tensor())? * adapter.scale)?)?;
        }
        Ok(y)
    }

    fn product(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let matrix = weight.to_dtype(self.compute_dtype)?;
        if !weight.is_variable() {
            return ops::frozen_linear(x, &matrix);
        }
        let x = x.to_dtype(self.compute_dtype)?;
        x.matmul(&matrix.t()?)?.to_dtype(DType::F32)
    }

    fn norm(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let weight = self.weight(&format!("{path}.weight"))?;
        ops::rms_norm(x, weight, self.spec.rms_norm_eps)
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        match self.weights.get(name) {
            Some(weight) => Ok(weight),
            None => candle_core::bail!("the model has no weight named {name}"),
        }
    }
}
