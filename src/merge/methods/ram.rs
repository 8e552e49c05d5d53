//! RAM and RAM+ (reinforced agent merging, arXiv:2601.13572): an element that exactly one input
//! has changed (`|d| > epsilon`) takes that input's delta, one that several have changed takes the
//! mean of those deltas.
//!
//! RAM+ strengthens the deltas that only one input has by
//! `1 + r·clamp(shared/unique, 0, alpha)`, counting, for that input, the changed elements that it
//! shares with others and those that it alone has.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::merge::error::MergeError;
use crate::merge::numeric::Real;
use crate::merge::tensor::{Block, Tensor};

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

    merge_in_either_arithmetic!();
}

impl Ram {
    fn run<F: Real>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let r = tensor.rounding;
        let strengths = self.strengths(tensor);
        tensor.emit(|block, out| {
            each_chunk(tensor, block, |start, base, deltas, counts| {
                let from = start - block.range.start;
                let out = &mut out[from..from + base.len()];
                let epsilon = epsilon(tensor);
                out.fill(F::ZERO);
                for (delta, strength) in deltas.iter().zip(&strengths) {
                    for ((out, delta), count) in out.iter_mut().zip(delta).zip(counts) {
                        if delta.abs() > epsilon {
                            let alone = *count == 1;
                            *out = *out
                                + if alone {
                                    r.one(*delta * *strength)
                                } else {
                                    *delta
                                };
                        }
                    }
                }
                for ((out, base), count) in out.iter_mut().zip(base).zip(counts) {
                    if *count > 1 {
                        *out = r.one(r.one(*out) / F::from_f32(*count as f32));
                    }
                    *out = r.one(*base + *out);
                }
            });
        })
    }

    /// By how much each input's own deltas are multiplied.
    fn strengths<F: Real>(&self, tensor: &Tensor<'_, F>) -> Vec<F> {
        let inputs = tensor.others().count();
        if !self.strengthens {
            return vec![F::ONE; inputs];
        }
        let epsilon = epsilon(tensor);
        let blocks = tensor.reduce(|block| {
            let mut tally = vec![(0_u64, 0_u64); inputs];
            each_chunk(tensor, block, |_, _, deltas, counts| {
                for (delta, (shared, unique)) in deltas.iter().zip(&mut tally) {
                    for (delta, count) in delta.iter().zip(counts) {
                        let changed = delta.abs() > epsilon;
                        *shared += u64::from(changed && *count > 1);
                        *unique += u64::from(changed && *count == 1);
                    }
                }
            });
            tally
        });
        let (r, alpha) = (tensor.shared.number("r"), tensor.shared.number("alpha"));
        let strength = |input: usize| {
            let shared: u64 = blocks.iter().map(|tally| tally[input].0).sum();
            let unique: u64 = blocks.iter().map(|tally| tally[input].1).sum();
            let overlap = shared as f64 / unique.max(1) as f64;
            F::from_f64(1.0 + r * overlap.clamp(0.0, alpha.max(0.0)))
        };
        (0..inputs).map(strength).collect()
    }
}

fn epsilon<F: Real>(tensor: &Tensor<'_, F>) -> F {
    F::from_f64(tensor.shared.number("epsilon"))
}

/// Gives each chunk's start, base, deltas, and by how many inputs each element was changed.
fn each_chunk<F: Real>(
    tensor: &Tensor<'_, F>,
    block: &Block,
    mut seen: impl FnMut(usize, &[F], &[Vec<F>], &[u32]),
) {
    let epsilon = epsilon(tensor);
    let mut base = Vec::new();
    let mut deltas = vec![Vec::new(); tensor.others().count()];
    for chunk in tensor.chunks(block) {
        base.resize(chunk.len(), F::ZERO);
        tensor.read(tensor.required_base(), chunk.start, &mut base);
        let mut counts = vec![0_u32; chunk.len()];
        for (input, delta) in tensor.others().zip(&mut deltas) {
            delta.resize(chunk.len(), F::ZERO);
            tensor.read(input, chunk.start, delta);
            tensor.rounding.zip(delta, &base, |x, b| x - b);
            for (count, delta) in counts.iter_mut().zip(delta.iter()) {
                *count += u32::from(delta.abs() > epsilon);
            }
        }
        seen(chunk.start, &base, &deltas, &counts);
    }
}
