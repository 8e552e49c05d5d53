//! The metadata of a GGUF file, from a folder's JSON files.
//!
//! Keys, types and order are those of llama.cpp's converter; `general.name` and
//! `general.size_label` inform only.

use serde_json::{Map, Value};

use super::config::Config;
use super::options::FileType;
use super::{ConvertError, Family};
use crate::formats::GgufValue;

/// Version of ggml's block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

// Values that transformers takes where config.json is silent.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
const GEMMA3_ROPE_THETA: f64 = 1_000_000.0;
const GEMMA3_LOCAL_ROPE_THETA: f64 = 10_000.0;
const GEMMA3_SLIDING_WINDOW: u32 = 4096;
const PHI3_ORIGINAL_CONTEXT: u32 = 4096;

/// Keys and values in file order.
pub(super) type Pairs = Vec<(String, GgufValue)>;

/// Appends values under an architecture's prefix.
struct Keys<'a> {
    pairs: &'a mut Pairs,
    prefix: &'static str,
}

impl Keys<'_> {
    fn u32(&mut self, key: &str, value: u32) {
        self.put(key, GgufValue::U32(value));
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.put(key, GgufValue::F32(value as f32));
    }

    fn put(&mut self, key: &str, value: GgufValue) {
        self.pairs.push((format!("{}.{key}", self.prefix), value));
    }
}

/// What stands before the model's own keys.
pub(super) fn general(
    family: Family,
    name: &str,
    num_parameters: u64,
    generation_config: Option<&Value>,
    overrides: &Map<String, Value>,
) -> Pairs {
    let text = |value: &str| GgufValue::String(value.to_owned());
    let mut pairs: Pairs = vec![
        ("general.architecture".to_owned(), text(family.gguf_name())),
        ("general.type".to_owned(), text("model")),
    ];
    sampling(generation_config, &mut pairs);
    pairs.push(("general.name".to_owned(), text(name)));
    if num_parameters > 0 {
        let label = size_label(num_parameters);
        pairs.push(("general.size_label".to_owned(), GgufValue::String(label)));
    }
    for (key, value) in overrides {
        let Some(value) = value.as_str().map(text) else {
            continue;
        };
        match pairs.iter_mut().find(|(own, _)| own == key) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key.clone(), value)),
        }
    }
    pairs
}

/// The sampling settings that generation_config.json recommends.
fn sampling(generation_config: Option<&Value>, pairs: &mut Pairs) {
    const SETTINGS: &[(&str, &str, bool)] = &[
        // key in generation_config.json, key in GGUF, whether it is an integer
        ("top_k", "top_k", true),
        ("top_p", "top_p", false),
        ("min_p", "min_p", false),
        ("xtc_probability", "xtc_probability", false),
        ("xtc_threshold", "xtc_threshold", false),
        ("temperature", "temp", false),
        ("penalty_last_n", "penalty_last_n", true),
        ("penalty_repeat", "penalty_repeat", false),
        ("mirostat", "mirostat", true),
        ("mirostat_tau", "mirostat_tau", false),
        ("mirostat_eta", "mirostat_eta", false),
    ];
    let Some(config) = generation_config else {
        return;
    };
    for (key, gguf_key, is_integer) in SETTINGS {
        let Some(value) = config.get(key) else {
            continue;
        };
        let value = if *is_integer {
            let integer = value.as_i64().and_then(|value| i32::try_from(value).ok());
            integer.map(GgufValue::I32)
        } else {
            value.as_f64().map(|value| GgufValue::F32(value as f32))
        };
        if let Some(value) = value {
            pairs.push((format!("general.sampling.{gguf_key}"), value));
        }
    }
}

/// Two digits at least: 494032768 is `494M`, 1543714304 is `1.5B`.
pub(super) fn size_label(num_parameters: u64) -> String {
    let count = num_parameters as f64;
    let (scaled, suffix) = match count {
        count if count > 1e12 => (count * 1e-12, 'T'),
        count if count > 1e9 => (count * 1e-9, 'B'),
        count if count > 1e6 => (count * 1e-6, 'M'),
        count => (count * 1e-3, 'K'),
    };
    let rounded = scaled.round_ties_even();
    let digits = if rounded < 1.0 {
        0
    } else {
        rounded.log10() as usize + 1
    };
    format!("{scaled:.*}{suffix}", 2_usize.saturating_sub(digits))
}

/// The model's own keys.
pub(super) fn model(
    family: Family,
    config: &Config<'_>,
    file_type: FileType,
    pairs: &mut Pairs,
) -> Result<(), ConvertError> {
    let mut keys = Keys {
        pairs,
        prefix: family.gguf_name(),
    };
    if family == Family::Phi3 {
        phi3(config, file_type, &mut keys)?;
    } else {
        common(family, config, file_type, &mut keys)?;
    }
    match family {
        Family::Llama | Family::Mistral => {
            keys.u32("vocab_size", config.u32("vocab_size")?);
            keys.u32("rope.dimension_count", config.head_dim()?);
        }
        Family::Gemma3 => {
            if let Some(cap) = config.find_f64("final_logit_softcapping")?
                && cap != 0.0
            {
                keys.f32("final_logit_softcapping", cap);
            }
            if config.find_u32("sliding_window_pattern")? != Some(1) {
                let window = config.find_u32("sliding_window")?;
                let window = window.unwrap_or(GEMMA3_SLIDING_WINDOW);
                keys.u32("attention.sliding_window", window);
            }
        }
        Family::Qwen2 | Family::Qwen3 | Family::Phi3 => {}
    }
    let version = GgufValue::U32(QUANTIZATION_VERSION);
    pairs.push(("general.quantization_version".to_owned(), version));
    Ok(())
}

fn common(
    family: Family,
    config: &Config<'_>,
    file_type: FileType,
    keys: &mut Keys<'_>,
) -> Result<(), ConvertError> {
    keys.u32("block_count", config.u32("num_hidden_layers")?);
    keys.u32("context_length", config.u32("max_position_embeddings")?);
    keys.u32("embedding_length", config.u32("hidden_size")?);
    keys.u32("feed_forward_length", config.u32("intermediate_size")?);
    keys.u32("attention.head_count", config.u32("num_attention_heads")?);
    keys.u32("attention.head_count_kv", config.num_key_value_heads()?);
    rope_scaling(config, keys)?;
    let gemma = family == Family::Gemma3;
    let default_theta = if gemma {
        GEMMA3_ROPE_THETA
    } else {
        DEFAULT_ROPE_THETA
    };
    let theta = config.rope_f64("rope_theta").unwrap_or(default_theta);
    keys.f32("rope.freq_base", theta);
    let local_default = gemma.then_some(GEMMA3_LOCAL_ROPE_THETA);
    if let Some(theta) = config.local_rope_theta().or(local_default) {
        keys.f32("rope.freq_base_swa", theta);
    }
    let epsilon = config.find_f64("rms_norm_eps")?.unwrap_or(1e-6);
    keys.f32("attention.layer_norm_rms_epsilon", epsilon);
    // transformers' Llama and Mistral configurations always have a head size; Qwen2's does not.
    let always = matches!(family, Family::Llama | Family::Mistral | Family::Gemma3);
    if always || config.find_u32("head_dim")?.is_some() {
        let head_dim = config.head_dim()?;
        keys.u32("attention.key_length", head_dim);
        keys.u32("attention.value_length", head_dim);
    }
    put_file_type(file_type, keys);
    Ok(())
}

fn put_file_type(file_type: FileType, keys: &mut Keys<'_>) {
    let value = GgufValue::U32(file_type.id);
    keys.pairs.push(("general.file_type".to_owned(), value));
}

/// Linear and YaRN scaling are keys; Llama 3's becomes a tensor.
fn rope_scaling(config: &Config<'_>, keys: &mut Keys<'_>) -> Result<(), ConvertError> {
    let Some(rope_type) = config.rope_type() else {
        return Ok(());
    };
    let put_type = |keys: &mut Keys<'_>, name: &str| {
        keys.put("rope.scaling.type", GgufValue::String(name.to_owned()));
    };
    match (rope_type, config.rope_f64("factor")) {
        ("linear", Some(factor)) => {
            put_type(keys, "linear");
            keys.f32("rope.scaling.factor", factor);
        }
        ("yarn", Some(factor)) => {
            put_type(keys, "yarn");
            keys.f32("rope.scaling.factor", factor);
            let original = original_context(config)?.ok_or_else(|| {
                config.error(
                    "original_max_position_embeddings",
                    "a context length",
                    "nothing",
                )
            })?;
            keys.u32("rope.scaling.original_context_length", original);
            for (names, key) in [
                (&["extrapolation_factor"] as &[&str], "yarn_ext_factor"),
                (&["attention_factor", "attn_factor"], "yarn_attn_factor"),
                (&["beta_fast"], "yarn_beta_fast"),
                (&["beta_slow"], "yarn_beta_slow"),
            ] {
                if let Some(value) = names.iter().find_map(|name| config.rope_f64(name)) {
                    keys.f32(&format!("rope.scaling.{key}"), value);
                }
            }
        }
        ("su" | "longrope", _) => put_type(keys, "longrope"),
        ("default" | "llama3", _) => {}
        (other, _) => {
            let expected = "default, linear, yarn, llama3 or longrope, with a factor";
            return Err(config.error("rope_type", expected, other));
        }
    }
    Ok(())
}

fn original_context(config: &Config<'_>) -> Result<Option<u32>, ConvertError> {
    const KEY: &str = "original_max_position_embeddings";
    let Some(length) = config.rope_f64(KEY) else {
        return Ok(None);
    };
    if length < 1.0 || length > f64::from(u32::MAX) {
        return Err(config.error(KEY, "a context length", &length.to_string()));
    }
    Ok(Some(length as u32))
}

/// Elements of a Phi-3 head that rotate.
pub(super) fn phi3_rotary_dim(config: &Config<'_>) -> Result<u32, ConvertError> {
    let share = config.rope_f64("partial_rotary_factor").unwrap_or(1.0);
    let heads = config.u32("num_attention_heads")?;
    let width = (share * f64::from(config.u32("hidden_size")?)) as u32;
    width
        .checked_div(heads)
        .ok_or_else(|| config.error("num_attention_heads", "at least 1", "0"))
}

fn phi3(config: &Config<'_>, file_type: FileType, keys: &mut Keys<'_>) -> Result<(), ConvertError> {
    let context = config.u32("max_position_embeddings")?;
    let original = original_context(config)?.unwrap_or(PHI3_ORIGINAL_CONTEXT);
    if config.rope_f32s("long_factor").is_some() {
        keys.f32(
            "rope.scaling.attn_factor",
            long_rope_attention_factor(context, original),
        );
    }
    keys.u32("context_length", context);
    keys.u32("rope.scaling.original_context_length", original);
    keys.u32("embedding_length", config.u32("hidden_size")?);
    keys.u32("feed_forward_length", config.u32("intermediate_size")?);
    keys.u32("block_count", config.u32("num_hidden_layers")?);
    keys.u32("attention.head_count", config.u32("num_attention_heads")?);
    keys.u32("attention.head_count_kv", config.num_key_value_heads()?);
    let epsilon = config.find_f64("rms_norm_eps")?.unwrap_or(1e-5);
    keys.f32("attention.layer_norm_rms_epsilon", epsilon);
    keys.u32("rope.dimension_count", phi3_rotary_dim(config)?);
    let theta = config.rope_f64("rope_theta").unwrap_or(DEFAULT_ROPE_THETA);
    keys.f32("rope.freq_base", theta);
    put_file_type(file_type, keys);
    // Zero, not absent, says "no window": llama.cpp tells Phi-4 by it.
    let window = config.find_u32("sliding_window")?.unwrap_or(0);
    keys.u32("attention.sliding_window", window);
    Ok(())
}

/// What LongRoPE multiplies queries and keys by, for a context stretched from `original`.
fn long_rope_attention_factor(context: u32, original: u32) -> f64 {
    let stretch = f64::from(context) / f64::from(original);
    if stretch <= 1.0 {
        return 1.0;
    }
    (1.0 + stretch.ln() / f64::from(original).ln()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels_have_two_digits() {
        for (count, label) in [
            (93_000, "93K"),
            (494_032_768, "494M"),
            (1_543_714_304, "1.5B"),
            // The digits are counted after rounding: ten, so no fraction.
            (9_600_000_000, "10B"),
            (900, "0.9K"),
            (400, "0.40K"),
        ] {
            assert_eq!(size_label(count), label);
        }
    }
}
