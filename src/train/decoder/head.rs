//! The two ends of the decoder: the embedding, and the final norm, head and loss together. Only
//! rows with a label pass the head, a part of them at a time, so that the logits of a batch never
//! exist all at once.

use candle_core::Result;

use super::linear::{Linear, Target};
use super::workspace::Buffer;
use super::{Batch, Decoder, Dropout, EMBEDDING};
use crate::kernels::cpu::Values;
use crate::kernels::grad::cross_entropy;
use crate::train::optimizer::Gradients;
use crate::train::tensors::with_values;

/// Logits that exist at once, 256 MB: the head is packed once for each such part of the rows.
pub(in crate::train) const LOGITS_AT_ONCE: usize = 1 << 26;
/// Rows that are taken at once whatever the vocabulary: fewer would make slow products.
const LEAST_ROWS_AT_ONCE: usize = 64;

const FINAL_NORM: &str = "model.norm";

/// Rows of the residual stream that predict a label, and the labels.
struct Predictions {
    rows: Vec<usize>,
    labels: Vec<u32>,
}

impl Predictions {
    fn of(batch: &Batch) -> Self {
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for (index, row) in batch.labels.iter().enumerate() {
            for (t, label) in row.iter().enumerate().skip(1) {
                if let Some(label) = label {
                    rows.push(index * row.len() + t - 1);
                    labels.push(*label);
                }
            }
        }
        Self { rows, labels }
    }

    /// Parts whose logits may exist at once.
    fn parts(&self, vocab_size: usize) -> impl Iterator<Item = (&[usize], &[u32])> {
        let size = (LOGITS_AT_ONCE / vocab_size).max(LEAST_ROWS_AT_ONCE);
        self.rows.chunks(size).zip(self.labels.chunks(size))
    }
}

/// The parts of one product with the head.
struct HeadPass<'w> {
    /// The rows of the residual stream, and normed.
    x: Buffer<'w>,
    normed: Buffer<'w>,
    logits: Buffer<'w>,
}

impl Decoder {
    fn head(&self) -> Result<Linear<'_>> {
        let path = if self.spec.tie_word_embeddings {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        self.linear(path.to_owned(), Dropout::default())
    }

    /// The sum of the losses of the final residual stream `x`: `[rows, hidden_size]`.
    pub(super) fn head_loss(&self, x: &[f32], batch: &Batch) -> Result<f64> {
        let predictions = self.predictions(batch)?;
        let mut loss = 0.0;
        for (rows, labels) in predictions.parts(self.spec.vocab_size) {
            let pass = self.head_forward(x, rows)?;
            loss += cross_entropy::forward(&pass.logits, labels);
        }
        Ok(loss)
    }

    /// The same; the gradients of the loss times `share` are put into `dx` (zeros before) and
    /// added to `gradients`.
    pub(super) fn head_backward(
        &self,
        x: &[f32],
        batch: &Batch,
        share: f64,
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<f64> {
        let (head, predictions) = (self.head()?, self.predictions(batch)?);
        let hidden = self.spec.hidden_size;
        let mut loss = 0.0;
        for (rows, labels) in predictions.parts(self.spec.vocab_size) {
            let mut pass = self.head_forward(x, rows)?;
            loss += cross_entropy::forward_backward(&mut pass.logits, labels, share as f32);
            head.weight_gradients(&pass.normed, &pass.logits, gradients)?;
            let mut dnormed = pass.normed;
            head.input_gradient(&pass.logits, Target::Replace, &mut dnormed)?;
            let mut drows = self.workspace.zeros(pass.x.len())?;
            self.norm_backward(FINAL_NORM, &pass.x, &dnormed, &mut drows, gradients)?;
            for (row, values) in rows.iter().zip(drows.chunks(hidden)) {
                dx[row * hidden..(row + 1) * hidden].copy_from_slice(values);
            }
        }
        Ok(loss)
    }

    fn predictions(&self, batch: &Batch) -> Result<Predictions> {
        let (predictions, vocab_size) = (Predictions::of(batch), self.spec.vocab_size);
        let mut labels = predictions.labels.iter();
        if let Some(label) = labels.find(|label| **label as usize >= vocab_size) {
            candle_core::bail!("label {label} lies outside the vocabulary of {vocab_size}");
        }
        Ok(predictions)
    }

    /// Logits are as exact as in single precision whatever the model's: their rounding would be
    /// most of the loss's.
    fn head_forward(&self, x: &[f32], rows: &[usize]) -> Result<HeadPass<'_>> {
        let hidden = self.spec.hidden_size;
        let mut own = self.workspace.take(rows.len() * hidden)?;
        for (row, to) in rows.iter().zip(own.chunks_mut(hidden)) {
            to.copy_from_slice(&x[row * hidden..(row + 1) * hidden]);
        }
        let mut normed = self.workspace.take(own.len())?;
        self.norm(FINAL_NORM, &own, &mut normed)?;
        let mut logits = self.workspace.take(rows.len() * self.spec.vocab_size)?;
        self.head()?.forward_precisely(&normed, &mut logits)?;
        Ok(HeadPass {
            x: own,
            normed,
            logits,
        })
    }

    /// Rows of the embedding, `[rows, hidden_size]`.
    pub(super) fn embed(&self, batch: &Batch) -> Result<Buffer<'_>> {
        let (table, hidden) = (self.weight(EMBEDDING)?, self.spec.hidden_size);
        let vocab_size = table.dim(0)?;
        let scale = self.spec.embedding_scale;
        let mut x = self.workspace.take(batch.num_tokens() * hidden)?;
        let tokens = || batch.input_ids.iter().flatten();
        if let Some(token) = tokens().find(|token| **token as usize >= vocab_size) {
            candle_core::bail!("token {token} lies outside the vocabulary of {vocab_size}");
        }
        with_values(table, |table| {
            for (token, x) in tokens().zip(x.chunks_mut(hidden)) {
                let row = *token as usize * hidden..(*token as usize + 1) * hidden;
                match table {
                    Values::F32(table) => {
                        for (x, value) in x.iter_mut().zip(&table[row]) {
                            *x = value * scale;
                        }
                    }
                    Values::Bf16(table) => {
                        for (x, value) in x.iter_mut().zip(&table[row]) {
                            *x = value.to_f32() * scale;
                        }
                    }
                }
            }
        })?;
        Ok(x)
    }

    /// Adds the gradient of the embedding, where it is trained.
    pub(super) fn embed_backward(&self, batch: &Batch, dx: &[f32], gradients: &mut Gradients) {
        let (hidden, scale) = (self.spec.hidden_size, self.spec.embedding_scale);
        let Some(dtable) = gradients.sum(EMBEDDING) else {
            return;
        };
        let tokens = batch.input_ids.iter().flatten();
        for (token, dx) in tokens.zip(dx.chunks(hidden)) {
            let row = &mut dtable[*token as usize * hidden..(*token as usize + 1) * hidden];
            for (sum, dx) in row.iter_mut().zip(dx) {
                *sum += dx * scale;
            }
        }
    }
}
