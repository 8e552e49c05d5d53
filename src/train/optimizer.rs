//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019), gradient clipping, and state
//! that can be saved. Moments are f32 whatever the parameter's dtype.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};

use super::tensors::with_f32_mut;
use crate::kernels::cpu::Start;
use crate::kernels::grad::adamw::{Update, update};
use crate::kernels::grad::sums::sum_of_squares;

/// The optimiser's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the weights, relative to the learning rate.
    pub weight_decay: f64,
}

/// One trained tensor and its moments.
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// The weights, f32 (master weights when products run in bf16).
    pub var: Var,
    /// First moment.
    pub exp_avg: Tensor,
    /// Second moment.
    pub exp_avg_sq: Tensor,
}

/// The optimiser over a fixed list of parameters.
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<Parameter>,
    /// Steps taken.
    step: usize,
}

/// Whether weight decay applies: matrices and embeddings yes, biases and norms no.
pub fn decays(name: &str) -> bool {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let last = module.rsplit('.').next().unwrap_or(module);
    !(last == "bias" || last == "norm" || last.ends_with("_norm") || last.ends_with("layernorm"))
}

impl AdamW {
    /// Starts with zero moments.
    ///
    /// # Errors
    /// The device cannot hold the moments.
    pub fn new(config: AdamWConfig, trained: Vec<(String, Var)>) -> Result<Self> {
        let parameters = trained
            .into_iter()
            .map(|(name, var)| {
                let (shape, device) = (var.as_tensor().shape(), var.as_tensor().device());
                let zeros = || Tensor::zeros(shape, DType::F32, device);
                Ok(Parameter {
                    exp_avg: zeros()?,
                    exp_avg_sq: zeros()?,
                    name,
                    var,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config,
            parameters,
            step: 0,
        })
    }

    /// The parameters with their moments, for saving.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Steps taken so far.
    pub fn step_count(&self) -> usize {
        self.step
    }

    /// Puts back saved moments, in the order of [`Self::parameters`], and the step count.
    pub fn restore(&mut self, moments: Vec<(Tensor, Tensor)>, step: usize) {
        assert_eq!(
            moments.len(),
            self.parameters.len(),
            "one pair of moments per parameter"
        );
        for (parameter, (exp_avg, exp_avg_sq)) in self.parameters.iter_mut().zip(moments) {
            parameter.exp_avg = exp_avg;
            parameter.exp_avg_sq = exp_avg_sq;
        }
        self.step = step;
    }

    /// Updates every parameter by its gradient times `gradient_scale`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn step(&mut self, gradients: &Gradients, rate: f64, gradient_scale: f64) -> Result<()> {
        self.step += 1;
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.config;
        let correction1 = 1.0 - beta1.powi(self.step as i32);
        let correction2 = 1.0 - beta2.powi(self.step as i32);
        for parameter in &self.parameters {
            let decay = if decays(&parameter.name) {
                1.0 - rate * weight_decay
            } else {
                1.0
            };
            let with = Update {
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                epsilon: epsilon as f32,
                rate: rate as f32,
                correction1: correction1 as f32,
                correction2: correction2 as f32,
                decay: decay as f32,
                gradient_scale: gradient_scale as f32,
            };
            let gradient = gradients.values(&parameter.name);
            with_f32_mut(parameter.var.as_tensor(), |weights| {
                with_f32_mut(&parameter.exp_avg, |exp_avg| {
                    with_f32_mut(&parameter.exp_avg_sq, |exp_avg_sq| {
                        update(&with, weights, exp_avg, exp_avg_sq, gradient);
                        Ok(())
                    })
                })
            })?;
        }
        Ok(())
    }

    /// No gradients yet, for each of the parameters.
    pub fn no_gradients(&self) -> Gradients {
        let parameters = self.parameters.iter();
        Gradients::of(parameters.map(|parameter| {
            let count = parameter.var.as_tensor().elem_count();
            (parameter.name.clone(), count)
        }))
    }
}

/// Gradients of the trained tensors by name, summed over micro-batches. Their memory is kept when
/// they are cleared.
pub struct Gradients {
    tensors: BTreeMap<String, Gradient>,
}

struct Gradient {
    values: Vec<f32>,
    /// Whether anything was added; before, the values mean nothing.
    is_set: bool,
}

impl Gradients {
    /// No gradients yet, for tensors with this many values each.
    pub fn of(tensors: impl IntoIterator<Item = (String, usize)>) -> Self {
        let empty = |count| Gradient {
            values: vec![0.0; count],
            is_set: false,
        };
        let tensors = tensors.into_iter();
        Self {
            tensors: tensors.map(|(name, count)| (name, empty(count))).collect(),
        }
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        for gradient in self.tensors.values_mut() {
            gradient.is_set = false;
        }
    }

    /// Whether a tensor is trained.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's gradient; `None` where nothing depended on it, or it is not trained.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        let gradient = self.tensors.get(name)?;
        gradient.is_set.then_some(&gradient.values)
    }

    /// Where a product is to be put, and what it begins with; `None` for what is not trained.
    pub(super) fn product(&mut self, name: &str) -> Option<(&mut [f32], Start<'static>)> {
        let gradient = self.tensors.get_mut(name)?;
        let start = if gradient.is_set {
            Start::Present
        } else {
            Start::Zero
        };
        gradient.is_set = true;
        Some((&mut gradient.values, start))
    }

    /// A sum to add to; `None` for what is not trained.
    pub(super) fn sum(&mut self, name: &str) -> Option<&mut [f32]> {
        let gradient = self.tensors.get_mut(name)?;
        if !gradient.is_set {
            gradient.values.fill(0.0);
            gradient.is_set = true;
        }
        Some(&mut gradient.values)
    }

    /// The L2 norm over all of them.
    pub fn norm(&self) -> f64 {
        let set = self.tensors.values().filter(|gradient| gradient.is_set);
        let squares = set.map(|gradient| sum_of_squares(&gradient.values));
        squares.sum::<f64>().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_and_norms_do_not_decay() {
        for name in [
            "a.mlp.up_proj.weight",
            "model.embed_tokens.weight",
            "x.lora_A.weight",
        ] {
            assert!(decays(name), "{name}");
        }
        for name in [
            "a.q_proj.bias",
            "a.input_layernorm.weight",
            "a.q_norm.weight",
            "model.norm.weight",
        ] {
            assert!(!decays(name), "{name}");
        }
    }
}
