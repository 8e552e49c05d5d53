//! SCE (Wan et al. 2024, arXiv:2408.07990): select the elements whose task vectors vary most,
//! calculate each model's weight from its squared deltas, erase what is against the elected sign.
//!
//! `weight_i = mean(d_i²) / Σ mean(d_j²)`, and the result
//! `b + Σ d_i·w_i·keep_i / max(Σ w_i·keep_i, 1e-6)`.

use super::{
    BaseUse, InputCount, MergeMethod, Parameter, Scope, bad_parameter, merge_in_either_arithmetic,
};
use crate::merge::error::MergeError;
use crate::merge::numeric::Real;
use crate::merge::sparsify::{Cut, Values as Ordered};
use crate::merge::tensor::{Block, Tensor, Values, sum_of};

/// The least sum of mean squares, and the least divisor.
const LEAST: f64 = 1e-6;

/// See the module.
pub(crate) struct Sce;

impl MergeMethod for Sce {
    fn name(&self) -> &'static str {
        "sce"
    }

    fn title(&self) -> &'static str {
        "SCE"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://arxiv.org/abs/2408.07990")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn inputs(&self) -> InputCount {
        InputCount::AtLeast(2)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const { &[Parameter::number("select_topk", Scope::Shared, 1.0)] }
    }

    fn check_all(&self, tensor: &str, shared: &Values, _: &[&Values]) -> Result<(), MergeError> {
        match shared.number("select_topk") {
            topk if topk >= 0.0 => Ok(()),
            topk => Err(bad_parameter(
                "select_topk",
                topk,
                tensor,
                "expected at least 0",
            )),
        }
    }

    merge_in_either_arithmetic!();
}

/// The variance of each element across the inputs.
struct Variances<'t, 'a, F>(&'t Tensor<'a, F>);

impl Sce {
    fn run<F: Real>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let cut = selection(tensor);
        let weights = weights(tensor, cut.as_ref());
        let r = tensor.rounding;
        let least: F = r.scalar(LEAST);
        tensor.emit(|block, out| {
            each_chunk(tensor, cut.as_ref(), block, |start, base, deltas| {
                let from = start - block.range.start;
                let out = &mut out[from..from + base.len()];
                for (i, out) in out.iter_mut().enumerate() {
                    let sum = deltas.iter().fold(F::ZERO, |sum, d| sum + d[i]);
                    let (mut mix, mut div) = (F::ZERO, F::ZERO);
                    for (delta, weight) in deltas.iter().zip(&weights) {
                        let d = delta[i];
                        let agrees = if sum >= F::ZERO {
                            d > F::ZERO
                        } else {
                            d < F::ZERO
                        };
                        if agrees {
                            mix = mix + r.one(d * *weight);
                            div = div + *weight;
                        }
                    }
                    let div = r.one(div);
                    let div = if div < least { least } else { div };
                    *out = r.one(base[i] + r.one(r.one(mix) / div));
                }
            });
        })
    }
}

/// The elements to keep; `None` for all.
fn selection<F: Real>(tensor: &Tensor<'_, F>) -> Option<Cut> {
    let topk = tensor.shared.number("select_topk");
    if topk >= 1.0 {
        return None;
    }
    let variances = Variances(tensor);
    let varying: usize = tensor
        .reduce(|block| {
            let mut count = 0;
            variances.each_chunk(block, |chunk| {
                count += chunk.iter().filter(|v| **v != F::ZERO).count();
            });
            count
        })
        .into_iter()
        .sum();
    let [cut] = Cut::find(tensor, &variances, [(topk * varying as f64) as usize]);
    Some(cut)
}

fn weights<F: Real>(tensor: &Tensor<'_, F>, cut: Option<&Cut>) -> Vec<F> {
    let r = tensor.rounding;
    let inputs = tensor.others().count();
    let blocks = tensor.reduce(|block| {
        let mut sums = vec![0.0; inputs];
        each_chunk(tensor, cut, block, |_, _, deltas| {
            for (sum, delta) in sums.iter_mut().zip(deltas) {
                *sum += sum_of(delta, |d| r.one(d * d).to_f64());
            }
        });
        sums
    });
    let count = tensor.num_elements().max(1) as f64;
    let mean = |input: usize| {
        let sum: f64 = blocks.iter().map(|sums| sums[input]).sum();
        r.scalar::<F>(sum / count)
    };
    let means: Vec<F> = (0..inputs).map(mean).collect();
    let sum = r.one(means.iter().fold(F::ZERO, |sum, mean| sum + *mean));
    if sum.to_f64() < LEAST {
        return vec![r.scalar(1.0 / inputs as f64); inputs];
    }
    means.into_iter().map(|mean| r.one(mean / sum)).collect()
}

/// Gives each chunk's start, base and selected deltas.
#[inline(always)]
fn each_chunk<F: Real>(
    tensor: &Tensor<'_, F>,
    cut: Option<&Cut>,
    block: &Block,
    mut seen: impl FnMut(usize, &[F], &[Vec<F>]),
) {
    let mut cut = cut.map(|cut| cut.block(block));
    let mut base = Vec::new();
    let mut deltas = vec![Vec::new(); tensor.others().count()];
    for chunk in tensor.chunks(block) {
        read_deltas(tensor, chunk.start, chunk.len(), &mut base, &mut deltas);
        if let Some(cut) = &mut cut {
            for i in 0..chunk.len() {
                let variance = variance(tensor, &deltas, i);
                if !cut.takes(variance.magnitude()) {
                    deltas.iter_mut().for_each(|delta| delta[i] = F::ZERO);
                }
            }
        }
        seen(chunk.start, &base, &deltas);
    }
}

#[inline(always)]
fn read_deltas<F: Real>(
    tensor: &Tensor<'_, F>,
    start: usize,
    len: usize,
    base: &mut Vec<F>,
    deltas: &mut [Vec<F>],
) {
    base.resize(len, F::ZERO);
    tensor.read(tensor.required_base(), start, base);
    for (input, delta) in tensor.others().zip(deltas) {
        delta.resize(len, F::ZERO);
        tensor.read(input, start, delta);
        tensor.rounding.zip(delta, base, |x, b| x - b);
    }
}

#[inline(always)]
fn variance<F: Real>(tensor: &Tensor<'_, F>, deltas: &[Vec<F>], i: usize) -> F {
    let count = deltas.len() as f64;
    let mean = deltas.iter().map(|d| d[i].to_f64()).sum::<f64>() / count;
    let square = |d: &Vec<F>| (d[i].to_f64() - mean) * (d[i].to_f64() - mean);
    let variance = deltas.iter().map(square).sum::<f64>() / count;
    tensor.rounding.scalar(variance)
}

impl<F: Real> Ordered<F> for Variances<'_, '_, F> {
    fn each_chunk(&self, block: &Block, mut seen: impl FnMut(&[F])) {
        let tensor = self.0;
        let (mut base, mut values) = (Vec::new(), Vec::new());
        let mut deltas = vec![Vec::new(); tensor.others().count()];
        for chunk in tensor.chunks(block) {
            read_deltas(tensor, chunk.start, chunk.len(), &mut base, &mut deltas);
            values.clear();
            values.extend((0..chunk.len()).map(|i| variance(tensor, &deltas, i)));
            seen(&values);
        }
    }
}
