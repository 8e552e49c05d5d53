//! The decoder with gradients: [`DecoderSpec`] forward and backward, loss included.
//!
//! Covers what supervised fine-tuning needs: Qwen2/2.5, Qwen3, Llama and Mistral. Weights are
//! candle's tensors under their Hugging Face names; the passes are written out by hand over the
//! kernels of `kernels::grad` instead of candle's graph, whose every operation takes fresh memory,
//! and whose products make gradients of frozen weights. `tests/it/train_graph.rs` compares them
//! with candle's own gradients of the plain formulas.

mod head;
mod layer;
mod linear;
mod workspace;

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};

pub(super) use self::head::LOGITS_AT_ONCE;
use self::layer::Tape;
use self::workspace::{Buffer, Workspace};
use super::optimizer::Gradients;
use crate::kernels::cpu::Precision;
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

    /// Makes every token but the padding a label.
    pub fn label_everything(&mut self) {
        for ((ids, labels), segments) in self
            .input_ids
            .iter()
            .zip(&mut self.labels)
            .zip(&self.segments)
        {
            for ((id, label), segment) in ids.iter().zip(labels).zip(segments) {
                *label = (*segment != 0).then_some(*id);
            }
        }
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
    precision: Precision,
    recompute: bool,
    workspace: Workspace,
}

/// What every layer of a pass shares.
struct Pass {
    batch: usize,
    length: usize,
    /// Rows of all sequences.
    rows: usize,
    segments: Vec<u32>,
    /// One set per rotary embedding in use.
    angles: Vec<Angles>,
    dropout: Dropout,
}

/// Cosines and sines of every row of a batch, each `[rows, rotary_dim / 2]`.
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// What a layer leaves for the backward pass.
enum Kept<'w> {
    /// All that it needs.
    Tape(Box<Tape<'w>>),
    /// Its input: the rest is computed again.
    Input(Buffer<'w>),
}

impl Decoder {
    /// A decoder over weights under their Hugging Face names (trained ones as [`Var`]s' tensors),
    /// with adapters by module path (`model.layers.0.self_attn.q_proj`).
    ///
    /// `compute_dtype` is what matrix products run in: `F32` or `BF16`; their results, norms,
    /// attention and the loss are always f32. With `recompute`, the backward pass computes each
    /// layer again instead of keeping its activations; the gradients are the same.
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
            precision: if compute_dtype == DType::BF16 {
                Precision::Bf16
            } else {
                Precision::F32
            },
            recompute,
            workspace: Workspace::default(),
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
        let pass = self.pass(batch, Dropout::default());
        let mut x = self.embed(batch)?;
        for layer in 0..self.spec.num_hidden_layers {
            x = self.layer_forward(layer, x, &pass)?.1;
        }
        self.head_loss(&x, batch)
    }

    /// The sum of [`Self::loss_sum`] times `share`; its gradients are added to `gradients`, for
    /// the tensors that are listed there.
    ///
    /// # Errors
    /// As [`Self::loss_sum`].
    pub fn backward(
        &self,
        batch: &Batch,
        share: f64,
        dropout: Dropout,
        gradients: &mut Gradients,
    ) -> Result<f64> {
        let pass = self.pass(batch, dropout);
        let mut x = self.embed(batch)?;
        let mut kept = Vec::with_capacity(self.spec.num_hidden_layers);
        for layer in 0..self.spec.num_hidden_layers {
            if self.recompute {
                let mut input = self.workspace.take(x.len())?;
                input.copy_from_slice(&x);
                x = self.layer_forward(layer, x, &pass)?.1;
                kept.push(Kept::Input(input));
            } else {
                let (tape, out) = self.layer_forward(layer, x, &pass)?;
                x = out;
                kept.push(Kept::Tape(Box::new(tape)));
            }
        }
        let mut dx = self.workspace.zeros(x.len())?;
        let loss = self.head_backward(&x, batch, share, &mut dx, gradients)?;
        drop(x);
        for (layer, kept) in kept.into_iter().enumerate().rev() {
            let tape = match kept {
                Kept::Tape(tape) => *tape,
                Kept::Input(input) => self.layer_forward(layer, input, &pass)?.0,
            };
            self.layer_backward(layer, tape, &mut dx, &pass, gradients)?;
        }
        self.embed_backward(batch, &dx, gradients);
        Ok(loss * share)
    }

    fn pass(&self, batch: &Batch, dropout: Dropout) -> Pass {
        let length = batch.input_ids.first().map_or(0, Vec::len);
        Pass {
            batch: batch.input_ids.len(),
            length,
            rows: batch.input_ids.len() * length,
            segments: batch.segments.iter().flatten().copied().collect(),
            angles: self.angles(batch),
            dropout,
        }
    }

    /// Cosines and sines of every row.
    fn angles(&self, batch: &Batch) -> Vec<Angles> {
        let positions: Vec<u32> = batch.position_ids.iter().flatten().copied().collect();
        let length = positions.iter().max().map_or(0, |last| *last as usize + 1);
        let mut sets = Vec::with_capacity(self.spec.rope.len());
        for rope in &self.spec.rope {
            let (rope, half) = (Rope::new(rope, length), rope.rotary_dim / 2);
            let mut angles = Angles {
                cos: vec![0.0; positions.len() * half],
                sin: vec![0.0; positions.len() * half],
            };
            let rows = angles.cos.chunks_mut(half).zip(angles.sin.chunks_mut(half));
            for (position, (cos, sin)) in positions.iter().zip(rows) {
                rope.cos_sin(*position as usize, cos, sin);
            }
            sets.push(angles);
        }
        sets
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        match self.weights.get(name) {
            Some(weight) => Ok(weight),
            None => candle_core::bail!("the model has no weight named {name}"),
        }
    }
}
