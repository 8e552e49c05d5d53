//! One partition: scores, weights, weighted sums.

use std::ops::Range;

use super::super::activation::soft_cap;
use super::super::line::{Arithmetic, Line, Operand};
use super::super::plan::PlannedSequence;
use super::super::simd::{Kernel, LANES, Simd};
use super::super::tile::{Tile, Tiles, for_each_tile};
use super::{Ahead, Context, Held, PARTITION, PARTITION_PANELS, Queries, fields, first_key};

/// Words between two requests for lines of the partition that follows.
const WORDS_PER_STEP: usize = 8;

/// Some queries, and what their partitions are computed in.
pub(in crate::cpu) struct PartitionRun<'a, O: Operand, H: Held<O>>
where
    O: Arithmetic,
{
    pub(super) context: &'a Context<'a, O>,
    pub(super) queries: Queries,
    pub(super) sequence: &'a PlannedSequence,
    /// `[count, columns / PER_WORD]`.
    pub(super) query_words: &'a [H::Word],
    /// What each query's products are multiplied with to be scores.
    pub(super) factors: &'a [f32],
    /// `[count, PARTITION]`.
    pub(super) scores: &'a mut [f32],
    /// `[count, PARTITION / PER_WORD]`.
    pub(super) weights: &'a mut [H::Word],
    /// What to ask memory for.
    pub(super) ahead: Ahead<'a, O>,
    /// Where values are gathered, in formats that do so.
    pub(super) gathered: &'a mut Vec<Line<u32>>,
}

/// Neighbouring positions in one block, a multiple of the values in a word but at the end.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Segment {
    /// The first position's word in the first panel of values.
    pub(super) values: *const u8,
    pub(super) words: usize,
}

/// Where a partition's keys and values are.
pub(in crate::cpu) struct Places<'a> {
    /// Of each panel of keys that is wanted its words, and its scales.
    pub(super) keys: [*const u8; PARTITION_PANELS],
    key_scales: [*const [f32; LANES]; PARTITION_PANELS],
    /// The scales of the values of each panel's positions, where there are such.
    value_scales: [&'a [f32; LANES]; PARTITION_PANELS],
    segments: [Segment; PARTITION_PANELS],
    num_segments: usize,
    /// Bytes from one panel of values to the next.
    pub(super) value_stride: usize,
}

impl Places<'_> {
    /// The values of the positions from the first panel on, a block at a time.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments[..self.num_segments]
    }
}

impl<'a, O: Arithmetic, H: Held<O>> PartitionRun<'a, O, H> {
    fn position(&self, query: usize) -> usize {
        self.sequence.first_position + (self.queries.first + query) / self.context.group
    }

    /// Computes one partition: weighted sums, largest scores and sums of weights into `part`.
    #[inline(always)]
    pub(super) fn partition<S: Simd>(&mut self, simd: S, partition: usize, part: &mut [f32]) {
        let (count, columns) = (self.queries.count, self.context.columns);
        let start = partition * PARTITION;
        let (first, last) = self.context.seen(&self.queries, partition);
        // Panels that some query sees, and the end of the keys that exist.
        let panels = (first - start) / LANES..(last - start) / LANES + 1;
        let end = last - start + 1;
        let places = self.places(start, panels.clone(), end);
        let (sums, largest, weight) = fields(part, count, columns);
        H::scores(self, simd, &places, panels.clone());
        for (query, largest) in largest.iter_mut().enumerate().take(count) {
            let position = self.position(query);
            let from = first_key(self.context.shape.window, position).saturating_sub(start);
            let to = (position + 1).saturating_sub(start);
            let scores = &mut self.scores[query * PARTITION..][..PARTITION];
            *largest = mask_and_find_largest(simd, scores, panels.clone(), from..to);
        }
        let mut scales = [1.0; QUERIES];
        for query in 0..count {
            let (scores, _) = self.scores[query * PARTITION..][..PARTITION].as_chunks_mut();
            let words = PARTITION / H::PER_WORD;
            let weights = &mut self.weights[query * words..][..words];
            let words = panels.start * LANES / H::PER_WORD..panels.end * LANES / H::PER_WORD;
            let weights = &mut weights[words];
            if largest[query] == f32::NEG_INFINITY {
                weights.fill(H::Word::default());
                weight[query] = 0.0;
                continue;
            }
            (weight[query], scales[query]) = H::weigh(
                simd,
                &mut scores[panels.clone()],
                largest[query],
                &places.value_scales[panels.clone()],
                weights,
            );
        }
        H::weighted_sums(self, simd, &places, panels, &scales, sums);
    }

    /// Scores of the queries against panels of keys, in vector registers.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(&mut self, simd: S, places: &Places<'a>, panels: Range<usize>) {
        let count = self.queries.count;
        let mut work = Scores {
            run: self,
            places,
            row_tiles: count.div_ceil(S::TILE.1),
        };
        for_each_tile(simd, panels, 0..count, &mut work);
    }

    /// Sums of the values of panels of positions by weight, in vector registers.
    #[inline(always)]
    pub(super) fn weighted_sums<S: Simd>(
        &mut self,
        simd: S,
        places: &Places<'a>,
        panels: Range<usize>,
        scales: &[f32; QUERIES],
        sums: &mut [f32],
    ) {
        let count = self.queries.count;
        let mut work = WeightedSums {
            first_word: panels.start * LANES / H::PER_WORD,
            run: self,
            places,
            scales,
            sums,
            row_tiles: count.div_ceil(S::TILE.1),
        };
        let panels = 0..work.run.context.plan.shape().value_panels();
        for_each_tile(simd, panels, 0..count, &mut work);
    }

    /// Makes scores of a query's products with the keys of `P` panels.
    #[inline(always)]
    pub(super) fn put_scores<S: Simd, const P: usize>(
        &mut self,
        simd: S,
        query: usize,
        panel: usize,
        products: [S::F32; P],
    ) {
        let factor = simd.splat(self.factors[query]);
        let out = &mut self.scores[query * PARTITION..][..PARTITION];
        let (out, _) = out[panel * LANES..][..P * LANES].as_chunks_mut::<LANES>();
        for (product, out) in products.into_iter().zip(out) {
            let mut score = simd.mul(product, factor);
            if let Some(cap) = self.context.shape.soft_cap {
                let capped = soft_cap(simd, score, cap);
                score = simd.mul(capped, simd.splat(std::f32::consts::LOG2_E));
            }
            simd.store(score, out);
        }
    }

    /// Looks up the blocks of some panels of the partition from `start` on; values end before `end`.
    #[inline(always)]
    fn places(&self, start: usize, panels: Range<usize>, end: usize) -> Places<'a> {
        let context = self.context;
        let block_size = context.plan.shape().block_size;
        let table = context.plan.table(self.sequence);
        let none = Segment {
            values: std::ptr::null(),
            words: 0,
        };
        let mut places = Places {
            keys: [std::ptr::null(); PARTITION_PANELS],
            key_scales: [std::ptr::null(); PARTITION_PANELS],
            value_scales: [&[0.0; LANES]; PARTITION_PANELS],
            segments: [none; PARTITION_PANELS],
            num_segments: 0,
            value_stride: 0,
        };
        let mut key = panels.start * LANES;
        while key < end {
            let position = start + key;
            let in_block = position % block_size;
            let block = table[position / block_size] as usize;
            let head = context
                .cache
                .head(context.layer, block, self.queries.kv_head);
            let run = (block_size - in_block).min(end - key);
            for panel in 0..run.div_ceil(LANES) {
                let (scales, words) = head.key_panel(in_block / LANES + panel);
                places.keys[key / LANES + panel] = words.as_ptr().cast();
                places.key_scales[key / LANES + panel] = scales.as_ptr().cast();
                if H::GROUP_WORDS.is_some() {
                    let scales = head.value_scales(in_block / LANES + panel);
                    places.value_scales[key / LANES + panel] = super::Plain::as_floats(&scales.0);
                }
            }
            let values = head.value_panels();
            let first = in_block / H::PER_WORD * H::LINE_BYTES;
            let words = run.div_ceil(H::PER_WORD);
            // Every panel of values has these words.
            assert!(first + words * H::LINE_BYTES <= head.value_panel_lines() * 64);
            places.value_stride = head.value_panel_lines() * 64;
            places.segments[places.num_segments] = Segment {
                values: values.as_ptr().cast::<u8>().wrapping_add(first),
                words,
            };
            places.num_segments += 1;
            key += run;
        }
        places
    }
}

/// Queries of the largest task.
pub(super) const QUERIES: usize = super::QUERIES_PER_TASK;

/// Makes the scores outside `seen` minus infinity and returns the largest of `panels`.
#[inline(always)]
fn mask_and_find_largest<S: Simd>(
    simd: S,
    scores: &mut [f32],
    panels: Range<usize>,
    seen: Range<usize>,
) -> f32 {
    let (first, end) = (panels.start * LANES, panels.end * LANES);
    let to = seen.end.clamp(first, end);
    let from = seen.start.clamp(first, to);
    if from > first {
        scores[first..from].fill(f32::NEG_INFINITY);
    }
    if to < end {
        scores[to..end].fill(f32::NEG_INFINITY);
    }
    let (lines, _) = scores[first..end].as_chunks::<LANES>();
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for line in lines {
        largest = simd.max(largest, simd.load(line));
    }
    simd.max_lane(largest)
}

/// Scores of queries against panels of keys.
struct Scores<'r, 'a, O: Arithmetic, H: Held<O>> {
    run: &'r mut PartitionRun<'a, O, H>,
    places: &'r Places<'a>,
    row_tiles: usize,
}

impl<S: Simd, O: Arithmetic, H: Held<O>> Tiles<S> for Scores<'_, '_, O, H> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, query: usize) {
        simd.vectorize(Tile::<_, P, T> {
            work: self,
            panel,
            row: query,
        });
    }
}

impl<O: Arithmetic, H: Held<O>, const P: usize, const T: usize> Kernel
    for Tile<'_, Scores<'_, '_, O, H>, P, T>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Tile {
            work,
            panel,
            row: query,
        } = self;
        let places = work.places;
        let words = work.run.context.shape.head_dim.div_ceil(H::PER_WORD);
        let group_words = H::GROUP_WORDS.unwrap_or(words);
        let stride = work.run.context.columns / H::PER_WORD;
        let mut panels = [std::ptr::null::<u8>(); P];
        panels.copy_from_slice(&places.keys[panel..][..P]);
        let mut rows = [std::ptr::null::<H::Word>(); T];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = work.run.query_words[(query + index) * stride..][..stride].as_ptr();
        }
        let mut totals = [[simd.splat(0.0); P]; T];
        let (mut word, mut group) = (0, 0);
        while word < words {
            let group_end = words.min(word + group_words);
            let mut sums = [[H::zero(simd); P]; T];
            while word < group_end {
                let run = WORDS_PER_STEP.min(group_end - word);
                let bytes = P * run * H::LINE_BYTES;
                work.run
                    .ahead
                    .step(simd, bytes.div_ceil(64 * work.row_tiles));
                // SAFETY: `places` has put the start of a whole panel, `words` words, at each index
                // that a tile uses; a query has `stride >= words` words.
                sums = unsafe { H::multiply(simd, sums, panels, rows, run) };
                for pointer in &mut panels {
                    *pointer = pointer.wrapping_add(run * H::LINE_BYTES);
                }
                for pointer in &mut rows {
                    *pointer = pointer.wrapping_add(run);
                }
                word += run;
            }
            for column in 0..P {
                if H::GROUP_WORDS.is_none() {
                    for row in 0..T {
                        totals[row][column] = H::to_f32(simd, sums[row][column]);
                    }
                } else {
                    // SAFETY: a panel has a line of scales for each group of its words.
                    let scales = unsafe { &*places.key_scales[panel + column].add(group) };
                    let scales = simd.load(scales);
                    for row in 0..T {
                        let sum = H::to_f32(simd, sums[row][column]);
                        totals[row][column] = simd.mul_add(sum, scales, totals[row][column]);
                    }
                }
            }
            group += 1;
        }
        for (row, totals) in totals.into_iter().enumerate() {
            work.run.put_scores(simd, query + row, panel, totals);
        }
    }
}

/// Weighted sums of values over panels of elements.
struct WeightedSums<'r, 'a, O: Arithmetic, H: Held<O>> {
    run: &'r mut PartitionRun<'a, O, H>,
    places: &'r Places<'a>,
    /// The word of the first segment's first weight.
    first_word: usize,
    /// What each query's sums are multiplied with.
    scales: &'r [f32; QUERIES],
    sums: &'r mut [f32],
    row_tiles: usize,
}

impl<S: Simd, O: Arithmetic, H: Held<O>> Tiles<S> for WeightedSums<'_, '_, O, H> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, query: usize) {
        simd.vectorize(Tile::<_, P, T> {
            work: self,
            panel,
            row: query,
        });
    }
}

impl<O: Arithmetic, H: Held<O>, const P: usize, const T: usize> Kernel
    for Tile<'_, WeightedSums<'_, '_, O, H>, P, T>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Tile {
            work,
            panel,
            row: query,
        } = self;
        let places = work.places;
        let words = PARTITION / H::PER_WORD;
        let mut rows = [std::ptr::null::<H::Word>(); T];
        for (index, row) in rows.iter_mut().enumerate() {
            let weights = &work.run.weights[(query + index) * words..][..words];
            *row = weights[work.first_word..].as_ptr();
        }
        let mut acc = [[H::zero(simd); P]; T];
        for segment in places.segments() {
            let mut panels = [std::ptr::null::<u8>(); P];
            for (index, start) in panels.iter_mut().enumerate() {
                *start = segment
                    .values
                    .wrapping_add((panel + index) * places.value_stride);
            }
            let bytes = P * segment.words * H::LINE_BYTES;
            work.run
                .ahead
                .step(simd, bytes.div_ceil(64 * work.row_tiles));
            // SAFETY: `places` has seen that every panel of values has a segment's words; segments
            // together are at most the partition, so the weights are there.
            acc = unsafe { H::multiply(simd, acc, panels, rows, segment.words) };
            for pointer in &mut rows {
                *pointer = pointer.wrapping_add(segment.words);
            }
        }
        let columns = work.run.context.columns;
        for (row, acc) in acc.iter().enumerate() {
            let out = &mut work.sums[(query + row) * columns..][..columns];
            let (out, _) = out[panel * LANES..][..P * LANES].as_chunks_mut::<LANES>();
            let scale = simd.splat(work.scales[query + row]);
            for column in 0..P {
                let sum = H::to_f32(simd, acc[column]);
                simd.store(simd.mul(sum, scale), &mut out[column]);
            }
        }
    }
}
