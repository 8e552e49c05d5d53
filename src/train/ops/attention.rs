//! Causal grouped-query attention with its backward pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{operand, with_values};
use crate::kernels::grad::attention as kernel;

struct Attention {
    shape: Arc<kernel::Shape>,
}

/// Attention of a batch. Shapes: `q`: `[rows, num_heads * head_dim]`, `k`, `v`:
/// `[rows, num_kv_heads * head_dim]` with `rows = batch * length`; the result is shaped like `q`.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &Arc<kernel::Shape>) -> Result<Tensor> {
    let op = Attention {
        shape: Arc::clone(shape),
    };
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let queries = operand(q, q_layout)?;
        let mut out = vec![0.0; queries.len()];
        let (keys, values) = (operand(k, k_layout)?, operand(v, v_layout)?);
        kernel::forward(&self.shape, queries, keys, values, &mut out);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|tensor| vec![0.0; tensor.elem_count()]);
        with_values(&[q, k, v, dout], |t| {
            let saved = kernel::Saved {
                q: t[0],
                k: t[1],
                v: t[2],
                dout: t[3],
            };
            kernel::backward(&self.shape, &saved, &mut dq, &mut dk, &mut dv);
        })?;
        Ok((
            Some(Tensor::from_vec(dq, q.shape(), q.device())?),
            Some(Tensor::from_vec(dk, k.shape(), k.device())?),
            Some(Tensor::from_vec(dv, v.shape(), v.device())?),
        ))
    }
}
