//! Pulls the base towards the other model where the two are near each other:
//! `w·x + (1−w)·b` with `w = clamp(t / max(|x−b|, 1e-6), 0, 1)`.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::Tensor;

/// The least distance.
const LEAST: f64 = 1e-6;

/// See the module.
pub(crate) struct NearSwap;

impl MergeMethod for NearSwap {
    fn name(&self) -> &'static str {
        "nearswap"
    }

    fn title(&self) -> &'static str {
        "NearSwap"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001")
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

impl NearSwap {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let other = tensor.others().next().expect("the plan gives two inputs");
        let t = F::from_f32(tensor.shared.number("t") as f32);
        let r = tensor.rounding;
        let least: F = r.scalar(LEAST);
        tensor.emit(
            |_| (Vec::new(), Vec::new()),
            |(x, w), start, out| {
                tensor.read(tensor.required_base(), start, out);
                tensor.read_len(other, start, out.len(), x);
                w.resize(out.len(), F::ZERO);
                r.zip2(w, x, out, |_, x, b| {
                    let distance = r.one(b - x).abs();
                    let distance = if distance < least { least } else { distance };
                    // torch divides a number by a tensor by way of the reciprocal.
                    let weight = r.one(r.one(F::ONE / distance) * t);
                    if weight > F::ONE {
                        F::ONE
                    } else if weight < F::ZERO {
                        F::ZERO
                    } else {
                        weight
                    }
                });
                r.zip2(out, x, w, |b, x, w| {
                    r.one(w * x) + r.one(r.one(F::ONE - w) * b)
                });
            },
        )
    }
}
