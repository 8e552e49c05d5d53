//! The blocks of 256 ("k-quants"): `Q2_K` to `Q6_K`, and `Q8_K`.
//!
//! A block is cut into groups of 16 or 32 values with small integer scales (and minimums) of their
//! own, which a half-precision scale per block turns into floats. The arithmetic and its order are
//! those of `dequantize_row_q*_K` of ggml's `ggml-quants.c`.

use super::half_floats::f16_at;

/// Elements of a block.
pub(super) const LEN: usize = 256;
pub(super) const Q2_K_BYTES: usize = 84;
pub(super) const Q3_K_BYTES: usize = 110;
pub(super) const Q4_K_BYTES: usize = 144;
pub(super) const Q5_K_BYTES: usize = 176;
pub(super) const Q6_K_BYTES: usize = 210;
pub(super) const Q8_K_BYTES: usize = 292;

/// Applies `block` to each block of `BYTES` bytes and its 256 values.
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

/// Layout: 16 bytes of scale (low) and minimum (high) nibbles, 64 of quants, d, dmin.
/// Quants come in halves of 128; a half's 32 bytes hold four rounds of 32 values, two bits each.
pub(super) fn q2_k(bytes: &[u8; Q2_K_BYTES], values: &mut [f32; LEN]) {
    let (scales, quants) = (&bytes[..16], &bytes[16..80]);
    let (d, dmin) = (f16_at(bytes, 80), f16_at(bytes, 82));
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, round, side) = (group / 8, group / 2 % 4, group % 2);
        let scale = d * f32::from(scales[group] & 15);
        let min = dmin * f32::from(scales[group] >> 4);
        let quants = &quants[half * 32 + side * 16..][..16];
        for (value, &quant) in values.iter_mut().zip(quants) {
            *value = scale * f32::from(quant >> (2 * round) & 3) - min;
        }
    }
}

/// The sixteen 6-bit scales of `Q3_K`, less 32: low four bits in 8 bytes of nibbles, high two bits
/// in the last 4 bytes.
fn q3_k_scale(packed: &[u8], group: usize) -> i32 {
    let low = if group < 8 {
        packed[group] & 15
    } else {
        packed[group - 8] >> 4
    };
    let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
    i32::from(low | high << 4) - 32
}

/// Layout: 32 bytes of third bits, 64 of two-bit quants (as in `Q2_K`), 12 of scales, d.
/// A third bit that is *not* set subtracts 4.
pub(super) fn q3_k(bytes: &[u8; Q3_K_BYTES], values: &mut [f32; LEN]) {
    let (high_bits, quants, scales) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
    let d = f16_at(bytes, 108);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, round, side) = (group / 8, group / 2 % 4, group % 2);
        let scale = d * q3_k_scale(scales, group) as f32;
        let quants = &quants[half * 32 + side * 16..][..16];
        let high_bits = &high_bits[side * 16..][..16];
        for ((value, &quant), &high) in values.iter_mut().zip(quants).zip(high_bits) {
            let low = i32::from(quant >> (2 * round) & 3);
            let offset = if high >> (4 * half + round) & 1 == 1 {
                0
            } else {
                4
            };
            *value = scale * (low - offset) as f32;
        }
    }
}

/// Scale and minimum of group `j` (of 8) of `Q4_K` and `Q5_K`: 6 bits each in 12 bytes.
fn k4_scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Layout: d, dmin, 12 bytes of scales and minimums, 128 of nibbles; 32 bytes hold 64 values, the
/// low nibbles first.
pub(super) fn q4_k(bytes: &[u8; Q4_K_BYTES], values: &mut [f32; LEN]) {
    let (d, dmin) = (f16_at(bytes, 0), f16_at(bytes, 2));
    let (scales, quants) = (&bytes[4..16], &bytes[16..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k4_scale_min(scales, group);
        let (scale, min) = (d * scale, dmin * min);
        let quants = &quants[group / 2 * 32..][..32];
        for (value, &quant) in values.iter_mut().zip(quants) {
            *value = scale * f32::from(quant >> (4 * (group % 2)) & 15) - min;
        }
    }
}

/// Thirty-two values of `Q4_K`: `scale * quant - minimum`.
pub(crate) struct Q4KGroup {
    pub(crate) scale: f32,
    pub(crate) minimum: f32,
    pub(crate) quants: [u8; 32],
}

/// The groups of whole `Q4_K` blocks, in order.
pub(crate) fn q4_k_groups(bytes: &[u8]) -> impl Iterator<Item = Q4KGroup> + '_ {
    let blocks = bytes.as_chunks::<Q4_K_BYTES>().0.iter();
    blocks.flat_map(|block| {
        (0..LEN / 32).map(move |group| {
            let (scale, min) = k4_scale_min(&block[4..16], group);
            let quants = &block[16 + group / 2 * 32..][..32];
            Q4KGroup {
                scale: f16_at(block, 0) * scale,
                minimum: f16_at(block, 2) * min,
                quants: std::array::from_fn(|index| quants[index] >> (4 * (group % 2)) & 15),
            }
        })
    })
}

/// As [`q4_k`], with 32 bytes of fifth bits (bit `j` of byte `l` for element `l` of group `j`)
/// between scales and nibbles.
pub(super) fn q5_k(bytes: &[u8; Q5_K_BYTES], values: &mut [f32; LEN]) {
    let (d, dmin) = (f16_at(bytes, 0), f16_at(bytes, 2));
    let (scales, high_bits, quants) = (&bytes[4..16], &bytes[16..48], &bytes[48..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = k4_scale_min(scales, group);
        let (scale, min) = (d * scale, dmin * min);
        let quants = &quants[group / 2 * 32..][..32];
        for ((value, &quant), &high) in values.iter_mut().zip(quants).zip(high_bits) {
            let quant = quant >> (4 * (group % 2)) & 15 | (high >> group & 1) << 4;
            *value = scale * f32::from(quant) - min;
        }
    }
}

/// Layout: 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, d. Each half of 128
/// values has 64 bytes of nibbles and 32 of pairs; round `r` of 32 values takes nibble `r / 2` of
/// the bytes at `32 * (r % 2)` and pair `r`.
pub(super) fn q6_k(bytes: &[u8; Q6_K_BYTES], values: &mut [f32; LEN]) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    let d = f16_at(bytes, 208);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, round, side) = (group / 8, group / 2 % 4, group % 2);
        let scale = d * f32::from(scales[group] as i8);
        let low = &low[half * 64 + round % 2 * 32 + side * 16..][..16];
        let high = &high[half * 32 + side * 16..][..16];
        for ((value, &low), &high) in values.iter_mut().zip(low).zip(high) {
            let quant = low >> (4 * (round / 2)) & 15 | (high >> (2 * round) & 3) << 4;
            *value = scale * (i32::from(quant) - 32) as f32;
        }
    }
}

/// Layout: a single-precision scale, 256 signed bytes, 16 group sums that only products need.
pub(super) fn q8_k(bytes: &[u8; Q8_K_BYTES], values: &mut [f32; LEN]) {
    let d = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (value, &quant) in values.iter_mut().zip(&bytes[4..4 + LEN]) {
        *value = d * f32::from(quant as i8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// `Q3_K`'s scale unpacking as ggml writes it, with 32-bit masks over four bytes at a time.
    fn ggml_q3_k_scales(packed: &[u8; 12]) -> [i32; 16] {
        let word = |i: usize| u32::from_le_bytes(packed[4 * i..4 * i + 4].try_into().unwrap());
        let (a, b, high) = (word(0), word(1), word(2));
        let (pairs, nibbles) = (0x0303_0303, 0x0f0f_0f0f);
        let words = [
            a & nibbles | (high & pairs) << 4,
            b & nibbles | (high >> 2 & pairs) << 4,
            a >> 4 & nibbles | (high >> 4 & pairs) << 4,
            b >> 4 & nibbles | (high >> 6 & pairs) << 4,
        ];
        let mut scales = [0; 16];
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = i32::from(words[i / 4].to_le_bytes()[i % 4] as i8) - 32;
        }
        scales
    }

    #[test]
    fn q3_k_scales_unpack_as_ggml_does() {
        let packed: [u8; 12] = std::array::from_fn(|i| (i * 83 + 29) as u8);
        let expected = ggml_q3_k_scales(&packed);
        for (group, expected) in expected.iter().enumerate() {
            assert_eq!(q3_k_scale(&packed, group), *expected, "group {group}");
        }
    }

    /// `dequantize_row_q2_K` with ggml's own running pointers, against the closed form above.
    #[test]
    fn q2_k_walks_its_bytes_as_ggml_does() {
        let mut bytes: [u8; Q2_K_BYTES] = std::array::from_fn(|i| (i * 57 + 11) as u8);
        bytes[80..82].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        bytes[82..84].copy_from_slice(&f16::from_f32(0.125).to_le_bytes());
        let mut expected = Vec::new();
        let mut next_scale = bytes[..16].iter();
        for half in 0..2 {
            for shift in [0, 2, 4, 6] {
                for side in 0..2 {
                    let scale = *next_scale.next().unwrap();
                    for l in 0..16 {
                        let quant = bytes[16 + half * 32 + side * 16 + l] >> shift & 3;
                        let (sc, m) = (f32::from(scale & 15), f32::from(scale >> 4));
                        expected.push(0.25 * sc * f32::from(quant) - 0.125 * m);
                    }
                }
            }
        }
        let mut values = [0.0; LEN];
        q2_k(&bytes, &mut values);
        assert_eq!(values.to_vec(), expected);
    }

    #[test]
    fn q3_k_subtracts_four_where_the_third_bit_is_clear() {
        let mut bytes = [0; Q3_K_BYTES];
        bytes[0] = 0b0010_0000; // element 0 of the second half's round 1 keeps its value
        bytes[32 + 32] = 0b0000_1100;
        bytes[96..104].fill(0x11); // every scale's low nibble is 1
        bytes[104..108].fill(0b1010_1010); // high pair 2: scale 33 - 32 = 1
        bytes[108..].copy_from_slice(&f16::ONE.to_le_bytes());
        let mut values = [0.0; LEN];
        q3_k(&bytes, &mut values);
        assert_eq!((values[0], values[128 + 32], values[1]), (-4.0, 3.0, -4.0));
    }

    #[test]
    fn q8_k_has_a_single_precision_scale() {
        let mut bytes = [0; Q8_K_BYTES];
        bytes[..4].copy_from_slice(&0.1f32.to_le_bytes());
        bytes[4] = -3i8 as u8;
        let mut values = [1.0; LEN];
        q8_k(&bytes, &mut values);
        assert_eq!((values[0], values[255]), (0.1 * -3.0, 0.0));
    }
}
