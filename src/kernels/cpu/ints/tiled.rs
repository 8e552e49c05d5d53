//! Products of 8-bit integers in matrix tiles: the sums of groups, exact, come from AMX; what is added
//! to totals, and in which order, is what `product` says, so the bits are the same.

use std::ops::Range;

use super::super::amx::{Amx, BYTE_PANELS, ByteSums, ROWS, TileWork, Tiles};
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
        sums: [ByteSums::new(), ByteSums::new()],
        totals: [[[0.0; LANES]; BYTE_PANELS]; ROWS],
    };
    amx.for_each_tile(panels, rows, W, &mut work);
}

/// A task and what it works in.
struct Products<'a, S, F, const W: usize> {
    task: FormatTask<'a, F>,
    simd: S,
    /// Of a group, and of the one before.
    sums: [ByteSums; 2],
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
    /// Two panels. While the sums of a group are added to the totals, the tiles of the next one are
    /// multiplied already: the instructions of both are under way together.
    #[inline(always)]
    fn pair(&mut self, tiles: &mut Tiles, panel: usize, range: Range<usize>) {
        let (groups, simd) = (self.task.0.weights.groups, self.simd);
        for totals in &mut self.totals[..range.len()] {
            *totals = [[0.0; LANES]; BYTE_PANELS];
        }
        self.sum_group(tiles, panel, &range, 0);
        for group in 0..groups {
            if group + 1 < groups {
                self.sum_group(tiles, panel, &range, group + 1);
            }
            self.add_group(panel, &range, group);
        }
        for (totals, row) in self.totals.iter().zip(range) {
            let totals = [simd.load(&totals[0]), simd.load(&totals[1])];
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { self.task.0.sink.put(simd, row, panel, totals) };
        }
    }

    /// The sums of a group.
    #[inline(always)]
    fn sum_group(&mut self, tiles: &mut Tiles, panel: usize, range: &Range<usize>, group: usize) {
        let IntTask { weights, rows, .. } = &self.task.0;
        let (words, stride) = (weights.words(), rows.stride());
        let group_words = group_words::<F>(words);
        // Groups are whole, but for the last one.
        let part = group * group_words..words.min((group + 1) * group_words);
        let steps = part.len() / W;
        let panels = [
            weights.panel_lines(panel)[part.clone()].as_ptr(),
            weights.panel_lines(panel + 1)[part.clone()].as_ptr(),
        ];
        let all = &rows.words()[range.start * stride..range.end * stride];
        assert!(part.end <= stride && steps > 0);
        let from = (all[part.start..].as_ptr(), stride);
        let sums = &mut self.sums[group % 2];
        // SAFETY: each panel has a line for each of these words, each row has them. The tiles are the
        // latest, with steps of `W` words.
        unsafe { tiles.multiply_bytes::<W>(panels, from, steps, sums) };
    }

    /// Adds a group to the totals.
    #[inline(always)]
    fn add_group(&mut self, panel: usize, range: &Range<usize>, group: usize) {
        let simd = self.simd;
        let IntTask { weights, rows, .. } = &self.task.0;
        let mut scales = [simd.splat(0.0); BYTE_PANELS];
        for (index, scale) in scales.iter_mut().enumerate() {
            *scale = simd.widen_f16(&weights.panel_scales(panel + index)[group]);
        }
        let sums = &self.sums[group % 2];
        for (index, (row, totals)) in range.clone().zip(&mut self.totals).enumerate() {
            let (row_scales, corrections) = rows.row_groups(row);
            let start = start::<S, F>(simd, corrections[group]);
            let row_scale = row_scales[group];
            for ((total, sums), scale) in totals.iter_mut().zip(sums.of(index)).zip(scales) {
                let sums = simd.add_words(simd.load_words(sums), start);
                let sum = add_group(simd, simd.load(total), sums, scale, row_scale);
                simd.store(sum, total);
            }
        }
    }
}
