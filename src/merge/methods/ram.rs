//! RAM and RAM+ (reinforced agent merging, arXiv:2601.13572): an element that exactly one input
//! has changed (`|d| > epsilon`) takes that input's delta, one that several have changed takes the
//! mean of those deltas, each divided and rounded before they are added.
//!
//! RAM+ strengthens the deltas that only one input has by
//! `1 + r·clamp(shared/unique, 0, alpha)`, counting, for that input, the changed elements that it
//! shares with others and those that it alone has.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::{Elementwise, FloatType, Rounding};
use crate::merge::error::MergeError;
use crate::merge::tensor::Tensor;

/// See the module.
pub(crate) struct Ram {
    strengthens: bool,
}

/// `ram`.
pub(crate) const RAM: Ram = Ram { strengthens: false };
/// `ramplus_tl`.
pub(crate) const RAM_PLUS: Ram = Ram { strengthens: true };

const EPSILON: Parameter = Parameter::number("epsilon", Scope::Shared, 1e-5);

impl MergeMethod for Ram {
    fn name(&self) -> &'static str {
        if self.strengthens {
            "ramplus_tl"
        } else {
            "ram"
        }
    }

    fn title(&self) -> &'static str {
        if self.strengthens { "RAM+" } else { "RAM" }
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://arxiv.org/abs/2601.13572")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn inputs(&self) -> InputCount {
        InputCount::AtLeast(2)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const PLUS: &[Parameter] = &[
            EPSILON,
            Parameter::number("r", Scope::Shared, 0.1),
            Parameter::number("alpha", Scope::Shared, 0.2),
        ];
        if self.strengthens {
            PLUS
        } else {
            const { &[EPSILON] }
        }
    }

    fn result_dtype(&self, working: FloatType) -> FloatType {
        if self.strengthens {
            working.promoted(FloatType::F32)
        } else {
            working
        }
    }

    merge_in_either_arithmetic!();
}

impl Ram {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let r = tensor.rounding;
        // The strengths are float32 and make the sums so.
        let last = if self.strengthens { Rounding::None } else { r };
        let strengths = self.strengths(tensor);
        let epsilon = epsilon(tensor);
        tensor.emit(
            |_| Changes::default(),
            |changes, start, out| {
                changes.read(tensor, start, out.len());
                out.fill(F::ZERO);
                for (delta, strength) in changes.deltas.iter().zip(&strengths) {
                    let changed = out.iter_mut().zip(delta).zip(&changes.counts);
                    for ((out, delta), count) in changed.filter(|((_, d), _)| d.abs() > epsilon) {
                        let share = match count {
                            1 => *delta * *strength,
                            count => r.one(*delta / F::from_f64(f64::from(*count))),
                        };
                        *out = *out + share;
                    }
                }
                F::round(tensor.isa, last, out);
                F::accumulate(tensor.isa, last, out, &changes.base);
            },
        )
    }

    /// By how much each input's own deltas are multiplied.
    fn strengths<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Vec<F> {
        let inputs = tensor.others().count();
        if !self.strengthens {
            return vec![F::ONE; inputs];
        }
        let epsilon = epsilon(tensor);
        let blocks = tensor.reduce(|block| {
            let mut tally = vec![(0_u64, 0_u64); inputs];
            let mut changes = Changes::default();
            for chunk in tensor.chunks(block) {
                changes.read(tensor, chunk.start, chunk.len());
                for (delta, (shared, unique)) in changes.deltas.iter().zip(&mut tally) {
                    for (delta, count) in delta.iter().zip(&changes.counts) {
                        let changed = delta.abs() > epsilon;
                        *shared += u64::from(changed && *count > 1);
                        *unique += u64::from(changed && *count == 1);
                    }
                }
            }
            tally
        });
        let (r, alpha) = (tensor.shared.number("r"), tensor.shared.number("alpha"));
        let strength = |input: usize| {
            let shared: u64 = blocks.iter().map(|tally| tally[input].0).sum();
            let unique: u64 = blocks.iter().map(|tally| tally[input].1).sum();
            let overlap = shared as f64 / unique.max(1) as f64;
            F::from_f32((1.0 + r * overlap.clamp(0.0, alpha.max(0.0))) as f32)
        };
        (0..inputs).map(strength).collect()
    }
}

fn epsilon<F: Elementwise>(tensor: &Tensor<'_, F>) -> F {
    F::from_f64(tensor.shared.number("epsilon"))
}

/// The task vectors of a chunk, and by how many inputs each element was changed.
#[derive(Default)]
struct Changes<F> {
    base: Vec<F>,
    deltas: Vec<Vec<F>>,
    counts: Vec<u32>,
}

impl<F: Elementwise> Changes<F> {
    fn read(&mut self, tensor: &Tensor<'_, F>, start: usize, len: usize) {
        let epsilon = epsilon(tensor);
        tensor.read_len(tensor.required_base(), start, len, &mut self.base);
        self.deltas.resize(tensor.others().count(), Vec::new());
        self.counts.clear();
        self.counts.resize(len, 0);
        for (input, delta) in tensor.others().zip(&mut self.deltas) {
            tensor.read_delta(input, start, &self.base, delta);
            for (count, delta) in self.counts.iter_mut().zip(delta.iter()) {
                *count += u32::from(delta.abs() > epsilon);
            }
        }
    }
}
