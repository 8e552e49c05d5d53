//! Memory that a model will take of our own kernels.

use crate::engine::MemoryDemand;
use crate::kernels::cpu::{Bf16, F32, KvShape, Operand};
use crate::model::{DecoderSpec, Model};

use super::storage::Storage;
use super::{ComputeType, KvType, Quantize};

impl MemoryDemand {
    /// What `model` takes of our own kernels, its weights packed.
    pub fn on_cpu(
        model: &Model,
        compute_type: ComputeType,
        quantize: Quantize,
        kv_type: KvType,
        block_size: usize,
    ) -> Self {
        let weight_bytes = Storage::new(compute_type, quantize).weight_bytes(model);
        match compute_type {
            ComputeType::F32 => Self::with::<F32>(&model.spec, weight_bytes, kv_type, block_size),
            ComputeType::Bf16 => Self::with::<Bf16>(&model.spec, weight_bytes, kv_type, block_size),
        }
    }

    fn with<O: Operand>(
        spec: &DecoderSpec,
        weight_bytes: u64,
        kv_type: KvType,
        block_size: usize,
    ) -> Self {
        let value = size_of::<O::Word>() / O::PER_WORD;
        let (hidden, middle) = (spec.hidden_size, spec.intermediate_size);
        let qkv = spec.q_size() + 2 * spec.kv_size();
        let rounded = hidden + 2 * spec.q_size() + middle;
        let plain = 2 * hidden + qkv + spec.vocab_size;
        // The inputs of products as integers, a byte each and eight for the numbers of a group.
        let ints = (hidden + spec.q_size() + middle) * (32 + 8) / 32;
        Self {
            weight_bytes,
            row_bytes: (rounded * value + plain * size_of::<f32>() + ints) as u64,
            block_bytes: kv_shape(spec, kv_type, block_size, 1).block_bytes::<O>() as u64,
        }
    }
}

/// The extent of a model's KV cache.
pub(super) fn kv_shape(
    spec: &DecoderSpec,
    kv_type: KvType,
    block_size: usize,
    num_blocks: usize,
) -> KvShape {
    KvShape {
        num_layers: spec.num_hidden_layers,
        num_blocks,
        block_size,
        num_key_value_heads: spec.num_key_value_heads,
        head_dim: spec.head_dim,
        format: kv_type.format(),
    }
}
