//! AVX-512: one register of sixteen lanes, with or without the bfloat16 dot product.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX-512 F, BW, DQ and VL with FMA; with `BF16` also AVX512-BF16 and VNNI.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// The token, where the CPU has the features.
    pub(in crate::cpu) fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma");
        let dot = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        (base && (dot || !BF16)).then_some(Self(()))
    }

    /// The same CPU without the dot product: its features are a subset.
    pub(in crate::cpu) fn without_dot(self) -> Avx512<false> {
        Avx512(())
    }
}

/// # Safety
/// The CPU has the features named in the attribute.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn with_avx512<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// # Safety
/// The CPU has the features named in the attribute.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16,avx512vnni")]
unsafe fn with_avx512_bf16<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// Wraps intrinsics whose features [`Avx512::detect`] has checked.
macro_rules! proven {
    ($body:expr) => {
        // SAFETY: the token exists only if `detect` found the features that this needs, and the
        // pointers handed to loads and stores come from references to whole arrays (a prefetch may
        // have any).
        unsafe { $body }
    };
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F32 = __m512;
    type Words = __m512i;

    const TILE: (usize, usize) = (4, 6);
    const GROUPED_TILE: (usize, usize) = (2, 6);

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        if BF16 {
            proven!(with_avx512_bf16(self, kernel))
        } else {
            proven!(with_avx512(self, kernel))
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        proven!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32; LANES]) {
        proven!(_mm512_storeu_ps(to.as_mut_ptr(), value))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn round(self, value: __m512) -> __m512 {
        proven!(_mm512_roundscale_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(value))
    }

    #[inline(always)]
    fn pow2(self, integer: __m512) -> __m512 {
        proven!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(integer), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn scale_by_pow2(self, value: __m512, integer: __m512) -> __m512 {
        proven!(_mm512_scalef_ps(value, integer))
    }

    #[inline(always)]
    fn keep_where_at_least(self, value: __m512, key: __m512, limit: __m512) -> __m512 {
        proven!(_mm512_maskz_mov_ps(
            _mm512_cmp_ps_mask::<_CMP_GE_OQ>(key, limit),
            value
        ))
    }

    #[inline(always)]
    fn sum(self, value: __m512) -> f32 {
        proven!(_mm512_reduce_add_ps(value))
    }

    #[inline(always)]
    fn max_lane(self, value: __m512) -> f32 {
        proven!(_mm512_reduce_max_ps(value))
    }

    #[inline(always)]
    fn to_bf16(self, value: __m512) -> [u32; LANES / 2] {
        if BF16 {
            return proven!(std::mem::transmute::<__m256bh, [u32; LANES / 2]>(
                _mm512_cvtneps_pbh(value)
            ));
        }
        proven!({
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let chosen = _mm512_mask_mov_epi32(rounded, nan, quiet);
            std::mem::transmute::<__m256i, [u32; LANES / 2]>(_mm512_cvtepi32_epi16(
                _mm512_srli_epi32::<16>(chosen),
            ))
        })
    }

    #[inline(always)]
    fn dot_bf16(self, acc: __m512, weights: &[u32; LANES], x: u32) -> __m512 {
        proven!({
            let weights = _mm512_loadu_si512(weights.as_ptr().cast());
            let x = _mm512_set1_epi32(x.cast_signed());
            if BF16 {
                _mm512_dpbf16_ps(
                    acc,
                    std::mem::transmute::<__m512i, __m512bh>(weights),
                    std::mem::transmute::<__m512i, __m512bh>(x),
                )
            } else {
                let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                let low_product = _mm512_fmadd_ps(
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(weights)),
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)),
                    acc,
                );
                _mm512_fmadd_ps(
                    _mm512_castsi512_ps(_mm512_and_si512(weights, high)),
                    _mm512_castsi512_ps(_mm512_and_si512(x, high)),
                    low_product,
                )
            }
        })
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[u32; LANES / 2]) -> __m512 {
        proven!({
            let halves = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }

    #[inline(always)]
    fn widen_f16(self, from: &[u32; LANES / 2]) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> __m512i {
        proven!(_mm512_set1_epi32(word.cast_signed()))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> __m512i {
        proven!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn store_words(self, words: __m512i, to: &mut [u32; LANES]) {
        proven!(_mm512_storeu_si512(to.as_mut_ptr().cast(), words))
    }

    #[inline(always)]
    fn add_words(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn low_nibbles(self, words: __m512i) -> __m512i {
        proven!(_mm512_and_si512(words, _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    fn high_nibbles(self, words: __m512i) -> __m512i {
        proven!(_mm512_and_si512(
            _mm512_srli_epi32::<4>(words),
            _mm512_set1_epi8(15)
        ))
    }

    #[inline(always)]
    fn shift_right_4(self, words: __m512i) -> __m512i {
        proven!(_mm512_srai_epi32::<4>(words))
    }

    #[inline(always)]
    fn to_f32(self, words: __m512i) -> __m512 {
        proven!(_mm512_cvtepi32_ps(words))
    }

    #[inline(always)]
    fn to_bytes(self, integers: __m512) -> [u32; LANES / 4] {
        proven!(std::mem::transmute::<__m128i, [u32; LANES / 4]>(
            _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(integers))
        ))
    }

    #[inline(always)]
    fn dot_bytes(self, acc: __m512i, weights: __m512i, x: u32) -> __m512i {
        if BF16 {
            return proven!(_mm512_dpbusd_epi32(
                acc,
                weights,
                _mm512_set1_epi32(x.cast_signed())
            ));
        }
        proven!({
            // Sums of two products fill 16 bits only if the high bit goes its own way.
            let high = _mm512_set1_epi8(-128);
            let x = _mm512_set1_epi32(x.cast_signed());
            let low = _mm512_maddubs_epi16(_mm512_andnot_si512(high, weights), x);
            let high = _mm512_maddubs_epi16(_mm512_and_si512(high, weights), x);
            let one = _mm512_set1_epi16(1);
            let both = _mm512_add_epi32(_mm512_madd_epi16(low, one), _mm512_madd_epi16(high, one));
            _mm512_add_epi32(acc, both)
        })
    }

    #[inline(always)]
    fn widen_bytes(self, from: &[u8; 2 * LANES]) -> __m512i {
        proven!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(
            from.as_ptr().cast()
        )))
    }

    #[inline(always)]
    fn to_halves(self, integers: __m512) -> [u32; LANES / 2] {
        proven!(std::mem::transmute::<__m256i, [u32; LANES / 2]>(
            _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(integers))
        ))
    }

    #[inline(always)]
    fn dot_halves(self, acc: __m512i, weights: __m512i, x: u32) -> __m512i {
        proven!({
            let x = _mm512_set1_epi32(x.cast_signed());
            if BF16 {
                _mm512_dpwssd_epi32(acc, weights, x)
            } else {
                _mm512_add_epi32(acc, _mm512_madd_epi16(weights, x))
            }
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T1>(address.cast()))
    }

    #[inline(always)]
    fn dot_nibbles(self, acc: __m512i, weights: __m512i, x: u32) -> __m512i {
        if BF16 {
            return self.dot_bytes(acc, weights, x);
        }
        proven!({
            let pairs = _mm512_maddubs_epi16(weights, _mm512_set1_epi32(x.cast_signed()));
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        })
    }
}
