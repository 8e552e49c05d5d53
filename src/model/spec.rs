//! What a decoder-only transformer is, as data. Executors read this and nothing else.

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
