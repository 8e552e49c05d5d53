//! Products of 8-bit integers in matrix tiles: the sums of groups, exact, come from AMX; what is added
//! to totals, and in which order, is what `product` says, so the bits are the same.

use std::ops::Range;

use super::super::amx::{Amx, BYTE_PANELS, ByteSums, GROUPS, ROWS, TileWork, Tiles};
use super::super::simd::{Kernel, LANES, Simd};
use super::super::sink::Sink;
use super::GROUP_WORDS;
use super::format::Format;
use super::product::{FormatTask, IntTask, add_group, group_words, start};

/// A task in matrix tiles.
pub(super) struct OnTiles<'a, F>(pub(super) FormatTask<'a, F>, pub(super) Amx);

impl<F: Format> Kernel for OnTiles<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(task, amx) = self;
        // Whole lines in a step, or where words are no multiple of them, ggml's groups.
        if task.0.weights.words().is_multiple_of(LANES) {
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
    };
    amx.for_each_tile(panels, rows, W, &mut work);
}

/// A task and what it works in.
struct Products<'a, S, F, const W: usize> {
    task: FormatTask<'a, F>,
    simd: S,
    sums: ByteSums,
    totals: [[[f32; LANES]; BYTE_PANELS]; ROWS],
}

impl<S: Simd, F: Format, const W: usize> TileWork for Products<'_, S, F, W> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut Tiles,
        panel: usize,
        range: Range<usize>,
        _pass: usize,
    ) {
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
        let group_words = group_words::<F>(words);
        assert!(weights.groups == words.div_ceil(group_words));
        // Groups are whole, but for the last one.
        let end = words.min(groups.end * group_words);
        let whole = (end - groups.start * group_words) / group_words;
        let stride = rows.stride();
        let all = &rows.words()[range.start * stride..range.end * stride];
        let mut sum = |first_group: usize, count: usize, steps: usize| {
            let first = (groups.start + first_group) * group_words;
            let words = first..first + count * steps * W;
            let panels = [
                weights.panel_lines(panel)[words.clone()].as_ptr(),
                weights.panel_lines(panel + 1)[words.clone()].as_ptr(),
            ];
            assert!(words.end <= stride && count > 0 && steps > 0);
            let from = all[words.start..].as_ptr();
            let sums = self.sums.starting_at(first_group);
            // SAFETY: each panel has a line for each of these words, each row has them; the groups
            // are no more than there are sums of. The tiles are the latest, with steps of `W` words.
            unsafe { tiles.multiply_bytes::<W>(panels, (from, stride), count, steps, sums) };
        };
        if whole > 0 {
            sum(0, whole, group_words / W);
        }
        if whole < groups.len() {
            let rest = end - (groups.start + whole) * group_words;
            sum(whole, 1, rest / W);
        }
    }

    /// Adds some groups to the totals.
    #[inline(always)]
    fn add_groups(&mut self, panel: usize, range: &Range<usize>, groups: &Range<usize>) {
        let simd = self.simd;
        let IntTask { weights, rows, .. } = &self.task.0;
        for index in 0..BYTE_PANELS {
            let mut scales = [simd.splat(0.0); GROUPS];
            let halves = &weights.panel_scales(panel + index)[groups.clone()];
            for (scale, halves) in scales.iter_mut().zip(halves) {
                *scale = simd.widen_f16(halves);
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
                }
                simd.store(total, &mut totals[index]);
            }
        }
    }
}
