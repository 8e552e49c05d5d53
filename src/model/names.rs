//! What checkpoints call their tensors, as tables.

use super::weight::LayerWeight::{self, *};

/// The tensor names of a family in one format.
pub(super) struct TensorNames {
    pub(super) embedding: &'static str,
    pub(super) final_norm: &'static str,
    /// Absent where the head is tied.
    pub(super) head: &'static str,
    /// Before the layer's number.
    pub(super) layer_prefix: &'static str,
    /// After the number and a dot, each with the weights it holds: several are stacked in order.
    pub(super) layer: &'static [(&'static str, &'static [LayerWeight])],
    /// Whether rows of q and k have llama.cpp's interleaved order.
    pub(super) interleaved: bool,
    /// Added to every norm's stored weights.
    pub(super) norm_offset: f32,
}

/// Parts of a layer that a checkpoint may carry although nothing is computed from them: buffers
/// that old versions of transformers saved.
pub(super) const IGNORED_IN_LAYERS: &[&str] = &[
    "self_attn.rotary_emb.inv_freq",
    "self_attn.bias",
    "self_attn.masked_bias",
];

/// Llama, Mistral, Qwen2, Qwen3.
pub(super) const HUGGING_FACE: TensorNames = TensorNames {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    layer_prefix: "model.layers.",
    layer: &[
        ("input_layernorm.weight", &[AttnNorm]),
        ("self_attn.q_proj.weight", &[Q]),
        ("self_attn.q_proj.bias", &[QBias]),
        ("self_attn.k_proj.weight", &[K]),
        ("self_attn.k_proj.bias", &[KBias]),
        ("self_attn.v_proj.weight", &[V]),
        ("self_attn.v_proj.bias", &[VBias]),
        ("self_attn.o_proj.weight", &[O]),
        ("self_attn.q_norm.weight", &[QNorm]),
        ("self_attn.k_norm.weight", &[KNorm]),
        ("post_attention_layernorm.weight", &[FfnNorm]),
        ("mlp.gate_proj.weight", &[Gate]),
        ("mlp.up_proj.weight", &[Up]),
        ("mlp.down_proj.weight", &[Down]),
    ],
    interleaved: false,
    norm_offset: 0.0,
};

/// Gemma 3: four norms per layer, stored less one.
pub(super) const HUGGING_FACE_GEMMA3: TensorNames = TensorNames {
    layer: &[
        ("input_layernorm.weight", &[AttnNorm]),
        ("self_attn.q_proj.weight", &[Q]),
        ("self_attn.k_proj.weight", &[K]),
        ("self_attn.v_proj.weight", &[V]),
        ("self_attn.o_proj.weight", &[O]),
        ("self_attn.q_norm.weight", &[QNorm]),
        ("self_attn.k_norm.weight", &[KNorm]),
        ("post_attention_layernorm.weight", &[PostAttnNorm]),
        ("pre_feedforward_layernorm.weight", &[FfnNorm]),
        ("mlp.gate_proj.weight", &[Gate]),
        ("mlp.up_proj.weight", &[Up]),
        ("mlp.down_proj.weight", &[Down]),
        ("post_feedforward_layernorm.weight", &[PostFfnNorm]),
    ],
    norm_offset: 1.0,
    ..HUGGING_FACE
};

/// Phi-3: q, k and v in one tensor, gate and up in another.
pub(super) const HUGGING_FACE_PHI3: TensorNames = TensorNames {
    layer: &[
        ("input_layernorm.weight", &[AttnNorm]),
        ("self_attn.qkv_proj.weight", &[Q, K, V]),
        ("self_attn.o_proj.weight", &[O]),
        ("post_attention_layernorm.weight", &[FfnNorm]),
        ("mlp.gate_up_proj.weight", &[Gate, Up]),
        ("mlp.down_proj.weight", &[Down]),
    ],
    ..HUGGING_FACE
};

/// Qwen2 and Qwen3.
pub(super) const GGUF: TensorNames = TensorNames {
    embedding: "token_embd.weight",
    final_norm: "output_norm.weight",
    head: "output.weight",
    layer_prefix: "blk.",
    layer: &[
        ("attn_norm.weight", &[AttnNorm]),
        ("attn_q.weight", &[Q]),
        ("attn_q.bias", &[QBias]),
        ("attn_k.weight", &[K]),
        ("attn_k.bias", &[KBias]),
        ("attn_v.weight", &[V]),
        ("attn_v.bias", &[VBias]),
        ("attn_output.weight", &[O]),
        ("attn_q_norm.weight", &[QNorm]),
        ("attn_k_norm.weight", &[KNorm]),
        ("ffn_norm.weight", &[FfnNorm]),
        ("ffn_gate.weight", &[Gate]),
        ("ffn_up.weight", &[Up]),
        ("ffn_down.weight", &[Down]),
    ],
    interleaved: false,
    norm_offset: 0.0,
};

/// Llama and Mistral.
pub(super) const GGUF_INTERLEAVED: TensorNames = TensorNames {
    interleaved: true,
    ..GGUF
};

/// Gemma 3; the converter has added the one to the norms.
pub(super) const GGUF_GEMMA3: TensorNames = TensorNames {
    layer: &[
        ("attn_norm.weight", &[AttnNorm]),
        ("attn_q.weight", &[Q]),
        ("attn_k.weight", &[K]),
        ("attn_v.weight", &[V]),
        ("attn_output.weight", &[O]),
        ("attn_q_norm.weight", &[QNorm]),
        ("attn_k_norm.weight", &[KNorm]),
        ("post_attention_norm.weight", &[PostAttnNorm]),
        ("ffn_norm.weight", &[FfnNorm]),
        ("ffn_gate.weight", &[Gate]),
        ("ffn_up.weight", &[Up]),
        ("ffn_down.weight", &[Down]),
        ("post_ffw_norm.weight", &[PostFfnNorm]),
    ],
    ..GGUF
};

/// Phi-3, fused as in Hugging Face; `ffn_up` holds gate and up.
pub(super) const GGUF_PHI3: TensorNames = TensorNames {
    layer: &[
        ("attn_norm.weight", &[AttnNorm]),
        ("attn_qkv.weight", &[Q, K, V]),
        ("attn_output.weight", &[O]),
        ("ffn_norm.weight", &[FfnNorm]),
        ("ffn_up.weight", &[Gate, Up]),
        ("ffn_down.weight", &[Down]),
    ],
    ..GGUF
};
