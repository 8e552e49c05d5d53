//! Attention in matrix tiles: bfloat16 floats as [`Floats`] has them, but multiplied by AMX.
//!
//! Scores are products of tiles of queries with panels of keys. Values are gathered from their
//! blocks first, so that a step of a sum is 32 positions at a multiple of 32 whatever the block
//! size, and positions that nobody sees are zeros. (Gathering reads each value once, as the products
//! would; they then read it from a near cache.)

use std::ops::Range;

use super::super::amx::{Sums, TileWork, Tiles};
use super::super::line::{Bf16, Line};
use super::super::simd::{LANES, Simd};
use super::held::{Floats, Held};
use super::partition::{PartitionRun, Places, QUERIES};
use super::{PARTITION, PARTITION_PANELS};

/// Bfloat16 in matrix tiles.
pub(in crate::cpu) struct TiledFloats;

/// Lines of a panel of values over a partition.
const PANEL_LINES: usize = PARTITION / <Floats as Held<Bf16>>::PER_WORD;

/// Lines of a panel of values over sixteen positions.
const LINES_PER_PANEL: usize = PANEL_LINES / PARTITION_PANELS;

impl Held<Bf16> for TiledFloats {
    type Word = u32;
    const PER_WORD: usize = <Floats as Held<Bf16>>::PER_WORD;
    const LINE_BYTES: usize = <Floats as Held<Bf16>>::LINE_BYTES;
    const GROUP_WORDS: Option<usize> = None;
    type Sum<S: Simd> = S::F32;

    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::F32 {
        <Floats as Held<Bf16>>::zero(simd)
    }

    #[inline(always)]
    fn to_f32<S: Simd>(simd: S, sum: S::F32) -> S::F32 {
        <Floats as Held<Bf16>>::to_f32(simd, sum)
    }

    #[inline(always)]
    fn pack_query<S: Simd>(simd: S, from: &[u32], to: &mut [u32]) -> f32 {
        <Floats as Held<Bf16>>::pack_query(simd, from, to)
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd, const P: usize, const T: usize>(
        simd: S,
        acc: [[S::F32; P]; T],
        panels: [*const u8; P],
        rows: [*const u32; T],
        words: usize,
    ) -> [[S::F32; P]; T] {
        // SAFETY: the caller's promise is the same.
        unsafe { <Floats as Held<Bf16>>::multiply(simd, acc, panels, rows, words) }
    }

    #[inline(always)]
    fn weigh<S: Simd>(
        simd: S,
        scores: &mut [[f32; LANES]],
        largest: f32,
        scales: &[&[f32; LANES]],
        weights: &mut [u32],
    ) -> (f32, f32) {
        <Floats as Held<Bf16>>::weigh(simd, scores, largest, scales, weights)
    }

    #[inline(always)]
    fn scores<'a, S: Simd>(
        run: &mut PartitionRun<'a, Bf16, Self>,
        simd: S,
        places: &Places<'a>,
        panels: Range<usize>,
    ) {
        let (amx, queries) = (run.context.amx(), 0..run.queries.count);
        let products = Sums::new();
        let mut work = Scores {
            run,
            simd,
            places,
            products,
        };
        amx.for_each_tile(panels, queries, LANES, &mut work);
    }

    #[inline(always)]
    fn weighted_sums<'a, S: Simd>(
        run: &mut PartitionRun<'a, Bf16, Self>,
        simd: S,
        places: &Places<'a>,
        panels: Range<usize>,
        _scales: &[f32; QUERIES],
        sums: &mut [f32],
    ) {
        // Whole steps of two panels: what they have beyond the panels that are seen weighs nothing.
        let steps = panels.start / 2 * 2..panels.end.next_multiple_of(2);
        let words = PARTITION / Self::PER_WORD;
        for weights in run.weights.chunks_exact_mut(words).take(run.queries.count) {
            weights[steps.start * LINES_PER_PANEL..panels.start * LINES_PER_PANEL].fill(0);
            weights[panels.end * LINES_PER_PANEL..steps.end * LINES_PER_PANEL].fill(0);
        }
        run.gather(simd, places, &panels, &steps);
        let (amx, queries) = (run.context.amx(), 0..run.queries.count);
        let columns = 0..run.context.columns / LANES;
        let products = Sums::new();
        let mut work = WeightedSums {
            run,
            simd,
            first_word: steps.start * LINES_PER_PANEL,
            words: steps.len() * LINES_PER_PANEL,
            products,
            sums,
        };
        amx.for_each_tile(columns, queries, LANES, &mut work);
    }
}

/// Scores of queries against panels of keys.
struct Scores<'r, 'a, S> {
    run: &'r mut PartitionRun<'a, Bf16, TiledFloats>,
    simd: S,
    places: &'r Places<'a>,
    products: Sums,
}

impl<S: Simd> TileWork for Scores<'_, '_, S> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut Tiles,
        panel: usize,
        queries: Range<usize>,
        pass: usize,
    ) {
        let (run, simd) = (&mut *self.run, self.simd);
        let words = run.context.shape.head_dim / 2;
        let stride = run.context.columns / 2;
        let keys = &self.places.keys[panel..];
        let keys = std::array::from_fn::<_, P, _>(|index| keys[index].cast::<Line<u32>>());
        let rows = &run.query_words[queries.start * stride..queries.end * stride];
        if pass == 0 {
            run.ahead.step(simd, P * words);
        }
        // SAFETY: `places` has put the start of a whole panel, a line for each word of a key, at
        // each index that is wanted; a query has `stride >= words` words. The tiles are the latest
        // and come with shapes that there are.
        unsafe { tiles.multiply::<P>(keys, (rows.as_ptr(), stride), words, &mut self.products) };
        for (index, query) in queries.enumerate() {
            let products: [_; P] = self.products.row(simd, index);
            run.put_scores(simd, query, panel, products);
        }
    }
}

/// Weighted sums of the gathered values over panels of elements.
struct WeightedSums<'r, 'a, S> {
    run: &'r mut PartitionRun<'a, Bf16, TiledFloats>,
    simd: S,
    /// The words of the partition that are summed.
    first_word: usize,
    words: usize,
    products: Sums,
    sums: &'r mut [f32],
}

impl<S: Simd> TileWork for WeightedSums<'_, '_, S> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut Tiles,
        panel: usize,
        queries: Range<usize>,
        _pass: usize,
    ) {
        let (run, simd) = (&*self.run, self.simd);
        let (first, words) = (self.first_word, self.words);
        let stride = PARTITION / 2;
        let values = std::array::from_fn(|index| {
            run.gathered[(panel + index) * PANEL_LINES + first..][..words].as_ptr()
        });
        let rows = &run.weights[queries.start * stride..queries.end * stride][first..];
        // SAFETY: the slices show `words` lines of each panel, and each query has weights for the
        // whole partition. The tiles are the latest and come with shapes that there are.
        unsafe { tiles.multiply::<P>(values, (rows.as_ptr(), stride), words, &mut self.products) };
        let columns = run.context.columns;
        for (index, query) in queries.enumerate() {
            let to = &mut self.sums[query * columns..][..columns];
            let (to, _) = to[panel * LANES..][..P * LANES].as_chunks_mut::<LANES>();
            let sums: [_; P] = self.products.row(simd, index);
            for (to, sum) in to.iter_mut().zip(sums) {
                simd.store(sum, to);
            }
        }
    }
}

impl PartitionRun<'_, Bf16, TiledFloats> {
    /// Copies the values of the positions of `panels` to where they stand in the partition, panel by
    /// panel of elements, and zeros to the rest of `steps`.
    #[inline(always)]
    fn gather<S: Simd>(
        &mut self,
        simd: S,
        places: &Places<'_>,
        panels: &Range<usize>,
        steps: &Range<usize>,
    ) {
        let columns = self.context.columns / LANES;
        if self.gathered.len() < columns * PANEL_LINES {
            self.gathered
                .resize(columns * PANEL_LINES, Line([0; LANES]));
        }
        for column in 0..columns {
            let to = &mut self.gathered[column * PANEL_LINES..][..PANEL_LINES];
            to[steps.start * LINES_PER_PANEL..panels.start * LINES_PER_PANEL]
                .fill(Line([0; LANES]));
            let mut at = panels.start * LINES_PER_PANEL;
            for segment in places.segments() {
                let from = segment.values.wrapping_add(column * places.value_stride);
                self.ahead.step(simd, segment.words);
                // SAFETY: `places` has seen that every panel of values has a segment's words, and
                // in this format they are whole lines, aligned.
                let from = unsafe { std::slice::from_raw_parts(from.cast(), segment.words) };
                to[at..at + segment.words].copy_from_slice(from);
                at += segment.words;
            }
            to[at..steps.end * LINES_PER_PANEL].fill(Line([0; LANES]));
        }
    }
}
