//! Memory that a model will take, known before any of it is taken: the form, and what it is on a
//! device of ggml's. (What our own kernels take is said beside them, in `backends/cpu/demand.rs`.)
//! The executors allocate by it, and a forecast for a device that is elsewhere reads it.

use std::ops::Range;

use super::backends::cpu::ComputeType;
use super::device::DeviceKind;
use crate::kernels::quant::BlockType;
use crate::model::{DecoderSpec, Model, WeightId};

/// Bytes for one model, place and block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryDemand {
    /// Weights, the embedding excepted where the head is another matrix: its rows are read from
    /// the checkpoint.
    pub weight_bytes: u64,
    /// Buffers of one row of a step, logits and masks included.
    pub row_bytes: u64,
    /// One KV block over all layers.
    pub block_bytes: u64,
}

impl std::ops::Add for MemoryDemand {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            row_bytes: self.row_bytes + other.row_bytes,
            block_bytes: self.block_bytes + other.block_bytes,
        }
    }
}

impl MemoryDemand {
    /// What `model` takes on a device of ggml's, with sequences of up to `max_model_len` tokens.
    pub fn on_device(
        model: &Model,
        kind: DeviceKind,
        compute_type: ComputeType,
        block_size: usize,
        max_model_len: usize,
    ) -> Self {
        let layers = 0..model.spec.num_hidden_layers;
        Self::of_layers(model, layers, kind, compute_type, block_size, max_model_len)
    }

    /// What `layers` of the model take, with the head if the last one is among them.
    pub fn of_layers(
        model: &Model,
        layers: Range<usize>,
        kind: DeviceKind,
        compute_type: ComputeType,
        block_size: usize,
        max_model_len: usize,
    ) -> Self {
        let spec = &model.spec;
        let has_head = layers.end == spec.num_hidden_layers;
        let weights = model.weights().filter(|(id, _)| match id {
            WeightId::Layer(layer, _) => layers.contains(layer),
            WeightId::Embedding => has_head && spec.tie_word_embeddings,
            WeightId::Head | WeightId::FinalNorm => has_head,
        });
        let weight_bytes = weights.map(|(_, weight)| {
            let stored = held_as(weight.block_type(), weight.rows() == 1, compute_type);
            let row = stored.row_bytes(weight.cols());
            (row.expect("a row that is stored in whole blocks") * weight.rows()) as u64
        });
        let element = kv_type(kind, compute_type).block_bytes();
        let block = 2 * block_size * spec.kv_size() * layers.len() * element;
        Self {
            weight_bytes: weight_bytes.sum(),
            row_bytes: row_bytes(spec, has_head, max_model_len),
            block_bytes: block as u64,
        }
    }
}

/// What keys and values are held in. A processor multiplies bfloat16 with sums in `f32`, and sums
/// half precision in half precision; the attention kernels of GPUs are made for half precision.
pub(super) fn kv_type(kind: DeviceKind, compute_type: ComputeType) -> BlockType {
    match (compute_type, kind) {
        (ComputeType::F32, _) => BlockType::F32,
        (ComputeType::Bf16, DeviceKind::Cpu) => BlockType::BF16,
        (ComputeType::Bf16, _) => BlockType::F16,
    }
}

/// What a weight is held in: as it is stored, except that single precision is halved where
/// bfloat16 was asked for, and everything else widened where single precision was. Vectors are
/// always `f32`.
pub(super) fn held_as(stored: BlockType, is_vector: bool, compute_type: ComputeType) -> BlockType {
    match (compute_type, stored) {
        _ if is_vector => BlockType::F32,
        (ComputeType::F32, _) => BlockType::F32,
        // ggml multiplies with every type but this one, which is for activations.
        (ComputeType::Bf16, BlockType::F32 | BlockType::Q8K) => BlockType::BF16,
        (ComputeType::Bf16, stored) => stored,
    }
}

/// Activations that live at the same time, about, logits if the head is there, and one row of every
/// mask.
fn row_bytes(spec: &DecoderSpec, has_head: bool, max_model_len: usize) -> u64 {
    let hidden = 4 * spec.hidden_size;
    let attention = 3 * spec.q_size() + 2 * spec.kv_size();
    let middle = 3 * spec.intermediate_size;
    let mut windows = spec.sliding_window.clone();
    windows.sort_unstable();
    windows.dedup();
    let logits = if has_head { spec.vocab_size } else { 0 };
    let floats = hidden + attention.max(middle) + logits;
    (floats * size_of::<f32>() + windows.len() * max_model_len * size_of::<u16>()) as u64
}
