//! Which tensors a model of each architecture has. The files are not asked: a tensor that the
//! table does not know is not merged.

/// A tensor's part in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The token embedding.
    Embedding,
    /// A tensor of a layer.
    Layer,
    /// The norm after the last layer.
    FinalNorm,
    /// The output head: optional, and tied to the embedding where it is absent.
    Head,
}

/// The token embedding of every architecture here.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The norm after the last layer.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
/// The output head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// A family of models that share a tensor layout.
pub(crate) struct Architecture {
    /// The first entry of `architectures` in `config.json`.
    pub(crate) name: &'static str,
    /// What follows `model.layers.N.` in the names of a layer's tensors.
    pub(crate) layer: &'static [&'static str],
}

macro_rules! layer {
    ($($suffix:literal),* $(,)?) => {
        &[
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
            "self_attn.o_proj.weight",
            "mlp.down_proj.weight",
            $($suffix),*
        ]
    };
}

const LLAMA: &[&str] = layer!(
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
);

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "Qwen2ForCausalLM",
        layer: layer!(
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.q_proj.bias",
            "self_attn.k_proj.bias",
            "self_attn.v_proj.bias",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
        ),
    },
    Architecture {
        name: "Qwen3ForCausalLM",
        layer: layer!(
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.q_norm.weight",
            "self_attn.k_norm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
        ),
    },
    Architecture {
        name: "LlamaForCausalLM",
        layer: LLAMA,
    },
    Architecture {
        name: "MistralForCausalLM",
        layer: LLAMA,
    },
    Architecture {
        name: "Gemma3ForCausalLM",
        layer: layer!(
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.q_norm.weight",
            "self_attn.k_norm.weight",
            "pre_feedforward_layernorm.weight",
            "post_feedforward_layernorm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
        ),
    },
    Architecture {
        name: "Phi3ForCausalLM",
        layer: layer!("self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"),
    },
];

impl Architecture {
    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|a| a.name == name)
    }

    /// The supported names, for messages.
    pub(crate) fn names() -> String {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        names.join(", ")
    }

    /// Whether the table has a tensor of this name (of any layer).
    pub(crate) fn knows(&self, tensor: &str, num_layers: usize) -> bool {
        if [EMBEDDING, FINAL_NORM, HEAD].contains(&tensor) {
            return true;
        }
        let layer = tensor.strip_prefix("model.layers.");
        layer
            .and_then(|rest| rest.split_once('.'))
            .is_some_and(|(number, suffix)| {
                number.parse().is_ok_and(|layer: usize| layer < num_layers)
                    && self.layer.contains(&suffix)
            })
    }
}

/// The full name of a layer's tensor.
pub(crate) fn layer_tensor(layer: usize, suffix: &str) -> String {
    format!("model.layers.{layer}.{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_each_name_once_and_know_them() {
        for architecture in ARCHITECTURES {
            for (i, suffix) in architecture.layer.iter().enumerate() {
                assert!(!architecture.layer[..i].contains(suffix), "{suffix}");
                assert!(architecture.knows(&layer_tensor(31, suffix), 32));
            }
            assert!(!architecture.knows("model.layers.0.self_attn.rotary_emb.inv_freq", 32));
        }
        assert!(
            !Architecture::by_name("LlamaForCausalLM")
                .unwrap()
                .knows("model.layers.0.self_attn.q_proj.bias", 32)
        );
    }
}
