//! SCE (Wan et al. 2024, arXiv:2408.07990): select the elements whose task vectors vary most,
//! calculate each model's weight from its squared deltas, erase what is against the elected sign.
//!
//! `weight_i = mean(d_i²) / Σ mean(d_j²)`, and the result
//! `b + Σ d_i·w_i·keep_i / max(Σ w_i·keep_i, 1e-6)`.

use super::{
    BaseUse, InputCount, MergeMethod, Parameter, Scope, bad_parameter, merge_in_either_arithmetic,
};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::sparsify::{Cut, CutBlock, Values as Ordered};
use crate::merge::tensor::{Block, Tensor, Values};

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
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let cut = selection(tensor);
        let weights = weights(tensor, cut.as_ref());
        let r = tensor.rounding;
        let least: F = r.scalar(LEAST);
        tensor.emit(
            |block| Selected::new(tensor, cut.as_ref(), block),
            |selected, start, out| {
                selected.read(start, out.len());
                let Selected { base, deltas, .. } = selected;
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
            },
        )
    }
}

/// The elements to keep; `None` for all.
fn selection<F: Elementwise>(tensor: &Tensor<'_, F>) -> Option<Cut> {
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

fn weights<F: Elementwise>(tensor: &Tensor<'_, F>, cut: Option<&Cut>) -> Vec<F> {
    let r = tensor.rounding;
    let inputs = tensor.others().count();
    let blocks = tensor.reduce(|block| {
        let mut sums = vec![0.0; inputs];
        let mut selected = Selected::new(tensor, cut, block);
        for chunk in tensor.chunks(block) {
            selected.read(chunk.start, chunk.len());
            for (sum, delta) in sums.iter_mut().zip(&selected.deltas) {
                *sum += delta.iter().map(|d| r.one(*d * *d).to_f64()).sum::<f64>();
            }
        }
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

/// The selected task vectors of a block, read chunk by chunk.
struct Selected<'t, 'a, F> {
    tensor: &'t Tensor<'a, F>,
    cut: Option<CutBlock>,
    base: Vec<F>,
    deltas: Vec<Vec<F>>,
}

impl<'t, 'a, F: Elementwise> Selected<'t, 'a, F> {
    fn new(tensor: &'t Tensor<'a, F>, cut: Option<&Cut>, block: &Block) -> Self {
        Self {
            tensor,
            cut: cut.map(|cut| cut.block(block)),
            base: Vec::new(),
            deltas: vec![Vec::new(); tensor.others().count()],
        }
    }

    /// Reads the block's next chunk; what is not selected becomes zero.
    fn read(&mut self, start: usize, len: usize) {
        let tensor = self.tensor;
        tensor.read_len(tensor.required_base(), start, len, &mut self.base);
        for (input, delta) in tensor.others().zip(&mut self.deltas) {
            tensor.read_delta(input, start, &self.base, delta);
        }
        let Some(cut) = &mut self.cut else { return };
        for i in 0..len {
            let variance = variance(tensor, &self.deltas, i);
            if !cut.takes(variance.magnitude()) {
                self.deltas.iter_mut().for_each(|delta| delta[i] = F::ZERO);
            }
        }
    }
}

#[inline(always)]
fn variance<F: Elementwise>(tensor: &Tensor<'_, F>, deltas: &[Vec<F>], i: usize) -> F {
    let count = deltas.len() as f64;
    let mean = deltas.iter().map(|d| d[i].to_f64()).sum::<f64>() / count;
    let square = |d: &Vec<F>| (d[i].to_f64() - mean) * (d[i].to_f64() - mean);
    let variance = deltas.iter().map(square).sum::<f64>() / count;
    tensor.rounding.scalar(variance)
}

impl<F: Elementwise> Ordered<F> for Variances<'_, '_, F> {
    fn each_chunk(&self, block: &Block, mut seen: impl FnMut(&[F])) {
        let tensor = self.0;
        let mut all = Selected::new(tensor, None, block);
        for chunk in tensor.chunks(block) {
            all.read(chunk.start, chunk.len());
            let variances = (0..chunk.len()).map(|i| variance(tensor, &all.deltas, i));
            seen(&variances.collect::<Vec<F>>());
        }
    }
}
