//! A whole training run: recipe to trained checkpoint, with its log.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType as TensorType, Tensor};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::TrainError;
use super::batch;
use super::decoder::Batch;
use super::encode::{self, Conversation, EncodeOptions, Example};
use super::optimizer::AdamWConfig;
use super::recipe::Recipe;
use super::schedule::Schedule;
use super::template::{Special, Template};
use super::trainer::{StepConfig, Trained, Trainer};
use super::{dataset, init, order};
use crate::durable::write_atomic;
use crate::formats::{Checkpoint, DType, PlannedTensor, SafetensorsWriter, Tokenizer};
use crate::model::{DecoderSpec, Model, spec_from_config};

/// Families whose decoder has gradients here.
const TRAINABLE: &[&str] = &["qwen2", "qwen3", "llama", "mistral"];

/// Files of the starting model that belong to the trained one as well.
const COPIED: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// What a run is about to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Rows that are trained on.
    pub num_rows: usize,
    /// Rows left out because their turns do not alternate.
    pub dropped: usize,
    /// Rows that lost tokens to `cutoff_len`.
    pub cut: usize,
    /// Rows that lost the end of their last answer.
    pub lost_end: usize,
    /// The longest row, in tokens.
    pub longest: usize,
    /// All rows' tokens.
    pub num_tokens: usize,
    /// Trained values.
    pub num_parameters: usize,
    /// Optimisation steps.
    pub total_steps: usize,
}

/// What is shown while a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub total_steps: usize,
    /// Mean loss since the last report.
    pub loss: f64,
    /// The last step's gradient norm.
    pub grad_norm: f64,
    /// The last step's rate.
    pub learning_rate: f64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Tokens per second since the start, padding included.
    pub tokens_per_s: f64,
    /// Since the first step.
    pub elapsed: Duration,
}

/// A run that has read everything it needs.
pub struct Run {
    recipe: Recipe,
    examples: Vec<Example>,
    pad_token_id: u32,
    trainer: Trainer,
    plan: Plan,
}

impl Run {
    /// Reads model, tokenizer and data, and works out the steps.
    ///
    /// # Errors
    /// Anything that the recipe names is missing or does not fit.
    pub fn prepare(recipe: Recipe) -> Result<Self, TrainError> {
        let fail = |reason: String| TrainError::Recipe {
            path: recipe.model_name_or_path.clone(),
            reason,
        };
        let template = Template::find(&recipe.template).ok_or_else(|| {
            let known: Vec<_> = super::template::TEMPLATES.iter().map(|t| t.name).collect();
            fail(format!(
                "template: {} is not one of {}",
                recipe.template,
                known.join(", ")
            ))
        })?;
        let folder = recipe.model_name_or_path.as_path();
        let trainable = |spec: &DecoderSpec| {
            let known = TRAINABLE.join(", ");
            let found = spec.family;
            let message = format!("cannot train the family {found}; it must be one of {known}");
            TRAINABLE
                .contains(&found)
                .then_some(())
                .ok_or_else(|| fail(message))
        };
        let (spec, weights, tokenizer) = if recipe.train_from_scratch {
            let config = read_object(&folder.join("config.json"))?;
            let spec = spec_from_config(&Value::Object(config.clone()))?;
            trainable(&spec)?;
            let std = config
                .get("initializer_range")
                .and_then(Value::as_f64)
                .unwrap_or(0.02);
            let weights = init::random(&spec, std, recipe.seed)?;
            (spec, weights, Tokenizer::from_folder(folder)?)
        } else {
            let checkpoint = Arc::new(Checkpoint::open(folder)?);
            let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
            let model = Model::from_checkpoint(checkpoint)?;
            trainable(&model.spec)?;
            let weights = init::from_model(&model)?;
            (model.spec, weights, tokenizer)
        };
        let data = dataset::load(&recipe)?;
        let examples = encode_all(&data.conversations, template, &tokenizer, &recipe)?;
        if examples.is_empty() {
            return Err(fail(format!(
                "dataset {}: no rows to train on",
                recipe.dataset
            )));
        }
        let num_parameters = weights.values().map(Tensor::elem_count).sum();
        let steps_per_epoch = examples
            .len()
            .div_ceil(recipe.per_device_train_batch_size)
            .div_ceil(recipe.gradient_accumulation_steps);
        let total_steps = usize::try_from(recipe.max_steps)
            .ok()
            .filter(|steps| *steps > 0)
            .unwrap_or((recipe.num_train_epochs * steps_per_epoch as f64).ceil() as usize);
        let schedule = Schedule {
            learning_rate: recipe.learning_rate,
            decay: recipe.decay().map_err(fail)?,
            warmup_steps: recipe.num_warmup_steps(total_steps),
            total_steps,
        };
        let config = StepConfig {
            optimizer: AdamWConfig {
                beta1: recipe.adam_beta1,
                beta2: recipe.adam_beta2,
                epsilon: recipe.adam_epsilon,
                weight_decay: recipe.weight_decay,
            },
            schedule,
            max_grad_norm: recipe.max_grad_norm,
            compute_dtype: if recipe.bf16 {
                TensorType::BF16
            } else {
                TensorType::F32
            },
        };
        let plan = Plan {
            num_rows: examples.len(),
            dropped: data.dropped,
            cut: examples
                .iter()
                .filter(|example| example.cut_tokens > 0)
                .count(),
            lost_end: examples.iter().filter(|example| example.lost_end).count(),
            longest: examples
                .iter()
                .map(|example| example.input_ids.len())
                .max()
                .unwrap_or(0),
            num_tokens: examples.iter().map(|example| example.input_ids.len()).sum(),
            num_parameters,
            total_steps,
        };
        let pad_token_id = tokenizer
            .pad_token_id()
            .or(tokenizer.eos_token_id())
            .unwrap_or_default();
        let trainer = Trainer::new(spec, weights, Trained::Full, config)?;
        Ok(Self {
            recipe,
            examples,
            pad_token_id,
            trainer,
            plan,
        })
    }

    /// What the run is about to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Trains and writes the model; `report` is called every `logging_steps` and at the end.
    ///
    /// # Errors
    /// A step fails or diverges, or the output cannot be written.
    pub fn train(mut self, report: &mut dyn FnMut(&Progress)) -> Result<(), TrainError> {
        let output = self.recipe.output_dir.clone();
        fs::create_dir_all(&output).map_err(|error| TrainError::Io {
            path: output.clone(),
            error,
        })?;
        let started = Instant::now();
        let mut log = Log::default();
        let mut num_tokens = 0;
        let mut since_report = Vec::new();
        let mut visit = Visit::new(&self.recipe, self.examples.len());
        for step in 1..=self.plan.total_steps {
            let (epoch, groups) = visit.next_step();
            let batches: Vec<Batch> = groups.iter().map(|rows| self.batch(rows)).collect();
            let done = self.trainer.step(&batches)?;
            if !(done.loss.is_finite() && done.grad_norm.is_finite()) {
                return Err(TrainError::Diverged {
                    step,
                    loss: done.loss,
                    grad_norm: done.grad_norm,
                    last_good: step - 1,
                    rows: groups.concat(),
                });
            }
            num_tokens += done.num_tokens;
            since_report.push(done.loss);
            if step % self.recipe.logging_steps == 0 || step == self.plan.total_steps {
                let elapsed = started.elapsed();
                let progress = Progress {
                    step,
                    total_steps: self.plan.total_steps,
                    loss: since_report.iter().sum::<f64>() / since_report.len() as f64,
                    grad_norm: done.grad_norm,
                    learning_rate: done.learning_rate,
                    epoch,
                    tokens_per_s: num_tokens as f64 / elapsed.as_secs_f64(),
                    elapsed,
                };
                since_report.clear();
                log.add(&progress);
                log.write(&output, &self.recipe)?;
                report(&progress);
            }
        }
        self.write_model(&output)
    }

    fn batch(&self, rows: &[usize]) -> Batch {
        let rows: Vec<&Example> = rows.iter().map(|row| &self.examples[*row]).collect();
        batch::pad(&rows, self.pad_token_id)
    }

    /// Writes weights (f32, as trained), configuration and tokenizer.
    fn write_model(&self, output: &Path) -> Result<(), TrainError> {
        let parameters = self.trainer.optimizer().parameters();
        let planned = parameters
            .iter()
            .map(|parameter| PlannedTensor {
                name: parameter.name.clone(),
                dtype: DType::F32,
                shape: parameter.var.as_tensor().dims().to_vec(),
            })
            .collect();
        let writer = SafetensorsWriter::create(output, planned, None)?;
        for parameter in parameters {
            let values = parameter.var.as_tensor().flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            writer.write(&parameter.name, &bytes)?;
        }
        writer.finish()?;
        for name in COPIED {
            let source = self.recipe.model_name_or_path.join(name);
            if source.exists() {
                let target = output.join(name);
                let contents = fs::read(&source).map_err(|error| TrainError::Io {
                    path: source.clone(),
                    error,
                })?;
                write_atomic(&target, &contents).map_err(|error| TrainError::Io {
                    path: target,
                    error,
                })?;
            }
        }
        Ok(())
    }
}

/// The rows of each step: epochs of shuffled micro-batches, the last group of an epoch may be
/// smaller.
struct Visit {
    batch_size: usize,
    accumulation: usize,
    num_rows: usize,
    shuffle_seed: Option<u64>,
    epoch: u64,
    order: Vec<usize>,
    position: usize,
}

impl Visit {
    fn new(recipe: &Recipe, num_rows: usize) -> Self {
        let mut visit = Self {
            batch_size: recipe.per_device_train_batch_size,
            accumulation: recipe.gradient_accumulation_steps,
            num_rows,
            shuffle_seed: (!recipe.disable_shuffling).then_some(recipe.seed),
            epoch: 0,
            order: Vec::new(),
            position: 0,
        };
        visit.order = visit.shuffled();
        visit
    }

    fn shuffled(&self) -> Vec<usize> {
        match self.shuffle_seed {
            Some(seed) => order::torch_permutation(self.num_rows, seed + self.epoch),
            None => (0..self.num_rows).collect(),
        }
    }

    /// The epoch after this step, and the rows of each of its micro-batches.
    fn next_step(&mut self) -> (f64, Vec<Vec<usize>>) {
        if self.position == self.num_rows {
            self.epoch += 1;
            self.position = 0;
            self.order = self.shuffled();
        }
        let end = (self.position + self.batch_size * self.accumulation).min(self.num_rows);
        let rows = &self.order[self.position..end];
        let groups = rows
            .chunks(self.batch_size)
            .map(<[usize]>::to_vec)
            .collect();
        self.position = end;
        (
            self.epoch as f64 + end as f64 / self.num_rows as f64,
            groups,
        )
    }
}

/// What the run's log files hold so far.
#[derive(Default)]
struct Log {
    lines: String,
    history: Vec<Value>,
}

impl Log {
    fn add(&mut self, progress: &Progress) {
        let Progress {
            step,
            total_steps,
            loss,
            grad_norm,
            learning_rate,
            epoch,
            ..
        } = *progress;
        let elapsed = progress.elapsed.as_secs_f64();
        let remaining = elapsed / step as f64 * (total_steps - step) as f64;
        let line = json!({
            "current_steps": step,
            "total_steps": total_steps,
            "loss": loss,
            "lr": learning_rate,
            "epoch": epoch,
            "percentage": (step as f64 / total_steps as f64 * 1e4).round() / 100.0,
            "elapsed_time": clock(elapsed),
            "remaining_time": clock(remaining),
        });
        // Writing to a string does not fail.
        let _ = writeln!(self.lines, "{line}");
        self.history.push(json!({
            "epoch": epoch,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "loss": loss,
            "step": step,
        }));
    }

    fn write(&self, output: &Path, recipe: &Recipe) -> Result<(), TrainError> {
        let last = self.history.last();
        let state = json!({
            "epoch": last.map(|entry| entry["epoch"].clone()),
            "global_step": last.map(|entry| entry["step"].clone()),
            "log_history": self.history,
            "logging_steps": recipe.logging_steps,
            "train_batch_size": recipe.per_device_train_batch_size,
        });
        let state = format!("{state:#}\n");
        for (name, text) in [
            ("trainer_log.jsonl", &self.lines),
            ("trainer_state.json", &state),
        ] {
            let path = output.join(name);
            write_atomic(&path, text.as_bytes()).map_err(|error| TrainError::Io { path, error })?;
        }
        Ok(())
    }
}

/// `H:MM:SS`, as the reference prints durations.
fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn read_object(path: &Path) -> Result<Map<String, Value>, TrainError> {
    let text = fs::read_to_string(path).map_err(|error| TrainError::Io {
        path: path.to_owned(),
        error,
    })?;
    serde_json::from_str(&text).map_err(|error| TrainError::Data {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn encode_all(
    conversations: &[Conversation],
    template: &Template,
    tokenizer: &Tokenizer,
    recipe: &Recipe,
) -> Result<Vec<Example>, TrainError> {
    let options = EncodeOptions {
        cutoff_len: recipe.cutoff_len,
        train_on_prompt: recipe.train_on_prompt,
        mask_history: recipe.mask_history,
        enable_thinking: recipe.enable_thinking,
        default_system: recipe.default_system.clone(),
    };
    let special = Special {
        bos: tokenizer.bos_token().unwrap_or(""),
        eos: tokenizer.eos_token().unwrap_or(""),
    };
    let encode = |text: &str| Ok::<_, TrainError>(tokenizer.encode(text, false)?);
    conversations
        .par_iter()
        .map(|conversation| {
            let turns = encode::pieces(conversation, template, &special, &options)
                .iter()
                .map(|(source, answer)| Ok((encode(source)?, encode(answer)?)))
                .collect::<Result<Vec<_>, TrainError>>()?;
            Ok(encode::assemble(&turns, &options))
        })
        .collect()
}
