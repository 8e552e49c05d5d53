//! Copies one input, scaled by `scale` if given: `R(x·scale)`. Stacked slices make a deeper model.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::Tensor;

/// See the module.
pub(crate) struct Passthrough;

impl MergeMethod for Passthrough {
    fn name(&self) -> &'static str {
        "passthrough"
    }

    fn title(&self) -> &'static str {
        "Passthrough"
    }

    fn base(&self) -> BaseUse {
        BaseUse::Ordinary
    }

    fn inputs(&self) -> InputCount {
        InputCount::Exactly(1)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const { &[Parameter::optional("scale", Scope::Input)] }
    }

    merge_in_either_arithmetic!();
}

impl Passthrough {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let input = &tensor.inputs[0];
        let scale = input.values.optional("scale");
        tensor.emit(
            |_| (),
            |(), start, out| {
                tensor.read(input, start, out);
                if let Some(scale) = scale {
                    F::scale(tensor.isa, tensor.rounding, out, F::from_f64(scale));
                }
            },
        )
    }
}
