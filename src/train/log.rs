//! The log files of a run, as LLaMA-Factory writes them: a line per report in
//! `trainer_log.jsonl`, the history in `trainer_state.json`, and the results at the end.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::TrainError;
use crate::durable::write_atomic;

/// The lines of a run.
pub(super) const LOG_FILE: &str = "trainer_log.jsonl";
/// The history of a run, in its folder and in each checkpoint.
pub(super) const STATE_FILE: &str = "trainer_state.json";

/// Where a run is when it reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub total_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Seconds since the first step, over all parts of a run that was taken up again.
    pub elapsed_s: f64,
    /// Seconds that the rest will take at the present speed.
    pub remaining_s: f64,
}

impl Place {
    /// A line of the log, absent values left out.
    fn line(&self, values: &[(&str, f64)]) -> Value {
        let mut line = Map::new();
        line.insert("current_steps".into(), json!(self.step));
        line.insert("total_steps".into(), json!(self.total_steps));
        for (key, value) in values {
            line.insert((*key).into(), json!(value));
        }
        let percentage = (self.step as f64 / self.total_steps as f64 * 1e4).round() / 100.0;
        line.insert("epoch".into(), json!(self.epoch));
        line.insert("percentage".into(), json!(percentage));
        line.insert("elapsed_time".into(), json!(clock(self.elapsed_s)));
        line.insert("remaining_time".into(), json!(clock(self.remaining_s)));
        Value::Object(line)
    }
}

/// What the log files hold so far.
pub(super) struct Log {
    path: PathBuf,
    /// `log_history` of the trainer's state.
    pub history: Vec<Value>,
}

impl Log {
    /// Goes on after `history`, which ends at `step`; lines of later steps that an interrupted run
    /// has left are removed.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub(super) fn resume(
        output: &Path,
        history: Vec<Value>,
        step: usize,
    ) -> Result<Self, TrainError> {
        let path = output.join(LOG_FILE);
        let io = |error| TrainError::Io {
            path: path.clone(),
            error,
        };
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io(error)),
        };
        let is_earlier = |line: &&str| {
            let line: Option<Value> = serde_json::from_str(line).ok();
            let at = line.and_then(|line| line["current_steps"].as_u64());
            at.is_some_and(|at| at <= step as u64)
        };
        let kept: String = before
            .lines()
            .filter(is_earlier)
            .map(|line| format!("{line}\n"))
            .collect();
        write_atomic(&path, kept.as_bytes()).map_err(io)?;
        Ok(Self { path, history })
    }

    /// Reports training.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn add_training(
        &mut self,
        place: &Place,
        loss: f64,
        grad_norm: f64,
        rate: f64,
    ) -> Result<(), TrainError> {
        self.history.push(json!({
            "epoch": place.epoch,
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "loss": loss,
            "step": place.step,
        }));
        self.append(&place.line(&[("loss", loss), ("lr", rate)]))
    }

    /// Reports what an evaluation found.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn add_evaluation(
        &mut self,
        place: &Place,
        results: &Map<String, Value>,
    ) -> Result<(), TrainError> {
        let mut entry = Map::new();
        entry.insert("epoch".into(), json!(place.epoch));
        entry.extend(results.clone());
        entry.insert("step".into(), json!(place.step));
        self.history.push(Value::Object(entry));
        let loss = results.get("eval_loss").and_then(Value::as_f64);
        self.append(&place.line(&[("eval_loss", loss.unwrap_or(f64::NAN))]))
    }

    /// Reports the end.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn add_end(
        &mut self,
        place: &Place,
        results: &Map<String, Value>,
    ) -> Result<(), TrainError> {
        let mut entry = Map::new();
        entry.insert("epoch".into(), json!(place.epoch));
        entry.insert("step".into(), json!(place.step));
        entry.extend(results.clone());
        self.history.push(Value::Object(entry));
        self.append(&place.line(&[]))
    }

    fn append(&self, line: &Value) -> Result<(), TrainError> {
        // One write of one line: a kill may tear the last one, which resuming drops.
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&self.path)?;
            file.write_all(format!("{line}\n").as_bytes())
        };
        append().map_err(|error| TrainError::Io {
            path: self.path.clone(),
            error,
        })
    }

    /// The (step, value) pairs of a key in the history.
    pub(super) fn series(&self, key: &str) -> Vec<(f64, f64)> {
        let entries = self.history.iter();
        entries
            .filter_map(|entry| Some((entry["step"].as_f64()?, entry[key].as_f64()?)))
            .collect()
    }
}

/// Writes JSON for people, complete or not at all.
///
/// # Errors
/// The disk refuses.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), TrainError> {
    let text = format!("{value:#}\n");
    write_atomic(path, text.as_bytes()).map_err(|error| TrainError::Io {
        path: path.to_owned(),
        error,
    })
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
