//! What a recipe's values must be, alone and together.

use super::{FinetuningType, Recipe, Strategy};

/// Optimisers of the reference that are plain AdamW.
const ADAMW: &[&str] = &["adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw"];

impl Recipe {
    /// The key that makes no sense, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let bad = |key, reason: &str| Err((key, reason.to_owned()));
        if self.stage != "sft" {
            return Err((
                "stage",
                format!("only sft is supported, found {}", self.stage),
            ));
        }
        if !self.do_train {
            return bad("do_train", "false leaves nothing to do");
        }
        if self.mix_strategy != "concat" {
            return bad(
                "mix_strategy",
                "several data sets are concatenated (concat)",
            );
        }
        if !ADAMW.contains(&self.optim.as_str()) {
            return Err((
                "optim",
                format!("the optimiser is AdamW, found {}", self.optim),
            ));
        }
        if self.dataset.0.is_empty() {
            return bad("dataset", "names no data set");
        }
        if self.train_on_prompt && self.mask_history {
            return bad("mask_history", "excludes train_on_prompt");
        }
        if self.prompt_steps > 0
            && (self.train_on_prompt || self.mask_history || self.packs_apart() == Some(false))
        {
            return bad(
                "prompt_steps",
                "excludes train_on_prompt, mask_history, and packing that does not keep rows apart",
            );
        }
        if self.val_size > 0.0 && !self.eval_dataset.0.is_empty() {
            return bad("val_size", "excludes eval_dataset");
        }
        if self.val_size >= 1.0 && (self.val_size.fract() != 0.0 || self.val_size == 1.0) {
            return bad(
                "val_size",
                "expected a share below 1 or a count of at least 2",
            );
        }
        if self.strategy_of_evaluation() != Strategy::No
            && self.val_size == 0.0
            && self.eval_dataset.0.is_empty()
        {
            return bad("eval_strategy", "needs val_size or eval_dataset");
        }
        if self.finetuning_type == FinetuningType::Full
            && !(self.adapter_name_or_path.0.is_empty() && self.additional_target.0.is_empty())
        {
            return bad("finetuning_type", "full trains no adapter; use lora");
        }
        if self.train_from_scratch && self.finetuning_type == FinetuningType::Lora {
            return bad(
                "train_from_scratch",
                "adapters need weights; set finetuning_type: full",
            );
        }
        if self.save_total_limit == Some(0) {
            return bad("save_total_limit", "keeps at least 1 checkpoint");
        }
        self.decay()?;
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), (&'static str, String)> {
        for (key, value) in [
            (
                "per_device_train_batch_size",
                self.per_device_train_batch_size,
            ),
            (
                "per_device_eval_batch_size",
                self.per_device_eval_batch_size,
            ),
            (
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps,
            ),
            ("preprocessing_batch_size", self.preprocessing_batch_size),
            ("cutoff_len", self.cutoff_len),
            ("lora_rank", self.lora_rank),
        ] {
            if value == 0 {
                return Err((key, "expected at least 1, found 0".into()));
            }
        }
        let not_negative = 0.0..=f64::MAX;
        let share = 0.0..=1.0;
        let below_one = 0.0..=1.0 - f64::EPSILON;
        let eval_steps = self.eval_steps.unwrap_or(1.0);
        for (key, value, range) in [
            ("learning_rate", self.learning_rate, &not_negative),
            ("weight_decay", self.weight_decay, &not_negative),
            ("max_grad_norm", self.max_grad_norm, &not_negative),
            ("adam_epsilon", self.adam_epsilon, &not_negative),
            ("adam_beta1", self.adam_beta1, &below_one),
            ("adam_beta2", self.adam_beta2, &below_one),
            ("warmup_ratio", self.warmup_ratio, &share),
            ("warmup_steps", self.warmup_steps, &not_negative),
            ("lora_dropout", self.lora_dropout, &below_one),
            ("max_lost_answers", self.max_lost_answers, &share),
            ("val_size", self.val_size, &not_negative),
        ] {
            if !range.contains(&value) {
                let (least, most) = (range.start(), range.end());
                let reason = format!("expected a number from {least} to {most}, found {value}");
                return Err((key, reason));
            }
        }
        for (key, value) in [
            ("logging_steps", self.logging_steps),
            ("save_steps", self.save_steps),
            ("eval_steps", eval_steps),
        ] {
            let is_count = value >= 1.0 && value.fract() == 0.0 && value < 1e15;
            if !(is_count || value > 0.0 && value < 1.0) {
                let reason =
                    format!("expected a number of steps or a share below 1, found {value}");
                return Err((key, reason));
            }
        }
        if self.max_steps <= 0 && !(self.num_train_epochs > 0.0 && self.num_train_epochs < 1e6) {
            let reason = format!(
                "expected a positive number, found {}",
                self.num_train_epochs
            );
            return Err(("num_train_epochs", reason));
        }
        if self.lora_alpha.is_some_and(|alpha| !alpha.is_finite()) {
            return Err(("lora_alpha", "expected a number".into()));
        }
        Ok(())
    }
}
