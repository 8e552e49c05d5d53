//! Spherical interpolation of any number of models: a barycentre on the sphere by one step in the
//! tangent space.
//!
//! `u_i = x_i/(|x_i|+eps)`, `m` the normalised `Σ w_i u_i`, `T = Σ w_i·(u_i − (u_i·m)m)`,
//! `θ = |T|+eps`, result `(m·cos θ + T·sin θ/θ)·Σ w_i|x_i|`. A base is subtracted first and added
//! at the end.

use super::sphere::{Vectors, plus, unit};
use super::{BaseUse, MergeMethod, Parameter, Scope, bad_parameter, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Tensor, Values};

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
        let weights = inputs.iter().filter_map(|v| v.optional("weight"));
        if shared.flag("normalize_weights") && weights.sum::<f64>() == 0.0 {
            return Err(bad_parameter(
                "weight",
                0.0,
                tensor,
                "the weights add up to zero, and `normalize_weights` divides by their sum",
            ));
        }
        Ok(())
    }

    merge_in_either_arithmetic!();
}

impl MultiSlerp {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let vectors = Vectors::new(tensor);
        let count = vectors.len();
        if count == 1 {
            return vectors.emit(&[1.0]);
        }
        let eps = tensor.shared.number("eps");
        let mut weights: Vec<f64> = tensor
            .others()
            .map(|input| input.values.number("weight"))
            .collect();
        if tensor.shared.flag("normalize_weights") {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        let products = vectors.products();
        let units: Vec<Vec<f64>> = (0..count)
            .map(|i| unit(i, count, products.norm(i) + eps))
            .collect();
        let mut mean = vec![0.0; count];
        for (weight, unit) in weights.iter().zip(&units) {
            mean = plus(&mean, *weight, unit);
        }
        let length = products.norm_of(&mean);
        if length < eps {
            if count == 2 {
                return vectors.emit(&weights);
            }
            return Err(MergeError::Tensor {
                tensor: tensor.name.to_owned(),
                problem: "the weighted inputs cancel out, so they have no mean direction; \
                          change the weights"
                    .to_owned(),
            });
        }
        mean.iter_mut().for_each(|c| *c /= length);
        let mut step = vec![0.0; count];
        for (weight, unit) in weights.iter().zip(&units) {
            let tangent = plus(unit, -products.of(unit, &mean), &mean);
            step = plus(&step, *weight, &tangent);
        }
        let angle = products.norm_of(&step) + eps;
        let scale: f64 = (0..count).map(|i| weights[i] * products.norm(i)).sum();
        let cosine: Vec<f64> = mean.iter().map(|c| c * angle.cos() * scale).collect();
        vectors.emit(&plus(&cosine, scale * angle.sin() / angle, &step))
    }
}
