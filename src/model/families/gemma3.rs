//! Gemma 3 (text): norms around attention and MLP that store `weight - 1`, norms on query and key
//! heads, scaled embeddings, and local layers with a window and a rotary base of their own.

use super::{Family, plain_decoder};
use crate::model::config::{Defaults, GgufConfig, JsonConfig, RopeSource};
use crate::model::names;
use crate::model::{Activation, DecoderSpec, ModelError, RopeScaling, RopeSpec};

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    gguf_architecture: Some("gemma3"),
    from_json,
    from_gguf,
    json_names: &names::HUGGING_FACE_GEMMA3,
    gguf_names: &names::GGUF_GEMMA3,
};

/// [`DecoderSpec::family`].
const NAME: &str = "gemma3";

/// Of transformers' `Gemma3TextConfig`.
const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    tie_word_embeddings: true,
};
const DEFAULT_QUERY_PRE_ATTN_SCALAR: f64 = 256.0;
const DEFAULT_SLIDING_WINDOW: usize = 4096;
/// Every sixth layer is global. GGUF does not store it.
const DEFAULT_PATTERN: usize = 6;
const DEFAULT_LOCAL_THETA: f64 = 10000.0;
/// The one size whose attention scale is not that of its head size; GGUF does not store the scale.
const LAYERS_OF_27B: usize = 62;

const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn from_json(config: &JsonConfig<'_>) -> Result<DecoderSpec, ModelError> {
    config.must_be_off(&["attention_bias", "use_bidirectional_attention"])?;
    let dimensions = config.dimensions(&DEFAULTS)?;
    let num_hidden_layers = dimensions.num_hidden_layers;
    let global = config.rope(
        &dimensions,
        &RopeSource {
            layer_type: Some("full_attention"),
            ..RopeSource::only(DEFAULTS.rope_theta)
        },
    )?;
    let local = config.rope(
        &dimensions,
        &RopeSource {
            layer_type: Some("sliding_attention"),
            theta_key: "rope_local_base_freq",
            scaled: false,
            ..RopeSource::only(DEFAULT_LOCAL_THETA)
        },
    )?;
    let window = config
        .count("sliding_window")?
        .unwrap_or(DEFAULT_SLIDING_WINDOW);
    let pattern = match config.count("sliding_window_pattern")? {
        Some(pattern) => pattern,
        None => config
            .count("_sliding_window_pattern")?
            .unwrap_or(DEFAULT_PATTERN),
    };
    let windows = config.layer_windows(num_hidden_layers, Some(window), |layer| {
        is_local(layer, pattern)
    })?;
    let scalar = config
        .positive("query_pre_attn_scalar")?
        .unwrap_or(DEFAULT_QUERY_PRE_ATTN_SCALAR);
    Ok(DecoderSpec {
        activation: config.activation("hidden_activation", Activation::GeluTanh)?,
        attention_scale: (1.0 / scalar.sqrt()) as f32,
        attention_soft_cap: config.positive("attn_logit_softcapping")?.map(|x| x as f32),
        logit_soft_cap: config
            .positive("final_logit_softcapping")?
            .map(|x| x as f32),
        tie_word_embeddings: config.tied(&DEFAULTS)?,
        ..gemma_decoder(plain_decoder(NAME, dimensions, global), local, windows)
    })
}

fn is_local(layer: usize, pattern: usize) -> bool {
    !(layer + 1).is_multiple_of(pattern)
}

/// What every Gemma 3 has, whatever the checkpoint's format.
fn gemma_decoder(
    plain: DecoderSpec,
    local: RopeSpec,
    sliding_window: Vec<Option<usize>>,
) -> DecoderSpec {
    let mut rope = plain.rope;
    rope.push(local);
    let rope_of = |window: &Option<usize>| if window.is_some() { LOCAL } else { GLOBAL };
    DecoderSpec {
        qk_norm: true,
        post_norms: true,
        activation: Activation::GeluTanh,
        embedding_scale: (plain.hidden_size as f64).sqrt() as f32,
        layer_rope: sliding_window.iter().map(rope_of).collect(),
        sliding_window,
        rope,
        ..plain
    }
}

fn from_gguf(config: &GgufConfig<'_>) -> Result<DecoderSpec, ModelError> {
    let dimensions = config.dimensions()?;
    let global = config.rope(&dimensions)?;
    let local = RopeSpec {
        theta: config
            .positive("rope.freq_base_swa")?
            .unwrap_or(DEFAULT_LOCAL_THETA),
        rotary_dim: global.rotary_dim,
        scaling: RopeScaling::None,
    };
    let window = config.count("attention.sliding_window")?;
    let windows = (0..dimensions.num_hidden_layers)
        .map(|layer| window.filter(|_| is_local(layer, DEFAULT_PATTERN)))
        .collect();
    let scalar = if dimensions.num_hidden_layers == LAYERS_OF_27B {
        dimensions.hidden_size as f64 / dimensions.num_attention_heads as f64
    } else {
        dimensions.head_dim as f64
    };
    Ok(DecoderSpec {
        attention_scale: (1.0 / scalar.sqrt()) as f32,
        logit_soft_cap: config
            .positive("final_logit_softcapping")?
            .map(|x| x as f32),
        tie_word_embeddings: config.has_tied_head(),
        ..gemma_decoder(plain_decoder(NAME, dimensions, global), local, windows)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{llama2, message, spec_of};
    use crate::model::{Activation, RopeScaling};
    use serde_json::{Value, json};

    fn gemma3() -> Value {
        json!({
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
            "hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4,
            "num_hidden_layers": 26, "num_key_value_heads": 1, "sliding_window": 512,
            "vocab_size": 262144
        })
    }

    #[test]
    fn the_sparse_configuration_of_gemma_3_1b_is_complete() {
        let spec = spec_of(&gemma3(), json!({})).unwrap();
        assert_eq!((spec.head_dim, spec.max_position_embeddings), (256, 131072));
        assert_eq!((spec.rope[0].theta, spec.rope[1].theta), (1e6, 10000.0));
        assert_eq!(spec.sliding_window[4..7], [Some(512), None, Some(512)]);
        assert_eq!(spec.layer_rope[4..7], [1, 0, 1]);
        assert_eq!(spec.attention_scale, 1.0 / 16.0);
        assert_eq!(spec.embedding_scale, (1152f64.sqrt()) as f32);
        assert_eq!(spec.activation, Activation::GeluTanh);
        assert!(spec.tie_word_embeddings && spec.post_norms && spec.qk_norm);
    }

    #[test]
    fn scaling_is_for_global_layers_in_both_spellings() {
        let old = json!({
            "rope_theta": 1e6, "rope_local_base_freq": 5000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}
        });
        let new = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        }});
        let spec = spec_of(&gemma3(), old).unwrap();
        assert_eq!(spec.rope[0].scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!(spec.rope[1].scaling, RopeScaling::None);
        assert_eq!(spec.rope[1].theta, 5000.0);
        assert_eq!(spec, spec_of(&gemma3(), new).unwrap());
    }

    #[test]
    fn caps_and_scales_are_read() {
        let changes = json!({
            "query_pre_attn_scalar": 64, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30, "sliding_window_pattern": 2
        });
        let spec = spec_of(&gemma3(), changes).unwrap();
        assert_eq!(spec.attention_scale, 0.125);
        assert_eq!(spec.attention_soft_cap, Some(50.0));
        assert_eq!(spec.logit_soft_cap, Some(30.0));
        assert_eq!(spec.sliding_window.iter().flatten().count(), 13);
    }

    #[test]
    fn bidirectional_attention_is_refused() {
        let text = message(spec_of(
            &gemma3(),
            json!({"use_bidirectional_attention": true}),
        ));
        assert!(text.contains("use_bidirectional_attention"), "{text}");
        assert_ne!(gemma3(), llama2());
    }
}
