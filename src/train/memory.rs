//! What a run will hold in memory, before it starts.

use super::decoder::LOGITS_AT_ONCE;
use crate::model::DecoderSpec;

/// Bytes by purpose. An estimate: activations are counted for the longest batch, the program
/// itself and the data are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, trained ones in f32.
    pub weights: u64,
    /// Two moments and the gradients, f32.
    pub optimizer: u64,
    /// What the backward pass needs of the forward pass.
    pub activations: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.activations
    }
}

/// What the estimate depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Values that are not trained.
    pub num_frozen: usize,
    /// Bytes of each.
    pub frozen_bytes: usize,
    /// Values that are.
    pub num_trained: usize,
    /// Tokens of the largest micro-batch, padding included.
    pub tokens: usize,
    /// Whether layers are computed again in the backward pass.
    pub recompute: bool,
}

/// The estimate for a decoder.
pub fn estimate(spec: &DecoderSpec, sizes: &Sizes) -> MemoryEstimate {
    let per_token = |values: usize| 4 * values as u64 * sizes.tokens as u64;
    let (hidden, middle) = (spec.hidden_size, spec.intermediate_size);
    // A layer keeps its input, the sum between its halves, queries, keys, values (twice where they
    // are normed), attention's output and normalisers, gate and up.
    let normed = usize::from(spec.qk_norm) * (spec.q_size() + spec.kv_size());
    let projected = 2 * spec.q_size() + 2 * spec.kv_size() + normed;
    let layer = per_token(2 * hidden + projected + spec.num_attention_heads + 2 * middle);
    let kept = if sizes.recompute {
        per_token(hidden) * spec.num_hidden_layers as u64 + layer
    } else {
        layer * spec.num_hidden_layers as u64
    };
    // The gradients of one layer, the widest at a time, and the logits of a part of the rows.
    let working = per_token(4 * hidden + spec.q_size().max(middle));
    let logits = per_token(spec.vocab_size).min(4 * LOGITS_AT_ONCE as u64);
    MemoryEstimate {
        weights: (sizes.num_frozen * sizes.frozen_bytes + 4 * sizes.num_trained) as u64,
        optimizer: 12 * sizes.num_trained as u64,
        activations: kept + working + logits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recomputation_and_frozen_weights_need_less() {
        let config = serde_json::json!({
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 512,
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 10000.0,
        });
        let spec = crate::model::spec_from_config(&config).unwrap();
        let sizes = Sizes {
            num_frozen: 0,
            frozen_bytes: 4,
            num_trained: 1000,
            tokens: 256,
            recompute: false,
        };
        let full = estimate(&spec, &sizes);
        assert_eq!((full.weights, full.optimizer), (4000, 12000));
        let recomputed = estimate(
            &spec,
            &Sizes {
                recompute: true,
                ..sizes
            },
        );
        assert!(recomputed.activations < full.activations);
        let lora = Sizes {
            num_frozen: 990,
            num_trained: 10,
            frozen_bytes: 2,
            ..sizes
        };
        assert!(estimate(&spec, &lora).total() < full.total());
    }
}
