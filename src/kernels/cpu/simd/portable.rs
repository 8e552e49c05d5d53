//! Sixteen lanes as an array: what every CPU can run, and what the compiler may vectorise.

use half::f16;

use super::{Kernel, LANES, Simd, bf16_bits, bf16_value};

/// Always available.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Lanes = [f32; LANES];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, op: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| op(a[lane], b[lane]))
}

impl Simd for Portable {
    type F32 = Lanes;
    type Words = [u32; LANES];

    const TILE: (usize, usize) = (2, 1);
    const GROUPED_TILE: (usize, usize) = (2, 1);

    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Lanes {
        *from
    }

    #[inline(always)]
    fn store(self, value: Lanes, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Not `f32::mul_add`: without the instruction that is a slow library call.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, value: Lanes) -> Lanes {
        value.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, integer: Lanes) -> Lanes {
        integer.map(|exponent| f32::from_bits(((exponent as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn scale_by_pow2(self, value: Lanes, integer: Lanes) -> Lanes {
        let lowest = self.splat(-126.0);
        let scaled = self.mul(value, self.pow2(self.max(integer, lowest)));
        self.keep_where_at_least(scaled, integer, lowest)
    }

    #[inline(always)]
    fn keep_where_at_least(self, value: Lanes, key: Lanes, limit: Lanes) -> Lanes {
        std::array::from_fn(|lane| {
            if key[lane] >= limit[lane] {
                value[lane]
            } else {
                0.0
            }
        })
    }

    #[inline(always)]
    fn sum(self, value: Lanes) -> f32 {
        halve(value, |a, b| a + b)
    }

    #[inline(always)]
    fn max_lane(self, value: Lanes) -> f32 {
        halve(value, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn to_bf16(self, value: Lanes) -> [u32; LANES / 2] {
        std::array::from_fn(|word| {
            let (low, high) = (bf16_bits(value[2 * word]), bf16_bits(value[2 * word + 1]));
            u32::from(low) | u32::from(high) << 16
        })
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Lanes, weights: &[u32; LANES], x: u32) -> Lanes {
        let (low, high) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
        std::array::from_fn(|lane| {
            let word = weights[lane];
            let acc = acc[lane] + f32::from_bits(word << 16) * low;
            acc + f32::from_bits(word & 0xffff_0000) * high
        })
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[u32; LANES / 2]) -> Lanes {
        std::array::from_fn(|lane| bf16_value((from[lane / 2] >> (16 * (lane % 2))) as u16))
    }

    #[inline(always)]
    fn widen_f16(self, from: &[u32; LANES / 2]) -> Lanes {
        std::array::from_fn(|lane| {
            f16::from_bits((from[lane / 2] >> (16 * (lane % 2))) as u16).to_f32()
        })
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> [u32; LANES] {
        [word; LANES]
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> [u32; LANES] {
        *from
    }

    #[inline(always)]
    fn store_words(self, words: [u32; LANES], to: &mut [u32; LANES]) {
        *to = words;
    }

    #[inline(always)]
    fn add_words(self, a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    fn low_nibbles(self, words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| word & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn high_nibbles(self, words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| word >> 4 & 0x0f0f_0f0f)
    }

    #[inline(always)]
    fn shift_right_4(self, words: [u32; LANES]) -> [u32; LANES] {
        words.map(|word| (word.cast_signed() >> 4).cast_unsigned())
    }

    #[inline(always)]
    fn to_f32(self, words: [u32; LANES]) -> Lanes {
        words.map(|word| word.cast_signed() as f32)
    }

    #[inline(always)]
    fn to_bytes(self, integers: Lanes) -> [u32; LANES / 4] {
        std::array::from_fn(|word| {
            let byte = |index: usize| integers[4 * word + index] as i8 as u8;
            u32::from_le_bytes(std::array::from_fn(byte))
        })
    }

    #[inline(always)]
    fn dot_bytes(self, acc: [u32; LANES], weights: [u32; LANES], x: u32) -> [u32; LANES] {
        let x = x.to_le_bytes().map(|byte| i32::from(byte as i8));
        std::array::from_fn(|lane| {
            let weights = weights[lane].to_le_bytes();
            let products: [i32; 4] = std::array::from_fn(|i| i32::from(weights[i]) * x[i]);
            (acc[lane].cast_signed() + products.into_iter().sum::<i32>()).cast_unsigned()
        })
    }

    #[inline(always)]
    fn widen_bytes(self, from: &[u8; 2 * LANES]) -> [u32; LANES] {
        let half = |byte: u8| u32::from(i16::from(byte as i8).cast_unsigned());
        std::array::from_fn(|lane| half(from[2 * lane]) | half(from[2 * lane + 1]) << 16)
    }

    #[inline(always)]
    fn to_halves(self, integers: Lanes) -> [u32; LANES / 2] {
        let half = |value: f32| u32::from((value as i16).cast_unsigned());
        std::array::from_fn(|word| half(integers[2 * word]) | half(integers[2 * word + 1]) << 16)
    }

    #[inline(always)]
    fn dot_halves(self, acc: [u32; LANES], weights: [u32; LANES], x: u32) -> [u32; LANES] {
        let halves = |word: u32| [word as i16, (word >> 16) as i16].map(i32::from);
        let x = halves(x);
        std::array::from_fn(|lane| {
            let w = halves(weights[lane]);
            (acc[lane].cast_signed() + w[0] * x[0] + w[1] * x[1]).cast_unsigned()
        })
    }

    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}

    #[inline(always)]
    fn dot_nibbles(self, acc: [u32; LANES], weights: [u32; LANES], x: u32) -> [u32; LANES] {
        self.dot_bytes(acc, weights, x)
    }
}

/// Folds halves onto each other: lane `i` with lane `i + 8`, then `i + 4`, and so on.
#[inline(always)]
pub(super) fn halve(mut value: Lanes, op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            value[lane] = op(value[lane], value[lane + width]);
        }
        width /= 2;
    }
    value[0]
}
