//! Quantising to ggml's blocks of 32, bit for bit as ggml's reference quantisers do.
//!
//! These types leave no choice: scale and rounding follow from the values. The k-quants are a
//! search and are not here.

use half::f16;

use super::BlockType;
use crate::cpu::Isa;
use crate::cpu::simd::{Kernel, LANES, Simd};

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
            Self::Q8_0 => {
                Isa::detect().run_elementwise(Q8_0(values, bytes));
                return true;
            }
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
struct Q8_0<'a>(&'a [f32], &'a mut [u8]);

impl Kernel for Q8_0<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Self(values, bytes) = self;
        let blocks = values.as_chunks::<BLOCK>().0;
        let outs = bytes.as_chunks_mut::<{ 2 + BLOCK }>().0;
        for (block, out) in blocks.iter().zip(outs) {
            q8_0(block, out);
        }
    }
}

#[inline(always)]
fn q8_0(block: &[f32; BLOCK], out: &mut [u8; 2 + BLOCK]) {
    // In lanes, so that the compiler may compare sixteen at once. NaNs are never larger.
    let mut largest = [0.0_f32; LANES];
    for lanes in block.as_chunks::<LANES>().0 {
        for (largest, value) in largest.iter_mut().zip(lanes) {
            let magnitude = value.abs();
            *largest = if magnitude > *largest {
                magnitude
            } else {
                *largest
            };
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = largest[lane + width];
            largest[lane] = if other > largest[lane] {
                other
            } else {
                largest[lane]
            };
        }
        width /= 2;
    }
    let scale = largest[0] / 127.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let mut quants = [0; BLOCK];
    for (value, quant) in block.iter().zip(&mut quants) {
        *quant = round_to_byte(value * inverse) as u8;
    }
    out[2..].copy_from_slice(&quants);
}

/// The nearest integer, halves away from zero, as C's `roundf`, or the nearest byte; NaN to 0.
#[inline(always)]
fn round_to_byte(value: f32) -> i8 {
    let whole = value as i32;
    // Exact, but for values far outside.
    let rest = value - whole as f32;
    let near = whole.clamp(-256, 256) + i32::from(rest >= 0.5) - i32::from(rest <= -0.5);
    near.clamp(i8::MIN.into(), i8::MAX.into()) as i8
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighths_round_as_c_does() {
        let blocks = |at: usize| -> [f32; BLOCK] {
            std::array::from_fn(|i| match (at + i) % 37 {
                0 => f32::NAN,
                1 => -0.0,
                2 => f32::MIN_POSITIVE,
                k => ((at * 37 + i * 101) as f32).sin() * 10_f32.powi(k as i32 % 9 - 4),
            })
        };
        for at in 0..500 {
            let mut block = blocks(at);
            if at % 3 == 0 {
                // Quants that lie halfway.
                for (i, value) in block.iter_mut().enumerate() {
                    *value = (i as f32 - 15.5) * if i == 31 { 127.0 / 15.5 } else { 1.0 };
                }
            }
            let mut out = [0; 2 + BLOCK];
            assert!(BlockType::Q8_0.quantise(&block, &mut out));
            let largest = block
                .iter()
                .fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let scale = largest / 127.0;
            assert_eq!(out[..2], f16::from_f32(scale).to_le_bytes());
            for (value, quant) in block.iter().zip(&out[2..]) {
                assert_eq!(*quant as i8, (value * inverse(scale)).round() as i8);
            }
        }
    }

    #[test]
    fn rounding_goes_away_from_zero() {
        for (value, integer) in [
            (0.5, 1),
            (-0.5, -1),
            (0.499_999_97, 0),
            (126.5, 127),
            (-2.5, -3),
            (f32::NAN, 0),
            (f32::INFINITY, i8::MAX),
            (-1e30, i8::MIN),
        ] {
            assert_eq!(round_to_byte(value), integer, "{value}");
        }
    }
}
