//! Little-endian bytes of 16- and 32-bit floats to `f32` slices and back.
//!
//! Widening is exact. Narrowing rounds to nearest, ties to even, and keeps NaNs NaN (quiet), as
//! torch and ggml do. The loops have no branches, so the compiler vectorises them; half precision
//! goes through the `half` crate's slice conversions, which use the CPU's instruction if it has it.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that are converted at a time where a typed copy of the bytes is needed.
const CHUNK: usize = 64;

/// Reads single precision. *Shapes* `bytes`: 4 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn f32_from_bytes(bytes: &[u8], values: &mut [f32]) {
    assert_eq!(bytes.len(), 4 * values.len(), "4 bytes per value");
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// Writes single precision. *Shapes* `bytes`: 4 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn f32_to_bytes(values: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 4 * values.len(), "4 bytes per value");
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
        *bytes = value.to_le_bytes();
    }
}

/// Widens bfloat16, exactly. *Shapes* `bytes`: 2 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn bf16_to_f32(bytes: &[u8], values: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * values.len(), "2 bytes per value");
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// The bfloat16 nearest to `value`, as bits; ties to even, NaNs quieted, overflow to infinity.
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quieted = (bits >> 16) | 0x40;
    (if value.is_nan() { quieted } else { rounded }) as u16
}

/// Narrows to bfloat16 as [`bf16_bits`] does. *Shapes* `bytes`: 2 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 2 * values.len(), "2 bytes per value");
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *bytes = bf16_bits(*value).to_le_bytes();
    }
}

/// Widens half precision, exactly. *Shapes* `bytes`: 2 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn f16_to_f32(bytes: &[u8], values: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * values.len(), "2 bytes per value");
    let mut typed = [f16::ZERO; CHUNK];
    for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let typed = &mut typed[..values.len()];
        for (value, bytes) in typed.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = f16::from_le_bytes(*bytes);
        }
        typed.convert_to_f32_slice(values);
    }
}

/// Narrows to half precision; values beyond 65504 become infinite. *Shapes* `bytes`: 2 per value.
///
/// # Panics
/// The lengths do not belong together.
pub fn f32_to_f16(values: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), 2 * values.len(), "2 bytes per value");
    let mut typed = [f16::ZERO; CHUNK];
    for (values, bytes) in values.chunks(CHUNK).zip(bytes.chunks_mut(2 * CHUNK)) {
        let typed = &mut typed[..values.len()];
        typed.convert_from_f32_slice(values);
        for (value, bytes) in typed.iter().zip(bytes.as_chunks_mut::<2>().0) {
            *bytes = value.to_le_bytes();
        }
    }
}

/// One half-precision number of a block.
pub(super) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    #[test]
    fn every_16_bit_pattern_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut values = vec![0.0; 1 << 16];
        let mut back = vec![0; bytes.len()];
        bf16_to_f32(&bytes, &mut values);
        f32_to_bf16(&values, &mut back);
        let same = |i: usize| bytes[2 * i..2 * i + 2] == back[2 * i..2 * i + 2];
        assert!((0..1 << 16).all(|i| same(i) || values[i].is_nan()));
        f16_to_f32(&bytes, &mut values);
        f32_to_f16(&values, &mut back);
        let same = |i: usize| bytes[2 * i..2 * i + 2] == back[2 * i..2 * i + 2];
        assert!((0..1 << 16).all(|i| same(i) || values[i].is_nan()));
    }

    proptest! {
        #[test]
        fn narrowing_agrees_with_the_half_crate(bits in prop::collection::vec(any::<u32>(), 0..150)) {
            let values: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
            let mut bytes = vec![0; 2 * values.len()];
            f32_to_bf16(&values, &mut bytes);
            for (value, bytes) in values.iter().zip(bytes.as_chunks::<2>().0) {
                prop_assert_eq!(bf16::from_f32(*value).to_le_bytes(), *bytes);
            }
            f32_to_f16(&values, &mut bytes);
            for (value, bytes) in values.iter().zip(bytes.as_chunks::<2>().0) {
                let expected = f16::from_f32(*value);
                let found = f16::from_le_bytes(*bytes);
                prop_assert!(expected == found || (expected.is_nan() && found.is_nan()));
            }
        }
    }
}
