//! Arcee Fusion: only the elements that matter most are taken over from the other model.
//!
//! `importance = |x − b| · KL(softmax(x) ‖ softmax(b))`, the divergence being that of the row;
//! elements at or above `median + 1.5·(q75 − q25)` of all importances take `x`, the others `b`.
//! Quantiles are `sorted[trunc(q·(n−1))]`, exact at any size (the reference samples above a
//! million elements).

use std::ops::Range;

use super::{BaseUse, InputCount, MergeMethod, Parameter, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::dtype::FloatType;
use crate::merge::error::MergeError;
use crate::merge::sparsify::{Cut, Values};
use crate::merge::tensor::{Block, Input, Tensor};

/// Added to each probability.
const LEAST_PROBABILITY: f64 = 1e-8;

/// See the module.
pub(crate) struct ArceeFusion;

impl MergeMethod for ArceeFusion {
    fn name(&self) -> &'static str {
        "arcee_fusion"
    }

    fn title(&self) -> &'static str {
        "Arcee Fusion"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://arcee.ai")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn inputs(&self) -> InputCount {
        InputCount::Exactly(2)
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    /// The reference's mask is float32 and makes the result so.
    fn result_dtype(&self, working: FloatType) -> FloatType {
        working.promoted(FloatType::F32)
    }

    merge_in_either_arithmetic!();
}

/// The importance of every element; its sign may be negative by rounding.
struct Importance<'t, 'a, F> {
    tensor: &'t Tensor<'a, F>,
    other: &'t Input<'a>,
}

impl ArceeFusion {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let other = tensor.others().next().expect("the plan gives two inputs");
        let importance = Importance { tensor, other };
        let threshold = threshold(&importance);
        let r = tensor.rounding;
        tensor.emit_rows(
            |_| (),
            |(), start, out| {
                let mut position = 0;
                importance.each_row(start..start + out.len(), |base, x, importance| {
                    let out = &mut out[position..position + base.len()];
                    let pairs = base.iter().zip(x).zip(importance);
                    for (out, ((b, x), important)) in out.iter_mut().zip(pairs) {
                        let delta = if *important >= threshold {
                            r.one(*x - *b)
                        } else {
                            F::ZERO
                        };
                        *out = *b + delta;
                    }
                    position += base.len();
                });
            },
        )
    }
}

fn threshold<F: Elementwise>(importance: &Importance<'_, '_, F>) -> F {
    let n = importance.tensor.num_elements();
    if n == 0 {
        return F::ZERO;
    }
    let from_top = |q: f64| n - (q * (n - 1) as f64) as usize;
    let quantiles = [from_top(0.5), from_top(0.75), from_top(0.25)];
    let [median, upper, lower] =
        Cut::find(importance.tensor, importance, quantiles).map(|cut| value_of::<F>(cut.value()));
    let r = importance.tensor.rounding;
    let spread = r.one(upper - lower);
    r.one(median + r.one(F::from_f64(1.5) * spread))
}

impl<F: Elementwise> Importance<'_, '_, F> {
    /// Gives base, other and importance of each of several rows.
    fn each_row(&self, elements: Range<usize>, mut seen: impl FnMut(&[F], &[F], &[F])) {
        let len = self.tensor.row_len();
        let r = self.tensor.rounding;
        let mut base = vec![F::ZERO; len];
        let mut x = vec![F::ZERO; len];
        let mut importance = vec![F::ZERO; len];
        for start in elements.step_by(len.max(1)) {
            self.tensor
                .read(self.tensor.required_base(), start, &mut base);
            self.tensor.read(self.other, start, &mut x);
            let (p, q) = (softmax(self.tensor, &x), softmax(self.tensor, &base));
            let divergence = p
                .iter()
                .zip(&q)
                .map(|(p, q)| r.one(*p * r.one(r.one(*p / *q).ln())).to_f64());
            let divergence: F = r.scalar(divergence.sum::<f64>());
            r.zip2(&mut importance, &x, &base, |_, x, b| {
                r.one(x - b).abs() * divergence
            });
            seen(&base, &x, &importance);
        }
    }
}

fn softmax<F: Elementwise>(tensor: &Tensor<'_, F>, row: &[F]) -> Vec<F> {
    let r = tensor.rounding;
    let largest = row.iter().fold(row[0], |a, b| if *b > a { *b } else { a });
    let exponentials: Vec<F> = row.iter().map(|x| (*x - largest).exp()).collect();
    let sum = F::from_f64(exponentials.iter().map(|e| e.to_f64()).sum());
    let least = F::from_f64(LEAST_PROBABILITY);
    exponentials
        .into_iter()
        .map(|e| r.one(r.one(e / sum) + least))
        .collect()
}

impl<F: Elementwise> Values<F> for Importance<'_, '_, F> {
    fn each_chunk(&self, block: &Block, mut seen: impl FnMut(&[F])) {
        self.each_row(block.range.clone(), |_, _, importance| seen(importance));
    }

    /// Orders by value: negative ones, falling in magnitude, below the others.
    fn key(value: F) -> u64 {
        let sign = 1 << F::MAGNITUDE_BITS;
        if value < F::ZERO {
            sign - 1 - value.magnitude()
        } else {
            sign | value.magnitude()
        }
    }
}

/// The value with the given key.
fn value_of<F: Elementwise>(key: u64) -> F {
    let sign = 1_u64 << F::MAGNITUDE_BITS;
    if key & sign == 0 {
        -F::from_magnitude(sign - 1 - key)
    } else {
        F::from_magnitude(key & (sign - 1))
    }
}
