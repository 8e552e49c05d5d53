//! The blocks of 32: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`.
//!
//! A block is its half-precision scale (and minimum), the fifth bits where there are any, then the
//! quants; byte `j` of the nibbles holds element `j` low and element `j + 16` high.
//! Source: `dequantize_row_q*` of ggml's `ggml-quants.c`.

use super::half_floats::f16_at;

/// Elements of a block.
pub(super) const LEN: usize = 32;
pub(super) const Q4_0_BYTES: usize = 18;
pub(super) const Q4_1_BYTES: usize = 20;
pub(super) const Q5_0_BYTES: usize = 22;
pub(super) const Q5_1_BYTES: usize = 24;
pub(super) const Q8_0_BYTES: usize = 34;

/// Applies `block` to each block of `BYTES` bytes and its 32 values.
pub(super) fn each<const BYTES: usize>(
    bytes: &[u8],
    values: &mut [f32],
    block: fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (bytes, values) in bytes
        .as_chunks::<BYTES>()
        .0
        .iter()
        .zip(values.as_chunks_mut::<LEN>().0)
    {
        block(bytes, values);
    }
}

pub(super) fn q4_0(bytes: &[u8; Q4_0_BYTES], values: &mut [f32; LEN]) {
    let d = f16_at(bytes, 0);
    for (j, &pair) in bytes[2..].iter().enumerate() {
        values[j] = (i32::from(pair & 15) - 8) as f32 * d;
        values[j + LEN / 2] = (i32::from(pair >> 4) - 8) as f32 * d;
    }
}

pub(super) fn q4_1(bytes: &[u8; Q4_1_BYTES], values: &mut [f32; LEN]) {
    let (d, min) = (f16_at(bytes, 0), f16_at(bytes, 2));
    for (j, &pair) in bytes[4..].iter().enumerate() {
        values[j] = f32::from(pair & 15) * d + min;
        values[j + LEN / 2] = f32::from(pair >> 4) * d + min;
    }
}

/// The fifth bits of elements `j` and `j + 16`, in place above the nibble.
fn fifth_bits(high: u32, j: usize) -> (u8, u8) {
    let bit = |at: usize| (((high >> at) & 1) << 4) as u8;
    (bit(j), bit(j + LEN / 2))
}

pub(super) fn q5_0(bytes: &[u8; Q5_0_BYTES], values: &mut [f32; LEN]) {
    let d = f16_at(bytes, 0);
    let high = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
    for (j, &pair) in bytes[6..].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        values[j] = (i32::from(pair & 15 | low_bit) - 16) as f32 * d;
        values[j + LEN / 2] = (i32::from(pair >> 4 | high_bit) - 16) as f32 * d;
    }
}

pub(super) fn q5_1(bytes: &[u8; Q5_1_BYTES], values: &mut [f32; LEN]) {
    let (d, min) = (f16_at(bytes, 0), f16_at(bytes, 2));
    let high = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    for (j, &pair) in bytes[8..].iter().enumerate() {
        let (low_bit, high_bit) = fifth_bits(high, j);
        values[j] = f32::from(pair & 15 | low_bit) * d + min;
        values[j + LEN / 2] = f32::from(pair >> 4 | high_bit) * d + min;
    }
}

pub(super) fn q8_0(bytes: &[u8; Q8_0_BYTES], values: &mut [f32; LEN]) {
    let d = f16_at(bytes, 0);
    for (value, &quant) in values.iter_mut().zip(&bytes[2..]) {
        *value = f32::from(quant as i8) * d;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn nibbles_of_one_byte_are_sixteen_apart() {
        let mut bytes = [0x88; Q4_0_BYTES];
        bytes[..2].copy_from_slice(&half(0.5));
        bytes[2] = 0xf0;
        let mut values = [0.0; LEN];
        q4_0(&bytes, &mut values);
        assert_eq!((values[0], values[16], values[1]), (-4.0, 3.5, 0.0));
    }

    #[test]
    fn the_minimum_is_added() {
        let mut bytes = [0; Q4_1_BYTES];
        bytes[..2].copy_from_slice(&half(2.0));
        bytes[2..4].copy_from_slice(&half(-1.5));
        bytes[4] = 0x31;
        let mut values = [0.0; LEN];
        q4_1(&bytes, &mut values);
        assert_eq!((values[0], values[16], values[1]), (0.5, 4.5, -1.5));
    }

    #[test]
    fn the_fifth_bit_is_sixteen() {
        let mut bytes = [0; Q5_1_BYTES];
        bytes[..2].copy_from_slice(&half(1.0));
        bytes[4..8].copy_from_slice(&(1u32 << 3 | 1 << 17).to_le_bytes());
        bytes[8 + 1] = 0x20;
        let mut values = [0.0; LEN];
        q5_1(&bytes, &mut values);
        assert_eq!((values[3], values[17], values[0]), (16.0, 18.0, 0.0));

        let mut bytes = [0; Q5_0_BYTES];
        bytes[..2].copy_from_slice(&half(1.0));
        bytes[2..6].copy_from_slice(&(1u32 << 31).to_le_bytes());
        q5_0(&bytes, &mut values);
        assert_eq!((values[31], values[30]), (0.0, -16.0));
    }
}
