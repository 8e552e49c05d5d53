//! Mistral: the plain decoder with a sliding window in every layer.

use super::{Family, llama, plain_decoder};
use crate::model::config::{Defaults, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    gguf_architecture: None,
    from_json,
    from_gguf: llama::FAMILY.from_gguf,
    json_names: &names::HUGGING_FACE,
    gguf_names: &names::GGUF_INTERLEAVED,
};

/// [`DecoderSpec::family`].
const NAME: &str = "mistral";

/// Of transformers' `MistralConfig`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(8),
    head_dim: None,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-6,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
};
/// `sliding_window` of the same class where the key is absent; `null` means none.
const DEFAULT_SLIDING_WINDOW: usize = 4096;

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions(&DEFAULTS)?;
    let rope = config.rope(&dimensions, &RopeSource::only(DEFAULTS.rope_theta))?;
    let window = if config.has("sliding_window") {
        config.count("sliding_window")?
    } else {
        Some(DEFAULT_SLIDING_WINDOW)
    };
    Ok(DecoderSpec {
        activation: config.activation("hidden_act", Activation::Silu)?,
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        sliding_window: vec![window; dimensions.num_hidden_layers],
        ..plain_decoder(NAME, dimensions, rope)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{llama2, message, spec_of};
    use serde_json::{Value, json};

    fn windows(changes: Value) -> Vec<Option<usize>> {
        let mut base = llama2();
        base["model_type"] = "mistral".into();
        base["architectures"] = json!(["MistralForCausalLM"]);
        spec_of(&base, changes).unwrap().sliding_window
    }

    #[test]
    fn null_is_no_window_and_absence_is_the_default() {
        assert_eq!(windows(json!({"sliding_window": null})), [None; 32]);
        assert_eq!(windows(json!({})), [Some(4096); 32]);
        assert_eq!(windows(json!({"sliding_window": 8})), [Some(8); 32]);
    }

    #[test]
    fn a_window_of_zero_is_an_error() {
        let changes = json!({
            "model_type": "mistral", "architectures": null, "sliding_window": 0,
        });
        assert!(message(spec_of(&llama2(), changes)).contains("sliding_window is 0"));
    }
}
