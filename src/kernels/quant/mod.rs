//! Storage formats of weights and their exact values: floats of 16 and 32 bits, and ggml's
//! quantised blocks.
//!
//! Dequantising follows ggml's own arithmetic operation by operation, so that a tensor read here
//! has the bits that llama.cpp computes with. The layouts are those of `ggml-common.h`; every
//! multi-byte field is little endian. Quantising lives elsewhere: it is a choice, this is not.

mod blocks;
pub mod half_floats;
mod k_blocks;
mod quantise;

pub(crate) use k_blocks::q4_k_groups;

/// How one row of a tensor is stored: blocks of [`Self::block_len`] elements, each of
/// [`Self::block_bytes`] bytes. Plain floats are blocks of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minimums per 16, in blocks of 256.
    Q2K,
    /// 3 bits, 6-bit scales per 16, in blocks of 256.
    Q3K,
    /// 4 bits, 6-bit scales and minimums per 32, in blocks of 256.
    Q4K,
    /// 5 bits, 6-bit scales and minimums per 32, in blocks of 256.
    Q5K,
    /// 6 bits, 8-bit scales per 16, in blocks of 256.
    Q6K,
    /// 8 bits, one single-precision scale per 256.
    Q8K,
}

impl BlockType {
    /// Every format, for tests and tables.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
    ];

    /// The name that ggml prints (`Q4_K`, `BF16`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8K => "Q8_K",
        }
    }

    /// Elements of one block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => blocks::LEN,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K => k_blocks::LEN,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => blocks::Q4_0_BYTES,
            Self::Q4_1 => blocks::Q4_1_BYTES,
            Self::Q5_0 => blocks::Q5_0_BYTES,
            Self::Q5_1 => blocks::Q5_1_BYTES,
            Self::Q8_0 => blocks::Q8_0_BYTES,
            Self::Q2K => k_blocks::Q2_K_BYTES,
            Self::Q3K => k_blocks::Q3_K_BYTES,
            Self::Q4K => k_blocks::Q4_K_BYTES,
            Self::Q5K => k_blocks::Q5_K_BYTES,
            Self::Q6K => k_blocks::Q6_K_BYTES,
            Self::Q8K => k_blocks::Q8_K_BYTES,
        }
    }

    /// Whether elements share scales, so that single ones cannot be read by themselves.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `len` elements; `None` where `len` is no whole number of blocks or the
    /// size does not fit in memory.
    pub const fn row_bytes(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Writes the values of whole blocks.
    ///
    /// *Shapes* `bytes`: [`Self::row_bytes`] of `values.len()`.
    ///
    /// # Panics
    /// The lengths do not belong together.
    pub fn dequantise(self, bytes: &[u8], values: &mut [f32]) {
        assert_eq!(
            self.row_bytes(values.len()),
            Some(bytes.len()),
            "{} values of {}",
            values.len(),
            self.name()
        );
        match self {
            Self::F32 => half_floats::f32_from_bytes(bytes, values),
            Self::F16 => half_floats::f16_to_f32(bytes, values),
            Self::BF16 => half_floats::bf16_to_f32(bytes, values),
            Self::Q4_0 => blocks::each(bytes, values, blocks::q4_0),
            Self::Q4_1 => blocks::each(bytes, values, blocks::q4_1),
            Self::Q5_0 => blocks::each(bytes, values, blocks::q5_0),
            Self::Q5_1 => blocks::each(bytes, values, blocks::q5_1),
            Self::Q8_0 => blocks::each(bytes, values, blocks::q8_0),
            Self::Q2K => k_blocks::each(bytes, values, k_blocks::q2_k),
            Self::Q3K => k_blocks::each(bytes, values, k_blocks::q3_k),
            Self::Q4K => k_blocks::each(bytes, values, k_blocks::q4_k),
            Self::Q5K => k_blocks::each(bytes, values, k_blocks::q5_k),
            Self::Q6K => k_blocks::each(bytes, values, k_blocks::q6_k),
            Self::Q8K => k_blocks::each(bytes, values, k_blocks::q8_k),
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_ggmls() {
        let bytes: Vec<usize> = BlockType::ALL.iter().map(|t| t.block_bytes()).collect();
        assert_eq!(
            bytes,
            [4, 2, 2, 18, 20, 22, 24, 34, 84, 110, 144, 176, 210, 292]
        );
    }

    #[test]
    fn a_row_of_part_blocks_has_no_size() {
        assert_eq!(BlockType::Q8_0.row_bytes(64), Some(68));
        assert_eq!(BlockType::Q8_0.row_bytes(33), None);
        assert_eq!(BlockType::Q6K.row_bytes(896), None);
        assert_eq!(BlockType::F32.row_bytes(usize::MAX), None);
    }

    proptest! {
        /// Any bytes dequantise without a panic, and a row's blocks do not touch each other.
        #[test]
        fn any_bytes_dequantise_block_by_block(seed in prop::collection::vec(any::<u8>(), 2 * 292)) {
            for block_type in BlockType::ALL {
                let len = 2 * block_type.block_len();
                let bytes = &seed[..block_type.row_bytes(len).unwrap()];
                let mut whole = vec![0.0; len];
                block_type.dequantise(bytes, &mut whole);
                let (first, second) = bytes.split_at(block_type.block_bytes());
                let mut halves = vec![0.0; len];
                let (left, right) = halves.split_at_mut(block_type.block_len());
                block_type.dequantise(first, left);
                block_type.dequantise(second, right);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&whole), bits(&halves));
            }
        }
    }
}
