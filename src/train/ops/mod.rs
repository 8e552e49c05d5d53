//! Differentiable layers for candle's graph, one file each, over the kernels in `kernels::grad`.
//!
//! candle's own fused versions of these cut the gradient silently, and its composed forms allocate
//! a fresh buffer per elementary step. These compute in f32 on the CPU; inputs of another dtype
//! are cast by the caller.

mod attention;
mod bias;
mod cross_entropy;
mod dropout;
mod frozen_linear;
mod rms_norm;
mod rope;
mod seed;
mod silu_mul;

pub use attention::attention;
pub use bias::add_bias;
pub use cross_entropy::cross_entropy_sum;
pub use dropout::dropout;
pub use frozen_linear::frozen_linear;
pub use rms_norm::rms_norm;
pub use rope::{Angles, rope};
pub use seed::seed;
pub use silu_mul::silu_mul;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

/// The values of a contiguous f32 operand.
fn operand<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!(
            "a fused layer needs contiguous operands, got {:?}",
            layout.shape()
        );
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `f` over the values of contiguous f32 CPU tensors, without copying them.
fn with_values<T>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> T) -> Result<T> {
    let contiguous: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| tensor.contiguous())
        .collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let values: Vec<&[f32]> = guards
        .iter()
        .map(|(storage, layout)| match &**storage {
            Storage::Cpu(storage) => operand(storage, layout),
            _ => candle_core::bail!("this layer's backward pass runs on the CPU only"),
        })
        .collect::<Result<_>>()?;
    Ok(f(&values))
}
