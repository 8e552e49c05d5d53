//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019), gradient clipping, and state
//! that can be saved. Moments are f32 whatever the parameter's dtype.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

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
                let zeros = var.as_tensor().zeros_like()?.to_dtype(DType::F32)?;
                Ok(Parameter {
                    name,
                    var,
                    exp_avg: zeros.clone(),
                    exp_avg_sq: zeros,
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
        for (parameter, gradient) in self.parameters.iter_mut().zip(&gradients.tensors) {
            let gradient = match gradient {
                Some(gradient) => (gradient * gradient_scale)?,
                None => parameter.exp_avg.zeros_like()?,
            };
            let exp_avg = ((&parameter.exp_avg * beta1)? + (&gradient * (1.0 - beta1))?)?;
            let exp_avg_sq =
                ((&parameter.exp_avg_sq * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let denominator = ((&exp_avg_sq / correction2)?.sqrt()? + epsilon)?;
            let update = ((&exp_avg / correction1)? / denominator)?;
            let decay = if decays(&parameter.name) {
                1.0 - rate * weight_decay
            } else {
                1.0
            };
            let weights = parameter.var.as_tensor().detach();
            parameter
                .var
                .set(&((weights * decay)? - (update * rate)?)?)?;
            parameter.exp_avg = exp_avg.detach();
            parameter.exp_avg_sq = exp_avg_sq.detach();
        }
        Ok(())
    }
}

/// Gradients of the trained tensors, summed over micro-batches.
pub struct Gradients {
    /// In the optimiser's order; `None` as long as nothing was added.
    tensors: Vec<Option<Tensor>>,
}

impl Gradients {
    /// No gradients yet, for the optimiser's parameters.
    pub fn new(optimizer: &AdamW) -> Self {
        Self {
            tensors: vec![None; optimizer.parameters.len()],
        }
    }

    /// Adds what one backward pass produced. A parameter that the loss does not depend on adds 0.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn add(&mut self, optimizer: &AdamW, store: &GradStore) -> Result<()> {
        for (sum, parameter) in self.tensors.iter_mut().zip(&optimizer.parameters) {
            let Some(gradient) = store.get(parameter.var.as_tensor()) else {
                continue;
            };
            let gradient = gradient.to_dtype(DType::F32)?;
            *sum = Some(match sum.take() {
                Some(before) => (before + gradient)?.detach(),
                None => gradient.detach(),
            });
        }
        Ok(())
    }

    /// The L2 norm over all of them.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for tensor in self.tensors.iter().flatten() {
            sum += f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(sum.sqrt())
    }

    /// The gradients, in the optimiser's order; `None` for a parameter that nothing depended on.
    pub fn tensors(&self) -> &[Option<Tensor>] {
        &self.tensors
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
