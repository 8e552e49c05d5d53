//! Phi-3, Phi-3.5 and Phi-4 (mini): fused projections, rotation of a part of each head, and
//! factors per frequency for long contexts.

use super::{Family, plain_decoder};
use crate::model::config::{Defaults, GgufConfig, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    gguf_architecture: Some("phi3"),
    from_json,
    from_gguf,
    json_names: &names::HUGGING_FACE_PHI3,
    gguf_names: &names::GGUF_PHI3,
};

/// [`DecoderSpec::family`].
const NAME: &str = "phi3";

/// Of transformers' `Phi3Config`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
};

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    config.must_be_off(&["attention_bias"])?;
    let dimensions = config.dimensions(&DEFAULTS)?;
    let rope = config.rope(
        &dimensions,
        &RopeSource {
            default_original: Some(DEFAULTS.max_position_embeddings),
            ..RopeSource::only(DEFAULTS.rope_theta)
        },
    )?;
    let window = config.count("sliding_window")?;
    Ok(DecoderSpec {
        activation: config.activation("hidden_act", Activation::Silu)?,
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        sliding_window: vec![window; dimensions.num_hidden_layers],
        ..plain_decoder(NAME, dimensions, rope)
    })
}

/// The window is honoured here although llama.cpp does not: it is part of the model.
fn from_gguf(config: &GgufConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions()?;
    let rope = config.rope(&dimensions)?;
    let window = config.count("attention.sliding_window")?;
    Ok(DecoderSpec {
        tie_word_embeddings: config.has_tied_head(),
        sliding_window: vec![window; dimensions.num_hidden_layers],
        ..plain_decoder(NAME, dimensions, rope)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{llama2, message, spec_of};
    use crate::model::{DecoderSpec, ModelError, RopeScaling};
    use serde_json::{Value, json};

    fn phi3(changes: Value) -> Result<DecoderSpec, ModelError> {
        let mut base = llama2();
        base["model_type"] = "phi3".into();
        base["architectures"] = json!(["Phi3ForCausalLM"]);
        base["original_max_position_embeddings"] = 4096.into();
        base["max_position_embeddings"] = 131072.into();
        spec_of(&base, changes)
    }

    /// Phi-4-mini: three quarters of 128 rotate, so 48 pairs.
    fn long(pairs: usize) -> Value {
        json!({
            "partial_rotary_factor": 0.75, "sliding_window": 262144,
            "rope_scaling": {
                "type": "longrope", "short_factor": vec![1.0; pairs], "long_factor": vec![8; pairs]
            }
        })
    }

    #[test]
    fn longrope_derives_its_attention_factor_from_the_lengths() {
        let spec = phi3(long(48)).unwrap();
        assert_eq!(spec.rope[0].rotary_dim, 96);
        let RopeScaling::LongRope {
            attention_factor,
            original_max_position_embeddings,
            ..
        } = &spec.rope[0].scaling
        else {
            panic!("{:?}", spec.rope[0]);
        };
        assert_eq!(*original_max_position_embeddings, 4096);
        assert_eq!(*attention_factor, (1.0 + 32f64.ln() / 4096f64.ln()).sqrt());
    }

    #[test]
    fn early_names_of_longrope_are_understood() {
        for name in ["su", "yarn"] {
            let mut changes = long(48);
            changes["rope_scaling"]["type"] = name.into();
            assert_eq!(phi3(changes).unwrap(), phi3(long(48)).unwrap(), "{name}");
        }
    }

    #[test]
    fn factors_must_be_one_per_pair() {
        let text = message(phi3(long(47)));
        assert!(text.contains("short_factor is a list of 47"), "{text}");
    }
}
