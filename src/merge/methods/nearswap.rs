//! Pulls the base towards the other model where the two are near each other:
//! `w·x + (1−w)·b` with `w = clamp(t / max(|x−b|, 1e-6), 0, 1)`.

use super::towards::Way;
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Input, Tensor};

/// The least distance.
const LEAST: f64 = 1e-6;

/// See the module.
pub(crate) struct NearSwap;

impl Way for NearSwap {
    const NAME: &'static str = "nearswap";
    const TITLE: &'static str = "NearSwap";
    const REFERENCE: &'static str = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001";

    fn run<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        other: &Input<'_>,
        t: f64,
    ) -> Result<(), MergeError> {
        let t = F::from_f64(t);
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
