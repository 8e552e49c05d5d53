//! Weights by role: what a decoder needs, whatever the checkpoint calls it and however it
//! stores it.

use std::ops::Range;

use super::DecoderSpec;
use crate::kernels::quant::BlockType;

/// One weight of a decoder, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightId {
    /// Token embedding, `[vocab_size, hidden_size]`.
    Embedding,
    /// Output projection, `[vocab_size, hidden_size]`; the embedding where the two are tied.
    Head,
    /// Norm before the head, `[1, hidden_size]`.
    FinalNorm,
    /// A weight of one layer, counted from 0.
    Layer(usize, LayerWeight),
}

/// One weight of a layer. Shapes are `[out_features, in_features]`; vectors have one row. With
/// `q_size = num_attention_heads * head_dim` and `kv_size = num_key_value_heads * head_dim`:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerWeight {
    /// Norm before attention, `[1, hidden_size]`.
    AttnNorm,
    /// Query projection, `[q_size, hidden_size]`.
    Q,
    /// Query bias, `[1, q_size]`.
    QBias,
    /// Key projection, `[kv_size, hidden_size]`.
    K,
    /// Key bias, `[1, kv_size]`.
    KBias,
    /// Value projection, `[kv_size, hidden_size]`.
    V,
    /// Value bias, `[1, kv_size]`.
    VBias,
    /// Output projection of attention, `[hidden_size, q_size]`.
    O,
    /// Norm of each query head, `[1, head_dim]`.
    QNorm,
    /// Norm of each key head, `[1, head_dim]`.
    KNorm,
    /// Norm of attention's output before it joins the residual, `[1, hidden_size]`.
    PostAttnNorm,
    /// Norm before the MLP, `[1, hidden_size]`.
    FfnNorm,
    /// Gate projection, `[intermediate_size, hidden_size]`.
    Gate,
    /// Up projection, `[intermediate_size, hidden_size]`.
    Up,
    /// Down projection, `[hidden_size, intermediate_size]`.
    Down,
    /// Norm of the MLP's output before it joins the residual, `[1, hidden_size]`.
    PostFfnNorm,
}

impl LayerWeight {
    /// Every weight that a layer can have.
    pub const ALL: [Self; 16] = [
        Self::AttnNorm,
        Self::Q,
        Self::QBias,
        Self::K,
        Self::KBias,
        Self::V,
        Self::VBias,
        Self::O,
        Self::QNorm,
        Self::KNorm,
        Self::PostAttnNorm,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::PostFfnNorm,
    ];

    /// Whether a layer of this decoder has it.
    pub fn is_in(self, spec: &DecoderSpec) -> bool {
        match self {
            Self::QBias | Self::KBias | Self::VBias => spec.qkv_bias,
            Self::QNorm | Self::KNorm => spec.qk_norm,
            Self::PostAttnNorm | Self::PostFfnNorm => spec.post_norms,
            _ => true,
        }
    }

    /// Rows and columns in this decoder; one row for a vector.
    pub fn shape(self, spec: &DecoderSpec) -> (usize, usize) {
        let (hidden, middle) = (spec.hidden_size, spec.intermediate_size);
        let (q, kv) = (spec.q_size(), spec.kv_size());
        match self {
            Self::AttnNorm | Self::PostAttnNorm | Self::FfnNorm | Self::PostFfnNorm => (1, hidden),
            Self::QNorm | Self::KNorm => (1, spec.head_dim),
            Self::Q => (q, hidden),
            Self::K | Self::V => (kv, hidden),
            Self::QBias => (1, q),
            Self::KBias | Self::VBias => (1, kv),
            Self::O => (hidden, q),
            Self::Gate | Self::Up => (middle, hidden),
            Self::Down => (hidden, middle),
        }
    }

    /// Whether it is a bias or a norm.
    pub(super) fn is_vector(self) -> bool {
        self.is_norm() || matches!(self, Self::QBias | Self::KBias | Self::VBias)
    }

    pub(super) fn is_norm(self) -> bool {
        matches!(
            self,
            Self::AttnNorm
                | Self::QNorm
                | Self::KNorm
                | Self::PostAttnNorm
                | Self::FfnNorm
                | Self::PostFfnNorm
        )
    }
}

/// How stored rows correspond to the rows that a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// They are the same.
    AsStored,
    /// llama.cpp's layout of Llama's q and k: in every head of `head_dim` rows, row `2j + h` holds
    /// what the half-split layout has at row `j + h * head_dim / 2`.
    Interleaved {
        /// Rows per head.
        head_dim: usize,
    },
}

impl RowOrder {
    fn stored_row(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::Interleaved { head_dim } => {
                let (head, in_head) = (row / head_dim, row % head_dim);
                let (half, pair) = (in_head / (head_dim / 2), in_head % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }
}

/// A weight in the memory-mapped checkpoint: a matrix of `rows() x cols()` whose rows read as
/// `f32` in Hugging Face's layout (rotary halves split, fused projections apart).
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    pub(super) data: &'a [u8],
    pub(super) block_type: BlockType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: RowOrder,
    pub(super) offset: f32,
}

impl<'a> Weight<'a> {
    /// Rows: output features, 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row: input features, or the length of a vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the checkpoint stores the elements.
    pub fn block_type(&self) -> BlockType {
        self.block_type
    }

    /// A constant that reading adds to every stored element: 1 for the norms of a Gemma checkpoint
    /// that stores `weight - 1`, else 0. Bytes of [`Weight::row_bytes`] do not contain it.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// The stored bytes of a row, whole blocks of [`Weight::block_type`].
    ///
    /// # Panics
    /// `row` is not below `rows()`.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let bytes = self.data.len() / self.rows;
        &self.data[self.order.stored_row(row) * bytes..][..bytes]
    }

    /// Bytes of all rows.
    pub fn num_bytes(&self) -> usize {
        self.data.len()
    }

    /// Reads one row. *Shapes* `values`: `[cols()]`.
    ///
    /// # Panics
    /// `row` is not below `rows()`, or `values` has another length than a row.
    pub fn read_row(&self, row: usize, values: &mut [f32]) {
        self.block_type.dequantise(self.row_bytes(row), values);
        if self.offset != 0.0 {
            for value in values {
                *value += self.offset;
            }
        }
    }

    /// Reads rows back to back. *Shapes* `values`: `[rows.len(), cols()]`.
    ///
    /// # Panics
    /// A row is not below `rows()`, or `values` has another length than the rows.
    pub fn read_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        assert_eq!(values.len(), rows.len() * self.cols, "whole rows");
        for (row, values) in rows.zip(values.chunks_exact_mut(self.cols)) {
            self.read_row(row, values);
        }
    }

    /// All values, `[rows(), cols()]`.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        self.read_rows(0..self.rows, &mut values);
        values
    }
}

impl std::fmt::Debug for Weight<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}, {}]", self.block_type, self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quant::half_floats;

    /// The converter's permutation, the other way round: source row `j + h * d / 2` of a head goes
    /// to row `2j + h`.
    #[test]
    fn interleaved_rows_come_back_half_split() {
        let (head_dim, rows) = (6, 12);
        let mut stored = vec![0.0; rows];
        for head in 0..2 {
            for half in 0..2 {
                for pair in 0..3 {
                    let source = head * head_dim + pair + half * 3;
                    stored[head * head_dim + 2 * pair + half] = source as f32;
                }
            }
        }
        let mut data = vec![0; 4 * rows];
        half_floats::f32_to_bytes(&stored, &mut data);
        let weight = Weight {
            data: &data,
            block_type: BlockType::F32,
            rows,
            cols: 1,
            order: RowOrder::Interleaved { head_dim },
            offset: 0.0,
        };
        let expected: Vec<f32> = (0..rows).map(|row| row as f32).collect();
        assert_eq!(weight.to_vec(), expected);
    }

    #[test]
    fn a_norm_offset_is_added_on_reading() {
        let mut data = [0; 8];
        half_floats::f32_to_bytes(&[0.25, -1.0], &mut data);
        let weight = Weight {
            data: &data,
            block_type: BlockType::F32,
            rows: 1,
            cols: 2,
            order: RowOrder::AsStored,
            offset: 1.0,
        };
        assert_eq!(weight.to_vec(), [1.25, 0.0]);
    }
}
