//! Products of integers in matrix tiles: the sums of groups, exact, come from AMX; what is added to
//! totals, and in which order, is what `product` says, so the bits are the same.

use std::ops::Range;

use super::super::amx::{Amx, BYTE_PANELS, ByteSums, GROUPS, ROWS, TileWork, Tiles};
use super::super::line::Line;
use super::super::simd::{Kernel, LANES, Simd};
use super::super::sink::Sink;
use super::GROUP_WORDS;
use super::format::Format;
use super::product::{FormatTask, IntTask, add_group, add_minimum, start};

/// A task in matrix tiles.
pub(super) struct OnTiles<'a, F>(pub(super) FormatTask<'a, F>, pub(super) Amx);

impl<F: Format> Kernel for OnTiles<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(task, amx) = self;
        let is_whole = F::FORMAT.is_per_row() && task.0.weights.words().is_multiple_of(LANES);
        if is_whole {
            multiply::<S, F, LANES>(simd, task, amx);
        } else {
            multiply::<S, F, GROUP_WORDS>(simd, task, amx);
        }
    }
}

/// Runs a task in steps of `W` words.
#[inline(always)]
fn multiply<S: Simd, F: Format, const W: usize>(simd: S, task: FormatTask<'_, F>, amx: Amx) {
    let (panels, rows) = (task.0.panels.clone(), task.0.row_range.clone());
    let mut work = Products::<S, F, W> {
        task,
        simd,
        sums: ByteSums::new(),
        totals: [[[0.0; LANES]; BYTE_PANELS]; ROWS],
        widened: [[Line([0; LANES]); GROUPS * GROUP_WORDS]; BYTE_PANELS],
    };
    amx.for_each_tile(panels, rows, W, &mut work);
}

/// A task and what it works in.
struct Products<'a, S, F, const W: usize> {
    task: FormatTask<'a, F>,
    simd: S,
    sums: ByteSums,
    totals: [[[f32; LANES]; BYTE_PANELS]; ROWS],
    /// Lines of 4-bit weights as bytes.
    widened: [[Line<u32>; GROUPS * GROUP_WORDS]; BYTE_PANELS],
}

impl<S: Simd, F: Format, const W: usize> TileWork for Products<'_, S, F, W> {
    #[inline(always)]
    fn tile<const P: usize>(&mut self, tiles: &mut Tiles, panel: usize, range: Range<usize>) {
        for panel in (panel..panel + P).step_by(BYTE_PANELS) {
            self.pair(tiles, panel, range.clone());
        }
    }
}

impl<S: Simd, F: Format, const W: usize> Products<'_, S, F, W> {
    /// Two panels.
    #[inline(always)]
    fn pair(&mut self, tiles: &mut Tiles, panel: usize, range: Range<usize>) {
        let (groups, simd) = (self.task.0.weights.groups, self.simd);
        for totals in &mut self.totals[..range.len()] {
            *totals = [[0.0; LANES]; BYTE_PANELS];
        }
        for first in (0..groups).step_by(GROUPS) {
            let groups = first..groups.min(first + GROUPS);
            self.sum_groups(tiles, panel, &range, &groups);
            self.add_groups(panel, &range, &groups);
        }
        for (totals, row) in self.totals.iter().zip(range) {
            let totals = [simd.load(&totals[0]), simd.load(&totals[1])];
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { self.task.0.sink.put(simd, row, panel, totals) };
        }
    }

    /// The sums of some groups.
    #[inline(always)]
    fn sum_groups(
        &mut self,
        tiles: &mut Tiles,
        panel: usize,
        range: &Range<usize>,
        groups: &Range<usize>,
    ) {
        let IntTask { weights, rows, .. } = &self.task.0;
        let words = weights.words();
        let group_words = if F::FORMAT.is_per_row() {
            words
        } else {
            GROUP_WORDS
        };
        assert!(weights.groups * group_words == words && group_words.is_multiple_of(W));
        let (first, end) = (groups.start * group_words, groups.end * group_words);
        let mut panels = [std::ptr::null(); BYTE_PANELS];
        for (index, panel_lines) in panels.iter_mut().enumerate() {
            let lines = weights.panel_lines(panel + index);
            *panel_lines = if F::FORMAT.has_nibbles() {
                let widened = &mut self.widened[index][..end - first];
                widen(self.simd, &lines[first / 2..end / 2], widened);
                widened.as_ptr()
            } else {
                lines[first..end].as_ptr()
            };
        }
        let (all, stride) = (rows.words(), rows.stride());
        let from = &all[range.start * stride..range.end * stride][first..];
        assert!(first < end && words <= stride);
        // SAFETY: each panel has the lines `first..end`, shown above, each row these words. The
        // tiles are the latest, and their steps are `W` words.
        unsafe {
            tiles.multiply_bytes::<W>(
                panels,
                (from.as_ptr(), stride),
                groups.len(),
                group_words / W,
                &mut self.sums,
            );
        }
    }

    /// Adds some groups to the totals.
    #[inline(always)]
    fn add_groups(&mut self, panel: usize, range: &Range<usize>, groups: &Range<usize>) {
        let simd = self.simd;
        let IntTask { weights, rows, .. } = &self.task.0;
        for index in 0..BYTE_PANELS {
            let mut scales = [simd.splat(0.0); GROUPS];
            let mut minimums = [simd.splat(0.0); GROUPS];
            let halves = &weights.panel_scales(panel + index)[groups.clone()];
            for (scale, halves) in scales.iter_mut().zip(halves) {
                *scale = simd.widen_f16(halves);
            }
            if F::FORMAT.is_affine() {
                let halves = &weights.panel_minimums(panel + index)[groups.clone()];
                for (minimum, halves) in minimums.iter_mut().zip(halves) {
                    *minimum = simd.widen_f16(halves);
                }
            }
            for (row, totals) in range.clone().zip(&mut self.totals) {
                let (row_scales, corrections) = rows.row_groups(row);
                let row_scales = &row_scales[groups.clone()];
                let corrections = &corrections[groups.clone()];
                let mut total = simd.load(&totals[index]);
                for group in 0..groups.len() {
                    let (scale, correction) = (row_scales[group], corrections[group]);
                    let sums = simd.load_words(self.sums.of(group, row - range.start, index));
                    let sums = simd.add_words(sums, start::<S, F>(simd, correction));
                    total = add_group(simd, total, sums, scales[group], scale);
                    if F::FORMAT.is_affine() {
                        total = add_minimum(simd, total, minimums[group], scale, correction);
                    }
                }
                simd.store(total, &mut totals[index]);
            }
        }
    }
}

/// Lines of 4-bit weights as twice as many of bytes.
#[inline(always)]
fn widen<S: Simd>(simd: S, from: &[Line<u32>], to: &mut [Line<u32>]) {
    let (pairs, _) = to.as_chunks_mut::<2>();
    for (from, [low, high]) in from.iter().zip(pairs) {
        let nibbles = simd.load_words(&from.0);
        simd.store_words(simd.low_nibbles(nibbles), &mut low.0);
        simd.store_words(simd.high_nibbles(nibbles), &mut high.0);
    }
}
