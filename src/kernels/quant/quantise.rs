//! Quantising to ggml's blocks of 32, bit for bit as ggml's reference quantisers do.
//!
//! These types leave no choice: scale and rounding follow from the values. The k-quants are a
//! search and are not here.

use half::f16;

use super::BlockType;

/// Elements of a block of all types below.
const BLOCK: usize = 32;

impl BlockType {
    /// Quantises whole rows; the inverse of [`Self::dequantise`] up to rounding.
    ///
    /// Returns false, and writes nothing, for types without a quantiser here (the k-quants).
    ///
    /// *Shapes* `bytes`: [`Self::row_bytes`] of `values.len()`.
    ///
    /// # Panics
    /// The lengths do not belong together.
    #[must_use]
    pub fn quantise(self, values: &[f32], bytes: &mut [u8]) -> bool {
        assert_eq!(
            self.row_bytes(values.len()),
            Some(bytes.len()),
            "the output is as long as the blocks of the input"
        );
        let quantise_block = match self {
            Self::F32 => {
                super::half_floats::f32_to_bytes(values, bytes);
                return true;
            }
            Self::F16 => {
                super::half_floats::f32_to_f16(values, bytes);
                return true;
            }
            Self::BF16 => {
                super::half_floats::f32_to_bf16(values, bytes);
                return true;
            }
            Self::Q8_0 => q8_0,
            Self::Q4_0 => q4_0,
            Self::Q5_0 => q5_0,
            _ => return false,
        };
        let blocks = values.as_chunks::<BLOCK>().0;
        for (block, out) in blocks
            .iter()
            .zip(bytes.chunks_exact_mut(self.block_bytes()))
        {
            quantise_block(block, out);
        }
        true
    }
}

/// The factor from values to quants; zero for a block of zeros.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The element of largest magnitude, the first of several, with its sign.
fn extreme(block: &[f32; BLOCK]) -> f32 {
    let mut extreme = 0.0_f32;
    for value in block {
        if value.abs() > extreme.abs() {
            extreme = *value;
        }
    }
    extreme
}

/// Scale `max|x| / 127`; quants use it in single precision, the block stores it in half.
fn q8_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let scale = extreme(block).abs() / 127.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (value, quant) in block.iter().zip(&mut out[2..]) {
        // `round` is to nearest, halves away from zero, as C's `roundf`.
        *quant = (value * inverse).round() as i8 as u8;
    }
}

/// Scale `extreme / -8`; the quant of the extreme is 0, and values reach `7 * scale` beyond zero.
fn q4_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let scale = extreme(block) / -8.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let quant = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    for (j, packed) in out[2..].iter_mut().enumerate() {
        *packed = quant(block[j]) | quant(block[j + BLOCK / 2]) << 4;
    }
}

/// As [`q4_0`] with a fifth bit, gathered in 32 bits before the nibbles.
fn q5_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let scale = extreme(block) / -16.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let quant = |value: f32| ((value * inverse + 16.5) as u8).min(31);
    let mut high_bits = 0_u32;
    for (j, packed) in out[6..].iter_mut().enumerate() {
        let (low, high) = (quant(block[j]), quant(block[j + BLOCK / 2]));
        *packed = (low & 15) | (high & 15) << 4;
        high_bits |= u32::from(low >> 4) << j | u32::from(high >> 4) << (j + BLOCK / 2);
    }
    out[2..6].copy_from_slice(&high_bits.to_le_bytes());
}
