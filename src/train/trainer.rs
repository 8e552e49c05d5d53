//! One optimisation step: micro-batches in, updated weights out.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};

use super::decoder::{Adapter, Batch, Decoder, Dropout};
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
    /// Gradients are scaled down to this L2 norm; 0 leaves them as they are.
    pub max_grad_norm: f64,
    /// The share of their inputs that adapters lose in a step, and the seed that chooses them.
    pub dropout: Dropout,
    /// Compute each layer again in the backward pass instead of keeping its activations.
    pub recompute: bool,
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
    /// The last step's gradients, whose memory the next one's take.
    gradients: Option<Gradients>,
}

/// What is trained: the whole model, or adapters over a frozen one.
pub enum Trained {
    /// Every tensor.
    Full,
    /// Adapters, and a few weights as a whole.
    Adapters {
        /// By module path.
        adapters: BTreeMap<String, Adapter>,
        /// Names of weights.
        weights: Vec<String>,
    },
}

impl Trainer {
    /// A trainer over `weights` (by Hugging Face name). What is trained is kept in f32; frozen
    /// matrices are kept in the type that products run in.
    ///
    /// # Errors
    /// The device cannot hold weights or moments.
    pub fn new(
        spec: DecoderSpec,
        weights: BTreeMap<String, Tensor>,
        trained: Trained,
        config: StepConfig,
    ) -> Result<Self> {
        let (adapters, whole) = match trained {
            Trained::Full => (BTreeMap::new(), None),
            Trained::Adapters { adapters, weights } => (adapters, Some(weights)),
        };
        let mut vars = Vec::new();
        for (path, adapter) in &adapters {
            vars.push((format!("{path}.lora_A.weight"), adapter.a.clone()));
            vars.push((format!("{path}.lora_B.weight"), adapter.b.clone()));
        }
        let mut tensors = BTreeMap::new();
        for (name, weight) in weights {
            let is_trained = whole.as_ref().is_none_or(|whole| whole.contains(&name));
            let tensor = if is_trained {
                let var = Var::from_tensor(&weight.to_dtype(DType::F32)?)?;
                vars.push((name.clone(), var.clone()));
                var.as_tensor().clone()
            } else if weight.rank() == 2 {
                weight.to_dtype(config.compute_dtype)?
            } else {
                weight
            };
            tensors.insert(name, tensor);
        }
        let recompute = config.recompute;
        let decoder = Decoder::new(spec, tensors, adapters, config.compute_dtype, recompute);
        Ok(Self {
            decoder,
            optimizer: AdamW::new(config.optimizer, vars)?,
            config,
            gradients: None,
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
        let mut gradients = match self.gradients.take() {
            Some(gradients) => gradients,
            None => self.optimizer.no_gradients(),
        };
        let loss = self.accumulate(micro_batches, &mut gradients)?;
        let grad_norm = gradients.norm();
        let clip = self.clip_factor(grad_norm);
        let learning_rate = self.config.schedule.rate(self.optimizer.step_count());
        if loss.is_finite() && grad_norm.is_finite() {
            self.optimizer.step(&gradients, learning_rate, clip)?;
        }
        self.gradients = Some(gradients);
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
        let mut gradients = self.optimizer.no_gradients();
        let loss = self.accumulate(micro_batches, &mut gradients)?;
        Ok((gradients, loss))
    }

    fn accumulate(&self, micro_batches: &[Batch], gradients: &mut Gradients) -> Result<f64> {
        gradients.clear();
        let num_labels: usize = micro_batches.iter().map(Batch::num_labels).sum();
        let share = 1.0 / num_labels.max(1) as f64;
        let mut loss = 0.0;
        for (micro_batch, batch) in micro_batches.iter().enumerate() {
            let dropout = Dropout {
                step: self.optimizer.step_count(),
                micro_batch,
                ..self.config.dropout
            };
            loss += self.decoder.backward(batch, share, dropout, gradients)?;
        }
        Ok(loss)
    }

    /// Mean loss per predicted label of one batch, without touching anything: for evaluation.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn evaluate(&self, batch: &Batch) -> Result<f64> {
        Ok(self.decoder.loss_sum(batch)? / batch.num_predicted().max(1) as f64)
    }

    /// What is trained.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
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
        if self.config.max_grad_norm == 0.0 {
            return 1.0;
        }
        (self.config.max_grad_norm / (grad_norm + CLIP_EPSILON)).min(1.0)
    }
}
