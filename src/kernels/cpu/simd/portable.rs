//! Sixteen lanes as an array: what every CPU can run, and what the compiler may vectorise.

use super::{Kernel, LANES, Simd, bf16_bits};

/// Always available.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Portable;

type Lanes = [f32; LANES];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, op: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| op(a[lane], b[lane]))
}

impl Simd for Portable {
    type F32 = Lanes;

    const TILE: (usize, usize) = (2, 1);

    #[inline(always)]
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
