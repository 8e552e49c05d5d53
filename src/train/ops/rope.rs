//! Rotary position embedding with its backward pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::rope::{Direction, rotate};

/// Cosines and sines of every row of a batch, each `[rows, rotary_dim / 2]`.
pub struct Angles {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

struct Rope {
    angles: Arc<Angles>,
    num_heads: usize,
    head_dim: usize,
}

/// Rotates every head of `x`: `[rows, num_heads * head_dim]` by its row's angles.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn rope(x: &Tensor, angles: &Arc<Angles>, num_heads: usize, head_dim: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rope {
        angles: Arc::clone(angles),
        num_heads,
        head_dim,
    })
}

impl Rope {
    fn rotated(&self, x: &[f32], direction: Direction) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let Angles { cos, sin } = &*self.angles;
        rotate(
            x,
            cos,
            sin,
            self.num_heads,
            self.head_dim,
            direction,
            &mut y,
        );
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.rotated(operand(x, layout)?, Direction::Forward);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values(&[dy], |v| self.rotated(v[0], Direction::Backward))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
