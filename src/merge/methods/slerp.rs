//! Spherical interpolation between two models (Shoemake 1985), each tensor taken as one vector:
//! `(sin((1−t)θ)·a + sin(tθ)·b) / sin θ` with `θ` the angle between base `a` and the other model
//! `b`. Almost parallel tensors (`|cos θ| > 0.9995`) are interpolated linearly.
//!
//! In float32 throughout, rounded once at the end.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::merge::error::MergeError;
use crate::merge::numeric::Real;
use crate::merge::tensor::{Tensor, sum_of_pairs};

/// Cosine beyond which two tensors count as parallel.
const PARALLEL: f64 = 0.9995;
/// A norm up to this counts as 1: the tensor is left as it is.
const NO_NORM: f64 = 1e-8;

/// See the module.
pub(crate) struct Slerp;

impl MergeMethod for Slerp {
    fn name(&self) -> &'static str {
        "slerp"
    }

    fn title(&self) -> &'static str {
        "SLERP"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://en.wikipedia.org/wiki/Slerp")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn inputs(&self) -> InputCount {
        InputCount::Exactly(2)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const { &[Parameter::required("t", Scope::Shared)] }
    }

    merge_in_either_arithmetic!();
}

impl Slerp {
    fn run<F: Real>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let other = tensor.others().next().expect("the plan gives two inputs");
        let (a_weight, b_weight) = coefficients(tensor);
        let (a_weight, b_weight) = (F::from_f64(a_weight), F::from_f64(b_weight));
        tensor.emit(|block, out| {
            let mut b = Vec::new();
            for chunk in tensor.chunks(block) {
                b.resize(chunk.len(), F::ZERO);
                let from = chunk.start - block.range.start;
                let out = &mut out[from..from + chunk.len()];
                tensor.read(tensor.required_base(), chunk.start, out);
                tensor.read(other, chunk.start, &mut b);
                tensor
                    .rounding
                    .zip(out, &b, |a, b| a_weight * a + b_weight * b);
            }
        })
    }
}

/// What the base and the other model are multiplied by.
fn coefficients<F: Real>(tensor: &Tensor<'_, F>) -> (f64, f64) {
    let t = tensor.shared.number("t");
    if t == 0.0 || t == 1.0 {
        return (1.0 - t, t);
    }
    let other = tensor.others().next().expect("the plan gives two inputs");
    let sums = tensor.reduce(|block| {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut sums = [0.0; 3];
        for chunk in tensor.chunks(block) {
            a.resize(chunk.len(), F::ZERO);
            b.resize(chunk.len(), F::ZERO);
            tensor.read(tensor.required_base(), chunk.start, &mut a);
            tensor.read(other, chunk.start, &mut b);
            sums[0] += sum_of_pairs(&a, &a, |x, y| x.to_f64() * y.to_f64());
            sums[1] += sum_of_pairs(&b, &b, |x, y| x.to_f64() * y.to_f64());
            sums[2] += sum_of_pairs(&a, &b, |x, y| x.to_f64() * y.to_f64());
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
