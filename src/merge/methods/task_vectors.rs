//! The eight methods that add trimmed task vectors to a base: one algorithm with switches.
//!
//! For each element, with `d_i = R(x_i − b)` trimmed by [`Sparsify`] and multiplied by `R(w_i)`:
//! with sign election, `m = sign(Σ d_i)` (zero counts as plus), `mix = R(Σ d_i [sign d_i = m])`
//! and `div = R(Σ w_i [sign d_i = m])`; without, plain sums. Then `mix/div` if `normalize`,
//! `mix·λ`, and `R(b + mix)`. Sums run in float32 in listed order and are rounded once.

use super::{
    BaseUse, MergeMethod, Parameter, Presence, Scope, bad_parameter, merge_in_either_arithmetic,
};
use crate::merge::error::MergeError;
use crate::merge::numeric::Real;
use crate::merge::sparsify::{Trim, TrimBlock};
use crate::merge::tensor::{Block, Tensor, Values, sum_of};

/// One of the eight methods.
pub(crate) struct TaskVectors {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) reference: Option<&'static str>,
    pub(super) sparsify: Sparsify,
    /// Elect a sign for each element.
    pub(super) consensus: bool,
    /// Default of `normalize`.
    pub(super) normalize: bool,
    /// Default of `rescale`.
    pub(super) rescale: bool,
}

/// How elements of a task vector are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sparsify {
    None,
    /// The largest magnitudes are kept.
    Magnitude,
    /// The largest magnitudes but the very largest are kept.
    WithoutOutliers,
    /// Each element is kept with the same probability.
    Random,
    /// Within a row, larger magnitudes are kept with higher probability.
    Ranked,
}

const WEIGHT: Parameter = Parameter::required("weight", Scope::Input);
const DENSITY: Parameter = Parameter::number("density", Scope::Input, 1.0);
const GAMMA: Parameter = Parameter::number("gamma", Scope::Input, 0.01);
const EPSILON: Parameter = Parameter::number("epsilon", Scope::Input, 0.15);
const LAMBDA: Parameter = Parameter::number("lambda", Scope::Shared, 1.0);
/// Changes only the type of a comparison upstream, never a result.
const INT8_MASK: Parameter = Parameter::flag("int8_mask", false);

/// The parameters of a method with the given defaults of `normalize` and `rescale`.
macro_rules! parameters {
    ($normalize:literal, $rescale:literal $(, $own:expr)*) => {
        const {
            &[
                WEIGHT,
                DENSITY,
                Parameter::flag("normalize", $normalize),
                Parameter::flag("rescale", $rescale),
                LAMBDA,
                INT8_MASK,
                $($own),*
            ]
        }
    };
}

impl MergeMethod for TaskVectors {
    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn reference(&self) -> Option<&'static str> {
        self.reference
    }

    fn base(&self) -> BaseUse {
        BaseUse::Required
    }

    fn parameters(&self) -> &'static [Parameter] {
        let parameters: &'static [Parameter] = match (self.sparsify, self.normalize, self.rescale) {
            (Sparsify::WithoutOutliers, ..) => parameters!(false, false, GAMMA),
            (Sparsify::Ranked, true, _) => parameters!(true, true, EPSILON),
            (Sparsify::Ranked, false, _) => parameters!(false, true, EPSILON),
            (_, true, _) => parameters!(true, false),
            (_, false, true) => parameters!(false, true),
            (_, false, false) => parameters!(false, false),
        };
        debug_assert!(
            parameters.iter().all(|p| match p.name {
                "normalize" => p.default == Presence::Default(flag(self.normalize)),
                "rescale" => p.default == Presence::Default(flag(self.rescale)),
                _ => true,
            }),
            "the tables above follow the method's switches"
        );
        parameters
    }

    fn check(&self, tensor: &str, values: &Values) -> Result<(), MergeError> {
        let Some(density) = values.optional("density") else {
            return Ok(());
        };
        match self.sparsify {
            Sparsify::Random if density < 0.0 => Err(bad_parameter(
                "density",
                density,
                tensor,
                "a probability is at least 0",
            )),
            Sparsify::WithoutOutliers => match values.number("gamma") {
                gamma if (0.0..=1.0).contains(&gamma) => Ok(()),
                gamma => Err(bad_parameter("gamma", gamma, tensor, "expected 0 to 1")),
            },
            Sparsify::Ranked if density > 0.0 && density < 1.0 => {
                let epsilon = values.number("epsilon");
                if density - epsilon > 0.0 && density + epsilon < 1.0 && epsilon >= 0.0 {
                    return Ok(());
                }
                let problem =
                    format!("density ± epsilon must lie inside (0, 1), and density is {density}");
                Err(bad_parameter("epsilon", epsilon, tensor, problem))
            }
            _ => Ok(()),
        }
    }

    fn draws(&self, values: &Values) -> bool {
        let density = values.number("density");
        match self.sparsify {
            Sparsify::Random => density < 1.0,
            Sparsify::Ranked => density > 0.0 && density < 1.0,
            _ => false,
        }
    }

    merge_in_either_arithmetic!();
}

const fn flag(value: bool) -> crate::merge::recipe::Scalar {
    crate::merge::recipe::Scalar::Flag(value)
}

/// The pieces of a chunk that is being computed.
struct Scratch<F> {
    base: Vec<F>,
    deltas: Vec<Vec<F>>,
    /// Sum, mix and divisor of a chunk.
    sum: Vec<F>,
    mix: Vec<F>,
    div: Vec<F>,
}

/// What every pass knows of one task vector.
struct Vector<F> {
    weight: F,
    trim: Trim,
    /// Restores the L1 norm of before trimming.
    factor: Option<F>,
}

impl TaskVectors {
    fn run<F: Real>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let mut vectors = self.vectors(tensor);
        if tensor.shared.flag("rescale") && vectors.iter().any(|v| v.trim.drops()) {
            self.rescale(tensor, &mut vectors);
        }
        let normalize = tensor.shared.flag("normalize");
        let lambda = tensor.shared.number("lambda");
        let r = tensor.rounding;
        let all_weights = vectors.iter().fold(F::ZERO, |sum, v| sum + v.weight);
        let divisor = r.one(all_weights);
        let divisor = if divisor.abs() < F::from_f64(1e-8) {
            F::ONE
        } else {
            divisor
        };
        tensor.emit(|block, out| {
            self.each_chunk(tensor, &vectors, block, |start, scratch| {
                let len = scratch.base.len();
                let start = start - block.range.start;
                for (vector, delta) in vectors.iter().zip(&mut scratch.deltas) {
                    if let Some(factor) = vector.factor {
                        let of_masks = r.of_masks();
                        r.map(delta, |d| of_masks.one(d * factor));
                    }
                    r.map(delta, |d| d * vector.weight);
                }
                let Scratch {
                    base,
                    deltas,
                    sum,
                    mix,
                    div,
                } = scratch;
                let out = &mut out[start..start + len];
                if self.consensus {
                    elect(&vectors, deltas, sum, mix, div);
                    r.map(mix, |m| m);
                    if normalize {
                        r.map(div, |w| w);
                        r.zip(mix, div, |m, w| if w == F::ZERO { m } else { m / w });
                    }
                } else {
                    mix.fill(F::ZERO);
                    for delta in deltas.iter() {
                        add(mix, delta);
                    }
                    r.map(mix, |m| m);
                    if normalize {
                        r.map(mix, |m| m / divisor);
                    }
                }
                if lambda != 1.0 {
                    let lambda = F::from_f32(lambda as f32);
                    r.map(mix, |m| m * lambda);
                }
                out.copy_from_slice(base);
                r.zip(out, mix, |b, m| b + m);
            });
        })
    }

    /// Decides for every input which elements are dropped, reading the deltas if need be.
    fn vectors<F: Real>(&self, tensor: &Tensor<'_, F>) -> Vec<Vector<F>> {
        let mut slot = 0;
        let mut vectors = Vec::new();
        for input in tensor.others() {
            let density = input.values.number("density");
            let trim = match self.sparsify {
                Sparsify::None => Trim::Nothing,
                Sparsify::Magnitude => Trim::magnitude(tensor, input, density),
                Sparsify::WithoutOutliers => {
                    Trim::without_outliers(tensor, input, density, input.values.number("gamma"))
                }
                Sparsify::Random => Trim::random(tensor.rounding, density, slot),
                Sparsify::Ranked => Trim::ranked(density, input.values.number("epsilon"), slot),
            };
            slot += usize::from(self.draws(input.values));
            vectors.push(Vector {
                weight: tensor.rounding.scalar(input.values.number("weight")),
                trim,
                factor: None,
            });
        }
        vectors
    }

    /// Finds the factors that restore each L1 norm. Not 1/density: that is only its expectation.
    fn rescale<F: Real>(&self, tensor: &Tensor<'_, F>, vectors: &mut [Vector<F>]) {
        let sums = tensor.reduce(|block| {
            let mut sums = vec![(0.0, 0.0); vectors.len()];
            self.each_delta(tensor, vectors, block, |index, before, after| {
                sums[index].0 += sum_of(before, |d| d.abs().to_f64());
                sums[index].1 += sum_of(after, |d| d.abs().to_f64());
            });
            sums
        });
        let of_masks = tensor.rounding.of_masks();
        for (index, vector) in vectors.iter_mut().enumerate() {
            if !vector.trim.drops() {
                continue;
            }
            let before: f64 = sums.iter().map(|block| block[index].0).sum();
            let after: f64 = sums.iter().map(|block| block[index].1).sum();
            let (before, after): (F, F) = (of_masks.scalar(before), of_masks.scalar(after));
            let tiny = F::from_f64(1e-7);
            if before >= tiny && after >= tiny {
                vector.factor = Some(of_masks.one(before / after));
            }
        }
    }

    /// Gives every chunk of every trimmed vector of a block, before and after trimming.
    #[inline(always)]
    fn each_delta<F: Real>(
        &self,
        tensor: &Tensor<'_, F>,
        vectors: &[Vector<F>],
        block: &Block,
        mut seen: impl FnMut(usize, &[F], &[F]),
    ) {
        let mut trims = self.trims(tensor, vectors, block);
        let (mut base, mut delta, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in tensor.row_chunks(block) {
            base.resize(chunk.len(), F::ZERO);
            delta.resize(chunk.len(), F::ZERO);
            tensor.read(tensor.required_base(), chunk.start, &mut base);
            for (index, input) in tensor.others().enumerate() {
                if !vectors[index].trim.drops() {
                    continue;
                }
                tensor.read(input, chunk.start, &mut delta);
                tensor.rounding.zip(&mut delta, &base, |x, b| x - b);
                after.clone_from(&delta);
                trims[index].apply(&mut after);
                seen(index, &delta, &after);
            }
        }
    }

    /// Gives every chunk of a block with its trimmed vectors.
    #[inline(always)]
    fn each_chunk<F: Real>(
        &self,
        tensor: &Tensor<'_, F>,
        vectors: &[Vector<F>],
        block: &Block,
        mut compute: impl FnMut(usize, &mut Scratch<F>),
    ) {
        let mut trims = self.trims(tensor, vectors, block);
        let mut scratch = Scratch {
            base: Vec::new(),
            deltas: vec![Vec::new(); vectors.len()],
            sum: Vec::new(),
            mix: Vec::new(),
            div: Vec::new(),
        };
        for chunk in tensor.row_chunks(block) {
            let Scratch {
                base,
                deltas,
                sum,
                mix,
                div,
            } = &mut scratch;
            for buffer in [&mut *base, sum, mix, div] {
                buffer.resize(chunk.len(), F::ZERO);
            }
            tensor.read(tensor.required_base(), chunk.start, base);
            for ((input, delta), trim) in tensor.others().zip(deltas).zip(&mut trims) {
                delta.resize(chunk.len(), F::ZERO);
                tensor.read(input, chunk.start, delta);
                tensor.rounding.zip(delta, base, |x, b| x - b);
                trim.apply(delta);
            }
            compute(chunk.start, &mut scratch);
        }
    }

    fn trims<'t, F: Real>(
        &self,
        tensor: &'t Tensor<'_, F>,
        vectors: &'t [Vector<F>],
        block: &Block,
    ) -> Vec<TrimBlock<'t>> {
        let trims = vectors.iter().map(|v| v.trim.block(tensor, block));
        trims.collect()
    }
}

/// Adds up what agrees with the elected sign: `mix` and the weights that went into it.
#[inline(always)]
fn elect<F: Real>(
    vectors: &[Vector<F>],
    deltas: &[Vec<F>],
    sum: &mut [F],
    mix: &mut [F],
    div: &mut [F],
) {
    sum.fill(F::ZERO);
    for delta in deltas {
        add(sum, delta);
    }
    mix.fill(F::ZERO);
    div.fill(F::ZERO);
    for (vector, delta) in vectors.iter().zip(deltas) {
        let weight = vector.weight;
        let all = sum
            .iter()
            .zip(delta)
            .zip(mix.iter_mut())
            .zip(div.iter_mut());
        for (((s, d), m), w) in all {
            let agrees = if *s >= F::ZERO {
                *d > F::ZERO
            } else {
                *d < F::ZERO
            };
            *m = *m + if agrees { *d } else { F::ZERO };
            *w = *w + if agrees { weight } else { F::ZERO };
        }
    }
}

#[inline(always)]
fn add<F: Real>(sum: &mut [F], x: &[F]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum = *sum + *x;
    }
}
