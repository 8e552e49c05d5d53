//! Spherical interpolation between two models (Shoemake 1985), each tensor taken as one vector:
//! `(sin((1−t)θ)·a + sin(tθ)·b) / sin θ` with `θ` the angle between base `a` and the other model
//! `b`. Almost parallel tensors (`|cos θ| > 0.9995`) are interpolated linearly.
//!
//! In float32 throughout, rounded once at the end.

use super::towards::Way;
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Input, Tensor};

/// Cosine beyond which two tensors count as parallel.
const PARALLEL: f64 = 0.9995;
/// A norm up to this counts as 1: the tensor is left as it is.
const NO_NORM: f64 = 1e-8;

/// See the module.
pub(crate) struct Slerp;

impl Way for Slerp {
    const NAME: &'static str = "slerp";
    const TITLE: &'static str = "SLERP";
    const REFERENCE: &'static str = "https://en.wikipedia.org/wiki/Slerp";

    fn run<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        other: &Input<'_>,
        t: f64,
    ) -> Result<(), MergeError> {
        let (a_weight, b_weight) = coefficients(tensor, other, t);
        let (a_weight, b_weight) = (F::from_f64(a_weight), F::from_f64(b_weight));
        tensor.emit(
            |_| Vec::new(),
            |b, start, out| {
                tensor.read(tensor.required_base(), start, out);
                tensor.read_len(other, start, out.len(), b);
                F::blend(tensor.isa, tensor.rounding, out, b, a_weight, b_weight);
            },
        )
    }
}

/// What the base and the other model are multiplied by.
fn coefficients<F: Elementwise>(tensor: &Tensor<'_, F>, other: &Input<'_>, t: f64) -> (f64, f64) {
    if t == 0.0 || t == 1.0 {
        return (1.0 - t, t);
    }
    let sums = tensor.reduce(|block| {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut sums = [0.0; 3];
        for chunk in tensor.chunks(block) {
            tensor.read_len(tensor.required_base(), chunk.start, chunk.len(), &mut a);
            tensor.read_len(other, chunk.start, chunk.len(), &mut b);
            sums[0] += F::sum_of_products(tensor.isa, &a, &a);
            sums[1] += F::sum_of_products(tensor.isa, &b, &b);
            sums[2] += F::sum_of_products(tensor.isa, &a, &b);
        }
        sums
    });
    let [aa, bb, ab] = [0, 1, 2].map(|i| sums.iter().map(|block| block[i]).sum::<f64>());
    let norm = |square: f64| match square.sqrt() {
        norm if norm <= NO_NORM => 1.0,
        norm => norm,
    };
    let cosine = (ab / (norm(aa) * norm(bb))).clamp(-1.0, 1.0);
    if cosine.abs() > PARALLEL {
        return (1.0 - t, t);
    }
    let angle = cosine.acos();
    let sine = angle.sin();
    (((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine)
}
