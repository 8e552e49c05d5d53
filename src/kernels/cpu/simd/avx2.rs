//! AVX2 with FMA and F16C: two registers of eight lanes.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    /// The token, where the CPU has the features.
    pub(in crate::cpu) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }
}

/// # Safety
/// The CPU has the features named in the attribute.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Lanes 0 to 7 and 8 to 15.
type Pair = [__m256; 2];

/// Wraps intrinsics whose features [`Avx2::detect`] has checked.
macro_rules! proven {
    ($body:expr) => {
        // SAFETY: the token exists only if `detect` found AVX2, FMA and F16C, and the pointers handed to
        // loads and stores come from references to whole arrays (a prefetch may have any).
        unsafe { $body }
    };
}

impl Simd for Avx2 {
    type F32 = Pair;
    type Words = [__m256i; 2];

    const TILE: (usize, usize) = (2, 3);
    const GROUPED_TILE: (usize, usize) = (2, 1);

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(with_avx2(self, kernel))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        proven!([_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Pair {
        proven!([
            _mm256_loadu_ps(from.as_ptr()),
            _mm256_loadu_ps(from.as_ptr().add(8)),
        ])
    }

    #[inline(always)]
    fn store(self, value: Pair, to: &mut [f32; LANES]) {
        proven!({
            _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), value[1]);
        })
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        proven!([
            _mm256_fmadd_ps(a[0], b[0], c[0]),
            _mm256_fmadd_ps(a[1], b[1], c[1]),
        ])
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn round(self, value: Pair) -> Pair {
        value.map(|half| {
            proven!(_mm256_round_ps::<
                { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
            >(half))
        })
    }

    #[inline(always)]
    fn pow2(self, integer: Pair) -> Pair {
        integer.map(|half| {
            proven!({
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            })
        })
    }

    #[inline(always)]
    fn scale_by_pow2(self, value: Pair, integer: Pair) -> Pair {
        let lowest = self.splat(-126.0);
        let scaled = self.mul(value, self.pow2(self.max(integer, lowest)));
        self.keep_where_at_least(scaled, integer, lowest)
    }

    #[inline(always)]
    fn keep_where_at_least(self, value: Pair, key: Pair, limit: Pair) -> Pair {
        proven!([
            _mm256_and_ps(value[0], _mm256_cmp_ps::<_CMP_GE_OQ>(key[0], limit[0])),
            _mm256_and_ps(value[1], _mm256_cmp_ps::<_CMP_GE_OQ>(key[1], limit[1])),
        ])
    }

    #[inline(always)]
    fn sum(self, value: Pair) -> f32 {
        proven!({
            let eight = _mm256_add_ps(value[0], value[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn max_lane(self, value: Pair) -> f32 {
        proven!({
            let eight = _mm256_max_ps(value[0], value[1]);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn to_bf16(self, value: Pair) -> [u32; LANES / 2] {
        proven!({
            let [low, high] = value.map(|half| {
                let bits = _mm256_castps_si256(half);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded =
                    _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(half, half);
                let chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
                _mm256_srli_epi32::<16>(chosen)
            });
            // The pack works within 128-bit halves; the permutation restores lane order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            std::mem::transmute::<__m256i, [u32; LANES / 2]>(packed)
        })
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Pair, weights: &[u32; LANES], x: u32) -> Pair {
        proven!({
            let mask = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let x_low = _mm256_set1_ps(f32::from_bits(x << 16));
            let x_high = _mm256_set1_ps(f32::from_bits(x & 0xffff_0000));
            let half = |acc: __m256, from: *const u32| {
                let words = _mm256_loadu_si256(from.cast());
                let low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
                let high = _mm256_castsi256_ps(_mm256_and_si256(words, mask));
                _mm256_fmadd_ps(high, x_high, _mm256_fmadd_ps(low, x_low, acc))
            };
            [
                half(acc[0], weights.as_ptr()),
                half(acc[1], weights.as_ptr().add(8)),
            ]
        })
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[u32; LANES / 2]) -> Pair {
        let half = |from: &[u32; LANES / 4]| {
            proven!({
                let halves = _mm_loadu_si128(from.as_ptr().cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
            })
        };
        let (low, high) = halves(from);
        [half(low), half(high)]
    }

    #[inline(always)]
    fn widen_f16(self, from: &[u32; LANES / 2]) -> Pair {
        let half = |from: &[u32; LANES / 4]| {
            proven!(_mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())))
        };
        let (low, high) = halves(from);
        [half(low), half(high)]
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> [__m256i; 2] {
        proven!([_mm256_set1_epi32(word.cast_signed()); 2])
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> [__m256i; 2] {
        proven!([
            _mm256_loadu_si256(from.as_ptr().cast()),
            _mm256_loadu_si256(from.as_ptr().add(8).cast()),
        ])
    }

    #[inline(always)]
    fn store_words(self, words: [__m256i; 2], to: &mut [u32; LANES]) {
        proven!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), words[1]);
        })
    }

    #[inline(always)]
    fn add_words(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        proven!([_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn low_nibbles(self, words: [__m256i; 2]) -> [__m256i; 2] {
        words.map(|half| proven!(_mm256_and_si256(half, _mm256_set1_epi8(15))))
    }

    #[inline(always)]
    fn high_nibbles(self, words: [__m256i; 2]) -> [__m256i; 2] {
        words.map(|half| {
            proven!(_mm256_and_si256(
                _mm256_srli_epi32::<4>(half),
                _mm256_set1_epi8(15)
            ))
        })
    }

    #[inline(always)]
    fn shift_right_4(self, words: [__m256i; 2]) -> [__m256i; 2] {
        words.map(|half| proven!(_mm256_srai_epi32::<4>(half)))
    }

    #[inline(always)]
    fn to_f32(self, words: [__m256i; 2]) -> Pair {
        words.map(|half| proven!(_mm256_cvtepi32_ps(half)))
    }

    #[inline(always)]
    fn to_bytes(self, integers: Pair) -> [u32; LANES / 4] {
        proven!({
            let [low, high] = integers.map(|half| _mm256_cvtps_epi32(half));
            // Packs work within 128-bit halves; the permutation restores lane order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let low = _mm256_castsi256_si128(packed);
            let bytes = _mm_packs_epi16(low, _mm256_extracti128_si256::<1>(packed));
            std::mem::transmute::<__m128i, [u32; LANES / 4]>(bytes)
        })
    }

    #[inline(always)]
    fn dot_bytes(self, acc: [__m256i; 2], weights: [__m256i; 2], x: u32) -> [__m256i; 2] {
        std::array::from_fn(|half| {
            proven!({
                // Sums of two products fill 16 bits only if the high bit goes its own way.
                let high = _mm256_set1_epi8(-128);
                let x = _mm256_set1_epi32(x.cast_signed());
                let low = _mm256_maddubs_epi16(_mm256_andnot_si256(high, weights[half]), x);
                let high = _mm256_maddubs_epi16(_mm256_and_si256(high, weights[half]), x);
                let one = _mm256_set1_epi16(1);
                let low = _mm256_madd_epi16(low, one);
                let both = _mm256_add_epi32(low, _mm256_madd_epi16(high, one));
                _mm256_add_epi32(acc[half], both)
            })
        })
    }

    #[inline(always)]
    fn widen_bytes(self, from: &[u8; 2 * LANES]) -> [__m256i; 2] {
        let (halves, _) = from.as_chunks::<LANES>();
        let half = |from: &[u8; LANES]| {
            proven!(_mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast())))
        };
        [half(&halves[0]), half(&halves[1])]
    }

    #[inline(always)]
    fn to_halves(self, integers: Pair) -> [u32; LANES / 2] {
        proven!({
            let [low, high] = integers.map(|half| _mm256_cvtps_epi32(half));
            // The pack works within 128-bit halves; the permutation restores lane order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            std::mem::transmute::<__m256i, [u32; LANES / 2]>(packed)
        })
    }

    #[inline(always)]
    fn dot_halves(self, acc: [__m256i; 2], weights: [__m256i; 2], x: u32) -> [__m256i; 2] {
        proven!({
            let x = _mm256_set1_epi32(x.cast_signed());
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(weights[0], x)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(weights[1], x)),
            ]
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T1>(address.cast()))
    }

    #[inline(always)]
    fn dot_nibbles(self, acc: [__m256i; 2], weights: [__m256i; 2], x: u32) -> [__m256i; 2] {
        std::array::from_fn(|half| {
            proven!({
                let x = _mm256_set1_epi32(x.cast_signed());
                let pairs = _mm256_maddubs_epi16(weights[half], x);
                let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                _mm256_add_epi32(acc[half], sums)
            })
        })
    }
}

/// The first four words and the last four.
#[inline(always)]
fn halves(words: &[u32; LANES / 2]) -> (&[u32; LANES / 4], &[u32; LANES / 4]) {
    let (halves, _) = words.as_chunks();
    (&halves[0], &halves[1])
}
