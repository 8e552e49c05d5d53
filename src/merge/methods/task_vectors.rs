//! The eight methods that add trimmed task vectors to a base: one algorithm with switches.
//!
//! For each element, with `d_i = R(x_i − b)` trimmed by [`Sparsify`] and multiplied by `R(w_i)`:
//! with sign election, `m = sign(Σ d_i)` (zero counts as plus), `mix = R(Σ d_i [sign d_i = m])`
//! and `div = R(Σ w_i [sign d_i = m])`; without, plain sums. Then `mix/div` if `normalize`,
//! `mix·λ`, and `R(b + mix)`. Sums run in float32 in listed order and are rounded once.

use super::{
    BaseUse, MergeMethod, Parameter, Presence, Scope, bad_parameter, merge_in_either_arithmetic,
};
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::merge::error::MergeError;
use crate::merge::sparsify::{Kept, Trim, TrimBlock};
use crate::merge::tensor::{Block, Tensor, Values};

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

/// Sums of weights below this count as 1.
const LEAST_DIVISOR: f64 = 1e-8;
/// L1 norms below this are not restored.
const LEAST_NORM: f64 = 1e-7;
/// What may be remembered of the random draws of one tensor; larger ones are drawn twice.
pub(crate) const MAX_KEPT_BYTES: usize = 64 << 20;

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

/// What every pass knows of one task vector.
struct Vector<F> {
    weight: F,
    trim: Trim,
    /// Restores the L1 norm of before trimming.
    factor: Option<F>,
}

impl TaskVectors {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let mut vectors = self.vectors(tensor);
        if tensor.shared.flag("rescale") && vectors.iter().any(|v| v.trim.drops()) {
            self.rescale(tensor, &mut vectors);
        }
        let weights: Vec<F> = vectors.iter().map(|v| v.weight).collect();
        let divisor = self.divisor(tensor, &weights);
        let lambda = tensor.shared.number("lambda");
        let (isa, r) = (tensor.isa, tensor.rounding);
        let begin = |block: &Block| Trimmed::new(tensor, &vectors, block);
        let fill = |trimmed: &mut Trimmed<'_, '_, F>, start: usize, out: &mut [F]| {
            trimmed.read(start, out.len());
            let Trimmed {
                base,
                deltas,
                mix,
                div,
                ..
            } = trimmed;
            for (vector, delta) in vectors.iter().zip(deltas.iter_mut()) {
                if let Some(factor) = vector.factor {
                    F::scale(isa, r.of_masks(), delta, factor);
                    if r.of_masks() != r {
                        F::round(isa, r, delta);
                    }
                }
                F::scale(isa, r, delta, vector.weight);
            }
            mix.resize(out.len(), F::ZERO);
            match divisor {
                Divisor::Elected { normalize } => {
                    div.resize(out.len(), F::ZERO);
                    F::elect(isa, deltas, &weights, mix, div);
                    F::round(isa, r, mix);
                    if normalize {
                        F::round(isa, r, div);
                        F::divide_by(isa, r, mix, div);
                    }
                }
                Divisor::Same(divisor) => {
                    mix.fill(F::ZERO);
                    for delta in deltas.iter() {
                        F::accumulate(isa, Rounding::None, mix, delta);
                    }
                    F::round(isa, r, mix);
                    if let Some(divisor) = divisor {
                        F::divide(isa, r, mix, divisor);
                    }
                }
            }
            if lambda != 1.0 {
                F::scale(isa, r, mix, F::from_f64(lambda));
            }
            out.copy_from_slice(base);
            F::accumulate(isa, r, out, mix);
        };
        if self.sparsify == Sparsify::Ranked {
            tensor.emit_rows(begin, fill)
        } else {
            tensor.emit(begin, fill)
        }
    }

    /// What sums are divided by.
    fn divisor<F: Elementwise>(&self, tensor: &Tensor<'_, F>, weights: &[F]) -> Divisor<F> {
        let normalize = tensor.shared.flag("normalize");
        if self.consensus {
            return Divisor::Elected { normalize };
        }
        let sum = weights.iter().fold(F::ZERO, |sum, weight| sum + *weight);
        let sum = tensor.rounding.one(sum);
        let tiny = sum.abs() < F::from_f64(LEAST_DIVISOR);
        Divisor::Same(normalize.then_some(if tiny { F::ONE } else { sum }))
    }

    /// Decides for every input which elements are dropped, reading the deltas if need be.
    fn vectors<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Vec<Vector<F>> {
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
                Sparsify::Ranked => {
                    Trim::ranked(tensor, density, input.values.number("epsilon"), slot)
                }
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
    /// What random draws keep is remembered for the next pass, unless that would take too much
    /// memory.
    fn rescale<F: Elementwise>(&self, tensor: &Tensor<'_, F>, vectors: &mut [Vector<F>]) {
        let drawing = vectors.iter().filter(|v| v.trim.draws()).count();
        let remember = drawing * tensor.num_elements() / 8 <= MAX_KEPT_BYTES;
        let mut blocks = tensor.reduce(|block| self.trimmed(tensor, vectors, block, remember));
        let of_masks = tensor.rounding.of_masks();
        for (index, vector) in vectors.iter_mut().enumerate() {
            if !vector.trim.drops() {
                continue;
            }
            let before: f64 = blocks.iter().map(|block| block[index].before).sum();
            let after: f64 = blocks.iter().map(|block| block[index].after).sum();
            let (before, after): (F, F) = (of_masks.scalar(before), of_masks.scalar(after));
            let tiny = F::from_f64(LEAST_NORM);
            if before >= tiny && after >= tiny {
                vector.factor = Some(of_masks.one(before / after));
            }
            let kept = blocks.iter_mut().map(|block| block[index].kept.take());
            if let Some(kept) = kept.collect() {
                vector.trim = Trim::Kept(kept);
            }
        }
    }

    /// What trimming does to a block of each task vector.
    fn trimmed<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        vectors: &[Vector<F>],
        block: &Block,
        remember: bool,
    ) -> Vec<TrimmedBlock> {
        let mut trims: Vec<_> = vectors
            .iter()
            .map(|v| v.trim.block(tensor, block))
            .collect();
        let mut sums = vec![(0.0, 0.0); vectors.len()];
        let (mut base, mut delta) = (Vec::new(), Vec::new());
        for chunk in tensor.row_chunks(block) {
            tensor.read_len(tensor.required_base(), chunk.start, chunk.len(), &mut base);
            for (index, input) in tensor.others().enumerate() {
                if vectors[index].trim.drops() {
                    tensor.read_delta(input, chunk.start, &base, &mut delta);
                    sums[index].0 += F::sum_of_magnitudes(tensor.isa, &delta);
                    trims[index].apply(tensor.isa, &mut delta);
                    sums[index].1 += F::sum_of_magnitudes(tensor.isa, &delta);
                }
            }
        }
        let blocks = sums.into_iter().zip(trims);
        let blocks = blocks.map(|((before, after), trim)| TrimmedBlock {
            before,
            after,
            kept: if remember { trim.kept() } else { None },
        });
        blocks.collect()
    }
}

/// What trimming does to a block of a task vector.
struct TrimmedBlock {
    /// The L1 norm before.
    before: f64,
    /// The L1 norm after.
    after: f64,
    /// What random draws have kept, if it is to be remembered.
    kept: Option<Kept>,
}

/// What sums of task vectors are divided by.
enum Divisor<F> {
    /// With election: the weights that went into each sum, if `normalize`.
    Elected { normalize: bool },
    /// One number for all elements.
    Same(Option<F>),
}

/// The trimmed task vectors of a block, read chunk by chunk.
struct Trimmed<'t, 'a, F> {
    tensor: &'t Tensor<'a, F>,
    trims: Vec<TrimBlock<'t>>,
    base: Vec<F>,
    deltas: Vec<Vec<F>>,
    /// Room for sums and divisors.
    mix: Vec<F>,
    div: Vec<F>,
}

impl<'t, 'a, F: Elementwise> Trimmed<'t, 'a, F> {
    fn new(tensor: &'t Tensor<'a, F>, vectors: &'t [Vector<F>], block: &Block) -> Self {
        let trims = vectors.iter().map(|v| v.trim.block(tensor, block));
        Self {
            tensor,
            trims: trims.collect(),
            base: Vec::new(),
            deltas: vec![Vec::new(); vectors.len()],
            mix: Vec::new(),
            div: Vec::new(),
        }
    }

    /// Reads the block's next chunk.
    fn read(&mut self, start: usize, len: usize) {
        let tensor = self.tensor;
        tensor.read_len(tensor.required_base(), start, len, &mut self.base);
        let deltas = self.deltas.iter_mut().zip(&mut self.trims);
        for (input, (delta, trim)) in tensor.others().zip(deltas) {
            tensor.read_delta(input, start, &self.base, delta);
            trim.apply(tensor.isa, delta);
        }
    }
}
