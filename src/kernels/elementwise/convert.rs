//! Between stored bytes (little endian, any alignment) and the numbers that are computed with.

use super::{FloatType, Real, Rounding};
use crate::cpu::simd::{Kernel, Simd};

pub(super) struct Load<'a, F>(
    pub(super) &'a [u8],
    pub(super) FloatType,
    pub(super) Rounding,
    pub(super) &'a mut [F],
);

impl<F: Real> Kernel for Load<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        load(simd, self.0, self.1, self.2, self.3);
    }
}

pub(super) struct Store<'a, F>(
    pub(super) &'a [F],
    pub(super) FloatType,
    pub(super) &'a mut [u8],
);

impl<F: Real> Kernel for Store<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        store(self.0, self.1, self.2);
    }
}

/// Bytes that a processor fetches at once.
const CACHE_LINE: usize = 64;
/// Elements that are cast between two requests for bytes that come later.
const GROUP: usize = 256;

/// Reads stored elements and casts them to the working type (`rounding`'s grid).
///
/// `bytes` begins with `out.len()` elements of `stored`. As many after them, where there are any,
/// are fetched into the cache: several inputs are read in turns, and the processor's own
/// prefetching starts anew at each turn.
#[inline(always)]
fn load<S: Simd, F: Real>(
    simd: S,
    bytes: &[u8],
    stored: FloatType,
    rounding: Rounding,
    out: &mut [F],
) {
    let size = stored.bytes();
    let (bytes, later) = bytes.split_at(out.len() * size);
    let mut later = later.chunks(GROUP * size);
    for (bytes, out) in bytes.chunks(GROUP * size).zip(out.chunks_mut(GROUP)) {
        for line in later.next().unwrap_or_default().chunks(CACHE_LINE) {
            simd.prefetch(line.as_ptr());
        }
        cast(bytes, stored, rounding, out);
    }
}

#[inline(always)]
fn cast<F: Real>(bytes: &[u8], stored: FloatType, rounding: Rounding, out: &mut [F]) {
    match stored {
        FloatType::Bf16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                let bits = u32::from(u16::from_le_bytes([b[0], b[1]])) << 16;
                *o = F::from_f32(f32::from_bits(bits));
            }
            // bfloat16 values already lie on their own grid.
            if rounding == Rounding::F16 {
                rounding.map(out, |x| x);
            }
        }
        FloatType::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = F::from_f32(widen_f16(u16::from_le_bytes([b[0], b[1]])));
            }
            if rounding == Rounding::Bf16 {
                rounding.map(out, |x| x);
            }
        }
        FloatType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = F::from_f32(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            }
            rounding.map(out, |x| x);
        }
        FloatType::F64 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(8)) {
                let b: [u8; 8] = b.try_into().expect("chunks of eight");
                *o = F::from_f64(f64::from_le_bytes(b));
            }
            rounding.map(out, |x| x);
        }
    }
}

/// Casts results to the output type and writes their bytes.
#[inline(always)]
fn store<F: Real>(values: &[F], dtype: FloatType, bytes: &mut [u8]) {
    assert_eq!(
        bytes.len(),
        values.len() * dtype.bytes(),
        "one element each"
    );
    match dtype {
        FloatType::Bf16 => {
            for (b, v) in bytes.chunks_exact_mut(2).zip(values) {
                let bits = v.to_f32().to_bf16_grid().to_bits();
                b.copy_from_slice(&((bits >> 16) as u16).to_le_bytes());
            }
        }
        FloatType::F16 => {
            for (b, v) in bytes.chunks_exact_mut(2).zip(values) {
                b.copy_from_slice(&narrow_f16(v.to_f32().to_f16_grid()).to_le_bytes());
            }
        }
        FloatType::F32 => {
            for (b, v) in bytes.chunks_exact_mut(4).zip(values) {
                b.copy_from_slice(&v.to_f32().to_le_bytes());
            }
        }
        FloatType::F64 => {
            for (b, v) in bytes.chunks_exact_mut(8).zip(values) {
                b.copy_from_slice(&v.to_f64().to_le_bytes());
            }
        }
    }
}

#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Scaling by 2^112 moves the exponent's bias and normalises subnormals exactly.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let value = if magnitude >= 0x0f80_0000 {
        special
    } else {
        scaled
    };
    f32::from_bits(sign | value)
}

/// The bits of a value on float16's grid.
#[inline(always)]
fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let subnormal = (f32::from_bits(magnitude) * 16_777_216.0) as u32;
    let normal = (magnitude >> 13).wrapping_sub(112 << 10);
    let special = if magnitude > 0x7f80_0000 {
        0x7e00
    } else {
        0x7c00
    };
    let narrowed = if magnitude >= 0x7f80_0000 {
        special
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    (sign | narrowed) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::portable::Portable;

    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits);
            let widened = widen_f16(bits);
            if expected.is_nan() {
                assert!(widened.is_nan());
                continue;
            }
            assert_eq!(widened.to_bits(), expected.to_f32().to_bits(), "{bits:#x}");
            assert_eq!(narrow_f16(widened), bits);
        }
    }

    #[test]
    fn loading_casts_to_the_working_type() {
        let bytes: Vec<u8> = [1.0_f32, 0.3, -2e-8, 1e5]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let mut out = [0.0_f32; 4];
        load(Portable, &bytes, FloatType::F32, Rounding::F16, &mut out);
        assert_eq!(out, [1.0, 0.300_048_83, -0.0, f32::INFINITY]);
        load(Portable, &bytes, FloatType::F32, Rounding::Bf16, &mut out);
        assert_eq!(out[1], 0.300_781_25);
    }

    #[test]
    fn storing_rounds_to_the_output_type() {
        let mut bytes = [0; 4];
        store(&[0.3_f64, -65_520.0], FloatType::F16, &mut bytes);
        assert_eq!(bytes, [0xcd, 0x34, 0x00, 0xfc]);
        let mut bytes = [0; 2];
        store(&[0.3_f32], FloatType::Bf16, &mut bytes);
        assert_eq!(bytes, [0x9a, 0x3e]);
    }
}
