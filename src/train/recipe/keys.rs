//! What LLaMA-Factory's keys mean here: read, without effect on one machine, or refused.
//!
//! A key that is in none of these lists and is no field of [`super::Recipe`] is unknown.

use serde_json::Value;

/// Keys that change nothing here, each with the reason that is printed when a recipe has it.
pub(super) const NOTED: &[(&str, &str)] = &[
    ("deepspeed", "one process holds the whole model"),
    ("fsdp", "one process holds the whole model"),
    ("fsdp_config", "one process holds the whole model"),
    ("ddp_timeout", "one process has nobody to wait for"),
    (
        "ddp_find_unused_parameters",
        "one process has nobody to wait for",
    ),
    ("local_rank", "there is one process"),
    (
        "flash_attn",
        "attention never keeps its probabilities, whatever is asked for",
    ),
    (
        "enable_liger_kernel",
        "layers are fused already; the results are the reference's",
    ),
    ("use_unsloth", "the results are the reference's"),
    ("use_unsloth_gc", "the results are the reference's"),
    (
        "preprocessing_num_workers",
        "rows are tokenised on all cores",
    ),
    ("dataloader_num_workers", "batches are made in no time"),
    ("dataloader_pin_memory", "batches are made in no time"),
    ("cache_dir", "nothing is downloaded"),
    ("report_to", "nothing is uploaded; the log files are local"),
    ("run_name", "nothing is uploaded; the log files are local"),
    ("use_cpu", "training runs on the CPU"),
    ("trust_remote_code", "code of a model is never run"),
    ("use_fast_tokenizer", "there is one tokenizer"),
    ("low_cpu_mem_usage", "weights are mapped, not copied twice"),
    ("save_safetensors", "files are always safetensors"),
    ("include_num_input_tokens_seen", "tokens are always counted"),
    ("log_level", "set RUST_LOG"),
    ("push_to_hub", "nothing is uploaded"),
    ("infer_backend", "training does not infer"),
    ("upcast_layernorm", "norms are always computed in float32"),
    (
        "upcast_lmhead_output",
        "the loss is always computed in float32",
    ),
    ("remove_unused_columns", "unused columns are not read"),
];

/// Keys whose effect is not offered, with what is said when a recipe asks for it. A value that
/// asks for nothing (false, zero, an empty text) is accepted.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("fp16", "use bf16, or neither for float32"),
    (
        "pure_bf16",
        "without float32 master weights small updates vanish; use bf16",
    ),
    ("use_dora", "DoRA is not supported; use plain LoRA"),
    ("pissa_init", "LoRA starts from random A and zero B only"),
    ("pissa_convert", "LoRA starts from random A and zero B only"),
    ("loraplus_lr_ratio", "A and B train at the same rate"),
    ("use_galore", "the optimiser is AdamW"),
    ("use_apollo", "the optimiser is AdamW"),
    ("use_badam", "the optimiser is AdamW"),
    ("use_adam_mini", "the optimiser is AdamW"),
    ("use_muon", "the optimiser is AdamW"),
    ("use_llama_pro", "layers are not added"),
    (
        "quantization_bit",
        "base weights are not quantised in training",
    ),
    (
        "quantization_method",
        "base weights are not quantised in training",
    ),
    ("neftune_noise_alpha", "embeddings get no noise"),
    ("rope_scaling", "set it in the model's config.json"),
    ("shift_attn", "attention is not shifted"),
    ("mixture_of_depths", "every token passes every layer"),
    ("resize_vocab", "the vocabulary keeps its size"),
    ("new_special_tokens", "the vocabulary keeps its size"),
    ("add_tokens", "the vocabulary keeps its size"),
    ("streaming", "data sets are read whole"),
    ("interleave_probs", "several data sets are concatenated"),
    ("tool_format", "rows with tool calls are not supported"),
    ("group_by_length", "rows are visited in the seed's order"),
    ("load_best_model_at_end", "the last weights are the result"),
    ("predict_with_generate", "evaluate with micota eval"),
    ("do_predict", "evaluate with micota eval"),
    ("label_smoothing_factor", "the loss is plain cross-entropy"),
    ("use_dft_loss", "the loss is plain cross-entropy"),
    ("train_mm_proj_only", "models read text only"),
    ("ref_model", "only supervised fine-tuning is supported"),
    ("reward_model", "only supervised fine-tuning is supported"),
];

/// Whether a refused key's value asks for nothing.
pub(super) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "none"),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}
