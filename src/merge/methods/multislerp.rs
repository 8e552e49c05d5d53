//! Spherical interpolation of any number of models: a barycentre on the sphere by one step in the
//! tangent space.
//!
//! `u_i = x_i/(|x_i|+eps)`, `m` the normalised `Σ w_i u_i`, `T = Σ w_i·(u_i − (u_i·m)m)`,
//! `θ = |T|+eps`, result `(m·cos θ + T·sin θ/θ)·Σ w_i|x_i|`. A base is subtracted first and added
//! at the end. Works in the tensor's type.

use super::sphere::Vectors;
use super::{BaseUse, MergeMethod, Parameter, Scope, check_weight_sum, merge_in_either_arithmetic};
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::merge::error::MergeError;
use crate::merge::tensor::{Block, Tensor, Values};

/// See the module.
pub(crate) struct MultiSlerp;

impl MergeMethod for MultiSlerp {
    fn name(&self) -> &'static str {
        "multislerp"
    }

    fn title(&self) -> &'static str {
        "Multi-SLERP"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://goddard.blog/posts/multislerp-wow-what-a-cool-idea")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Optional
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter::required("weight", Scope::Input),
                Parameter::flag("normalize_weights", true),
                Parameter::number("eps", Scope::Shared, 1e-8),
            ]
        }
    }

    fn check_all(
        &self,
        tensor: &str,
        shared: &Values,
        inputs: &[&Values],
    ) -> Result<(), MergeError> {
        check_weight_sum("normalize_weights", tensor, shared, inputs)
    }

    merge_in_either_arithmetic!();
}

impl MultiSlerp {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let r = tensor.rounding;
        let vectors = Vectors::new(tensor);
        if vectors.len() == 1 {
            return vectors.emit(&[1.0]);
        }
        let weights = weights(tensor);
        let eps = tensor.shared.number("eps");
        let norms: Vec<F> = vectors.norms().iter().map(|norm| r.scalar(*norm)).collect();
        let divisors = norms.iter().map(|n| r.one(*n + F::from_f64(eps)));
        let mut sphere = Sphere {
            vectors: &vectors,
            weights: &weights,
            divisors: divisors.collect(),
            length: F::ONE,
            cosines: vec![F::ZERO; vectors.len()],
        };
        sphere.length = r.scalar(sphere.sums(|at| vec![at.square_of_mean()])[0].sqrt());
        if sphere.length < F::from_f64(eps) {
            if vectors.len() == 2 {
                return vectors.emit(&weights.iter().map(|w| w.to_f64()).collect::<Vec<_>>());
            }
            return Err(MergeError::Tensor {
                tensor: tensor.name.to_owned(),
                problem: "the weighted inputs cancel out, so they have no mean direction; \
                          change the weights"
                    .to_owned(),
            });
        }
        let cosines = sphere.sums(|at| at.products_with_mean());
        sphere.cosines = cosines.iter().map(|cosine| r.scalar(*cosine)).collect();
        let step: F = r.scalar(sphere.sums(|at| vec![at.square_of_step()])[0].sqrt());
        let angle = r.one(step + F::from_f64(eps));
        let cosine: F = r.scalar(angle.to_f64().cos());
        let sine = r.one(r.scalar::<F>(angle.to_f64().sin()) / angle);
        let lengths = weights.iter().zip(&norms).map(|(w, n)| r.one(*w * *n));
        let scale = r.one(lengths.fold(F::ZERO, |sum, length| sum + length));
        tensor.emit(
            |_| Position::new(&sphere),
            |at, start, out| {
                at.read(start, out.len());
                for (out, (mean, step)) in out.iter_mut().zip(at.mean.iter().zip(&at.step)) {
                    let turned = r.one(r.one(*mean * cosine) + r.one(*step * sine));
                    *out = r.one(turned * scale);
                }
                if tensor.base.is_some() {
                    F::accumulate(tensor.isa, r, out, &at.base);
                }
            },
        )
    }
}

/// The weights, normalised if the recipe says so.
fn weights<F: Elementwise>(tensor: &Tensor<'_, F>) -> Vec<F> {
    let r = tensor.rounding;
    let weights = tensor
        .others()
        .map(|input| r.scalar(input.values.number("weight")));
    let weights: Vec<F> = weights.collect();
    if !tensor.shared.flag("normalize_weights") {
        return weights;
    }
    let sum = r.one(weights.iter().fold(F::ZERO, |sum, weight| sum + *weight));
    weights
        .into_iter()
        .map(|weight| r.one(weight / sum))
        .collect()
}

/// What has been found out about the vectors, pass by pass.
struct Sphere<'v, 't, 'a, F> {
    vectors: &'v Vectors<'t, 'a, F>,
    weights: &'v [F],
    /// `|x_i| + eps`
    divisors: Vec<F>,
    /// `|Σ w_i u_i|`
    length: F,
    /// `u_i · m`
    cosines: Vec<F>,
}

impl<F: Elementwise> Sphere<'_, '_, '_, F> {
    /// Adds up what `terms` gives for each chunk.
    fn sums(&self, terms: impl Fn(&Position<'_, '_, '_, '_, F>) -> Vec<f64> + Sync) -> Vec<f64> {
        let tensor = self.vectors.tensor();
        let mut sums = Vec::new();
        let per_block = |block: &Block| {
            let mut at = Position::new(self);
            let mut sums = Vec::new();
            for chunk in tensor.chunks(block) {
                at.read(chunk.start, chunk.len());
                add(&mut sums, &terms(&at));
            }
            sums
        };
        tensor.fold(per_block, |block: Vec<f64>| add(&mut sums, &block));
        sums
    }
}

fn add(sums: &mut Vec<f64>, terms: &[f64]) {
    sums.resize(terms.len(), 0.0);
    sums.iter_mut()
        .zip(terms)
        .for_each(|(sum, term)| *sum += term);
}

/// A chunk of every vector of the iteration, each operation rounded to the working type.
struct Position<'s, 'v, 't, 'a, F> {
    sphere: &'s Sphere<'v, 't, 'a, F>,
    base: Vec<F>,
    /// `u_i`
    units: Vec<Vec<F>>,
    /// `m`
    mean: Vec<F>,
    /// `T`
    step: Vec<F>,
    term: Vec<F>,
}

impl<'s, 'v, 't, 'a, F: Elementwise> Position<'s, 'v, 't, 'a, F> {
    fn new(sphere: &'s Sphere<'v, 't, 'a, F>) -> Self {
        Self {
            sphere,
            base: Vec::new(),
            units: vec![Vec::new(); sphere.vectors.len()],
            mean: Vec::new(),
            step: Vec::new(),
            term: Vec::new(),
        }
    }

    fn read(&mut self, start: usize, len: usize) {
        let Sphere {
            vectors,
            weights,
            divisors,
            length,
            cosines,
        } = self.sphere;
        let tensor = vectors.tensor();
        let (isa, r) = (tensor.isa, tensor.rounding);
        vectors.read(start, len, &mut self.base, &mut self.units);
        self.mean.clear();
        self.mean.resize(len, F::ZERO);
        for ((unit, divisor), weight) in self.units.iter_mut().zip(divisors).zip(*weights) {
            F::divide(isa, r, unit, *divisor);
            self.term.clone_from(unit);
            F::scale(isa, r, &mut self.term, *weight);
            F::accumulate(isa, Rounding::None, &mut self.mean, &self.term);
        }
        F::round(isa, r, &mut self.mean);
        F::divide(isa, r, &mut self.mean, *length);
        self.step.clear();
        self.step.resize(len, F::ZERO);
        for ((unit, cosine), weight) in self.units.iter().zip(cosines).zip(*weights) {
            self.term.clone_from(&self.mean);
            F::scale(isa, r, &mut self.term, -*cosine);
            F::accumulate(isa, r, &mut self.term, unit);
            F::scale(isa, r, &mut self.term, *weight);
            F::accumulate(isa, Rounding::None, &mut self.step, &self.term);
        }
        F::round(isa, r, &mut self.step);
    }

    fn square_of_mean(&self) -> f64 {
        F::sum_of_products(self.sphere.vectors.tensor().isa, &self.mean, &self.mean)
    }

    fn square_of_step(&self) -> f64 {
        F::sum_of_products(self.sphere.vectors.tensor().isa, &self.step, &self.step)
    }

    /// The inner products of the units with the mean, each product rounded.
    fn products_with_mean(&self) -> Vec<f64> {
        let r = self.sphere.vectors.tensor().rounding;
        let product = |unit: &Vec<F>| {
            let products = unit
                .iter()
                .zip(&self.mean)
                .map(|(u, m)| r.one(*u * *m).to_f64());
            products.sum()
        };
        self.units.iter().map(product).collect()
    }
}
