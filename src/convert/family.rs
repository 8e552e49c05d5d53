//! The families: names of architectures and of tensors in both formats.

/// A decoder family, as GGUF divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Family {
    Qwen2,
    Qwen3,
    Llama,
    Mistral,
    Gemma3,
    Phi3,
}

/// A tensor's place in a model: Hugging Face's name for it, and GGUF's.
type Names = (&'static str, &'static str);

/// Tensors outside the layers.
const GLOBAL: &[Names] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// Tensors of a layer that all families name alike.
const LAYER: &[Names] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const PRE_NORM_LAYER: &[Names] = &[("post_attention_layernorm", "ffn_norm")];

const GEMMA3_LAYER: &[Names] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const PHI3_LAYER: &[Names] = &[
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("post_attention_layernorm", "ffn_norm"),
];

impl Family {
    /// Every family.
    pub const ALL: [Self; 6] = [
        Self::Qwen2,
        Self::Qwen3,
        Self::Llama,
        Self::Mistral,
        Self::Gemma3,
        Self::Phi3,
    ];

    /// The entry of `architectures` in config.json.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
        }
    }

    /// `general.architecture` in GGUF, the prefix of the model's keys.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama | Self::Mistral => "llama",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
        }
    }

    /// Whether rows of q and k are stored in the interleaved rotary order.
    pub(super) fn interleaves_heads(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral)
    }

    /// What GGUF adds to norm weights: Gemma multiplies by `1 + weight`.
    pub(super) fn norm_offset(self) -> f32 {
        if self == Self::Gemma3 { 1.0 } else { 0.0 }
    }

    /// Own names first, so that they win.
    fn layer_names(self) -> impl Iterator<Item = &'static Names> {
        let own = match self {
            Self::Gemma3 => GEMMA3_LAYER,
            Self::Phi3 => PHI3_LAYER,
            _ => PRE_NORM_LAYER,
        };
        own.iter().chain(LAYER)
    }

    /// GGUF's name of a tensor: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`.
    pub fn gguf_tensor_name(self, name: &str) -> Option<String> {
        let (stem, suffix) = split_suffix(name)?;
        if let Some((_, gguf)) = GLOBAL.iter().find(|(hf, _)| *hf == stem) {
            return Some(format!("{gguf}.{suffix}"));
        }
        let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
        let layer: u32 = layer.parse().ok()?;
        let (_, gguf) = self.layer_names().find(|(hf, _)| *hf == part)?;
        Some(format!("blk.{layer}.{gguf}.{suffix}"))
    }

    /// Hugging Face's name of a tensor: the inverse of [`Self::gguf_tensor_name`].
    pub fn hf_tensor_name(self, name: &str) -> Option<String> {
        let (stem, suffix) = split_suffix(name)?;
        if let Some((hf, _)) = GLOBAL.iter().find(|(_, gguf)| *gguf == stem) {
            return Some(format!("{hf}.{suffix}"));
        }
        let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
        let layer: u32 = layer.parse().ok()?;
        let (hf, _) = self.layer_names().find(|(_, gguf)| *gguf == part)?;
        Some(format!("model.layers.{layer}.{hf}.{suffix}"))
    }
}

fn split_suffix(name: &str) -> Option<(&str, &str)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    matches!(suffix, "weight" | "bias").then_some((stem, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_both_ways() {
        for family in Family::ALL {
            for (hf, _) in family.layer_names() {
                if family == Family::Phi3 && *hf == "mlp.up_proj" {
                    continue; // Phi-3 has the fused matrix in its place.
                }
                let name = format!("model.layers.12.{hf}.weight");
                let gguf = family.gguf_tensor_name(&name).unwrap();
                assert_eq!(family.hf_tensor_name(&gguf), Some(name), "{family:?}");
            }
        }
        let name = |name| Family::Qwen2.gguf_tensor_name(name);
        assert_eq!(name("lm_head.weight").as_deref(), Some("output.weight"));
        assert_eq!(name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
        assert_eq!(name("model.layers.x.mlp.up_proj.weight"), None);
    }
}
