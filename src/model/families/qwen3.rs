//! Qwen3 (dense): Qwen2 without biases, with a norm on every query and key head.

use super::{Family, plain_decoder, qwen2};
use crate::model::config::{Defaults, GgufConfig, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    gguf_architecture: Some("qwen3"),
    from_json,
    from_gguf,
    json_names: &names::HUGGING_FACE,
    gguf_names: &names::GGUF,
};

/// [`DecoderSpec::family`].
const NAME: &str = "qwen3";

/// Of transformers' `Qwen3Config`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
};

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    config.must_be_off(&["attention_bias"])?;
    let dimensions = config.dimensions(&DEFAULTS)?;
    let rope = config.rope(&dimensions, &RopeSource::only(DEFAULTS.rope_theta))?;
    Ok(DecoderSpec {
        qk_norm: true,
        activation: config.activation("hidden_act", Activation::Silu)?,
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        sliding_window: qwen2::windows(config, dimensions.num_hidden_layers)?,
        ..plain_decoder(NAME, dimensions, rope)
    })
}

fn from_gguf(config: &GgufConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions()?;
    let rope = config.rope(&dimensions)?;
    Ok(DecoderSpec {
        qk_norm: true,
        tie_word_embeddings: config.has_tied_head(),
        ..plain_decoder(NAME, dimensions, rope)
    })
}
