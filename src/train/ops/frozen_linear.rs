//! A product with a weight that is not trained: its backward pass makes no gradient for it.
//!
//! candle's own product always makes and keeps the gradient of both sides.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor};

use super::operand;

struct FrozenLinear {
    /// `[out_features, in_features]`, in the type that products run in.
    weight: Tensor,
}

/// `x W^T` for a weight that is not trained. Shapes: `x`: `[rows, in_features]` f32, `weight`:
/// `[out_features, in_features]` in F32 or BF16, which the product runs in; the result is f32.
///
/// # Errors
/// Shapes or dtypes do not fit.
pub fn frozen_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let op = FrozenLinear {
        weight: weight.detach(),
    };
    x.contiguous()?.apply_op1(op)
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        operand(x, layout)?;
        let (rows, inputs) = layout.shape().dims2()?;
        let weight = self.weight.t()?;
        let (weight_inputs, outputs) = weight.dims2()?;
        if inputs != weight_inputs {
            candle_core::bail!("{inputs} input features for a weight of {weight_inputs}");
        }
        let (guard, weight_layout) = weight.storage_and_layout();
        let Storage::Cpu(weight) = &*guard else {
            candle_core::bail!("a weight on another device than its input");
        };
        let sizes = (1, rows, outputs, inputs);
        let shape = Shape::from((rows, outputs));
        let y = if weight.dtype() == DType::F32 {
            x.matmul(weight, sizes, layout, weight_layout)?
        } else {
            let x = x.to_dtype(layout, weight.dtype())?;
            let y = x.matmul(
                weight,
                sizes,
                &Layout::contiguous((rows, inputs)),
                weight_layout,
            )?;
            y.to_dtype(&Layout::contiguous(&shape), DType::F32)?
        };
        Ok((y, shape))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = dy.to_dtype(self.weight.dtype())?.matmul(&self.weight)?;
        Ok(Some(dx.to_dtype(DType::F32)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn agrees_with_the_plain_product_and_keeps_no_gradient_of_the_weight() {
        let values = |count: usize| {
            (0..count)
                .map(|i| (i as f32 * 0.37).sin())
                .collect::<Vec<_>>()
        };
        let x = Tensor::from_vec(values(15), (3, 5), &Device::Cpu).unwrap();
        let weight = Tensor::from_vec(values(20), (4, 5), &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let plain = x.matmul(&weight.t().unwrap()).unwrap();
        let frozen = frozen_linear(x.as_tensor(), &weight).unwrap();
        let vec = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(vec(&plain), vec(&frozen));
        let gradient = |y: &Tensor| {
            let store = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            (
                vec(store.get(x.as_tensor()).unwrap()),
                store.get(&weight).is_some(),
            )
        };
        let ((expected, _), (found, keeps)) = (gradient(&plain), gradient(&frozen));
        assert_eq!(found, expected);
        assert!(!keeps);
    }
}
