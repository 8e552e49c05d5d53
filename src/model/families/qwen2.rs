//! Qwen2 and Qwen2.5 (and distillations into them): biases on q, k and v.

use super::{Family, plain_decoder};
use crate::model::config::{Defaults, GgufConfig, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    gguf_architecture: Some("qwen2"),
    from_json,
    from_gguf,
    json_names: &names::HUGGING_FACE,
    gguf_names: &names::GGUF,
};

/// [`DecoderSpec::family`].
const NAME: &str = "qwen2";

/// Of transformers' `Qwen2Config`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(32),
    head_dim: None,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
};
/// `max_window_layers` of the same class.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions(&DEFAULTS)?;
    let rope = config.rope(&dimensions, &RopeSource::only(DEFAULTS.rope_theta))?;
    Ok(DecoderSpec {
        qkv_bias: true,
        activation: config.activation("hidden_act", Activation::Silu)?,
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        sliding_window: windows(config, dimensions.num_hidden_layers)?,
        ..plain_decoder(NAME, dimensions, rope)
    })
}

/// Windows as Qwen states them: only where `use_sliding_window` is on, and only in layers from
/// `max_window_layers` on.
pub(super) fn windows(
    config: &JsonConfig<'_>,
    num_hidden_layers: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    let in_use = config.boolean("use_sliding_window")? == Some(true);
    let window = if in_use {
        config.count("sliding_window")?
    } else {
        None
    };
    let first = config
        .count_or_zero("max_window_layers")?
        .unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    config.layer_windows(num_hidden_layers, window, |layer| layer >= first)
}

fn from_gguf(config: &GgufConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions()?;
    let rope = config.rope(&dimensions)?;
    Ok(DecoderSpec {
        qkv_bias: true,
        tie_word_embeddings: config.has_tied_head(),
        ..plain_decoder(NAME, dimensions, rope)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{llama2, message, spec_of};
    use crate::model::DecoderSpec;
    use serde_json::{Value, json};

    fn qwen2(changes: Value) -> DecoderSpec {
        let mut base = llama2();
        base["model_type"] = "qwen2".into();
        base["architectures"] = json!(["Qwen2ForCausalLM"]);
        spec_of(&base, changes).unwrap()
    }

    #[test]
    fn a_window_that_is_not_in_use_is_none() {
        let spec = qwen2(json!({"sliding_window": 131072, "max_window_layers": 28}));
        assert!(spec.qkv_bias && spec.sliding_window.iter().all(Option::is_none));
    }

    #[test]
    fn a_window_begins_at_max_window_layers() {
        let window = json!({
            "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 30
        });
        let spec = qwen2(window);
        assert_eq!(spec.sliding_window[29..], [None, Some(64), Some(64)]);
    }

    #[test]
    fn layer_types_decide_where_they_are_given() {
        let mut types = vec!["full_attention"; 32];
        types[3] = "sliding_attention";
        let changes = json!({
            "use_sliding_window": true, "sliding_window": 64, "max_window_layers": 0,
            "layer_types": types,
        });
        let windows = qwen2(changes).sliding_window;
        assert_eq!(windows.iter().flatten().count(), 1);
        assert_eq!(windows[3], Some(64));
    }

    #[test]
    fn sliding_layers_without_a_window_are_an_error() {
        let changes = json!({
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
            "layer_types": vec!["sliding_attention"; 32],
        });
        let text = message(spec_of(&llama2(), changes));
        assert!(text.contains("layer_types is sliding_attention"), "{text}");
    }
}
