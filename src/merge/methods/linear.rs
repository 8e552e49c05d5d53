//! Weighted averages of weights ("model soups", Wortsman et al. 2022, arXiv:2203.05482):
//! `Σ w_i·x_i / Σ w_i`, or the plain sum without `normalize`.
//!
//! In float32 throughout, each term added by a fused multiply-add, rounded once at the end.

use super::{BaseUse, MergeMethod, Parameter, Scope, check_weight_sum, merge_in_either_arithmetic};
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::merge::error::MergeError;
use crate::merge::tensor::{Tensor, Values};

/// See the module.
pub(crate) struct Linear;

impl MergeMethod for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn title(&self) -> &'static str {
        "Linear"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://arxiv.org/abs/2203.05482")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Ordinary
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter::required("weight", Scope::Input),
                Parameter::flag("normalize", true),
            ]
        }
    }

    fn check_all(
        &self,
        tensor: &str,
        shared: &Values,
        inputs: &[&Values],
    ) -> Result<(), MergeError> {
        check_weight_sum("normalize", tensor, shared, inputs)
    }

    merge_in_either_arithmetic!();
}

impl Linear {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let weights: Vec<F> = tensor
            .inputs
            .iter()
            .map(|input| Rounding::None.scalar(input.values.number("weight")))
            .collect();
        let sum = weights.iter().fold(F::ZERO, |sum, w| sum + *w);
        let divisor = if tensor.shared.flag("normalize") {
            sum
        } else {
            F::ONE
        };
        tensor.emit(
            |_| Vec::new(),
            |x, start, out| {
                out.fill(F::ZERO);
                for (input, weight) in tensor.inputs.iter().zip(&weights) {
                    tensor.read_len(input, start, out.len(), x);
                    F::add_scaled_fused(tensor.isa, out, x, *weight);
                }
                F::divide(tensor.isa, tensor.rounding, out, divisor);
            },
        )
    }
}
