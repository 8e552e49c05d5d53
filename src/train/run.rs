//! A whole training run: steps, reports, evaluations and checkpoints, to the trained files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::TrainError;
use super::checkpoint::{self, Contents, Identity, Totals};
use super::corpus::Corpus;
use super::curve;
use super::decoder::Batch;
use super::encode::Conversation;
use super::log::{Log, Place, STATE_FILE, write_json};
use super::output::Companions;
use super::prepare::Plan;
use super::recipe::{Recipe, Resume, Strategy};
use super::trainer::Trainer;
use super::visit::{Grouping, Visit};
use crate::formats::Tokenizer;

/// What is shown while a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub total_steps: usize,
    /// Mean loss since the last report.
    pub loss: f64,
    /// The last step's gradient norm, before clipping.
    pub grad_norm: f64,
    /// The last step's rate.
    pub learning_rate: f64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Tokens per second since the start, padding included.
    pub tokens_per_s: f64,
    /// What the rest will take.
    pub remaining: Duration,
}

/// What a run tells about itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It goes on from this checkpoint, after that many steps.
    Resumed {
        /// The checkpoint.
        path: PathBuf,
        /// Steps done.
        step: usize,
        /// Whether the checkpoint says that it belongs to this run.
        is_verified: bool,
    },
    /// Some steps were taken.
    Progress(Progress),
    /// The validation rows were evaluated.
    Evaluated {
        /// Steps done.
        step: usize,
        /// Mean over batches of the loss per label.
        loss: f64,
    },
    /// A checkpoint was written.
    Saved(PathBuf),
}

/// The other side of a run.
pub struct Hooks<'a> {
    /// Hears what happens.
    pub report: &'a mut dyn FnMut(&Event),
    /// Asked after each step whether to stop there.
    pub interrupted: &'a dyn Fn() -> bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and the files are in their place.
    Finished,
    /// It was stopped; the checkpoint is where it goes on.
    Interrupted {
        /// Steps done.
        step: usize,
        /// Where it goes on.
        checkpoint: PathBuf,
    },
}

/// A run that has read everything it needs. Made by [`Run::prepare`].
pub struct Run {
    pub(super) recipe: Recipe,
    pub(super) train: Corpus,
    pub(super) eval: Corpus,
    pub(super) grouping: Grouping,
    pub(super) trainer: Trainer,
    pub(super) companions: Companions,
    pub(super) identity: Identity,
    pub(super) plan: Plan,
    /// Values that take part in products: all but the embedding.
    pub(super) num_flop_parameters: usize,
    pub(super) first_row: Option<Conversation>,
    pub(super) first_source: Vec<u32>,
    pub(super) eos: String,
    pub(super) tokenizer: Tokenizer,
}

/// The state of a run between two steps.
struct Course {
    totals: Totals,
    log: Log,
    /// Seconds of earlier parts of the run.
    earlier_s: f64,
    started: Instant,
    /// Steps of earlier parts of the run.
    first_step: usize,
    last_checkpoint: Option<PathBuf>,
}

impl Course {
    fn elapsed_s(&self) -> f64 {
        self.earlier_s + self.started.elapsed().as_secs_f64()
    }

    fn place(&self, epoch: f64, total_steps: usize) -> Place {
        let step = self.totals.step;
        let own = self.started.elapsed().as_secs_f64() / (step - self.first_step).max(1) as f64;
        Place {
            step,
            total_steps,
            epoch,
            elapsed_s: self.elapsed_s(),
            remaining_s: own * (total_steps - step) as f64,
        }
    }
}

impl Run {
    /// What the run is about to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long the first micro-batch takes, forward and backward: it is run, and nothing changes.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn measure(&self) -> Result<Duration, TrainError> {
        let rows = Visit::after(self.grouping, 0).next_step();
        let first = rows.micro_batches.first().map_or(&[][..], Vec::as_slice);
        let batch = self.batch(first, 0);
        let started = Instant::now();
        self.trainer.gradients(&[batch])?;
        Ok(started.elapsed())
    }

    /// These rows as the step after `done` others learns them.
    fn batch(&self, rows: &[usize], done: usize) -> Batch {
        let mut batch = self.train.batch(rows);
        if done < self.recipe.prompt_steps {
            batch.label_everything();
        }
        batch
    }

    /// Trains and writes the model or adapter.
    ///
    /// # Errors
    /// A step fails or diverges, a checkpoint does not fit, or the output cannot be written.
    pub fn train(mut self, hooks: &mut Hooks<'_>) -> Result<Outcome, TrainError> {
        let output = self.recipe.output_dir.clone();
        let io = |error| TrainError::Io {
            path: output.clone(),
            error,
        };
        fs::create_dir_all(&output).map_err(io)?;
        let folder = fs::File::open(&output).map_err(io)?;
        if folder.try_lock().is_err() {
            return Err(TrainError::Checkpoint {
                path: output.clone(),
                reason: "another run is writing there".into(),
            });
        }
        self.train.keep_tokens()?;
        self.eval.keep_tokens()?;
        let mut course = self.begin(hooks)?;
        let total_steps = self.plan.total_steps;
        let logging = Recipe::steps(self.recipe.logging_steps, total_steps);
        let saving = Recipe::steps(self.recipe.save_steps, total_steps);
        let evaluating = self.recipe.eval_steps.unwrap_or(self.recipe.logging_steps);
        let evaluating = Recipe::steps(evaluating, total_steps);
        let due = |strategy: Strategy, every: usize, step: usize, ends_epoch: bool| match strategy {
            Strategy::No => false,
            Strategy::Steps => step.is_multiple_of(every),
            Strategy::Epoch => ends_epoch,
        };
        let mut visit = Visit::after(self.grouping, course.totals.step);
        let mut epoch = course.totals.step as f64 / self.plan.steps_per_epoch as f64;
        while course.totals.step < total_steps {
            let rows = visit.next_step();
            epoch = rows.epoch;
            let batches: Vec<Batch> = rows
                .micro_batches
                .iter()
                .map(|indices| self.batch(indices, course.totals.step))
                .collect();
            let done = self.trainer.step(&batches)?;
            if !(done.loss.is_finite() && done.grad_norm.is_finite()) {
                return Err(TrainError::Diverged {
                    step: course.totals.step + 1,
                    loss: done.loss,
                    grad_norm: done.grad_norm,
                    checkpoint: course.last_checkpoint,
                    rows: rows.micro_batches.concat(),
                });
            }
            let totals = &mut course.totals;
            totals.step += 1;
            totals.loss_sum += done.loss;
            totals.num_tokens += done.num_tokens as u64;
            totals.since_report.push(done.loss);
            let step = totals.step;
            let is_last = step == total_steps;
            let ends_epoch = rows.ends_epoch;
            if is_last || due(self.recipe.logging_strategy, logging, step, ends_epoch) {
                let place = course.place(epoch, total_steps);
                let losses = std::mem::take(&mut course.totals.since_report);
                let loss = losses.iter().sum::<f64>() / losses.len() as f64;
                let (grad_norm, learning_rate) = (done.grad_norm, done.learning_rate);
                course
                    .log
                    .add_training(&place, loss, grad_norm, learning_rate)?;
                (hooks.report)(&Event::Progress(Progress {
                    step,
                    total_steps,
                    loss,
                    grad_norm,
                    learning_rate,
                    epoch,
                    tokens_per_s: course.totals.num_tokens as f64 / place.elapsed_s,
                    remaining: Duration::from_secs_f64(place.remaining_s),
                }));
            }
            let strategy = self.recipe.strategy_of_evaluation();
            if due(strategy, evaluating, step, ends_epoch) {
                self.evaluate(&mut course, epoch, hooks)?;
            }
            let interrupted = !is_last && (hooks.interrupted)();
            let strategy = self.recipe.save_strategy;
            if interrupted
                || is_last && strategy != Strategy::No
                || due(strategy, saving, step, ends_epoch)
            {
                let path = self.save(&mut course, epoch)?;
                (hooks.report)(&Event::Saved(path.clone()));
                if interrupted {
                    return Ok(Outcome::Interrupted {
                        step,
                        checkpoint: path,
                    });
                }
            }
        }
        self.finish(&mut course, epoch, hooks)?;
        Ok(Outcome::Finished)
    }

    /// Goes on from a checkpoint, or begins anew.
    fn begin(&mut self, hooks: &mut Hooks<'_>) -> Result<Course, TrainError> {
        let output = self.recipe.output_dir.clone();
        checkpoint::clean(&output)?;
        let own = checkpoint::list(&output);
        let newest = own.last().map(|(_, path)| path.clone());
        let from = match (&self.recipe.resume_from_checkpoint, newest) {
            (Resume::From(path), _) => Some(path.clone()),
            (Resume::Newest, Some(path)) => Some(path),
            (Resume::Newest, None) => {
                return Err(TrainError::Checkpoint {
                    path: output,
                    reason: "no checkpoint to resume from".into(),
                });
            }
            (Resume::Auto, newest) if !self.recipe.overwrite_output_dir => newest,
            (Resume::Auto | Resume::Fresh, _) => None,
        };
        let Some(path) = from else {
            if !self.recipe.overwrite_output_dir {
                self.refuse_results(&output)?;
            }
            for (_, path) in own {
                checkpoint::remove(&path)?;
            }
            return Ok(Course {
                totals: Totals::default(),
                log: Log::resume(&output, Vec::new(), 0)?,
                earlier_s: 0.0,
                started: Instant::now(),
                first_step: 0,
                last_checkpoint: None,
            });
        };
        let optimizer = self.trainer.optimizer_mut();
        let point = checkpoint::load(&path, &self.companions, optimizer, &self.identity)?;
        let step = point.totals.step;
        if step > self.plan.total_steps {
            return Err(TrainError::Checkpoint {
                path,
                reason: format!("it is at step {step} of a run of {}", self.plan.total_steps),
            });
        }
        (hooks.report)(&Event::Resumed {
            path: path.clone(),
            step,
            is_verified: point.is_verified,
        });
        Ok(Course {
            earlier_s: point.totals.elapsed_s,
            totals: point.totals,
            log: Log::resume(&output, point.history, step)?,
            started: Instant::now(),
            first_step: step,
            last_checkpoint: Some(path),
        })
    }

    /// An earlier result is replaced only on request.
    fn refuse_results(&self, output: &Path) -> Result<(), TrainError> {
        let weights = output.join(self.companions.weights_file());
        let checkpoints = checkpoint::list(output);
        let found = match checkpoints.last() {
            Some((_, path)) => path,
            None if weights.exists() => &weights,
            None => return Ok(()),
        };
        Err(TrainError::Checkpoint {
            path: found.clone(),
            reason: "is there from an earlier run; set overwrite_output_dir: true to replace it, \
                     or name another output_dir"
                .into(),
        })
    }

    fn trainer_state(&self, course: &Course, epoch: f64) -> Value {
        let recipe = &self.recipe;
        let epochs = recipe.num_train_epochs;
        let num_train_epochs = if recipe.max_steps > 0 {
            self.plan.total_steps.div_ceil(self.plan.steps_per_epoch)
        } else {
            epochs.ceil() as usize
        };
        json!({
            "epoch": epoch,
            "eval_steps": recipe.eval_steps.unwrap_or(recipe.logging_steps),
            "global_step": course.totals.step,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": course.log.history,
            "logging_steps": recipe.logging_steps,
            "max_steps": self.plan.total_steps,
            "num_input_tokens_seen": course.totals.num_tokens,
            "num_train_epochs": num_train_epochs,
            "save_steps": recipe.save_steps,
            "total_flos": self.flops(course),
            "train_batch_size": recipe.per_device_train_batch_size,
        })
    }

    /// Six operations per token and value, as the reference counts.
    fn flops(&self, course: &Course) -> f64 {
        6.0 * course.totals.num_tokens as f64 * self.num_flop_parameters as f64
    }

    fn save(&self, course: &mut Course, epoch: f64) -> Result<PathBuf, TrainError> {
        let output = &self.recipe.output_dir;
        course.totals.elapsed_s = course.elapsed_s();
        let trainer_state = self.trainer_state(course, epoch);
        let path = checkpoint::save(
            output,
            &Contents {
                companions: &self.companions,
                optimizer: self.trainer.optimizer(),
                identity: &self.identity,
                totals: &course.totals,
                trainer_state: &trainer_state,
                only_model: self.recipe.save_only_model,
            },
        )?;
        course.last_checkpoint = Some(path.clone());
        if let Some(most) = self.recipe.save_total_limit {
            let all = checkpoint::list(output);
            for (_, old) in all.iter().rev().skip(most) {
                checkpoint::remove(old)?;
            }
        }
        Ok(path)
    }

    /// Mean over batches of their mean loss per label, a last small batch like the others, as the
    /// reference's trainer has it (golden run `qwen2_shuffle_partial`).
    fn evaluate(
        &self,
        course: &mut Course,
        epoch: f64,
        hooks: &mut Hooks<'_>,
    ) -> Result<Map<String, Value>, TrainError> {
        let started = Instant::now();
        let rows: Vec<usize> = (0..self.eval.len()).collect();
        let batches = rows.chunks(self.recipe.per_device_eval_batch_size);
        let num_batches = batches.len();
        let mut sum = 0.0;
        for indices in batches {
            sum += self.trainer.evaluate(&self.eval.batch(indices))?;
        }
        let loss = sum / num_batches.max(1) as f64;
        let seconds = started.elapsed().as_secs_f64();
        let results = json!({
            "eval_loss": loss,
            "eval_runtime": rounded(seconds, 4),
            "eval_samples_per_second": rounded(rows.len() as f64 / seconds, 3),
            "eval_steps_per_second": rounded(num_batches as f64 / seconds, 3),
        });
        let results = results.as_object().cloned().unwrap_or_default();
        let place = course.place(epoch, self.plan.total_steps);
        course.log.add_evaluation(&place, &results)?;
        (hooks.report)(&Event::Evaluated {
            step: course.totals.step,
            loss,
        });
        Ok(results)
    }

    /// Writes the trained files and the results.
    fn finish(
        &self,
        course: &mut Course,
        epoch: f64,
        hooks: &mut Hooks<'_>,
    ) -> Result<(), TrainError> {
        let output = &self.recipe.output_dir;
        let seconds = course.elapsed_s();
        let steps = course.totals.step as f64;
        let rows_per_step = self.grouping.batch_size * self.grouping.accumulation;
        let train = json!({
            "total_flos": self.flops(course),
            "train_loss": course.totals.loss_sum / steps,
            "train_runtime": rounded(seconds, 4),
            "train_samples_per_second": rounded(steps * rows_per_step as f64 / seconds, 3),
            "train_steps_per_second": rounded(steps / seconds, 3),
        });
        let train = train.as_object().cloned().unwrap_or_default();
        let place = course.place(epoch, self.plan.total_steps);
        course.log.add_end(&place, &train)?;
        self.companions
            .write(output, self.trainer.optimizer().parameters())?;
        let with_epoch = |results: &Map<String, Value>| {
            let mut all = Map::new();
            all.insert("epoch".into(), json!(epoch));
            all.extend(results.clone());
            Value::Object(all)
        };
        write_json(&output.join("train_results.json"), &with_epoch(&train))?;
        let mut all = train;
        let strategy = self.recipe.strategy_of_evaluation();
        if !self.eval.is_empty() && (self.recipe.do_eval || strategy != Strategy::No) {
            let eval = self.evaluate(course, epoch, hooks)?;
            write_json(&output.join("eval_results.json"), &with_epoch(&eval))?;
            all.extend(eval);
        }
        write_json(&output.join("all_results.json"), &with_epoch(&all))?;
        let state = self.trainer_state(course, epoch);
        write_json(&output.join(STATE_FILE), &state)?;
        if self.recipe.plot_loss {
            for (key, name) in [
                ("loss", "training_loss"),
                ("eval_loss", "training_eval_loss"),
            ] {
                let path = output.join(format!("{name}.svg"));
                curve::draw(&path, key, &course.log.series(key))?;
            }
        }
        Ok(())
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}
