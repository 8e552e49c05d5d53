//! The Karcher (Riemannian) mean of the models on the sphere, scaled by the mean of their norms.
//!
//! From the normalised mean of the unit vectors `u_i`, repeat: `T` is the mean of
//! `(θ_i/sin θ_i)·(u_i − cos θ_i·u)`, stop at `|T| < tol`, else
//! `u ← cos|T|·u + sin|T|·T/|T|`.

use super::sphere::{Vectors, plus, unit};
use super::{BaseUse, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::Tensor;

/// See the module.
pub(crate) struct Karcher;

impl MergeMethod for Karcher {
    fn name(&self) -> &'static str {
        "karcher"
    }

    fn title(&self) -> &'static str {
        "Karcher Mean"
    }

    fn reference(&self) -> Option<&'static str> {
        Some("https://en.wikipedia.org/wiki/Karcher_mean")
    }

    fn base(&self) -> BaseUse {
        BaseUse::Ordinary
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter::number("max_iter", Scope::Shared, 10.0),
                Parameter::number("tol", Scope::Shared, 1e-5),
            ]
        }
    }

    merge_in_either_arithmetic!();
}

impl Karcher {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let vectors = Vectors::new(tensor);
        let total = vectors.len();
        let products = vectors.products();
        // A vector without length has no direction.
        let directed: Vec<usize> = (0..total).filter(|i| products.norm(*i) > 0.0).collect();
        let count = directed.len() as f64;
        if directed.is_empty() {
            return vectors.emit(&vec![0.0; total]);
        }
        let units: Vec<Vec<f64>> = directed
            .iter()
            .map(|i| unit(*i, total, products.norm(*i)))
            .collect();
        let mut mean = vec![0.0; total];
        for unit in &units {
            mean = plus(&mean, 1.0 / count, unit);
        }
        let length = products.norm_of(&mean);
        // Directions that cancel out leave the first one to start from.
        mean = if length > 0.0 {
            mean.iter().map(|c| c / length).collect()
        } else {
            units[0].clone()
        };
        let tol = tensor.shared.number("tol");
        for _ in 0..tensor.shared.number("max_iter") as usize {
            let mut step = vec![0.0; total];
            for unit in &units {
                let cosine = products.of(unit, &mean).clamp(-1.0, 1.0);
                let angle = cosine.acos();
                if angle >= tol {
                    let tangent = plus(unit, -cosine, &mean);
                    step = plus(&step, angle / angle.sin() / count, &tangent);
                }
            }
            let length = products.norm_of(&step);
            if length < tol {
                break;
            }
            let cosine: Vec<f64> = mean.iter().map(|c| c * length.cos()).collect();
            mean = plus(&cosine, length.sin() / length, &step);
            let norm = products.norm_of(&mean);
            mean.iter_mut().for_each(|c| *c /= norm);
        }
        let scale = directed.iter().map(|i| products.norm(*i)).sum::<f64>() / count;
        mean.iter_mut().for_each(|c| *c *= scale);
        vectors.emit(&mean)
    }
}
