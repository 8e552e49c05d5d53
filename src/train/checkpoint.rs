//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! A checkpoint is a folder `checkpoint-N` that appears when it is complete. Order, learning rate
//! and dropout are functions of the step, so beside weights and moments only the step count
//! decides what comes next; the rest is for the log and to recognise another run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::TrainError;
use super::log::{STATE_FILE, write_json};
use super::optimizer::AdamW;
use super::output::Companions;
use super::tensors;
use crate::formats::read_json_object;

/// Moments of the optimiser: `NAME.exp_avg` and `NAME.exp_avg_sq`.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// What only this program needs.
const OWN_STATE_FILE: &str = "micota_state.json";
const PREFIX: &str = "checkpoint-";

/// What a run has added up so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Steps done.
    pub step: usize,
    /// The sum of their losses.
    pub loss_sum: f64,
    /// Losses since the last report.
    pub since_report: Vec<f64>,
    /// Tokens processed, padding included.
    pub num_tokens: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
}

/// What makes a run this run, each part by the key that a person would look at.
pub(super) type Identity = Map<String, Value>;

#[derive(Serialize, Deserialize)]
struct OwnState {
    identity: Identity,
    totals: Totals,
}

/// Where a run goes on.
pub(super) struct ResumePoint {
    /// Its sums.
    pub totals: Totals,
    /// Its log.
    pub history: Vec<Value>,
    /// Whether the checkpoint says which run it belongs to; those of other programs do not.
    pub is_verified: bool,
}

/// The checkpoints of a folder with their steps, oldest first.
pub(super) fn list(output: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let step = name.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Removes what an interrupted save or removal has left.
///
/// # Errors
/// The disk refuses.
pub(super) fn clean(output: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(output).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!(".{PREFIX}")) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

/// Takes a checkpoint away: at no time there is half of one.
///
/// # Errors
/// The disk refuses.
pub(super) fn remove(path: &Path) -> Result<(), TrainError> {
    let hidden = hidden(path, "removed");
    fs::rename(path, &hidden).map_err(|error| io(path, error))?;
    remove_folder(&hidden)
}

fn remove_folder(path: &Path) -> Result<(), TrainError> {
    fs::remove_dir_all(path).map_err(|error| io(path, error))
}

/// `.checkpoint-N.STATE` beside `checkpoint-N`.
fn hidden(path: &Path, state: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{state}"))
}

fn io(path: &Path, error: std::io::Error) -> TrainError {
    TrainError::Io {
        path: path.to_owned(),
        error,
    }
}

/// What a checkpoint is made of.
pub(super) struct Contents<'a> {
    /// Files beside the weights.
    pub companions: &'a Companions,
    /// Weights and moments.
    pub optimizer: &'a AdamW,
    /// What makes the run this run.
    pub identity: &'a Identity,
    /// Its sums.
    pub totals: &'a Totals,
    /// `trainer_state.json`.
    pub trainer_state: &'a Value,
    /// Leave out what resuming needs.
    pub only_model: bool,
}

/// Writes `checkpoint-N` into `output` and returns its path.
///
/// # Errors
/// The disk refuses; no checkpoint appears then.
pub(super) fn save(output: &Path, contents: &Contents<'_>) -> Result<PathBuf, TrainError> {
    let path = output.join(format!("{PREFIX}{}", contents.totals.step));
    let partial = hidden(&path, "partial");
    if partial.exists() {
        remove_folder(&partial)?;
    }
    fs::create_dir_all(&partial).map_err(|error| io(&partial, error))?;
    let parameters = contents.optimizer.parameters();
    contents.companions.write(&partial, parameters)?;
    write_json(&partial.join(STATE_FILE), contents.trainer_state)?;
    if !contents.only_model {
        let named = contents.companions.named(parameters);
        let moments: Vec<(String, &Tensor)> = named
            .iter()
            .flat_map(|(name, parameter)| {
                [
                    (format!("{name}.exp_avg"), &parameter.exp_avg),
                    (format!("{name}.exp_avg_sq"), &parameter.exp_avg_sq),
                ]
            })
            .collect();
        tensors::write(&partial.join(OPTIMIZER_FILE), &moments)?;
        let own = OwnState {
            identity: contents.identity.clone(),
            totals: contents.totals.clone(),
        };
        write_json(&partial.join(OWN_STATE_FILE), &json!(own))?;
    }
    if path.exists() {
        remove(&path)?;
    }
    fs::rename(&partial, &path).map_err(|error| io(&path, error))?;
    let folder = File::open(output).and_then(|folder| folder.sync_all());
    folder.map_err(|error| io(output, error))?;
    Ok(path)
}

/// Puts a checkpoint's weights and moments into `optimizer` and tells where the run goes on.
///
/// # Errors
/// A file is missing or does not fit, or the checkpoint belongs to another run; every difference
/// is named.
pub(super) fn load(
    path: &Path,
    companions: &Companions,
    optimizer: &mut AdamW,
    identity: &Identity,
) -> Result<ResumePoint, TrainError> {
    let fail = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let state = read_json_object(&path.join(STATE_FILE))?
        .ok_or_else(|| fail(format!("it has no {STATE_FILE}")))?;
    let state = Value::Object(state);
    let history = state["log_history"].as_array().cloned().unwrap_or_default();
    let own = read_json_object(&path.join(OWN_STATE_FILE))?;
    let is_verified = own.is_some();
    let totals = match own {
        Some(own) => {
            let own: OwnState = serde_json::from_value(Value::Object(own))
                .map_err(|error| fail(format!("{OWN_STATE_FILE}: {error}")))?;
            compare(&own.identity, identity).map_err(fail)?;
            own.totals
        }
        None => {
            let step = state["global_step"].as_u64();
            let step = step.ok_or_else(|| fail(format!("{STATE_FILE} has no global_step")))?;
            let losses = history.iter().filter_map(|entry| entry["loss"].as_f64());
            Totals {
                step: step as usize,
                loss_sum: losses.sum(),
                ..Totals::default()
            }
        }
    };
    if !path.join(OPTIMIZER_FILE).exists() {
        return Err(fail(format!(
            "it has no {OPTIMIZER_FILE} (save_only_model?); it can be a starting model, not resumed"
        )));
    }
    let mut weights = tensors::read(&path.join(companions.weights_file()))?;
    let mut moments = tensors::read(&path.join(OPTIMIZER_FILE))?;
    let mut restored = Vec::new();
    for (name, parameter) in companions.named(optimizer.parameters()) {
        let shape = parameter.var.as_tensor().dims();
        let take = |file: &mut std::collections::BTreeMap<String, Tensor>, name: &str| {
            let tensor = file.remove(name).filter(|tensor| tensor.dims() == shape);
            tensor.ok_or_else(|| fail(format!("it has no tensor {name} of shape {shape:?}")))
        };
        parameter.var.set(&take(&mut weights, &name)?)?;
        let exp_avg = take(&mut moments, &format!("{name}.exp_avg"))?;
        let exp_avg_sq = take(&mut moments, &format!("{name}.exp_avg_sq"))?;
        restored.push((exp_avg, exp_avg_sq));
    }
    if let Some(name) = weights.keys().next() {
        return Err(fail(format!(
            "its tensor {name} is not trained by this recipe"
        )));
    }
    optimizer.restore(restored, totals.step);
    Ok(ResumePoint {
        totals,
        history,
        is_verified,
    })
}

/// Refuses another run's checkpoint, naming each difference.
fn compare(stored: &Identity, own: &Identity) -> Result<(), String> {
    let mut differences = Vec::new();
    for (key, value) in own {
        let before = stored.get(key).unwrap_or(&Value::Null);
        if before != value {
            differences.push(format!("{key} was {before}, now {value}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "it belongs to another run: {}; restore these, or start anew with \
         overwrite_output_dir=true or another output_dir",
        differences.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_is_refused_by_the_keys_that_differ() {
        let identity = |rate: f64, data: &str| {
            let value = json!({"learning_rate": rate, "data": data});
            value.as_object().unwrap().clone()
        };
        assert_eq!(compare(&identity(1e-5, "a"), &identity(1e-5, "a")), Ok(()));
        let error = compare(&identity(1e-5, "a"), &identity(2e-5, "a")).unwrap_err();
        assert!(
            error.contains("learning_rate was 0.00001, now 0.00002"),
            "{error}"
        );
        assert!(!error.contains("data was"), "{error}");
    }

    #[test]
    fn checkpoints_are_listed_by_step_and_leftovers_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "checkpoint-10",
            "checkpoint-9",
            ".checkpoint-11.partial",
            "other",
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let steps: Vec<usize> = list(folder.path()).iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [9, 10]);
        clean(folder.path()).unwrap();
        assert!(!folder.path().join(".checkpoint-11.partial").exists());
        remove(&folder.path().join("checkpoint-9")).unwrap();
        assert_eq!(list(folder.path()).len(), 1);
    }
}
