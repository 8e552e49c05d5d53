//! Rotary embeddings in `config.json`: `rope_theta` and `rope_scaling` (transformers 4), or one
//! `rope_parameters` object (transformers 5), possibly one per layer type.

use super::{Dimensions, JsonConfig};
use crate::model::{ModelError, RopeScaling, RopeSpec};

const ORIGINAL: &str = "original_max_position_embeddings";

/// Where a rotary embedding's parameters stand.
pub(in crate::model) struct RopeSource<'a> {
    /// The key in `rope_parameters` where there is one object per layer type.
    pub(in crate::model) layer_type: Option<&'a str>,
    /// The key of the base frequency in transformers 4.
    pub(in crate::model) theta_key: &'a str,
    /// The base frequency where the file has none.
    pub(in crate::model) default_theta: f64,
    /// Whether `rope_scaling` applies (Gemma 3's local layers go without).
    pub(in crate::model) scaled: bool,
    /// The family's default of `original_max_position_embeddings` at the top of the file. That key
    /// wins over the one beside the scaling's other parameters.
    pub(in crate::model) default_original: Option<usize>,
}

impl<'a> RopeSource<'a> {
    /// The one embedding of a family that has one.
    pub(in crate::model) fn only(default_theta: f64) -> Self {
        Self {
            layer_type: None,
            theta_key: "rope_theta",
            default_theta,
            scaled: true,
            default_original: None,
        }
    }
}

impl JsonConfig<'_> {
    /// Reads one rotary embedding.
    pub(in crate::model) fn rope(
        &self,
        dimensions: &Dimensions,
        source: &RopeSource<'_>,
    ) -> Result<RopeSpec, ModelError> {
        let parameters = self.rope_parameters(source)?;
        let own = |key| match &parameters {
            Some(parameters) => parameters.positive(key),
            None => Ok(None),
        };
        let theta = own("rope_theta")?
            .or(self.positive(source.theta_key)?)
            .unwrap_or(source.default_theta);
        let rotated = own("partial_rotary_factor")?
            .or(self.positive("partial_rotary_factor")?)
            .unwrap_or(1.0);
        let scaling = match &parameters {
            Some(parameters) => {
                let outer = self.count(ORIGINAL)?.or(source.default_original);
                parameters.rope_scaling(dimensions.max_position_embeddings, outer)?
            }
            None => RopeScaling::None,
        };
        Ok(RopeSpec {
            theta,
            rotary_dim: (dimensions.head_dim as f64 * rotated) as usize,
            scaling,
        })
    }

    /// The object that holds the parameters: the old spelling wins where both are there, as in
    /// transformers 5.
    fn rope_parameters(&self, source: &RopeSource<'_>) -> Result<Option<Self>, ModelError> {
        if source.scaled
            && let Some(old) = self.object("rope_scaling")?
        {
            return Ok(Some(old));
        }
        let Some(new) = self.object("rope_parameters")? else {
            return Ok(None);
        };
        match source.layer_type {
            Some(layer_type) if new.has(layer_type) => new.object(layer_type),
            Some(_) if !source.scaled => Ok(None),
            _ => Ok(Some(new)),
        }
    }

    /// The scaling that this object (`rope_scaling` or `rope_parameters`) describes.
    fn rope_scaling(
        &self,
        max_position_embeddings: usize,
        outer_original: Option<usize>,
    ) -> Result<RopeScaling, ModelError> {
        let key = if self.has("rope_type") {
            "rope_type"
        } else {
            "type"
        };
        let original = match outer_original {
            Some(original) => original,
            None => self.count(ORIGINAL)?.unwrap_or(max_position_embeddings),
        };
        let stretch = max_position_embeddings as f64 / original as f64;
        match self.text(key)? {
            // Dynamic NTK scaling changes nothing up to max_position_embeddings, and no sequence
            // here is longer.
            None | Some("default" | "dynamic") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear {
                factor: self.required_positive("factor")?,
            }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: self.required_positive("factor")?,
                low_freq_factor: self.required_positive("low_freq_factor")?,
                high_freq_factor: self.required_positive("high_freq_factor")?,
                original_max_position_embeddings: original,
            }),
            Some("longrope" | "su") => self.longrope(original, stretch),
            // Early Phi-3 configurations call their own scaling so.
            Some("yarn") if self.has("short_factor") => self.longrope(original, stretch),
            Some("yarn") => self.yarn(original, stretch),
            Some(_) => Err(self.unsupported(
                key,
                "supported are default, linear, dynamic, llama3, yarn and longrope",
            )),
        }
    }

    fn yarn(&self, original: usize, stretch: f64) -> Result<RopeScaling, ModelError> {
        let factor = self.positive("factor")?.unwrap_or(stretch);
        let mscale = |weight: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * weight * factor.ln() + 1.0
            }
        };
        let attention_factor = match self.positive("attention_factor")? {
            Some(attention_factor) => attention_factor,
            None => match (self.positive("mscale")?, self.positive("mscale_all_dim")?) {
                (Some(one), Some(all)) => mscale(one) / mscale(all),
                _ => mscale(1.0),
            },
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_slow: self.positive("beta_slow")?.unwrap_or(1.0),
            beta_fast: self.positive("beta_fast")?.unwrap_or(32.0),
            truncate: self.boolean("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    fn longrope(&self, original: usize, stretch: f64) -> Result<RopeScaling, ModelError> {
        let factor = self.positive("factor")?.unwrap_or(stretch);
        let attention_factor = match self.positive("attention_factor")? {
            Some(attention_factor) => attention_factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.required_positives("short_factor")?,
            long_factor: self.required_positives("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor,
        })
    }
}
