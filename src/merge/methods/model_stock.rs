//! Model Stock (Jang et al. 2024, arXiv:2403.19522): fine-tuned models lie on a shell around a
//! centre, which is estimated from the angles between their offsets `o_i = x_i − b`.
//!
//! `c` is the mean cosine over pairs, `t = N·c / (1 + (N−1)·c)`, and the result
//! `t·mean(x_i) + (1−t)·b`, over the whole tensor or per row (`filter_wise`).

use super::{BaseUse, InputCount, MergeMethod, Parameter, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Groups, Input, Tensor};

/// The least product of norms, and the least divisor of `t`.
const LEAST: f64 = 1e-6;

/// See the module.
pub(crate) struct ModelStock;

impl MergeMethod for ModelStock {
    fn name(&self) -> &'static str {
        "model_stock"
    }

    fn title(&self) -> &'static str {
        "Model Stock"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://arxiv.org/abs/2403.19522")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn inputs(&self) -> InputCount {
        InputCount::AtLeast(3)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const { &[Parameter::flag("filter_wise", false)] }
    }

    merge_in_either_arithmetic!();
}

impl ModelStock {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let r = tensor.rounding;
        let inputs: Vec<&Input<'_>> = tensor.others().collect();
        let groups = if tensor.shared.flag("filter_wise") {
            Groups::along_last(tensor.shape)
        } else {
            Groups::Whole
        };
        let shares = shares(tensor, &inputs, groups);
        let count = F::from_f64(inputs.len() as f64);
        tensor.emit(
            |_| (Vec::new(), Vec::new()),
            |(base, x), start, out| {
                out.fill(F::ZERO);
                for input in &inputs {
                    tensor.read_len(input, start, out.len(), x);
                    F::accumulate(tensor.isa, r, out, x);
                }
                tensor.read_len(tensor.required_base(), start, out.len(), base);
                for ((element, out), base) in (start..).zip(out.iter_mut()).zip(base.iter()) {
                    let t = shares[groups.of(element)];
                    let mean = r.one(*out / count);
                    *out = r.one(r.one(t * mean) + r.one(r.one(F::ONE - t) * *base));
                }
            },
        )
    }
}

/// `t` of each vector.
fn shares<F: Elementwise>(tensor: &Tensor<'_, F>, inputs: &[&Input<'_>], groups: Groups) -> Vec<F> {
    let r = tensor.rounding;
    let pairs: Vec<(usize, usize)> = (0..inputs.len())
        .flat_map(|i| (0..i).map(move |j| (j, i)))
        .collect();
    let offsets = |start: usize, len: usize| -> Vec<Vec<F>> {
        let mut base = vec![F::ZERO; len];
        tensor.read(tensor.required_base(), start, &mut base);
        let offset = |input: &&Input<'_>| {
            let mut offset = Vec::new();
            tensor.read_delta(input, start, &base, &mut offset);
            offset
        };
        inputs.iter().map(offset).collect()
    };
    let sums = tensor.group_sums(groups, inputs.len() + pairs.len(), |start, terms| {
        let offsets = offsets(start, terms[0].len());
        let (squares, products) = terms.split_at_mut(inputs.len());
        for (terms, offset) in squares.iter_mut().zip(&offsets) {
            for (term, o) in terms.iter_mut().zip(offset) {
                *term = o.to_f64() * o.to_f64();
            }
        }
        for (terms, (i, j)) in products.iter_mut().zip(&pairs) {
            for ((term, a), b) in terms.iter_mut().zip(&offsets[*i]).zip(&offsets[*j]) {
                *term = r.one(*a * *b).to_f64();
            }
        }
    });
    let (squares, products) = sums.split_at(inputs.len());
    let count = inputs.len() as f64;
    let share = |group: usize| {
        let norm = |input: usize| r.scalar::<F>(squares[input][group].sqrt());
        let cosine = |(pair, (i, j)): (usize, &(usize, usize))| {
            let product: F = r.scalar(products[pair][group]);
            let least = F::from_f64(LEAST);
            let norms = r.one(norm(*i) * norm(*j));
            let norms = if norms < least { r.one(least) } else { norms };
            r.one(product / norms).to_f64().clamp(-1.0, 1.0)
        };
        let sum: f64 = pairs.iter().enumerate().map(cosine).sum();
        let c: F = r.scalar(sum / pairs.len() as f64);
        let divisor = r.one(F::ONE + r.one(F::from_f64(count - 1.0) * c));
        if divisor.abs() < F::from_f64(LEAST) {
            return F::ZERO;
        }
        r.one(r.one(F::from_f64(count) * c) / divisor)
    };
    (0..sums[0].len()).map(share).collect()
}
