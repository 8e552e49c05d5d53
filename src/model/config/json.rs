//! `config.json`, in the spellings of transformers 4 and 5.

use serde_json::{Map, Value};

use super::{Defaults, Dimensions};
use crate::model::spec::check_count;
use crate::model::{Activation, ModelError};

const PLACE: &str = "config.json";
/// No count in a configuration is larger; products of two still fit 64 bits.
const MAX_COUNT: u64 = 1 << 31;
/// How much of a wrong value an error shows.
const SHOWN_CHARS: usize = 60;

/// An object of `config.json`. An absent key and `null` are the same, except where said.
pub(in crate::model) struct JsonConfig<'a> {
    object: &'a Map<String, Value>,
    /// The keys around this object, each with a dot.
    path: String,
}

impl<'a> JsonConfig<'a> {
    /// The whole file.
    pub(in crate::model) fn new(config: &'a Value) -> Result<Self, ModelError> {
        let Value::Object(object) = config else {
            return Err(ModelError::BadValue {
                place: PLACE,
                key: "the file".to_owned(),
                found: shortened(config),
                expected: "an object".to_owned(),
            });
        };
        Ok(Self {
            object,
            path: String::new(),
        })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, `null` included: transformers' defaults stand for absent keys only.
    pub(in crate::model) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    fn bad(&self, key: &str, value: &Value, expected: &str) -> ModelError {
        ModelError::BadValue {
            place: PLACE,
            key: format!("{}{key}", self.path),
            found: shortened(value),
            expected: expected.to_owned(),
        }
    }

    fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingKey {
            place: PLACE,
            key: format!("{}{key}", self.path),
        }
    }

    /// The error of a value that is fine elsewhere.
    pub(in crate::model) fn unsupported(
        &self,
        key: &str,
        instead: impl Into<String>,
    ) -> ModelError {
        ModelError::Unsupported {
            place: PLACE,
            key: format!("{}{key}", self.path),
            found: self.get(key).map_or_else(|| "null".to_owned(), shortened),
            instead: instead.into(),
        }
    }

    /// A count of at least one.
    pub(in crate::model) fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.whole(key, 1, "a whole number from 1 to 2^31")
    }

    /// A count that may be zero.
    pub(in crate::model) fn count_or_zero(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.whole(key, 0, "a whole number from 0 to 2^31")
    }

    fn whole(&self, key: &str, least: u64, expected: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let integral = |x: f64| (x.fract() == 0.0 && x >= 0.0).then_some(x as u64);
        value
            .as_u64()
            .or_else(|| value.as_f64().and_then(integral))
            .filter(|count| (least..=MAX_COUNT).contains(count))
            .and_then(|count| usize::try_from(count).ok())
            .map(Some)
            .ok_or_else(|| self.bad(key, value, expected))
    }

    pub(in crate::model) fn required_count(&self, key: &str) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero.
    pub(in crate::model) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "a number above 0"))
    }

    pub(in crate::model) fn required_positive(&self, key: &str) -> Result<f64, ModelError> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// A list of finite numbers above zero.
    pub(in crate::model) fn required_positives(&self, key: &str) -> Result<Vec<f32>, ModelError> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let read = |x: &Value| {
            x.as_f64()
                .map(|x| x as f32)
                .filter(|x| x.is_finite() && *x > 0.0)
        };
        value
            .as_array()
            .and_then(|values| values.iter().map(read).collect())
            .ok_or_else(|| self.bad(key, value, "a list of numbers above 0"))
    }

    pub(in crate::model) fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "true or false"))
    }

    pub(in crate::model) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "a string"))
    }

    pub(in crate::model) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_array()
            .and_then(|values| values.iter().map(Value::as_str).collect())
            .map(Some)
            .ok_or_else(|| self.bad(key, value, "a list of strings"))
    }

    /// An object within this one.
    pub(in crate::model) fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Self {
                object,
                path: format!("{}{key}.", self.path),
            })),
            Some(value) => Err(self.bad(key, value, "an object")),
        }
    }

    /// The sizes that every family has.
    pub(in crate::model) fn dimensions(
        &self,
        defaults: &Defaults,
    ) -> Result<Dimensions, ModelError> {
        let hidden_size = self.required_count("hidden_size")?;
        let num_attention_heads = self.required_count("num_attention_heads")?;
        // transformers: an absent key takes the class's default, null means "as many as queries".
        let num_key_value_heads = match self.count("num_key_value_heads")? {
            Some(count) => count,
            None if self.has("num_key_value_heads") => num_attention_heads,
            None => defaults.num_key_value_heads.unwrap_or(num_attention_heads),
        };
        let head_dim = match self.count("head_dim")? {
            Some(head_dim) => head_dim,
            None if defaults.head_dim.is_some() && !self.has("head_dim") => {
                defaults.head_dim.expect("just seen")
            }
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(ModelError::BadValue {
                    place: PLACE,
                    key: "hidden_size".to_owned(),
                    found: hidden_size.to_string(),
                    expected: format!(
                        "a multiple of num_attention_heads = {num_attention_heads}, or a head_dim"
                    ),
                });
            }
        };
        let num_hidden_layers = self.required_count("num_hidden_layers")?;
        check_count("num_hidden_layers", num_hidden_layers)?;
        Ok(Dimensions {
            vocab_size: self.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: self.required_count("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: self
                .count("max_position_embeddings")?
                .unwrap_or(defaults.max_position_embeddings),
            rms_norm_eps: self
                .positive("rms_norm_eps")?
                .unwrap_or(defaults.rms_norm_eps) as f32,
        })
    }

    /// Whether the head is the embedding.
    pub(in crate::model) fn tied(&self, defaults: &Defaults) -> Result<bool, ModelError> {
        let tied = self.boolean("tie_word_embeddings")?;
        Ok(tied.unwrap_or(defaults.tie_word_embeddings))
    }

    /// The gate's activation under the family's key.
    pub(in crate::model) fn activation(
        &self,
        key: &str,
        default: Activation,
    ) -> Result<Activation, ModelError> {
        match self.text(key)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            // Two spellings of one formula in transformers.
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
            Some(_) => Err(self.unsupported(key, "supported are silu and gelu_pytorch_tanh")),
        }
    }

    /// Fails where a switch is on that the decoder has no part for.
    pub(in crate::model) fn must_be_off(&self, keys: &[&str]) -> Result<(), ModelError> {
        for key in keys {
            if self.boolean(key)? == Some(true) {
                return Err(self.unsupported(key, "only false is"));
            }
        }
        Ok(())
    }

    /// Per layer, `window` where the layer slides: `layer_types` where the file has it, else
    /// whatever `slides` says of a layer's index.
    pub(in crate::model) fn layer_windows(
        &self,
        num_hidden_layers: usize,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, ModelError> {
        let Some(types) = self.texts("layer_types")? else {
            return Ok((0..num_hidden_layers)
                .map(|layer| window.filter(|_| slides(layer)))
                .collect());
        };
        let bad = |found: String, expected: String| ModelError::BadValue {
            place: PLACE,
            key: "layer_types".to_owned(),
            found,
            expected,
        };
        if types.len() != num_hidden_layers {
            return Err(bad(
                format!("a list of {}", types.len()),
                format!("one entry per layer, {num_hidden_layers}"),
            ));
        }
        let of_type = |layer_type: &str| match (layer_type, window) {
            ("full_attention", _) => Ok(None),
            ("sliding_attention", Some(window)) => Ok(Some(window)),
            ("sliding_attention", None) => Err(bad(
                "sliding_attention".to_owned(),
                "full_attention, as there is no sliding_window in use".to_owned(),
            )),
            (other, _) => Err(bad(
                shortened(&Value::from(other)),
                "full_attention or sliding_attention".to_owned(),
            )),
        };
        types.into_iter().map(of_type).collect()
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    text.chars().take(SHOWN_CHARS).chain(['…']).collect()
}
