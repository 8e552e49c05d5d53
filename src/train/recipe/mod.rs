//! The training recipe: LLaMA-Factory's YAML keys, their defaults, and what is done with each.

mod check;
mod defaults;
mod keys;
mod read;
mod values;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::schedule::Decay;
pub use values::{FinetuningType, List, Overlong, Resume, Strategy};

/// A recipe as written, defaults filled in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recipe {
    /// The checkpoint to start from, or with `train_from_scratch` a folder of configuration and
    /// tokenizer.
    pub model_name_or_path: PathBuf,
    /// Only `sft`.
    #[serde(default = "defaults::stage")]
    pub stage: String,
    /// Train; `false` is refused, since there is nothing else to do.
    #[serde(default = "yes")]
    pub do_train: bool,
    /// Evaluate on the validation rows at the end, even without `eval_strategy`.
    #[serde(default)]
    pub do_eval: bool,
    /// `full` or `lora`.
    #[serde(default = "defaults::finetuning_type")]
    pub finetuning_type: FinetuningType,
    /// Start from random weights of the configuration's shape.
    #[serde(default)]
    pub train_from_scratch: bool,
    /// Rank of the adapters.
    #[serde(default = "defaults::lora_rank")]
    pub lora_rank: usize,
    /// Scale of the adapters times their rank; twice the rank where absent.
    pub lora_alpha: Option<f64>,
    /// Share of an adapter's inputs that a step drops.
    #[serde(default)]
    pub lora_dropout: f64,
    /// `all`, or names of linear layers separated by commas.
    #[serde(default = "defaults::lora_target")]
    pub lora_target: List,
    /// Divide `lora_alpha` by the root of the rank instead of the rank.
    #[serde(default)]
    pub use_rslora: bool,
    /// Modules outside the adapters that are trained in full and saved with them.
    #[serde(default)]
    pub additional_target: List,
    /// Adapters to start from: all but the last are merged, the last goes on training.
    #[serde(default)]
    pub adapter_name_or_path: List,
    /// Merge the last adapter as well, and train a new one.
    #[serde(default)]
    pub create_new_adapter: bool,
    /// A safetensors file with the initial adapter, under PEFT's names.
    pub adapter_init: Option<PathBuf>,
    /// Names in `dataset_info.json`, or paths of JSON/JSONL files or folders of them.
    pub dataset: List,
    /// As `dataset`, for evaluation.
    #[serde(default)]
    pub eval_dataset: List,
    /// The folder of `dataset_info.json`.
    #[serde(default = "defaults::dataset_dir")]
    pub dataset_dir: PathBuf,
    /// Only `concat`: data sets one after the other.
    #[serde(default = "defaults::mix_strategy")]
    pub mix_strategy: String,
    /// The conversation's layout: a name; `model`, or nothing, for the model's own chat template.
    pub template: Option<String>,
    /// The most tokens of a row.
    #[serde(default = "defaults::cutoff_len")]
    pub cutoff_len: usize,
    /// What happens to a longer row.
    #[serde(default = "defaults::on_overlong")]
    pub on_overlong: Overlong,
    /// The largest share of rows that may lose the end of their answer.
    #[serde(default = "defaults::max_lost_answers")]
    pub max_lost_answers: f64,
    /// Sources are trained on as well.
    #[serde(default)]
    pub train_on_prompt: bool,
    /// The first so many steps train on sources as well: a model that begins with nothing learns
    /// to read by it.
    #[serde(default)]
    pub prompt_steps: usize,
    /// Only the last turn is trained on.
    #[serde(default)]
    pub mask_history: bool,
    /// Whether reasoning templates train their empty thought block.
    #[serde(default = "yes")]
    pub enable_thinking: bool,
    /// Replaces the template's default system text.
    pub default_system: Option<String>,
    /// The first rows of each data set.
    pub max_samples: Option<usize>,
    /// Rows that are packed among each other.
    #[serde(default = "defaults::preprocessing_batch_size")]
    pub preprocessing_batch_size: usize,
    /// Several rows in one, attention over all of them.
    pub packing: Option<bool>,
    /// Several rows in one, each seeing itself only; implies `packing`.
    #[serde(default)]
    pub neat_packing: bool,
    /// The folder of tokenised rows; `tokenized` in `output_dir` where absent.
    pub tokenized_path: Option<PathBuf>,
    /// Rows are tokenised anew, whatever that folder holds.
    #[serde(default)]
    pub overwrite_cache: bool,
    /// Rows kept for evaluation: a share below 1, or a count.
    #[serde(default)]
    pub val_size: f64,
    /// `no`, `steps` or `epoch`.
    pub eval_strategy: Option<Strategy>,
    /// Steps between evaluations; as `logging_steps` where absent. Below 1: a share of all steps.
    pub eval_steps: Option<f64>,
    /// Rows of an evaluation batch.
    #[serde(default = "defaults::per_device_eval_batch_size")]
    pub per_device_eval_batch_size: usize,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Accepted: a fresh run may replace what an earlier one left.
    #[serde(default)]
    pub overwrite_output_dir: bool,
    /// Steps between log lines. Below 1: a share of all steps.
    #[serde(default = "defaults::logging_steps")]
    pub logging_steps: f64,
    /// Accepted: `steps`, `epoch` or `no` for log lines.
    #[serde(default = "defaults::logging_strategy")]
    pub logging_strategy: Strategy,
    /// Steps between checkpoints. Below 1: a share of all steps.
    #[serde(default = "defaults::save_steps")]
    pub save_steps: f64,
    /// `no`, `steps` or `epoch`.
    #[serde(default = "defaults::save_strategy")]
    pub save_strategy: Strategy,
    /// Checkpoints that are kept; all where absent.
    pub save_total_limit: Option<usize>,
    /// Checkpoints without what resuming needs.
    #[serde(default)]
    pub save_only_model: bool,
    /// Draw the loss curve.
    #[serde(default)]
    pub plot_loss: bool,
    /// `true` (the newest of `output_dir`), or a checkpoint's folder.
    #[serde(default = "defaults::resume_from_checkpoint")]
    pub resume_from_checkpoint: Resume,
    /// Rows of a micro-batch.
    #[serde(default = "defaults::per_device_train_batch_size")]
    pub per_device_train_batch_size: usize,
    /// Micro-batches of a step.
    #[serde(default = "defaults::gradient_accumulation_steps")]
    pub gradient_accumulation_steps: usize,
    /// Keep every activation instead of computing it again in the backward pass.
    #[serde(default)]
    pub disable_gradient_checkpointing: bool,
    /// Only AdamW's names.
    #[serde(default = "defaults::optim")]
    pub optim: String,
    /// The rate at the end of the warm-up.
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// Passes over the data.
    #[serde(default = "defaults::num_train_epochs")]
    pub num_train_epochs: f64,
    /// Steps; overrides the number of passes where positive.
    #[serde(default = "defaults::max_steps")]
    pub max_steps: i64,
    /// `constant`, `constant_with_warmup`, `linear` or `cosine`.
    #[serde(default = "defaults::lr_scheduler_type")]
    pub lr_scheduler_type: String,
    /// Warm-up as a share of all steps.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// Warm-up in steps; overrides the share where positive. Below 1: a share of all steps.
    #[serde(default)]
    pub warmup_steps: f64,
    /// Decay of matrices and embeddings.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay of the first moment.
    #[serde(default = "defaults::adam_beta1")]
    pub adam_beta1: f64,
    /// Decay of the second moment.
    #[serde(default = "defaults::adam_beta2")]
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "defaults::adam_epsilon")]
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this norm; 0 leaves them.
    #[serde(default = "defaults::max_grad_norm")]
    pub max_grad_norm: f64,
    /// Seeds the split, the initial weights and dropout, and the order unless `data_seed` does.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
    /// Seeds the order.
    pub data_seed: Option<u64>,
    /// Rows are visited in file order.
    #[serde(default)]
    pub disable_shuffling: bool,
    /// Leave out the last micro-batch of an epoch where it is not full.
    #[serde(default)]
    pub dataloader_drop_last: bool,
    /// Matrix products in bf16 over f32 master weights.
    #[serde(default)]
    pub bf16: bool,
}

/// The keys of [`Recipe`].
const FIELDS: &[&str] = &[
    "model_name_or_path",
    "stage",
    "do_train",
    "do_eval",
    "finetuning_type",
    "train_from_scratch",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target",
    "use_rslora",
    "additional_target",
    "adapter_name_or_path",
    "create_new_adapter",
    "adapter_init",
    "dataset",
    "eval_dataset",
    "dataset_dir",
    "mix_strategy",
    "template",
    "cutoff_len",
    "on_overlong",
    "max_lost_answers",
    "train_on_prompt",
    "prompt_steps",
    "mask_history",
    "enable_thinking",
    "default_system",
    "max_samples",
    "preprocessing_batch_size",
    "packing",
    "neat_packing",
    "tokenized_path",
    "overwrite_cache",
    "val_size",
    "eval_strategy",
    "eval_steps",
    "per_device_eval_batch_size",
    "output_dir",
    "overwrite_output_dir",
    "logging_steps",
    "logging_strategy",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "save_only_model",
    "plot_loss",
    "resume_from_checkpoint",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "disable_gradient_checkpointing",
    "optim",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "seed",
    "data_seed",
    "disable_shuffling",
    "dataloader_drop_last",
    "bf16",
];

fn yes() -> bool {
    true
}

impl Recipe {
    /// Reads and checks a recipe, with `key=value` settings over it. Returns it with one line for
    /// each key that has no effect here.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown, unsupported or missing, or a value makes no
    /// sense; the message names the line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Self, Vec<String>), TrainError> {
        let text = std::fs::read_to_string(path).map_err(|error| TrainError::Io {
            path: path.to_owned(),
            error,
        })?;
        read::read(path, &text, overrides)
    }

    /// The course of the learning rate after the warm-up.
    ///
    /// # Errors
    /// The scheduler's name is unknown.
    pub fn decay(&self) -> Result<Decay, (&'static str, String)> {
        match self.lr_scheduler_type.as_str() {
            "constant" | "constant_with_warmup" => Ok(Decay::Constant),
            "linear" => Ok(Decay::Linear),
            "cosine" => Ok(Decay::Cosine),
            other => Err((
                "lr_scheduler_type",
                format!("expected constant, constant_with_warmup, linear or cosine, found {other}"),
            )),
        }
    }

    /// Warm-up steps of a run of `total_steps`; the plain constant rate has none.
    pub fn num_warmup_steps(&self, total_steps: usize) -> usize {
        if self.lr_scheduler_type == "constant" {
            0
        } else if self.warmup_steps >= 1.0 {
            self.warmup_steps as usize
        } else {
            let ratio = if self.warmup_steps > 0.0 {
                self.warmup_steps
            } else {
                self.warmup_ratio
            };
            (ratio * total_steps as f64).ceil() as usize
        }
    }

    /// Whether rows are packed, and if so whether they are kept apart.
    pub fn packs_apart(&self) -> Option<bool> {
        (self.neat_packing || self.packing == Some(true)).then_some(self.neat_packing)
    }

    /// When the validation rows are evaluated.
    pub fn strategy_of_evaluation(&self) -> Strategy {
        self.eval_strategy.unwrap_or(Strategy::No)
    }

    /// `lora_alpha`, by default twice the rank.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64)
    }

    /// A number of steps, which a value below 1 states as a share of all.
    pub fn steps(value: f64, total_steps: usize) -> usize {
        if value < 1.0 {
            (value * total_steps as f64).ceil() as usize
        } else {
            value as usize
        }
        .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "model_name_or_path: m\ndataset: a\ntemplate: qwen\noutput_dir: o\n";

    fn load(rest: &str, overrides: &[&str]) -> Result<(Recipe, Vec<String>), String> {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        let text = format!("{LEAST}{rest}");
        read::read(Path::new("r.yaml"), &text, &overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let (recipe, notes) = load("", &[]).unwrap();
        assert_eq!(recipe.finetuning_type, FinetuningType::Lora);
        assert_eq!((recipe.lora_rank, recipe.alpha()), (8, 16.0));
        assert_eq!((recipe.cutoff_len, recipe.learning_rate), (2048, 5e-5));
        assert_eq!(recipe.lora_target.0, ["all"]);
        assert!(notes.is_empty());
    }

    #[test]
    fn numbers_may_be_written_either_way_and_overridden() {
        let (recipe, _) = load("learning_rate: 1e-5\nwarmup_ratio: 1.0e-1\n", &[]).unwrap();
        assert_eq!((recipe.learning_rate, recipe.warmup_ratio), (1e-5, 0.1));
        let (recipe, _) = load("eval_strategy: no\nsave_strategy: \"no\"\n", &[]).unwrap();
        assert_eq!(recipe.strategy_of_evaluation(), Strategy::No);
        let (recipe, _) = load(
            "learning_rate: 1.0e-5\nresume_from_checkpoint: null\n",
            &["learning_rate=2e-5", "dataset=a,b", "bf16=true"],
        )
        .unwrap();
        assert_eq!(recipe.learning_rate, 2e-5);
        assert_eq!(recipe.dataset.0, ["a", "b"]);
        assert!(recipe.bf16);
        assert_eq!(recipe.resume_from_checkpoint, Resume::Auto);
    }

    #[test]
    fn keys_of_other_machines_are_noted_and_others_refused_by_name() {
        let (_, notes) = load(
            "deepspeed: z3.json\nflash_attn: fa2\nuse_dora: false\n",
            &[],
        )
        .unwrap();
        assert_eq!(notes.len(), 2);
        let error = load("use_dora: true\n", &[]).unwrap_err();
        assert!(error.contains("line 5: use_dora"), "{error}");
        let error = load("lora_rnk: 4\n", &[]).unwrap_err();
        assert!(
            error.contains("line 5") && error.contains("lora_rank"),
            "{error}"
        );
        let error = load("cutoff_len: many\n", &[]).unwrap_err();
        assert!(error.contains("line 5: cutoff_len"), "{error}");
        let error = load("finetuning_type: oft\n", &[]).unwrap_err();
        assert!(error.contains("finetuning_type"), "{error}");
        for (wrong, key) in [
            ("learning_rate: .nan\n", "learning_rate"),
            ("val_size: 0.1\neval_dataset: b\n", "val_size"),
            ("eval_strategy: steps\n", "eval_strategy"),
            (
                "gradient_accumulation_steps: 0\n",
                "gradient_accumulation_steps",
            ),
            (
                "train_on_prompt: true\nmask_history: true\n",
                "mask_history",
            ),
        ] {
            let error = load(wrong, &[]).unwrap_err();
            assert!(error.contains(key), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_field_is_a_known_key() {
        let (recipe, _) = load("", &[]).unwrap();
        let written = serde_json::to_value(&recipe).unwrap();
        let names: Vec<&str> = written
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, FIELDS);
    }
}
