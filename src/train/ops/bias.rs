//! A bias added to every row, with its backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::bias as kernel;

struct AddBias {
    /// Whether the bias gets a gradient.
    is_trained: bool,
}

/// `x + bias` per row; the bias gets a gradient where it is a variable. Shapes: `x`: `[rows, width]`, `bias`: `[width]`.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let is_trained = bias.is_variable();
    x.contiguous()?
        .apply_op2(&bias.contiguous()?, AddBias { is_trained })
}

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = operand(x, x_layout)?;
        let mut y = vec![0.0; values.len()];
        kernel::forward(values, operand(bias, bias_layout)?, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dbias = if self.is_trained {
            let values = with_values(&[dy], |v| kernel::backward(v[0], bias.elem_count()))?;
            Some(Tensor::from_vec(values, bias.shape(), bias.device())?)
        } else {
            None
        };
        Ok((Some(dy.clone()), dbias))
    }
}
