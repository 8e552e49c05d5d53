//! Values of keys that a recipe leaves out, as LLaMA-Factory has them.

use std::path::PathBuf;

use super::{FinetuningType, List, Overlong, Resume, Strategy};

pub(super) fn stage() -> String {
    "sft".into()
}

pub(super) fn finetuning_type() -> FinetuningType {
    FinetuningType::Lora
}

pub(super) fn lora_rank() -> usize {
    8
}

pub(super) fn lora_target() -> List {
    List(vec!["all".into()])
}

pub(super) fn dataset_dir() -> PathBuf {
    "data".into()
}

pub(super) fn mix_strategy() -> String {
    "concat".into()
}

pub(super) fn cutoff_len() -> usize {
    2048
}

pub(super) fn on_overlong() -> Overlong {
    Overlong::Cut
}

pub(super) fn max_lost_answers() -> f64 {
    0.5
}

pub(super) fn preprocessing_batch_size() -> usize {
    1000
}

pub(super) fn per_device_eval_batch_size() -> usize {
    8
}

pub(super) fn logging_steps() -> f64 {
    500.0
}

pub(super) fn logging_strategy() -> Strategy {
    Strategy::Steps
}

pub(super) fn save_steps() -> f64 {
    500.0
}

pub(super) fn save_strategy() -> Strategy {
    Strategy::Steps
}

pub(super) fn resume_from_checkpoint() -> Resume {
    Resume::Auto
}

pub(super) fn per_device_train_batch_size() -> usize {
    8
}

pub(super) fn gradient_accumulation_steps() -> usize {
    1
}

pub(super) fn optim() -> String {
    "adamw_torch".into()
}

pub(super) fn learning_rate() -> f64 {
    5e-5
}

pub(super) fn num_train_epochs() -> f64 {
    3.0
}

pub(super) fn max_steps() -> i64 {
    -1
}

pub(super) fn lr_scheduler_type() -> String {
    "linear".into()
}

pub(super) fn adam_beta1() -> f64 {
    0.9
}

pub(super) fn adam_beta2() -> f64 {
    0.999
}

pub(super) fn adam_epsilon() -> f64 {
    1e-8
}

pub(super) fn max_grad_norm() -> f64 {
    1.0
}

pub(super) fn seed() -> u64 {
    42
}
