//! GGUF metadata: the keys that begin with the architecture's name.
//!
//! What GGUF does not store is in its tensors: the vocabulary size is the embedding's, a tied head
//! is the absence of `output.weight`, and per-frequency rotary factors are tensors of their own.

use super::Dimensions;
use crate::formats::{Checkpoint, GgufMetadata};
use crate::kernels::quant::BlockType;
use crate::model::spec::check_count;
use crate::model::{ModelError, RopeScaling, RopeSpec};

const PLACE: &str = "GGUF metadata";
/// llama.cpp's default where a file has no `rope.freq_base`.
const DEFAULT_THETA: f64 = 10000.0;
/// Longest tensor of rotary factors that is read: half of the largest head there is, many times.
const MAX_FACTORS: usize = 4096;

/// A GGUF checkpoint's metadata and the tensors that complete it.
pub(in crate::model) struct GgufConfig<'a> {
    metadata: &'a GgufMetadata,
    checkpoint: &'a Checkpoint,
    architecture: &'a str,
}

impl<'a> GgufConfig<'a> {
    /// `architecture` is the prefix of the keys.
    pub(in crate::model) fn new(
        metadata: &'a GgufMetadata,
        checkpoint: &'a Checkpoint,
        architecture: &'a str,
    ) -> Self {
        Self {
            metadata,
            checkpoint,
            architecture,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A count of at least one under the architecture's prefix; a stored 0 means "none".
    pub(in crate::model) fn count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let count = self.metadata.find_usize(&self.key(name))?;
        Ok(count.filter(|count| *count > 0))
    }

    fn required_count(&self, name: &str) -> Result<usize, ModelError> {
        self.count(name)?.ok_or_else(|| ModelError::MissingKey {
            place: PLACE,
            key: self.key(name),
        })
    }

    /// A finite number above zero.
    pub(in crate::model) fn positive(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.metadata.find_f64(&self.key(name))? else {
            return Ok(None);
        };
        if value.is_finite() && value > 0.0 {
            return Ok(Some(value));
        }
        Err(self.bad(name, value, "a number above 0"))
    }

    fn required_positive(&self, name: &str) -> Result<f64, ModelError> {
        self.positive(name)?.ok_or_else(|| ModelError::MissingKey {
            place: PLACE,
            key: self.key(name),
        })
    }

    fn bad(
        &self,
        name: &str,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::BadValue {
            place: PLACE,
            key: self.key(name),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The sizes that every family has.
    pub(in crate::model) fn dimensions(&self) -> Result<Dimensions, ModelError> {
        let embedding = "token_embd.weight";
        let embedding =
            self.checkpoint
                .tensor(embedding)
                .ok_or_else(|| ModelError::MissingTensor {
                    tensor: embedding.to_owned(),
                    family: "GGUF",
                })?;
        let hidden_size = self.required_count("embedding_length")?;
        let num_attention_heads = self.required_count("attention.head_count")?;
        let head_dim = match self.count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(self.bad(
                    "embedding_length",
                    hidden_size,
                    format!("a multiple of {num_attention_heads} heads, or a key_length"),
                ));
            }
        };
        if let Some(value_length) = self.count("attention.value_length")?
            && value_length != head_dim
        {
            return Err(self.bad(
                "attention.value_length",
                value_length,
                format!("the length of a key, {head_dim}"),
            ));
        }
        let num_hidden_layers = self.required_count("block_count")?;
        check_count("num_hidden_layers", num_hidden_layers)?;
        Ok(Dimensions {
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            hidden_size,
            intermediate_size: self.required_count("feed_forward_length")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: self
                .count("attention.head_count_kv")?
                .unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: self.required_count("context_length")?,
            rms_norm_eps: self.required_positive("attention.layer_norm_rms_epsilon")? as f32,
        })
    }

    /// Whether the head is the embedding: no tensor of its own.
    pub(in crate::model) fn has_tied_head(&self) -> bool {
        self.checkpoint.tensor("output.weight").is_none()
    }

    /// The rotary embedding of a model that has one.
    pub(in crate::model) fn rope(&self, dimensions: &Dimensions) -> Result<RopeSpec, ModelError> {
        Ok(RopeSpec {
            theta: self.positive("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            rotary_dim: self
                .count("rope.dimension_count")?
                .unwrap_or(dimensions.head_dim),
            scaling: self.rope_scaling(dimensions)?,
        })
    }

    fn rope_scaling(&self, dimensions: &Dimensions) -> Result<RopeScaling, ModelError> {
        if let Some(divisors) = self.factors("rope_freqs.weight")? {
            return Ok(RopeScaling::Factors { divisors });
        }
        let original = self
            .count("rope.scaling.original_context_length")?
            .unwrap_or(dimensions.max_position_embeddings);
        if let (Some(long_factor), Some(short_factor)) = (
            self.factors("rope_factors_long.weight")?,
            self.factors("rope_factors_short.weight")?,
        ) {
            return Ok(RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor: self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
            });
        }
        let key = self.key("rope.scaling.type");
        let required_factor = || self.required_positive("rope.scaling.factor");
        match self.metadata.find_str(&key)? {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: required_factor()?,
            }),
            Some("yarn") => {
                let factor = required_factor()?;
                let mscale = 0.1 * factor.max(1.0).ln() + 1.0;
                let attn_factor = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
                Ok(RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    beta_fast: self
                        .positive("rope.scaling.yarn_beta_fast")?
                        .unwrap_or(32.0),
                    truncate: true,
                    attention_factor: attn_factor * mscale,
                })
            }
            Some(other) => Err(ModelError::Unsupported {
                place: PLACE,
                key,
                found: other.to_owned(),
                instead: "supported are none, linear and yarn".to_owned(),
            }),
        }
    }

    /// A small vector of rotary factors, if the file has it.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.checkpoint.tensor(name) else {
            return Ok(None);
        };
        let count = tensor.num_elements();
        if count > MAX_FACTORS {
            return Err(ModelError::Shape {
                tensor: name.to_owned(),
                expected: vec![MAX_FACTORS],
                found: tensor.shape.to_vec(),
            });
        }
        let block_type = crate::model::loader::block_type(&tensor)?;
        if block_type != BlockType::F32 {
            return Err(ModelError::StoredType {
                tensor: name.to_owned(),
                found: tensor.dtype,
                readable: BlockType::F32.to_string(),
            });
        }
        let mut values = vec![0.0; count];
        block_type.dequantise(tensor.data, &mut values);
        Ok(Some(values))
    }
}
