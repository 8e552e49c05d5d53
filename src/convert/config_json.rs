//! config.json, generation_config.json and tokenizer_config.json from GGUF metadata.

use serde_json::{Map, Value, json};

use super::llama3::Llama3Scaling;
use super::{ConvertError, Family};
use crate::formats::{Checkpoint, DType, FormatError, GgufMetadata, Tokenizer};

/// Metadata under an architecture's prefix.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn usize(&self, key: &str) -> Result<usize, FormatError> {
        self.metadata.usize(&format!("{}.{key}", self.prefix))
    }

    fn find_usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        self.metadata.find_usize(&format!("{}.{key}", self.prefix))
    }

    fn find_f64(&self, key: &str) -> Result<Option<f64>, FormatError> {
        let value = self.metadata.find_f64(&format!("{}.{key}", self.prefix))?;
        Ok(value.map(shortest))
    }

    fn find_str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.metadata.find_str(&format!("{}.{key}", self.prefix))
    }
}

/// The shortest decimal that is this single-precision number: 1e-6, not 9.99999997475e-7.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value {
        single.to_string().parse().unwrap_or(value)
    } else {
        value
    }
}

/// The architecture's configuration as transformers 4 spells it.
pub(super) fn config(
    checkpoint: &Checkpoint,
    metadata: &GgufMetadata,
    family: Family,
    dtype: DType,
) -> Result<Value, ConvertError> {
    let keys = Keys {
        metadata,
        prefix: family.gguf_name(),
    };
    let heads = keys.usize("attention.head_count")?;
    let kv_heads = keys.find_usize("attention.head_count_kv")?.unwrap_or(heads);
    let hidden = keys.usize("embedding_length")?;
    let embedding = checkpoint.tensor("token_embd.weight");
    let vocab_size = embedding.and_then(|view| view.shape.first().copied());
    let head_dim = match keys.find_usize("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    let theta = keys.find_f64("rope.freq_base")?.unwrap_or(10_000.0);
    let mut config = json!({
        "architectures": [family.architecture()],
        "model_type": family.model_type(),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": keys.usize("feed_forward_length")?,
        "max_position_embeddings": keys.usize("context_length")?,
        "num_attention_heads": heads,
        "num_hidden_layers": keys.usize("block_count")?,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": keys.find_f64("attention.layer_norm_rms_epsilon")?,
        "rope_scaling": rope_scaling(checkpoint, &keys, family, theta)?,
        "rope_theta": theta,
        "tie_word_embeddings": checkpoint.tensor("output.weight").is_none(),
        "torch_dtype": match dtype {
            DType::F32 => "float32",
            DType::F16 => "float16",
            _ => "bfloat16",
        },
        "use_cache": true,
        "vocab_size": vocab_size,
    });
    let own = family_keys(checkpoint, &keys, family, heads, hidden, head_dim)?;
    if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
        config.extend(own);
        for role in ["bos", "eos", "pad"] {
            if let Some(id) = token_id(metadata, role)? {
                config.insert(format!("{role}_token_id"), json!(id));
            }
        }
    }
    Ok(config)
}

fn token_id(metadata: &GgufMetadata, role: &str) -> Result<Option<u32>, FormatError> {
    let name = if role == "pad" { "padding" } else { role };
    metadata.find_u32(&format!("tokenizer.ggml.{name}_token_id"))
}

fn family_keys(
    checkpoint: &Checkpoint,
    keys: &Keys<'_>,
    family: Family,
    heads: usize,
    hidden: usize,
    head_dim: usize,
) -> Result<Value, ConvertError> {
    let has = |tensor: &str| checkpoint.tensor(tensor).is_some();
    let window = keys.find_usize("attention.sliding_window")?;
    Ok(match family {
        Family::Qwen2 => json!({ "use_sliding_window": false }),
        Family::Qwen3 => json!({
            "attention_bias": has("blk.0.attn_q.bias"),
            "head_dim": head_dim,
            "use_sliding_window": false,
        }),
        Family::Llama | Family::Mistral => json!({
            "attention_bias": has("blk.0.attn_q.bias"),
            "head_dim": head_dim,
            "mlp_bias": false,
        }),
        Family::Gemma3 => json!({
            "attention_bias": false,
            "final_logit_softcapping": keys.find_f64("final_logit_softcapping")?,
            "head_dim": head_dim,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": head_dim,
            "rope_local_base_freq": keys.find_f64("rope.freq_base_swa")?.unwrap_or(10_000.0),
            "sliding_window": window,
            "sliding_window_pattern": 6,
        }),
        Family::Phi3 => {
            let rotary = keys.find_usize("rope.dimension_count")?.unwrap_or(head_dim);
            let share = (rotary * heads) as f64 / hidden.max(1) as f64;
            json!({
                "attention_bias": false,
                "original_max_position_embeddings":
                    keys.find_usize("rope.scaling.original_context_length")?,
                "partial_rotary_factor": share,
                "sliding_window": window.filter(|window| *window > 0),
            })
        }
    })
}

/// `rope_scaling`, from keys or from the tensors of divisors.
fn rope_scaling(
    checkpoint: &Checkpoint,
    keys: &Keys<'_>,
    family: Family,
    theta: f64,
) -> Result<Value, ConvertError> {
    if let Some(divisors) = vector(checkpoint, "rope_freqs.weight") {
        let scaling =
            Llama3Scaling::of_divisors(theta, &divisors).ok_or_else(|| ConvertError::Shape {
                path: checkpoint.path().to_owned(),
                tensor: "rope_freqs.weight".to_owned(),
                shape: vec![divisors.len()],
                what: "Llama 3's scaling with low and high factors 1 and 4, which is what \
                       config.json can express"
                    .to_owned(),
            })?;
        return Ok(json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context as u64,
        }));
    }
    if family == Family::Phi3
        && let (Some(long), Some(short)) = (
            vector(checkpoint, "rope_factors_long.weight"),
            vector(checkpoint, "rope_factors_short.weight"),
        )
    {
        let list = |values: Vec<f32>| -> Vec<f64> {
            values
                .into_iter()
                .map(|value| shortest(value.into()))
                .collect()
        };
        return Ok(json!({
            "rope_type": "longrope",
            "long_factor": list(long),
            "short_factor": list(short),
        }));
    }
    let mut scaling = Map::new();
    let Some(kind) = keys
        .find_str("rope.scaling.type")?
        .filter(|kind| *kind != "none")
    else {
        return Ok(Value::Null);
    };
    scaling.insert("rope_type".to_owned(), json!(kind));
    for (key, name) in [
        ("factor", "factor"),
        ("yarn_ext_factor", "extrapolation_factor"),
        ("yarn_attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = keys.find_f64(&format!("rope.scaling.{key}"))? {
            scaling.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(original) = keys.find_usize("rope.scaling.original_context_length")? {
        let name = "original_max_position_embeddings".to_owned();
        scaling.insert(name, json!(original));
    }
    Ok(Value::Object(scaling))
}

/// A vector in single precision.
fn vector(checkpoint: &Checkpoint, name: &str) -> Option<Vec<f32>> {
    let view = checkpoint
        .tensor(name)
        .filter(|view| view.dtype == DType::F32)?;
    let chunks = view.data.as_chunks::<4>().0;
    Some(
        chunks
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    )
}

/// generation_config.json: the ids that end a text, and the recommended sampling.
pub(super) fn generation_config(
    metadata: &GgufMetadata,
    tokenizer: &Tokenizer,
) -> Result<Value, ConvertError> {
    let mut config = Map::new();
    for role in ["bos", "pad"] {
        if let Some(id) = token_id(metadata, role)? {
            config.insert(format!("{role}_token_id"), json!(id));
        }
    }
    let eos = match tokenizer.eos_token_ids() {
        [] => Value::Null,
        [only] => json!(only),
        several => json!(several),
    };
    config.insert("eos_token_id".to_owned(), eos);
    for (key, name) in [
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temp", "temperature"),
    ] {
        let key = format!("general.sampling.{key}");
        let value = match metadata.get(&key) {
            Some(value) => match (value.as_u64(), value.as_f64()) {
                (Some(integer), _) => json!(integer),
                (_, Some(float)) => json!(shortest(float)),
                _ => continue,
            },
            None => continue,
        };
        config.insert(name.to_owned(), value);
        config.insert("do_sample".to_owned(), json!(true));
    }
    Ok(Value::Object(config))
}

/// tokenizer_config.json: named tokens, flags, the chat template.
pub(super) fn tokenizer_config(
    tokenizer: &Tokenizer,
    tokenizer_json: &Value,
    context_length: usize,
) -> Value {
    let mut decoder = Map::new();
    let added = tokenizer_json.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        if let (Some(id), Some(mut entry)) = (token.get("id"), token.as_object().cloned()) {
            entry.shift_remove("id");
            decoder.insert(id.to_string(), Value::Object(entry));
        }
    }
    let mut config = json!({
        "add_bos_token": tokenizer.adds_bos(),
        "added_tokens_decoder": decoder,
        "bos_token": tokenizer.bos_token(),
        "clean_up_tokenization_spaces": false,
        "eos_token": tokenizer.eos_token(),
        "model_max_length": context_length,
        "pad_token": tokenizer.pad_token(),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokenizer.unk_token(),
    });
    let named: Vec<_> = tokenizer
        .chat_template_names()
        .filter_map(|name| {
            let template = tokenizer.chat_template_named(name)?;
            Some(json!({ "name": name, "template": template }))
        })
        .collect();
    let template = match (named.len(), tokenizer.chat_template()) {
        (1, Some(template)) => json!(template),
        (0, _) => return config,
        _ => Value::Array(named),
    };
    if let Value::Object(config) = &mut config {
        config.insert("chat_template".to_owned(), template);
    }
    config
}
