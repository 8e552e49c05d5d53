//! RMS norm with its backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::rms_norm as kernel;

struct RmsNorm {
    eps: f32,
    /// Whether the weight gets a gradient.
    is_trained: bool,
}

/// `x / sqrt(mean(x^2) + eps) * weight` per row; the weight gets a gradient where it is
/// a variable. Shapes: `x`: `[rows, width]`, `weight`: `[width]`.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let is_trained = weight.is_variable();
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, RmsNorm { eps, is_trained })
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = operand(x, x_layout)?;
        let mut y = vec![0.0; values.len()];
        kernel::forward(values, operand(weight, weight_layout)?, self.eps, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = vec![0.0; x.elem_count()];
        let mut dweight = self.is_trained.then(|| vec![0.0; weight.elem_count()]);
        with_values(&[x, weight, dy], |v| {
            kernel::backward(v[0], v[1], self.eps, v[2], &mut dx, dweight.as_deref_mut());
        })?;
        let dweight = dweight.map(|values| Tensor::from_vec(values, weight.shape(), x.device()));
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            dweight.transpose()?,
        ))
    }
}
