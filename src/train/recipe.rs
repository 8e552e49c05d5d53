//! The training recipe: LLaMA-Factory's YAML keys, their defaults, and which of them are only
//! noted here.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TrainError;
use super::schedule::Decay;

/// A recipe as written. Unknown keys are an error that names the line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The checkpoint to start from, or with `train_from_scratch` a folder of configuration and
    /// tokenizer.
    pub model_name_or_path: PathBuf,
    /// Only `sft`.
    #[serde(default = "default_stage")]
    pub stage: String,
    /// Only `full`.
    #[serde(default = "default_finetuning_type")]
    pub finetuning_type: String,
    /// Start from random weights of the configuration's shape.
    #[serde(default)]
    pub train_from_scratch: bool,
    /// Names in `dataset_info.json`, or paths of JSON/JSONL files, separated by commas.
    pub dataset: String,
    /// The folder of `dataset_info.json`.
    #[serde(default = "default_dataset_dir")]
    pub dataset_dir: PathBuf,
    /// The conversation's layout.
    pub template: String,
    /// The most tokens of a row.
    #[serde(default = "default_cutoff_len")]
    pub cutoff_len: usize,
    /// Sources are trained on as well.
    #[serde(default)]
    pub train_on_prompt: bool,
    /// Only the last turn is trained on.
    #[serde(default)]
    pub mask_history: bool,
    /// Whether reasoning templates train their empty thought block.
    #[serde(default = "default_true")]
    pub enable_thinking: bool,
    /// Replaces the template's default system text.
    pub default_system: Option<String>,
    /// The first rows of each data set.
    pub max_samples: Option<usize>,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Steps between log lines.
    #[serde(default = "default_logging_steps")]
    pub logging_steps: usize,
    /// Rows of a micro-batch.
    #[serde(default = "default_batch_size")]
    pub per_device_train_batch_size: usize,
    /// Micro-batches of a step.
    #[serde(default = "default_one")]
    pub gradient_accumulation_steps: usize,
    /// The rate at the end of the warm-up.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Passes over the data.
    #[serde(default = "default_epochs")]
    pub num_train_epochs: f64,
    /// Steps; overrides the number of passes where positive.
    #[serde(default = "default_max_steps")]
    pub max_steps: i64,
    /// `constant`, `constant_with_warmup`, `linear` or `cosine`.
    #[serde(default = "default_scheduler")]
    pub lr_scheduler_type: String,
    /// Warm-up as a share of all steps.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// Warm-up in steps; overrides the share where positive.
    #[serde(default)]
    pub warmup_steps: usize,
    /// Decay of matrices and embeddings.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay of the first moment.
    #[serde(default = "default_beta1")]
    pub adam_beta1: f64,
    /// Decay of the second moment.
    #[serde(default = "default_beta2")]
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "default_epsilon")]
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this norm.
    #[serde(default = "default_one_f64")]
    pub max_grad_norm: f64,
    /// Seeds the order and the initial weights.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Rows are visited in file order.
    #[serde(default)]
    pub disable_shuffling: bool,
    /// Matrix products in bf16 over f32 master weights.
    #[serde(default)]
    pub bf16: bool,
}

fn default_stage() -> String {
    "sft".into()
}
fn default_finetuning_type() -> String {
    "full".into()
}
fn default_dataset_dir() -> PathBuf {
    "data".into()
}
fn default_cutoff_len() -> usize {
    2048
}
fn default_true() -> bool {
    true
}
fn default_logging_steps() -> usize {
    500
}
fn default_batch_size() -> usize {
    8
}
fn default_one() -> usize {
    1
}
fn default_one_f64() -> f64 {
    1.0
}
fn default_learning_rate() -> f64 {
    5e-5
}
fn default_epochs() -> f64 {
    3.0
}
fn default_max_steps() -> i64 {
    -1
}
fn default_scheduler() -> String {
    "linear".into()
}
fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.999
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_seed() -> u64 {
    42
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown or missing, or a value makes no sense.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|error| TrainError::Io {
            path: path.to_owned(),
            error,
        })?;
        let fail = |reason: String| TrainError::Recipe {
            path: path.to_owned(),
            reason,
        };
        let recipe: Self =
            serde_saphyr::from_str(&text).map_err(|error| fail(error.to_string()))?;
        recipe.check().map_err(fail)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if self.stage != "sft" {
            return Err(format!(
                "stage: only sft is supported, found {}",
                self.stage
            ));
        }
        if self.finetuning_type != "full" {
            let found = &self.finetuning_type;
            return Err(format!(
                "finetuning_type: only full is supported, found {found}"
            ));
        }
        self.decay()?;
        for (key, value) in [
            (
                "per_device_train_batch_size",
                self.per_device_train_batch_size,
            ),
            (
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps,
            ),
            ("logging_steps", self.logging_steps),
            ("cutoff_len", self.cutoff_len),
        ] {
            if value == 0 {
                return Err(format!("{key}: expected at least 1, found 0"));
            }
        }
        if !(self.learning_rate.is_finite() && self.learning_rate >= 0.0) {
            return Err(format!(
                "learning_rate: expected a positive number, found {}",
                self.learning_rate
            ));
        }
        if self.max_steps <= 0 && !(self.num_train_epochs > 0.0 && self.num_train_epochs < 1e6) {
            return Err(format!(
                "num_train_epochs: expected a positive number, found {}",
                self.num_train_epochs
            ));
        }
        Ok(())
    }

    /// The course of the learning rate after the warm-up.
    ///
    /// # Errors
    /// The scheduler's name is unknown.
    pub fn decay(&self) -> Result<Decay, String> {
        match self.lr_scheduler_type.as_str() {
            "constant" | "constant_with_warmup" => Ok(Decay::Constant),
            "linear" => Ok(Decay::Linear),
            "cosine" => Ok(Decay::Cosine),
            other => Err(format!(
                "lr_scheduler_type: expected constant, constant_with_warmup, linear or cosine, \
                 found {other}"
            )),
        }
    }

    /// Warm-up steps of a run of `total_steps`; the plain constant rate has none.
    pub fn num_warmup_steps(&self, total_steps: usize) -> usize {
        if self.lr_scheduler_type == "constant" {
            0
        } else if self.warmup_steps > 0 {
            self.warmup_steps
        } else {
            (self.warmup_ratio * total_steps as f64).ceil() as usize
        }
    }
}
