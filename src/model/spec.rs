//! What a decoder-only transformer is, as data. Executors read this and nothing else.

use super::ModelError;

/// The whole description of a decoder. Names follow Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// The family's name as GGUF spells it (`qwen2`, `qwen3`, `llama`, `mistral`, `gemma3`, `phi3`).
    pub family: &'static str,
    /// Rows of the embedding (at least the tokenizer's size).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; query heads are a multiple of them.
    pub num_key_value_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// The longest sequence the checkpoint was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Whether q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether q and k are normalised per head before the rotary embedding.
    pub qk_norm: bool,
    /// Whether attention and MLP outputs are normalised before they join the residual (Gemma 3).
    pub post_norms: bool,
    /// The gate's activation.
    pub activation: Activation,
    /// The embedding is multiplied by this (1.0 where the family has none).
    pub embedding_scale: f32,
    /// Attention scores are multiplied by this, usually `1 / sqrt(head_dim)`.
    pub attention_scale: f32,
    /// `cap * tanh(score / cap)` on attention scores.
    pub attention_soft_cap: Option<f32>,
    /// `cap * tanh(logit / cap)` on the logits.
    pub logit_soft_cap: Option<f32>,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Per layer: a token sees itself and the `window - 1` tokens before it; `None` sees all.
    pub sliding_window: Vec<Option<usize>>,
    /// The rotary embeddings in use.
    pub rope: Vec<RopeSpec>,
    /// Per layer: the index into [`Self::rope`].
    pub layer_rope: Vec<usize>,
}

/// Bounds of what a configuration may ask for. Each is well above any published model and low
/// enough that products of two fit 64 bits and per-layer tables stay small.
const LIMITS: [(&str, usize); 8] = [
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 20),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 12),
    ("num_key_value_heads", 1 << 12),
    ("head_dim", 1 << 12),
    // Also the limit to which `f32` counts positions exactly.
    ("max_position_embeddings", 1 << 24),
];

/// Checks a count against its limit; tables are allocated by counts that passed.
pub(super) fn check_count(quantity: &'static str, found: usize) -> Result<(), ModelError> {
    let limit = LIMITS.iter().find(|(name, _)| *name == quantity);
    let (_, limit) = limit.expect("every count has a limit");
    if (1..=*limit).contains(&found) {
        return Ok(());
    }
    Err(bad(quantity, found, format!("from 1 to {limit}")))
}

impl DecoderSpec {
    /// Elements of all query heads.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Elements of all key heads (and of all value heads).
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The rotary embedding of a layer.
    pub fn rope_of(&self, layer: usize) -> &RopeSpec {
        &self.rope[self.layer_rope[layer]]
    }

    /// Checks that the numbers are those of a decoder: executors rely on it.
    ///
    /// # Errors
    /// A number is zero, absurd, not finite, or does not fit another.
    pub fn validate(&self) -> Result<(), ModelError> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (quantity, found) in counts {
            check_count(quantity, found)?;
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(bad(
                "num_attention_heads",
                self.num_attention_heads,
                format!(
                    "a multiple of num_key_value_heads = {}",
                    self.num_key_value_heads
                ),
            ));
        }
        let scales = [
            ("rms_norm_eps", Some(self.rms_norm_eps)),
            ("embedding_scale", Some(self.embedding_scale)),
            ("attention_scale", Some(self.attention_scale)),
            ("attention_soft_cap", self.attention_soft_cap),
            ("logit_soft_cap", self.logit_soft_cap),
        ];
        for (quantity, found) in scales {
            if let Some(found) = found.filter(|found| !(found.is_finite() && *found > 0.0)) {
                return Err(bad(quantity, found, "a finite number above 0"));
            }
        }
        let layers = self.num_hidden_layers;
        for (quantity, found) in [
            ("sliding_window", self.sliding_window.len()),
            ("layer_rope", self.layer_rope.len()),
        ] {
            if found != layers {
                return Err(bad(quantity, found, format!("one per layer, {layers}")));
            }
        }
        if self.sliding_window.contains(&Some(0)) {
            return Err(bad("sliding_window", 0, "at least 1"));
        }
        if let Some(index) = self.layer_rope.iter().find(|i| **i >= self.rope.len()) {
            return Err(bad(
                "layer_rope",
                index,
                format!("below {}", self.rope.len()),
            ));
        }
        self.rope
            .iter()
            .try_for_each(|rope| rope.validate(self.head_dim))
    }
}

fn bad(
    quantity: &'static str,
    found: impl std::fmt::Display,
    expected: impl Into<String>,
) -> ModelError {
    ModelError::BadSpec {
        quantity,
        found: found.to_string(),
        expected: expected.into(),
    }
}

impl RopeSpec {
    /// The longest context that the scaling is made for, given what the configuration states:
    /// YaRN configurations often keep the length before the extension.
    pub(super) fn context_length(&self, stated: usize) -> usize {
        match self.scaling {
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                ..
            } => stated.max((factor * original_max_position_embeddings as f64) as usize),
            _ => stated,
        }
    }

    fn validate(&self, head_dim: usize) -> Result<(), ModelError> {
        let dim = self.rotary_dim;
        if !(dim.is_multiple_of(2) && (2..=head_dim).contains(&dim)) {
            return Err(bad(
                "rotary_dim",
                dim,
                format!("an even number from 2 to head_dim = {head_dim}"),
            ));
        }
        // A base of 1 or less has no progression of frequencies.
        if !(self.theta > 1.0 && (self.theta as f32).is_finite()) {
            return Err(bad("rope_theta", self.theta, "a finite number above 1"));
        }
        self.scaling.validate(dim / 2)
    }
}

impl RopeScaling {
    fn validate(&self, pairs: usize) -> Result<(), ModelError> {
        let positive = |quantity, found: f64| {
            // As f32, which is what rotary angles are computed in.
            if (found as f32).is_finite() && found as f32 > 0.0 {
                Ok(())
            } else {
                Err(bad(quantity, found, "a finite number above 0"))
            }
        };
        let one_per_pair = |quantity, divisors: &[f32]| {
            if divisors.len() != pairs {
                let expected = format!("one number per pair, {pairs}");
                return Err(bad(
                    quantity,
                    format!("a list of {}", divisors.len()),
                    expected,
                ));
            }
            divisors
                .iter()
                .try_for_each(|divisor| positive(quantity, f64::from(*divisor)))
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => positive("rope factor", *factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                ..
            } => {
                positive("rope factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive(
                    "high_freq_factor - low_freq_factor",
                    high_freq_factor - low_freq_factor,
                )
            }
            Self::Yarn {
                factor,
                beta_slow,
                beta_fast,
                attention_factor,
                ..
            } => {
                positive("rope factor", *factor)?;
                positive("beta_slow", *beta_slow)?;
                positive("beta_fast", *beta_fast)?;
                positive("attention_factor", *attention_factor)
            }
            Self::LongRope {
                short_factor,
                long_factor,
                attention_factor,
                ..
            } => {
                one_per_pair("short_factor", short_factor)?;
                one_per_pair("long_factor", long_factor)?;
                positive("attention_factor", *attention_factor)
            }
            Self::Factors { divisors } => one_per_pair("rope_freqs", divisors),
        }
    }
}

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// One rotary embedding: half-split layout, applied to the first `rotary_dim` elements of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the geometric progression of frequencies.
    pub theta: f64,
    /// Elements of a head that rotate; the rest pass through.
    pub rotary_dim: usize,
    /// How frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes of the rotary frequencies for contexts longer than the training length.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Extension factor.
        factor: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
        /// Rotations below which frequencies are interpolated fully.
        beta_slow: f64,
        /// Rotations above which frequencies are kept.
        beta_fast: f64,
        /// Whether the bounds of the ramp are rounded outwards to whole pairs.
        truncate: bool,
        /// Multiplies cosine and sine; derived from `factor` where the config gives none.
        attention_factor: f64,
    },
    /// Phi-3 long context: one divisor per frequency, by whether the context exceeds the original.
    LongRope {
        /// Divisors up to the original length, one per frequency.
        short_factor: Vec<f32>,
        /// Divisors beyond it.
        long_factor: Vec<f32>,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
        /// Multiplies cosine and sine.
        attention_factor: f64,
    },
    /// GGUF's `rope_freqs` tensor: each frequency divided by its factor.
    Factors {
        /// One divisor per frequency.
        divisors: Vec<f32>,
    },
}
