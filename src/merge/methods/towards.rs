//! What the methods that move a base towards one other model by `t` have in common.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Input, Tensor};

/// A way from a base to another model.
pub(super) trait Way: Sync {
    /// The name in recipes.
    const NAME: &'static str;
    /// The name in prose.
    const TITLE: &'static str;
    /// Where it is described.
    const REFERENCE: &'static str;

    /// Computes a tensor; `t` is the recipe's.
    fn run<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        other: &Input<'_>,
        t: f64,
    ) -> Result<(), MergeError>;
}

/// The method that goes a [`Way`].
pub(crate) struct Towards<W>(pub(super) W);

impl<W: Way> MergeMethod for Towards<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn title(&self) -> &'static str {
        W::TITLE
    }

    fn reference(&self) -> Option<&'static str> {
        Some(W::REFERENCE)
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

impl<W: Way> Towards<W> {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let other = tensor.others().next().expect("the plan gives two inputs");
        self.0.run(tensor, other, tensor.shared.number("t"))
    }
}
