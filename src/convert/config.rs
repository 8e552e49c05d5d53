//! config.json with typed getters, and its two spellings of the rotary embedding made one.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ConvertError, Family};

/// A model's config.json.
pub(super) struct Config<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
    /// The parameters of the (global) rotary embedding, `rope_theta` and `rope_type` included.
    rope: Map<String, Value>,
    /// The base of the local layers' rotary embedding, where they have their own.
    local_rope_theta: Option<f64>,
}

impl<'a> Config<'a> {
    pub(super) fn new(path: &'a Path, config: &'a Value) -> Result<Self, ConvertError> {
        let map = config.as_object().ok_or_else(|| ConvertError::Config {
            path: path.to_owned(),
            key: "(all)".to_owned(),
            expected: "an object",
            found: config.to_string(),
        })?;
        let object = |value: &Value| value.as_object().cloned();
        let stated = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| map.get(*key).and_then(object))
            .unwrap_or_default();
        // transformers 5 nests the parameters of models with two kinds of layers.
        let nested = ["full_attention", "sliding_attention"]
            .iter()
            .any(|kind| stated.contains_key(*kind));
        let local = stated.get("sliding_attention").cloned();
        let mut rope = match stated.get("full_attention").and_then(object) {
            Some(global) => global,
            None => stated,
        };
        if let Some(rope_type) = rope.get("type").cloned() {
            rope.entry("rope_type").or_insert(rope_type);
        }
        if !nested {
            for key in [
                "rope_theta",
                "partial_rotary_factor",
                "original_max_position_embeddings",
            ] {
                if let Some(value) = map.get(key).filter(|value| !value.is_null()) {
                    rope.entry(key).or_insert_with(|| value.clone());
                }
            }
        }
        let local_rope_theta = match &local {
            Some(local) => local.get("rope_theta"),
            None => map.get("rope_local_base_freq"),
        };
        Ok(Self {
            path,
            map,
            rope,
            local_rope_theta: local_rope_theta.and_then(Value::as_f64),
        })
    }

    pub(super) fn family(&self) -> Result<Family, ConvertError> {
        let stated = self.map.get("architectures").and_then(|list| list.get(0));
        let stated = stated.and_then(Value::as_str).unwrap_or("(none)");
        Family::ALL
            .into_iter()
            .find(|family| family.architecture() == stated)
            .ok_or_else(|| ConvertError::Architecture {
                path: self.path.to_owned(),
                found: stated.to_owned(),
                supported: Family::ALL.map(Family::architecture).join(", "),
            })
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn u32(&self, key: &str) -> Result<u32, ConvertError> {
        self.find_u32(key)?
            .ok_or_else(|| self.error(key, "a 32-bit unsigned integer", "nothing"))
    }

    pub(super) fn find_u32(&self, key: &str) -> Result<Option<u32>, ConvertError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| self.error(key, "a 32-bit unsigned integer", &value.to_string()))
    }

    pub(super) fn find_f64(&self, key: &str) -> Result<Option<f64>, ConvertError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.error(key, "a number", &value.to_string()))
    }

    /// Elements per head: `head_dim`, else the hidden size shared out.
    pub(super) fn head_dim(&self) -> Result<u32, ConvertError> {
        if let Some(head_dim) = self.find_u32("head_dim")? {
            return Ok(head_dim);
        }
        let heads = self.u32("num_attention_heads")?;
        self.u32("hidden_size")?
            .checked_div(heads)
            .ok_or_else(|| self.error("num_attention_heads", "at least 1", "0"))
    }

    /// Key/value heads; models from before grouped attention do not state them.
    pub(super) fn num_key_value_heads(&self) -> Result<u32, ConvertError> {
        match self.find_u32("num_key_value_heads")? {
            Some(heads) => Ok(heads),
            None => self.u32("num_attention_heads"),
        }
    }

    /// A number of the rotary parameters.
    pub(super) fn rope_f64(&self, key: &str) -> Option<f64> {
        self.rope.get(key)?.as_f64()
    }

    /// A list of the rotary parameters, as single-precision numbers.
    pub(super) fn rope_f32s(&self, key: &str) -> Option<Vec<f32>> {
        let list = self.rope.get(key)?.as_array()?;
        list.iter()
            .map(|value| value.as_f64().map(|value| value as f32))
            .collect()
    }

    pub(super) fn rope_type(&self) -> Option<&str> {
        self.rope.get("rope_type")?.as_str()
    }

    pub(super) fn local_rope_theta(&self) -> Option<f64> {
        self.local_rope_theta
    }

    pub(super) fn error(&self, key: &str, expected: &'static str, found: &str) -> ConvertError {
        ConvertError::Config {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected,
            found: found.to_owned(),
        }
    }
}
