//! How keys and values are multiplied, by the format that a cache holds them in.
//!
//! Floats are what weights of a layer are: words of the compute type on both sides. Integers meet
//! queries and weights of 16 bits, which lose nothing beside 8-bit keys and values; their sums are
//! exact, so only the floats around them are rounded.

use std::ops::Range;

use super::super::activation::exp2;
use super::super::buffer::Plain;
use super::super::kv::{BYTES_PER_WORD, KEY_GROUP};
use super::super::line::{Arithmetic, Line};
use super::super::simd::{LANES, Simd};
use super::super::tile::accumulate;
use super::PARTITION;
use super::partition::{PartitionRun, Places, QUERIES};

/// A cache's format, for keys and values of heads computed in `O`.
pub(in crate::cpu) trait Held<O: Arithmetic>: Sized {
    /// What queries and weights become.
    type Word: Plain;
    /// Elements or positions in a word.
    const PER_WORD: usize;
    /// Bytes that a word takes in the cache for sixteen lanes.
    const LINE_BYTES: usize;
    /// Words of a key that share a scale; all of them where there are none.
    const GROUP_WORDS: Option<usize>;
    /// A running sum in sixteen lanes.
    type Sum<S: Simd>: Copy;

    /// A sum of nothing.
    fn zero<S: Simd>(simd: S) -> Self::Sum<S>;

    /// A sum as floats.
    fn to_f32<S: Simd>(simd: S, sum: Self::Sum<S>) -> S::F32;

    /// Rewrites a query, and returns what its products are to be multiplied with. `to` may be longer.
    fn pack_query<S: Simd>(simd: S, from: &[O::Word], to: &mut [Self::Word]) -> f32;

    /// Adds `words` steps of the products of `P` panels and `T` rows.
    ///
    /// # Safety
    /// Each panel pointer has `words * LINE_BYTES` readable bytes of the cache, each row pointer
    /// `words` readable words.
    unsafe fn multiply<S: Simd, const P: usize, const T: usize>(
        simd: S,
        acc: [[Self::Sum<S>; P]; T],
        panels: [*const u8; P],
        rows: [*const Self::Word; T],
        words: usize,
    ) -> [[Self::Sum<S>; P]; T];

    /// Turns one query's scores into words of weights `2^(score - largest)`, `largest` finite.
    /// Returns the sum of the weights and what sums with those words are to be multiplied with.
    ///
    /// `scales` has the scales of the values, a vector for each of scores.
    fn weigh<S: Simd>(
        simd: S,
        scores: &mut [[f32; LANES]],
        largest: f32,
        scales: &[&[f32; LANES]],
        weights: &mut [Self::Word],
    ) -> (f32, f32);

    /// Computes the scores of all queries against some panels of keys.
    #[inline(always)]
    fn scores<'a, S: Simd>(
        run: &mut PartitionRun<'a, O, Self>,
        simd: S,
        places: &Places<'a>,
        panels: Range<usize>,
    ) {
        run.scores(simd, places, panels);
    }

    /// Computes the weighted sums of all queries over some panels of positions, each query's
    /// multiplied with its scale, into rows of `sums`.
    #[inline(always)]
    fn weighted_sums<'a, S: Simd>(
        run: &mut PartitionRun<'a, O, Self>,
        simd: S,
        places: &Places<'a>,
        panels: Range<usize>,
        scales: &[f32; QUERIES],
        sums: &mut [f32],
    ) {
        run.weighted_sums(simd, places, panels, scales, sums);
    }
}

/// Words of the compute type.
pub(in crate::cpu) struct Floats;

impl<O: Arithmetic> Held<O> for Floats {
    type Word = O::Word;
    const PER_WORD: usize = O::PER_WORD;
    const LINE_BYTES: usize = size_of::<Line<O::Word>>();
    const GROUP_WORDS: Option<usize> = None;
    type Sum<S: Simd> = S::F32;

    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::F32 {
        simd.splat(0.0)
    }

    #[inline(always)]
    fn to_f32<S: Simd>(_simd: S, sum: S::F32) -> S::F32 {
        sum
    }

    #[inline(always)]
    fn pack_query<S: Simd>(_simd: S, from: &[O::Word], to: &mut [O::Word]) -> f32 {
        to[..from.len()].copy_from_slice(from);
        1.0
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd, const P: usize, const T: usize>(
        simd: S,
        acc: [[S::F32; P]; T],
        panels: [*const u8; P],
        rows: [*const O::Word; T],
        words: usize,
    ) -> [[S::F32; P]; T] {
        let mut lines = [std::ptr::null::<Line<O::Word>>(); P];
        for panel in 0..P {
            lines[panel] = panels[panel].cast();
        }
        // SAFETY: the caller's promise; in this format words of the cache are whole lines, aligned.
        unsafe { accumulate::<S, O, P, T>(simd, acc, lines, rows, words) }
    }

    #[inline(always)]
    fn weigh<S: Simd>(
        simd: S,
        scores: &mut [[f32; LANES]],
        largest: f32,
        _scales: &[&[f32; LANES]],
        weights: &mut [O::Word],
    ) -> (f32, f32) {
        let largest = simd.splat(largest);
        let mut sum = simd.splat(0.0);
        let words = weights.chunks_exact_mut(LANES / O::PER_WORD);
        for (scores, words) in scores.iter().zip(words) {
            let weight = exp2(simd, simd.sub(simd.load(scores), largest));
            sum = simd.add(sum, weight);
            O::store_row(simd, weight, words);
        }
        (simd.sum(sum), 1.0)
    }
}

/// 8-bit integers.
pub(in crate::cpu) struct Bytes;

/// The largest integer of a query or weight.
const LARGEST: f32 = 32767.0;

// The exact sums fit 32 bits.
const _: () = assert!(KEY_GROUP * 127 * 32767 <= i32::MAX as usize);
const _: () = assert!(PARTITION * 127 * 32767 <= i32::MAX as usize);

/// Sixteen values as integers, with the inverse of what one is.
#[inline(always)]
fn to_halves<S: Simd>(simd: S, values: S::F32, inverse: S::F32) -> [u32; LANES / 2] {
    let x = simd.round(simd.mul(values, inverse));
    let x = simd.min(simd.max(x, simd.splat(-LARGEST)), simd.splat(LARGEST));
    simd.to_halves(x)
}

/// What the integer 1 stands for where `largest` is [`LARGEST`], and its inverse.
#[inline(always)]
fn step(largest: f32) -> (f32, f32) {
    let inverse = if largest > 0.0 {
        LARGEST / largest
    } else {
        0.0
    };
    (largest / LARGEST, inverse)
}

impl<O: Arithmetic> Held<O> for Bytes {
    type Word = u32;
    const PER_WORD: usize = 2;
    const LINE_BYTES: usize = BYTES_PER_WORD;
    const GROUP_WORDS: Option<usize> = Some(KEY_GROUP / 2);
    type Sum<S: Simd> = S::Words;

    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::Words {
        simd.splat_word(0)
    }

    #[inline(always)]
    fn to_f32<S: Simd>(simd: S, sum: S::Words) -> S::F32 {
        simd.to_f32(sum)
    }

    #[inline(always)]
    fn pack_query<S: Simd>(simd: S, from: &[O::Word], to: &mut [u32]) -> f32 {
        let per_vector = LANES / O::PER_WORD;
        let zero = simd.splat(0.0);
        let (mut largest, mut damage) = (zero, zero);
        let vector = |index: usize| {
            let from = &from[index * per_vector..];
            if from.len() >= per_vector {
                return O::load_row(simd, &from[..per_vector]);
            }
            let mut words = [O::Word::default(); LANES];
            words[..from.len()].copy_from_slice(from);
            O::load_row(simd, &words[..per_vector])
        };
        let vectors = from.len().div_ceil(per_vector);
        for index in 0..vectors {
            let x = vector(index);
            largest = simd.max(simd.max(x, simd.sub(zero, x)), largest);
            // Zero for every number, and not a number for all else.
            damage = simd.add(damage, simd.mul(x, zero));
        }
        let (step, inverse) = step(simd.max_lane(largest));
        let (to, _) = to.as_chunks_mut::<{ LANES / 2 }>();
        for (index, to) in to.iter_mut().enumerate().take(vectors) {
            *to = to_halves(simd, vector(index), simd.splat(inverse));
        }
        step + simd.sum(damage)
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd, const P: usize, const T: usize>(
        simd: S,
        mut acc: [[S::Words; P]; T],
        panels: [*const u8; P],
        rows: [*const u32; T],
        words: usize,
    ) -> [[S::Words; P]; T] {
        for word in 0..words {
            let mut values = [simd.splat_word(0); P];
            for panel in 0..P {
                // SAFETY: `word < words`, and an array of bytes needs no alignment.
                let bytes = unsafe { &*panels[panel].add(word * BYTES_PER_WORD).cast() };
                values[panel] = simd.widen_bytes(bytes);
            }
            for row in 0..T {
                // SAFETY: `word < words`.
                let x = unsafe { *rows[row].add(word) };
                for panel in 0..P {
                    acc[row][panel] = simd.dot_halves(acc[row][panel], values[panel], x);
                }
            }
        }
        acc
    }

    #[inline(always)]
    fn weigh<S: Simd>(
        simd: S,
        scores: &mut [[f32; LANES]],
        largest: f32,
        scales: &[&[f32; LANES]],
        weights: &mut [u32],
    ) -> (f32, f32) {
        let zero = simd.splat(0.0);
        let (mut sum, mut most, mut damage) = (zero, zero, zero);
        for (scores, scales) in scores.iter_mut().zip(scales) {
            let weight = exp2(simd, simd.sub(simd.load(scores), simd.splat(largest)));
            sum = simd.add(sum, weight);
            // The scale of a position that is not seen may be anything.
            let scaled = simd.mul(weight, simd.load(scales));
            let least = simd.splat(f32::MIN_POSITIVE);
            let scaled = simd.keep_where_at_least(scaled, weight, least);
            most = simd.max(scaled, most);
            damage = simd.add(damage, simd.mul(scaled, zero));
            simd.store(scaled, scores);
        }
        let (step, inverse) = step(simd.max_lane(most));
        let (words, _) = weights.as_chunks_mut::<{ LANES / 2 }>();
        for (scores, words) in scores.iter().zip(words) {
            *words = to_halves(simd, simd.load(scores), simd.splat(inverse));
        }
        (simd.sum(sum), step + simd.sum(damage))
    }
}
