//! The families, one file each: how a configuration becomes a [`DecoderSpec`] and what the
//! checkpoint calls each weight.
//!
//! To add one: a file here with a [`Family`], and a line in [`FAMILIES`].

mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;

use super::config::{Dimensions, GgufConfig, JsonConfig};
use super::names::TensorNames;
use super::{Activation, DecoderSpec, ModelError, RopeSpec};
use crate::formats::{Checkpoint, Source};

/// Every family.
const FAMILIES: &[&Family] = &[
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
];

/// One family of decoders.
pub(super) struct Family {
    /// `model_type` in `config.json`.
    model_type: &'static str,
    /// The class in `architectures` of `config.json`.
    architecture: &'static str,
    /// `general.architecture` in GGUF; `None` where GGUF stores the family under another's name.
    gguf_architecture: Option<&'static str>,
    /// Reads `config.json`.
    from_json: fn(&JsonConfig<'_>) -> Result<DecoderSpec, ModelError>,
    /// Reads GGUF metadata.
    from_gguf: fn(&GgufConfig<'_>) -> Result<DecoderSpec, ModelError>,
    /// Tensor names in a Hugging Face folder.
    json_names: &'static TensorNames,
    /// Tensor names in a GGUF file.
    gguf_names: &'static TensorNames,
}

/// What a checkpoint's configuration says: the decoder, and the names of its tensors.
pub(super) fn describe(
    checkpoint: &Checkpoint,
) -> Result<(DecoderSpec, &'static TensorNames), ModelError> {
    match checkpoint.source() {
        Source::HuggingFace { config, .. } => describe_json(&JsonConfig::new(config)?),
        Source::Gguf(metadata) => {
            let architecture = metadata.architecture()?;
            let family = FAMILIES
                .iter()
                .find(|family| family.gguf_architecture == Some(architecture))
                .ok_or_else(|| unknown(architecture))?;
            let config = GgufConfig::new(metadata, checkpoint, architecture);
            Ok(((family.from_gguf)(&config)?, family.gguf_names))
        }
    }
}

/// The decoder that a `config.json` describes, before any weight is looked at.
///
/// # Errors
/// The architecture is not supported, or a value makes no sense.
pub fn spec_from_config(config: &serde_json::Value) -> Result<DecoderSpec, ModelError> {
    spec_and_names(config).map(|(spec, _)| spec)
}

/// As [`spec_from_config`], with the names of the tensors.
pub(super) fn spec_and_names(
    config: &serde_json::Value,
) -> Result<(DecoderSpec, &'static TensorNames), ModelError> {
    let (spec, names) = describe_json(&JsonConfig::new(config)?)?;
    spec.validate()?;
    Ok((spec, names))
}

fn describe_json(
    config: &JsonConfig<'_>,
) -> Result<(DecoderSpec, &'static TensorNames), ModelError> {
    let family = family_of_json(config)?;
    if config.has("quantization_config") {
        let instead = "give the unquantised folder, or a GGUF file";
        return Err(config.unsupported("quantization_config", instead));
    }
    Ok(((family.from_json)(config)?, family.json_names))
}

/// The family by `model_type`, as transformers chooses it; `architectures`, where there, must
/// agree: a reward or classification head under the same `model_type` is no language model.
fn family_of_json(config: &JsonConfig<'_>) -> Result<&'static Family, ModelError> {
    let model_type = config.text("model_type")?;
    let architectures = config.texts("architectures")?.unwrap_or_default();
    let matches = |family: &&&Family| {
        model_type.is_none_or(|name| name == family.model_type)
            && (architectures.is_empty() || architectures.contains(&family.architecture))
    };
    if model_type.is_none() && architectures.is_empty() {
        return Err(unknown("(neither model_type nor architectures)"));
    }
    let found = FAMILIES.iter().find(matches);
    found.copied().ok_or_else(|| {
        let named = model_type.into_iter().chain(architectures);
        unknown(&named.collect::<Vec<_>>().join(" / "))
    })
}

fn unknown(found: &str) -> ModelError {
    let supported: Vec<String> = FAMILIES
        .iter()
        .map(|family| format!("{} ({})", family.model_type, family.architecture))
        .collect();
    ModelError::UnknownArchitecture {
        found: found.chars().take(200).collect(),
        supported: supported.join(", "),
    }
}

/// The decoder that most families vary: RMS norms, SiLU gate, full attention scaled by
/// `1 / sqrt(head_dim)`, one rotary embedding, no biases, caps or extra norms.
///
/// The number of layers was checked where it was read, so the tables per layer are small.
fn plain_decoder(family: &'static str, dimensions: Dimensions, rope: RopeSpec) -> DecoderSpec {
    DecoderSpec {
        family,
        vocab_size: dimensions.vocab_size,
        hidden_size: dimensions.hidden_size,
        intermediate_size: dimensions.intermediate_size,
        num_hidden_layers: dimensions.num_hidden_layers,
        num_attention_heads: dimensions.num_attention_heads,
        num_key_value_heads: dimensions.num_key_value_heads,
        head_dim: dimensions.head_dim,
        max_position_embeddings: rope.context_length(dimensions.max_position_embeddings),
        rms_norm_eps: dimensions.rms_norm_eps,
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
        activation: Activation::Silu,
        embedding_scale: 1.0,
        attention_scale: (1.0 / (dimensions.head_dim as f64).sqrt()) as f32,
        attention_soft_cap: None,
        logit_soft_cap: None,
        tie_word_embeddings: false,
        sliding_window: vec![None; dimensions.num_hidden_layers],
        rope: vec![rope],
        layer_rope: vec![0; dimensions.num_hidden_layers],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LayerWeight, RopeScaling};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The specification of a configuration that is `base` with the keys of `changes`.
    pub(super) fn spec_of(base: &Value, changes: Value) -> Result<DecoderSpec, ModelError> {
        let mut config = base.clone();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let (spec, _) = describe_json(&JsonConfig::new(&config)?)?;
        spec.validate()?;
        Ok(spec)
    }

    pub(super) fn message(result: Result<DecoderSpec, ModelError>) -> String {
        result.unwrap_err().to_string()
    }

    /// Llama-2-7B's, without what its config.json leaves out.
    pub(super) fn llama2() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": null,
            "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 32000
        })
    }

    #[test]
    fn the_names_of_every_family_cover_its_decoder() {
        let base = llama2();
        for family in FAMILIES {
            let spec = spec_of(
                &base,
                json!({"model_type": family.model_type, "architectures": [family.architecture]}),
            );
            let spec = spec.unwrap();
            for names in [family.json_names, family.gguf_names] {
                let named: Vec<_> = names
                    .layer
                    .iter()
                    .flat_map(|(_, weights)| *weights)
                    .collect();
                for weight in LayerWeight::ALL {
                    let count = named.iter().filter(|named| ***named == weight).count();
                    assert!(
                        count <= 1 && (count == 1 || !weight.is_in(&spec)),
                        "{weight:?}"
                    );
                }
                for (part, weights) in names.layer {
                    let first = weights[0];
                    let alike = |w: &LayerWeight| {
                        w.shape(&spec).1 == first.shape(&spec).1
                            && w.is_vector() == first.is_vector()
                    };
                    assert!(weights.iter().all(alike), "{part} stacks rows of one width");
                }
            }
        }
    }

    #[test]
    fn an_unknown_architecture_lists_the_known_ones() {
        let changes = json!({"model_type": "mamba", "architectures": ["MambaForCausalLM"]});
        let text = message(spec_of(&llama2(), changes));
        assert!(text.starts_with("unknown architecture mamba / MambaForCausalLM; supported are"));
        assert!(
            text.contains("qwen2 (Qwen2ForCausalLM)") && text.contains("phi3"),
            "{text}"
        );
    }

    #[test]
    fn a_reward_head_is_no_language_model() {
        let changes = json!({"architectures": ["LlamaForSequenceClassification"]});
        assert!(message(spec_of(&llama2(), changes)).starts_with("unknown architecture"));
    }

    #[test]
    fn either_name_of_the_architecture_is_enough() {
        let spec = spec_of(&llama2(), json!({"architectures": null})).unwrap();
        assert_eq!(
            spec,
            spec_of(&llama2(), json!({"model_type": null})).unwrap()
        );
    }

    #[test]
    fn a_quantised_folder_is_refused_with_a_way_out() {
        let changes = json!({"quantization_config": {"quant_method": "gptq"}});
        let text = message(spec_of(&llama2(), changes));
        assert!(
            text.contains("quantization_config") && text.contains("GGUF"),
            "{text}"
        );
    }

    #[test]
    fn hostile_sizes_are_named() {
        let cases = [
            (
                json!({"num_attention_heads": 0}),
                "num_attention_heads is 0",
            ),
            (
                json!({"num_key_value_heads": 5}),
                "num_attention_heads is 32, expected a multiple",
            ),
            (json!({"hidden_size": 4097}), "hidden_size is 4097"),
            (json!({"hidden_size": -1}), "hidden_size is -1"),
            (json!({"hidden_size": "4096"}), "hidden_size is \"4096\""),
            (
                json!({"num_hidden_layers": 1u64 << 40}),
                "num_hidden_layers is 1099511627776",
            ),
            (
                json!({"num_hidden_layers": 1 << 20}),
                "num_hidden_layers is 1048576",
            ),
            (json!({"vocab_size": null}), "vocab_size is missing"),
            (json!({"rms_norm_eps": -1.0}), "rms_norm_eps is -1.0"),
            (json!({"rms_norm_eps": 1e-60}), "rms_norm_eps is 0"),
            (json!({"rope_theta": 0.5}), "rope_theta is 0.5"),
            (json!({"rope_theta": 1e300}), "rope_theta is 1"),
            (json!({"head_dim": 3}), "rotary_dim is 3"),
            (
                json!({"hidden_act": "relu"}),
                "hidden_act = \"relu\" is not supported",
            ),
            (
                json!({"attention_bias": true}),
                "attention_bias = true is not supported",
            ),
            (
                json!({"rope_scaling": 3}),
                "rope_scaling is 3, expected an object",
            ),
            (
                json!({"rope_scaling": {"rope_type": "mrope"}}),
                "rope_scaling.rope_type = \"mrope\"",
            ),
            (
                json!({"rope_scaling": {"type": "linear"}}),
                "rope_scaling.factor is missing",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 0}}),
                "rope_scaling.factor is 0",
            ),
        ];
        for (changes, expected) in cases {
            let text = message(spec_of(&llama2(), changes));
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }

    #[test]
    fn scalings_are_read_in_both_spellings() {
        let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}});
        let new = json!({
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}
        });
        let spec = spec_of(&llama2(), old).unwrap();
        assert_eq!(spec.rope[0].scaling, RopeScaling::Linear { factor: 4.0 });
        assert_eq!(spec, spec_of(&llama2(), new).unwrap());
    }

    #[test]
    fn yarn_defaults_are_transformers() {
        let changes = json!({
            "max_position_embeddings": 32768,
            "rope_scaling": {
                "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768
            }
        });
        let spec = spec_of(&llama2(), changes).unwrap();
        assert_eq!(spec.max_position_embeddings, 4 * 32768);
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32768,
            beta_slow: 1.0,
            beta_fast: 32.0,
            truncate: true,
            attention_factor: 0.1 * 4f64.ln() + 1.0,
        };
        assert_eq!(spec.rope[0].scaling, expected);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0i64..70).prop_map(Value::from),
            any::<f64>().prop_map(|x| json!(x)),
            "[a-z_0-9]{0,12}".prop_map(Value::from),
            prop::collection::vec((0i64..9).prop_map(Value::from), 0..4).prop_map(Value::from),
            prop_oneof!["linear", "yarn", "llama3", "longrope", "su", "dynamic"]
                .prop_map(|kind| json!({"type": kind, "factor": 2, "short_factor": [1]})),
        ]
    }

    proptest! {
        /// Whatever a configuration says, it becomes a valid decoder or an error; and a valid
        /// decoder's rotary tables are finite.
        #[test]
        fn no_configuration_panics(
            family in 0..FAMILIES.len(),
            changes in prop::collection::vec((0usize..22, any_value()), 0..4),
        ) {
            const KEYS: [&str; 22] = [
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
                "max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters",
                "layer_types", "sliding_window", "use_sliding_window", "max_window_layers",
                "sliding_window_pattern", "query_pre_attn_scalar", "rope_local_base_freq",
                "partial_rotary_factor", "original_max_position_embeddings", "hidden_act",
            ];
            let family = FAMILIES[family];
            let mut config = json!({
                "model_type": family.model_type, "architectures": [family.architecture],
            });
            for (key, value) in changes {
                config[KEYS[key]] = value;
            }
            if let Ok(spec) = spec_of(&llama2(), config) {
                for rope in &spec.rope {
                    let rope = crate::model::Rope::new(rope, spec.max_position_embeddings);
                    prop_assert!(rope.inverse_frequencies().iter().all(|f| f.is_finite()));
                }
            }
        }
    }
}
