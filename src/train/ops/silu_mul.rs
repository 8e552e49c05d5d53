//! The gated MLP's product with its backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::silu_mul as kernel;

struct SiluMul;

/// `silu(gate) * up`, elementwise.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SiluMul)
}

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = operand(gate, gate_layout)?;
        let mut y = vec![0.0; values.len()];
        kernel::forward(values, operand(up, up_layout)?, &mut y);
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut dgate, mut dup) = (vec![0.0; gate.elem_count()], vec![0.0; up.elem_count()]);
        with_values(&[gate, up, dy], |v| {
            kernel::backward(v[0], v[1], v[2], &mut dgate, &mut dup);
        })?;
        Ok((
            Some(Tensor::from_vec(dgate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(dup, up.shape(), up.device())?),
        ))
    }
}
