//! Reading configurations: `config.json` and GGUF metadata through getters whose errors name the
//! key, and the numbers that every family has.

mod gguf;
mod json;
mod rope;

pub(super) use gguf::GgufConfig;
pub(super) use json::JsonConfig;
pub(super) use rope::RopeSource;

/// The sizes that every decoder has. Names follow Hugging Face.
#[derive(Clone, Debug)]
pub(super) struct Dimensions {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) head_dim: usize,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f32,
}

/// What a family's configuration class in transformers assumes for absent keys.
pub(super) struct Defaults {
    /// `None`: as many as query heads.
    pub(super) num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) tie_word_embeddings: bool,
}
