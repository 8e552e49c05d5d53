//! Integer weights times integer activations.
//!
//! For each group of inputs an exact sum in 32-bit integers, then
//! `total += weight scale * activation scale * sum`, in order of the groups and in single precision,
//! each operation rounded on its own.

use std::ops::Range;

use super::super::Cpu;
use super::super::activation::Activation;
use super::super::isa::Isa;
use super::super::line::{Arithmetic, F32, Line, Rows};
use super::super::linear::{Target, for_each_part};
use super::super::simd::{Kernel, Simd};
use super::super::sink::{AnySink, Gated, Plain, Sink};
use super::super::tile::{Tile, Tiles, for_each_tile};
use super::format::{Format, Int4, Int4Affine, Int8, Int8PerRow, Int8Wide};
use super::weights::Halves;
use super::{GROUP, IntFormat, IntGatedMatrix, IntMatrix, IntRows};

/// `rows * weights^T`, plus the bias, into (or added to) the first `num_rows` rows of `out`.
///
/// # Panics
/// Widths disagree, the rows have scales of the wrong kind, or a buffer has fewer than `num_rows`
/// rows.
pub fn linear_ints(
    cpu: &mut Cpu,
    weights: &IntMatrix,
    rows: &IntRows,
    num_rows: usize,
    bias: Option<&[f32]>,
    target: Target,
    out: &mut Rows<F32>,
) {
    assert_eq!(out.width(), weights.outputs, "a column for each output");
    assert!(out.rows() >= num_rows, "a result row for each row");
    let stride = out.stride();
    let out = out.words_mut();
    linear_ints_strided(cpu, weights, rows, num_rows, bias, target, out, stride);
}

/// The same into plain memory: row `i` starts at `out[i * stride]`.
///
/// # Panics
/// As [`linear_ints`].
#[allow(
    clippy::too_many_arguments,
    reason = "a matrix product has this many operands"
)]
pub fn linear_ints_strided(
    cpu: &mut Cpu,
    weights: &IntMatrix,
    rows: &IntRows,
    num_rows: usize,
    bias: Option<&[f32]>,
    target: Target,
    out: &mut [f32],
    stride: usize,
) {
    let sink = Plain::new(out, stride, num_rows, weights.outputs, bias, target);
    product(cpu, weights, rows, num_rows, AnySink::Plain(sink));
}

/// `activation(rows * gate^T) * (rows * up^T)` into the first `num_rows` rows of `out`, rounded to
/// its storage type.
///
/// # Panics
/// As [`linear_ints`].
pub fn gated_linear_ints<O: Arithmetic>(
    cpu: &mut Cpu,
    weights: &IntGatedMatrix,
    rows: &IntRows,
    num_rows: usize,
    activation: Activation,
    out: &mut Rows<O>,
) {
    let sink = Gated::new(out, num_rows, weights.width, activation);
    product(cpu, &weights.packed, rows, num_rows, O::any_sink(sink));
}

fn product(cpu: &mut Cpu, weights: &IntMatrix, rows: &IntRows, num_rows: usize, sink: AnySink<'_>) {
    assert_eq!(rows.width(), weights.inputs, "rows as wide as the weights");
    assert_eq!(
        rows.group(),
        weights.format.group(),
        "scales of rows and weights are of one kind"
    );
    assert!(rows.rows() >= num_rows, "the rows are there");
    let (isa, row_bytes) = (cpu.isa, weights.inputs.max(1));
    for_each_part(
        cpu,
        weights.panels(),
        num_rows,
        row_bytes,
        |panels, row_range, _next_panel| {
            let task = IntTask {
                weights,
                rows,
                panels,
                row_range,
                sink,
            };
            match weights.format {
                IntFormat::Int8 => run(isa, FormatTask(task, Int8)),
                IntFormat::Int8Wide => run(isa, FormatTask(task, Int8Wide)),
                IntFormat::Int8PerRow => run(isa, FormatTask(task, Int8PerRow)),
                IntFormat::Int4 => run(isa, FormatTask(task, Int4)),
                IntFormat::Int4Affine => run(isa, FormatTask(task, Int4Affine)),
            }
        },
    );
}

/// One part of a product: a range of panels times a range of rows.
pub(super) struct IntTask<'a> {
    pub(super) weights: &'a IntMatrix,
    pub(super) rows: &'a IntRows,
    pub(super) panels: Range<usize>,
    pub(super) row_range: Range<usize>,
    pub(super) sink: AnySink<'a>,
}

/// The same for a kernel: the format of the weights as a type.
pub(super) struct FormatTask<'a, F>(pub(super) IntTask<'a>, F);

/// Rows from which on matrix tiles pay.
#[cfg(target_arch = "x86_64")]
const LEAST_ROWS_IN_TILES: usize = 8;

/// Runs a task in matrix tiles where there are such and they pay. The bits are the same.
fn run<F: Format>(isa: Isa, task: FormatTask<'_, F>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx()
        && F::FORMAT.is_multiplied_in_tiles()
        && task.0.row_range.len() >= LEAST_ROWS_IN_TILES
    {
        return amx.simd().vectorize(super::tiled::OnTiles(task, amx));
    }
    isa.run(task);
}

impl<F: Format> Kernel for FormatTask<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (panels, rows) = (self.0.panels.clone(), self.0.row_range.clone());
        for_each_tile(simd, panels, rows, &mut self);
    }
}

impl<S: Simd, F: Format> Tiles<S> for FormatTask<'_, F> {
    const LARGEST: (usize, usize) = S::GROUPED_TILE;
    const LEAST_PANELS: usize = 2;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, row: usize) {
        simd.vectorize(Tile::<_, P, T> {
            work: self,
            panel,
            row,
        });
    }
}

impl<F: Format, const P: usize, const T: usize> Kernel for Tile<'_, FormatTask<'_, F>, P, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { work, panel, row } = self;
        let IntTask {
            weights,
            rows,
            sink,
            ..
        } = &work.0;
        let none: &[Halves] = &[];
        let panels: [Panel<'_>; P] = std::array::from_fn(|index| Panel {
            lines: weights.panel_lines(panel + index),
            scales: weights.panel_scales(panel + index),
            minimums: if F::FORMAT.is_affine() {
                weights.panel_minimums(panel + index)
            } else {
                none
            },
        });
        let rows: [Row<'_>; T] = std::array::from_fn(|index| {
            let (scales, corrections) = rows.row_groups(row + index);
            Row {
                words: rows.row_words(row + index),
                scales,
                corrections,
            }
        });
        let sums = multiply::<S, F, P, T>(simd, weights.groups, &panels, &rows);
        for (index, sums) in sums.into_iter().enumerate() {
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { sink.put(simd, row + index, panel, sums) };
        }
    }
}

/// Weights of sixteen outputs.
struct Panel<'a> {
    lines: &'a [Line<u32>],
    scales: &'a [Halves],
    minimums: &'a [Halves],
}

/// Activations of a row.
struct Row<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    corrections: &'a [i32],
}

/// A tile of `P` panels and `T` rows.
#[inline(always)]
fn multiply<S: Simd, F: Format, const P: usize, const T: usize>(
    simd: S,
    groups: usize,
    panels: &[Panel<'_>; P],
    rows: &[Row<'_>; T],
) -> [[S::F32; P]; T] {
    let words = rows[0].words.len();
    let per_line = if F::FORMAT.has_nibbles() { 2 } else { 1 };
    let group_words = group_words::<F>(words);
    assert!(groups == words.div_ceil(group_words));
    // Groups are whole, but for the last of the wide ones.
    let is_cut =
        |group: usize| F::FORMAT.group() != Some(GROUP) && (group + 1) * group_words > words;
    for panel in panels {
        assert!(panel.lines.len() * per_line == words && panel.scales.len() == groups);
        assert!(!F::FORMAT.is_affine() || panel.minimums.len() == groups);
    }
    for row in rows {
        assert!(row.words.len() == words);
        assert!(row.scales.len() == groups && row.corrections.len() == groups);
    }
    let mut totals = [[simd.splat(0.0); P]; T];
    for group in 0..groups {
        let mut sums = [[simd.splat_word(0); P]; T];
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `group < groups`, the length asserted above.
            let correction = unsafe { *row.corrections.get_unchecked(group) };
            *sums = [start::<S, F>(simd, correction); P];
        }
        let end = if is_cut(group) {
            words
        } else {
            (group + 1) * group_words
        };
        for line in group * group_words / per_line..end / per_line {
            let weights: [S::Words; P] = std::array::from_fn(|panel| {
                // SAFETY: `line < words / per_line`, the length asserted above.
                simd.load_words(unsafe { &panels[panel].lines.get_unchecked(line).0 })
            });
            for half in 0..per_line {
                let weights = if !F::FORMAT.has_nibbles() {
                    weights
                } else if half == 0 {
                    weights.map(|words| simd.low_nibbles(words))
                } else {
                    weights.map(|words| simd.high_nibbles(words))
                };
                for (sums, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: below `words`, the length asserted above.
                    let x = unsafe { *row.words.get_unchecked(per_line * line + half) };
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = if F::FORMAT.has_nibbles() {
                            simd.dot_nibbles(*sum, weights, x)
                        } else {
                            simd.dot_bytes(*sum, weights, x)
                        };
                    }
                }
            }
        }
        let scales: [S::F32; P] = std::array::from_fn(|panel| {
            // SAFETY: `group < groups`, the length asserted above.
            simd.widen_f16(unsafe { panels[panel].scales.get_unchecked(group) })
        });
        for ((totals, sums), row) in totals.iter_mut().zip(sums).zip(rows) {
            // SAFETY: as above.
            let scale = unsafe { *row.scales.get_unchecked(group) };
            for panel in 0..P {
                totals[panel] = add_group(simd, totals[panel], sums[panel], scales[panel], scale);
            }
        }
        if F::FORMAT.is_affine() {
            let minimums: [S::F32; P] = std::array::from_fn(|panel| {
                // SAFETY: as above.
                simd.widen_f16(unsafe { panels[panel].minimums.get_unchecked(group) })
            });
            for (totals, row) in totals.iter_mut().zip(rows) {
                // SAFETY: as above.
                let (scale, correction) = unsafe {
                    (
                        *row.scales.get_unchecked(group),
                        *row.corrections.get_unchecked(group),
                    )
                };
                for panel in 0..P {
                    let minimum = minimums[panel];
                    totals[panel] = add_minimum(simd, totals[panel], minimum, scale, correction);
                }
            }
        }
    }
    totals
}

/// Words of a group of so many in all.
#[inline(always)]
pub(super) fn group_words<F: Format>(words: usize) -> usize {
    F::FORMAT.group().map_or(words, |group| group / 4)
}

/// Adds a group's exact sum of products, times both scales.
#[inline(always)]
pub(super) fn add_group<S: Simd>(
    simd: S,
    total: S::F32,
    sum: S::Words,
    weight_scale: S::F32,
    row_scale: f32,
) -> S::F32 {
    let both = simd.mul(weight_scale, simd.splat(row_scale));
    simd.add(total, simd.mul(both, simd.to_f32(sum)))
}

/// Adds a group's minimum times minus the sum of its activations; the correction is -128 times the
/// sum of their integers.
#[inline(always)]
pub(super) fn add_minimum<S: Simd>(
    simd: S,
    total: S::F32,
    minimum: S::F32,
    row_scale: f32,
    correction: i32,
) -> S::F32 {
    let correction = simd.to_f32(simd.splat_word(correction.cast_unsigned()));
    let x = simd.mul(correction, simd.splat(row_scale * (1.0 / 128.0)));
    simd.add(total, simd.mul(minimum, x))
}

/// Where a group's sum starts, so that what was added to the weights has no effect.
#[inline(always)]
pub(super) fn start<S: Simd, F: Format>(simd: S, correction: i32) -> S::Words {
    use super::IntFormat::{Int4, Int4Affine, Int8, Int8PerRow, Int8Wide};
    match F::FORMAT {
        Int8 | Int8Wide | Int8PerRow => simd.splat_word(correction.cast_unsigned()),
        // 8 instead of 128.
        Int4 => simd.shift_right_4(simd.splat_word(correction.cast_unsigned())),
        Int4Affine => simd.splat_word(0),
    }
}
