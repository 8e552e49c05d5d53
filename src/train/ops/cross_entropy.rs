//! Summed cross-entropy with its backward pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::cross_entropy as kernel;

struct CrossEntropy {
    labels: Arc<Vec<u32>>,
}

/// The sum over rows of the negative log-probability of the row's label; a scalar.
///
/// Shapes: `logits`: `[rows, vocab_size]`, `labels`: `[rows]`.
///
/// # Errors
/// Shapes or dtypes do not fit, or a label lies outside the vocabulary.
pub fn cross_entropy_sum(logits: &Tensor, labels: &Arc<Vec<u32>>) -> Result<Tensor> {
    let (rows, vocab_size) = logits.dims2()?;
    if rows != labels.len() {
        candle_core::bail!("{rows} rows of logits for {} labels", labels.len());
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= vocab_size) {
        candle_core::bail!("label {label} lies outside the vocabulary of {vocab_size}");
    }
    logits.contiguous()?.apply_op1(CrossEntropy {
        labels: Arc::clone(labels),
    })
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = kernel::forward(operand(logits, layout)?, &self.labels);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let mut dlogits = vec![0.0; logits.elem_count()];
        let dloss = dloss.to_scalar::<f32>()?;
        with_values(&[logits], |v| {
            kernel::backward(v[0], &self.labels, dloss, &mut dlogits)
        })?;
        Ok(Some(Tensor::from_vec(
            dlogits,
            logits.shape(),
            logits.device(),
        )?))
    }
}
