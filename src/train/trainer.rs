//! One optimisation step: micro-batches in, updated weights out.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};

use super::decoder::{Adapter, Batch, Decoder};
use super::optimizer::{AdamW, AdamWConfig, Gradients};
use super::schedule::Schedule;
use crate::model::DecoderSpec;

/// Added to the gradient norm before dividing by it, as the reference does.
const CLIP_EPSILON: f64 = 1e-6;

/// What a step is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepConfig {
    /// The optimiser's constants.
    pub optimizer: AdamWConfig,
    /// The course of the learning rate.
    pub schedule: Schedule,
    /// Gradients are scaled down to this L2 norm.
    pub max_grad_norm: f64,
    /// Matrix products run in this: `F32` or `BF16`.
    pub compute_dtype: DType,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// Mean negative log-probability per label, as the reference counts labels.
    pub loss: f64,
    /// L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The rate that this step used.
    pub learning_rate: f64,
    /// Tokens processed, padding included.
    pub num_tokens: usize,
}

/// A decoder with an optimiser over its trained tensors.
pub struct Trainer {
    decoder: Decoder,
    optimizer: AdamW,
    config: StepConfig,
}

/// What is trained: the whole model, or adapters over a frozen one.
pub enum Trained {
    /// Every tensor.
    Full,
    /// These adapters, by module path.
    Adapters(BTreeMap<String, Adapter>),
}

impl Trainer {
    /// A trainer over `weights` (f32, by Hugging Face name). With [`Trained::Full`] all of them
    /// become trained tensors; otherwise they stay as they are.
    ///
    /// # Errors
    /// The device cannot hold weights or moments.
    pub fn new(
        spec: DecoderSpec,
        weights: BTreeMap<String, Tensor>,
        trained: Trained,
        config: StepConfig,
    ) -> Result<Self> {
        let (weights, adapters, vars) = match trained {
            Trained::Full => {
                let mut vars = Vec::with_capacity(weights.len());
                let mut tensors = BTreeMap::new();
                for (name, weight) in weights {
                    let var = Var::from_tensor(&weight.to_dtype(DType::F32)?)?;
                    tensors.insert(name.clone(), var.as_tensor().clone());
                    vars.push((name, var));
                }
                (tensors, BTreeMap::new(), vars)
            }
            Trained::Adapters(adapters) => {
                let mut vars = Vec::with_capacity(2 * adapters.len());
                for (path, adapter) in &adapters {
                    vars.push((format!("{path}.lora_A.weight"), adapter.a.clone()));
                    vars.push((format!("{path}.lora_B.weight"), adapter.b.clone()));
                }
                (weights, adapters, vars)
            }
        };
        let decoder = Decoder::new(spec, weights, adapters, config.compute_dtype);
        Ok(Self {
            decoder,
            optimizer: AdamW::new(config.optimizer, vars)?,
            config,
        })
    }

    /// Runs one step over its micro-batches and updates the weights.
    ///
    /// The loss is the sum of token losses over all micro-batches divided by the number of labels
    /// in all of them, so that accumulation does not change it.
    ///
    /// # Errors
    /// A tensor operation fails. Weights are updated only when everything before succeeded.
    pub fn step(&mut self, micro_batches: &[Batch]) -> Result<StepReport> {
        let (gradients, loss) = self.gradients(micro_batches)?;
        let grad_norm = gradients.norm()?;
        let clip = self.clip_factor(grad_norm);
        let learning_rate = self.config.schedule.rate(self.optimizer.step_count());
        if loss.is_finite() && grad_norm.is_finite() {
            self.optimizer.step(&gradients, learning_rate, clip)?;
        }
        Ok(StepReport {
            step: self.optimizer.step_count(),
            loss,
            grad_norm,
            learning_rate,
            num_tokens: micro_batches.iter().map(Batch::num_tokens).sum(),
        })
    }

    /// The gradients of a step's loss, before clipping, and the loss.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn gradients(&self, micro_batches: &[Batch]) -> Result<(Gradients, f64)> {
        let num_labels: usize = micro_batches.iter().map(Batch::num_labels).sum();
        let share = 1.0 / num_labels.max(1) as f64;
        let mut gradients = Gradients::zeros(&self.optimizer)?;
        let mut loss = 0.0;
        for batch in micro_batches {
            let sum = (self.decoder.loss_sum(batch)? * share)?;
            loss += f64::from(sum.to_scalar::<f32>()?);
            gradients.add(&self.optimizer, &sum.backward()?)?;
        }
        Ok((gradients, loss))
    }

    /// Mean loss per label of one batch, without touching anything: for evaluation.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn evaluate(&self, batch: &Batch) -> Result<f64> {
        let sum = f64::from(self.decoder.loss_sum(batch)?.to_scalar::<f32>()?);
        Ok(sum / batch.num_labels().max(1) as f64)
    }

    /// The optimiser, with the trained tensors and their moments.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The optimiser, to put back saved moments.
    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    /// The factor that a step with this gradient norm would scale its gradients by.
    pub fn clip_factor(&self, grad_norm: f64) -> f64 {
        (self.config.max_grad_norm / (grad_norm + CLIP_EPSILON)).min(1.0)
    }
}
