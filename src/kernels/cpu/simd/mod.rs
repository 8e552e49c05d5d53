//! Sixteen `f32` lanes on every instruction set, so that each kernel is written once.
//!
//! A kernel is generic over [`Simd`]; [`Isa::run`](super::Isa::run) instantiates it inside a
//! function compiled for the instruction set. Tokens that implement [`Simd`] are proofs: they are
//! made only where the CPU has been seen to have the features, so their methods are safe to call.
//! The lane count is 16 everywhere (AVX2 uses two registers, the portable path an array), hence
//! data layouts do not depend on the instruction set. Every operation is a fixed sequence of IEEE
//! operations: the same inputs give the same bits wherever in a batch they stand.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(crate) mod portable;

/// Lanes of a [`Simd::F32`].
pub(crate) const LANES: usize = 16;

/// A computation that can be compiled for any instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// The body. Implementations are `#[inline(always)]` so that it is compiled with the features
    /// of the function that [`Simd::vectorize`] calls it from.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set, as a token whose existence proves that the CPU has it.
pub trait Simd: Copy {
    /// Sixteen `f32`.
    type F32: Copy;

    /// Sixteen words of 32 bits.
    type Words: Copy;

    /// Panels (of 16 outputs) and rows of the largest register tile that leaves room for operands.
    /// At least two panels: a gate and its partner are finished together.
    const TILE: (usize, usize);
    /// The same where each output has two accumulators, one of integers and one of floats.
    const GROUPED_TILE: (usize, usize);

    /// Runs a kernel compiled for this instruction set, as a function of its own: a part of a large
    /// kernel that is called so keeps its registers and its compile time to itself.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::F32;
    /// Reads sixteen values.
    fn load(self, from: &[f32; LANES]) -> Self::F32;
    /// Writes sixteen values.
    fn store(self, value: Self::F32, to: &mut [f32; LANES]);
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, fused on hardware, two roundings on the portable path.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each pair; `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even.
    fn round(self, value: Self::F32) -> Self::F32;
    /// Two to the power of integers from -126 to 127.
    fn pow2(self, integer: Self::F32) -> Self::F32;
    /// `value` from 1/2 to 2 times two to the power of integers from -160 to 127. Below -126, where
    /// results are subnormal, it is zero or rounded, as the instruction set likes; zero at -160.
    fn scale_by_pow2(self, value: Self::F32, integer: Self::F32) -> Self::F32;
    /// `value` in lanes where `key >= limit`, zero elsewhere (also where `key` is NaN).
    fn keep_where_at_least(self, value: Self::F32, key: Self::F32, limit: Self::F32) -> Self::F32;
    /// The sum of all lanes: halves are added until one value is left.
    fn sum(self, value: Self::F32) -> f32;
    /// The largest lane.
    fn max_lane(self, value: Self::F32) -> f32;
    /// Rounds to bfloat16 (nearest, ties to even), packed in lane order, the even lane in the low
    /// half of its word. Subnormal numbers may become zero.
    fn to_bf16(self, value: Self::F32) -> [u32; LANES / 2];
    /// The inverse: widens sixteen bfloat16 values.
    fn widen_bf16(self, from: &[u32; LANES / 2]) -> Self::F32;
    /// Widens sixteen half-precision values, two to a word, the even lane in the low half.
    fn widen_f16(self, from: &[u32; LANES / 2]) -> Self::F32;
    /// `acc + w.low * x.low + w.high * x.high` over the bfloat16 halves of each word, in the order
    /// of the instruction set (fixed, but not the same on all).
    fn dot_bf16(self, acc: Self::F32, weights: &[u32; LANES], x: u32) -> Self::F32;

    /// The same word in every lane.
    fn splat_word(self, word: u32) -> Self::Words;
    /// Reads sixteen words.
    fn load_words(self, from: &[u32; LANES]) -> Self::Words;
    /// Writes sixteen words.
    fn store_words(self, words: Self::Words, to: &mut [u32; LANES]);
    /// `a + b` modulo 2^32.
    fn add_words(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// The low four bits of every byte.
    fn low_nibbles(self, words: Self::Words) -> Self::Words;
    /// The high four bits of every byte.
    fn high_nibbles(self, words: Self::Words) -> Self::Words;
    /// Signed words divided by 16, rounded down.
    fn shift_right_4(self, words: Self::Words) -> Self::Words;
    /// Signed words as floats, rounded to nearest.
    fn to_f32(self, words: Self::Words) -> Self::F32;
    /// Integers from -127 to 127 as signed bytes, in lane order.
    fn to_bytes(self, integers: Self::F32) -> [u32; LANES / 4];
    /// `acc + sum of w[i] * x[i]` over the four bytes of each word: `w` unsigned, `x` signed and
    /// above -128. Exact.
    fn dot_bytes(self, acc: Self::Words, weights: Self::Words, x: u32) -> Self::Words;
    /// The same where no byte of `w` is above 15.
    fn dot_nibbles(self, acc: Self::Words, weights: Self::Words, x: u32) -> Self::Words;
    /// Thirty-two signed bytes as signed halves of words, the even byte in the low half.
    fn widen_bytes(self, from: &[u8; 2 * LANES]) -> Self::Words;
    /// Integers from -32767 to 32767 as signed halves of words, in lane order, the even lane in the
    /// low half.
    fn to_halves(self, integers: Self::F32) -> [u32; LANES / 2];
    /// `acc + w.low * x.low + w.high * x.high` over signed halves. Exact while it fits 32 bits.
    fn dot_halves(self, acc: Self::Words, weights: Self::Words, x: u32) -> Self::Words;

    /// Asks for the cache line at `address` to be brought near; any address will do.
    fn prefetch(self, address: *const u8);
}

/// Rounds one `f32` to bfloat16, nearest, ties to even. NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Widens one bfloat16.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
