//! How integer weights lie in memory.
//!
//! A panel is sixteen outputs, as everywhere. A line of 8-bit weights has one word (four inputs) of
//! each output; a line of 4-bit weights has two, the first in the low halves of its bytes. Bytes are
//! unsigned, because the CPU multiplies unsigned with signed ones: what is stored is `weight + 128`
//! or `weight + 8`, and sums start at the correction. Scales are half precision, as in ggml's blocks.

use crate::quant::BlockType;

use super::super::simd::LANES;
use super::{GROUP, WIDE_GROUP};

/// A format of integer weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntFormat {
    /// `scale * q`, q from -127 to 127, a scale for each 32 inputs; activations alike. 8.5 bits.
    Int8,
    /// `scale * q`, q from -127 to 127, a scale for each 128 inputs; activations alike. 8.125 bits.
    Int8Wide,
    /// `scale * q`, one scale per output; activations have one per row. 8 bits.
    Int8PerRow,
    /// `scale * (q - 8)`, q from 0 to 15, a scale for each 32 inputs. 4.5 bits.
    Int4,
    /// `scale * q - minimum`, both for each 32 inputs. 5 bits.
    Int4Affine,
}

impl IntFormat {
    /// Every format.
    pub const ALL: [Self; 5] = [
        Self::Int8,
        Self::Int8Wide,
        Self::Int8PerRow,
        Self::Int4,
        Self::Int4Affine,
    ];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8 in blocks of 32",
            Self::Int8Wide => "int8 in blocks of 128",
            Self::Int8PerRow => "int8 per row",
            Self::Int4 => "int4",
            Self::Int4Affine => "int4 with minimums",
        }
    }

    /// The smallest format for blocks of `block_type`: one that takes them, or else 8 bits. `None`
    /// for floats.
    pub const fn of(block_type: BlockType) -> Option<Self> {
        match block_type {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => None,
            BlockType::Q4_0 => Some(Self::Int4),
            BlockType::Q4_1 | BlockType::Q4K => Some(Self::Int4Affine),
            BlockType::Q8_0
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q2K
            | BlockType::Q3K
            | BlockType::Q5K
            | BlockType::Q6K
            | BlockType::Q8K => Some(Self::Int8),
        }
    }

    /// Whether it holds such blocks as they are, integer for integer. (Products of two scales, as
    /// `Q4_K` has them, are rounded to half precision.)
    pub const fn takes(self, block_type: BlockType) -> bool {
        matches!(
            (self, block_type),
            (
                Self::Int8,
                BlockType::Q8_0 | BlockType::Q5_0 | BlockType::Q4_0
            ) | (Self::Int4, BlockType::Q4_0)
                | (
                    Self::Int4Affine,
                    BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q4K
                )
        )
    }

    /// Inputs that share a scale, of weights and activations; all of them where `None`.
    pub const fn group(self) -> Option<usize> {
        match self {
            Self::Int8 | Self::Int4 | Self::Int4Affine => Some(GROUP),
            Self::Int8Wide => Some(WIDE_GROUP),
            Self::Int8PerRow => None,
        }
    }

    /// Whether matrix tiles multiply it faster than vector registers, where a CPU has them: not where
    /// every 32 inputs have scales, since what follows a sum takes longer than the sum.
    pub const fn is_multiplied_in_tiles(self) -> bool {
        matches!(self, Self::Int8Wide | Self::Int8PerRow)
    }

    /// Whether a byte holds two weights.
    pub(super) const fn has_nibbles(self) -> bool {
        matches!(self, Self::Int4 | Self::Int4Affine)
    }

    /// Whether groups have a minimum.
    pub(super) const fn is_affine(self) -> bool {
        matches!(self, Self::Int4Affine)
    }

    /// Groups of `inputs` inputs.
    pub(super) const fn groups(self, inputs: usize) -> usize {
        groups(self.group(), inputs)
    }

    /// Bytes of a packed matrix.
    pub const fn bytes(self, outputs: usize, inputs: usize) -> usize {
        let padded = inputs.next_multiple_of(GROUP);
        let quants = if self.has_nibbles() {
            padded / 2
        } else {
            padded
        };
        let panels = panels(outputs);
        // Sixteen outputs' scales of a group are half a line.
        let scales = panels * self.groups(inputs) * 32;
        panels * 16 * quants + if self.is_affine() { 2 * scales } else { scales }
    }
}

/// Groups of `inputs` inputs, so many each; one where they are all in one.
pub(super) const fn groups(group: Option<usize>, inputs: usize) -> usize {
    match group {
        Some(group) => inputs.div_ceil(group),
        None => 1,
    }
}

/// Panels of a matrix: an even number, so that kernels need tiles of two panels only.
pub(super) const fn panels(outputs: usize) -> usize {
    outputs.div_ceil(LANES).next_multiple_of(2)
}

/// An [`IntFormat`] as a type, for kernels.
pub(super) trait Format: Copy + Send + Sync + 'static {
    const FORMAT: IntFormat;
}

macro_rules! formats {
    ($($name:ident)*) => {
        $(
            #[derive(Clone, Copy)]
            pub(super) struct $name;

            impl Format for $name {
                const FORMAT: IntFormat = IntFormat::$name;
            }
        )*
    };
}

formats!(Int8 Int8Wide Int8PerRow Int4 Int4Affine);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_type_but_floats_has_a_format() {
        for block_type in BlockType::ALL {
            assert_eq!(
                IntFormat::of(block_type).is_some(),
                block_type.is_quantised(),
                "{}",
                block_type.name()
            );
        }
    }

    #[test]
    fn sizes_in_bits() {
        let bits = |format: IntFormat| format.bytes(1024, 1024) as f64 * 8.0 / (1 << 20) as f64;
        assert_eq!(bits(IntFormat::Int8), 8.5);
        assert_eq!(bits(IntFormat::Int8Wide), 8.125);
        assert_eq!(bits(IntFormat::Int4), 4.5);
        assert_eq!(bits(IntFormat::Int4Affine), 5.0);
    }
}
