//! Llama 2 and 3.x (and what calls itself so): the plain decoder, with Llama 3.1's rotary scaling.

use super::{Family, plain_decoder};
use crate::model::config::{Defaults, GgufConfig, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    gguf_architecture: Some("llama"),
    from_json,
    from_gguf,
    json_names: &names::HUGGING_FACE,
    gguf_names: &names::GGUF_INTERLEAVED,
};

/// [`DecoderSpec::family`].
const NAME: &str = "llama";

/// Of transformers' `LlamaConfig`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
};

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    config.must_be_off(&["attention_bias", "mlp_bias"])?;
    let dimensions = config.dimensions(&DEFAULTS)?;
    let rope = config.rope(&dimensions, &RopeSource::only(DEFAULTS.rope_theta))?;
    Ok(DecoderSpec {
        activation: config.activation("hidden_act", Activation::Silu)?,
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        ..plain_decoder(NAME, dimensions, rope)
    })
}

/// A Mistral in GGUF comes here too: the format knows no other name for it and stores no window,
/// so a model with one attends over everything, as in llama.cpp.
fn from_gguf(config: &GgufConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions()?;
    let rope = config.rope(&dimensions)?;
    Ok(DecoderSpec {
        tie_word_embeddings: config.has_tied_head(),
        ..plain_decoder(NAME, dimensions, rope)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{llama2, message, spec_of};
    use crate::model::RopeScaling;
    use serde_json::json;

    #[test]
    fn llama_2_needs_no_head_dim_and_no_theta() {
        let spec = spec_of(&llama2(), json!({})).unwrap();
        assert_eq!((spec.head_dim, spec.rope[0].theta), (128, 10000.0));
        assert_eq!(spec.attention_scale, (1.0 / 128f64.sqrt()) as f32);
        assert!(!spec.qkv_bias && !spec.tie_word_embeddings);
    }

    #[test]
    fn a_null_head_dim_is_hidden_over_heads() {
        let spec = spec_of(&llama2(), json!({"head_dim": null})).unwrap();
        assert_eq!(spec.head_dim, 128);
    }

    #[test]
    fn llama_3_scaling_needs_an_ordered_range() {
        let scaling = |low: f64, high: f64| {
            json!({"rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": low,
                "high_freq_factor": high, "original_max_position_embeddings": 8192,
            }})
        };
        let spec = spec_of(&llama2(), scaling(1.0, 4.0)).unwrap();
        assert!(matches!(spec.rope[0].scaling, RopeScaling::Llama3 { .. }));
        let text = message(spec_of(&llama2(), scaling(4.0, 4.0)));
        assert!(
            text.contains("high_freq_factor - low_freq_factor is 0"),
            "{text}"
        );
    }
}
