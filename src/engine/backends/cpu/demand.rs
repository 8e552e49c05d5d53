//! Memory that a model will take, known before any of it is taken.

use crate::kernels::cpu::{Bf16, F32, KvShape, Operand};
use crate::model::DecoderSpec;

use super::ComputeType;

/// Bytes for one model, type and block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuDemand {
    /// Packed weights.
    pub weight_bytes: u64,
    /// Buffers of one row of a step, logits included.
    pub row_bytes: u64,
    /// One KV block over all layers.
    pub block_bytes: u64,
}

impl CpuDemand {
    /// What `spec` takes.
    pub fn of(spec: &DecoderSpec, compute_type: ComputeType, block_size: usize) -> Self {
        match compute_type {
            ComputeType::F32 => Self::with::<F32>(spec, block_size),
            ComputeType::Bf16 => Self::with::<Bf16>(spec, block_size),
        }
    }

    fn with<O: Operand>(spec: &DecoderSpec, block_size: usize) -> Self {
        let value = size_of::<O::Word>() / O::PER_WORD;
        let (hidden, middle) = (spec.hidden_size, spec.intermediate_size);
        let qkv = spec.q_size() + 2 * spec.kv_size();
        // Outputs come in panels of sixteen.
        let matrix = |outputs: usize, inputs: usize| outputs.next_multiple_of(16) * inputs * value;
        let layer = matrix(qkv, hidden)
            + matrix(hidden, spec.q_size())
            + 2 * matrix(middle, hidden)
            + matrix(hidden, middle);
        let rounded = hidden + 2 * spec.q_size() + middle;
        let plain = 2 * hidden + qkv + spec.vocab_size;
        Self {
            weight_bytes: (spec.num_hidden_layers * layer + matrix(spec.vocab_size, hidden)) as u64,
            row_bytes: (rounded * value + plain * size_of::<f32>()) as u64,
            block_bytes: kv_shape(spec, block_size, 1).block_bytes::<O>() as u64,
        }
    }
}

/// The extent of a model's KV cache.
pub(super) fn kv_shape(spec: &DecoderSpec, block_size: usize, num_blocks: usize) -> KvShape {
    KvShape {
        num_layers: spec.num_hidden_layers,
        num_blocks,
        block_size,
        num_key_value_heads: spec.num_key_value_heads,
        head_dim: spec.head_dim,
    }
}
