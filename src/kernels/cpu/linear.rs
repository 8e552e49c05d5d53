//! Linear layers on packed weights.
//!
//! [`PackedMatrix`] stores a weight matrix as panels of sixteen outputs (`line.rs`). A product
//! walks groups of panels, each with all rows, so weights stream from memory once however many
//! rows there are; every output is finished in registers and meets its bias, the residual or the
//! gate's activation there. Work is split over panels (and over blocks of rows when there are
//! many), never over the inputs, so no sum is ever cut.
//!
//! *Shapes*: weights `[outputs, inputs]` as Hugging Face stores them, rows `[num_rows, inputs]`,
//! results `[num_rows, outputs]`. Storage is bfloat16 or `f32`, accumulation `f32`.

use std::ops::Range;

use super::Cpu;
use super::activation::Activation;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, Amx};
use super::buffer::LineBuffer;
use super::disjoint::Disjoint;
use super::isa::Isa;
use super::line::{Arithmetic, Bf16, F32, Operand, Rows};
use super::simd::{Kernel, LANES, Simd};
use super::sink::{Gated, Plain, Sink};
use super::tile::{self, Tiles, accumulate, for_each_tile};

/// Bytes of the rows that a task takes at once: few enough that they stay in the second-level cache
/// while a group of panels passes over them.
const ROW_BYTES_PER_TASK: usize = 384 << 10;

/// The same for matrix tiles: CPUs that have them have second-level caches of 2 MB, and so much
/// arithmetic that panels are read once rather than once for each few rows.
const ROW_BYTES_PER_TASK_IN_TILES: usize = 1280 << 10;

/// Rows that a task takes however long they are, so that a panel is used often once it is read.
const LEAST_ROWS_PER_TASK: usize = 48;

/// Panels of a task: the height of the largest register tile.
const PANELS_PER_TASK: usize = 4;

/// A weight matrix in panels.
#[derive(Debug)]
pub struct PackedMatrix<O: Operand> {
    lines: LineBuffer<O::Word>,
    /// Lines in a panel.
    words: usize,
    inputs: usize,
    outputs: usize,
}

impl<O: Operand> PackedMatrix<O> {
    /// Packs a matrix whose rows `read_row` writes: it gets an output's index and a buffer of
    /// `inputs` values that holds zeros. Runs on all threads.
    ///
    /// # Errors
    /// The system refused the memory.
    pub fn pack(
        cpu: &mut Cpu,
        outputs: usize,
        inputs: usize,
        read_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> std::io::Result<Self> {
        let words = inputs.div_ceil(O::PER_WORD);
        let panels = outputs.div_ceil(LANES);
        let mut lines = LineBuffer::zeros(panels * words)?;
        let shared = Disjoint::new(&mut lines);
        let mut buffers = vec![vec![0.0_f32; inputs]; cpu.threads()];
        cpu.pool.for_each_with(&mut buffers, panels, |row, panel| {
            // SAFETY: a panel is one task.
            let lines = unsafe { shared.range(panel * words..(panel + 1) * words) };
            for lane in 0..LANES.min(outputs - panel * LANES) {
                row.fill(0.0);
                read_row(panel * LANES + lane, row);
                for (line, values) in lines.iter_mut().zip(row.chunks(O::PER_WORD)) {
                    line.0[lane] = O::word(values);
                }
            }
        });
        Ok(Self {
            lines,
            words,
            inputs,
            outputs,
        })
    }

    /// Columns: the width of its inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows: the width of its results.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }
}

/// Whether a product replaces its target or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `out = product + bias`.
    Replace,
    /// `out = out + (product + bias)`: the residual stream.
    Add,
}

/// `rows * weights^T`, plus the bias, into (or added to) the first `num_rows` rows of `out`.
///
/// # Panics
/// Widths disagree, or a buffer has fewer than `num_rows` rows.
pub fn linear<O: Arithmetic>(
    cpu: &mut Cpu,
    weights: &PackedMatrix<O>,
    rows: &Rows<O>,
    num_rows: usize,
    bias: Option<&[f32]>,
    target: Target,
    out: &mut Rows<F32>,
) {
    assert_eq!(out.width(), weights.outputs, "a column for each output");
    assert!(out.rows() >= num_rows, "a result row for each row");
    let stride = out.stride();
    linear_strided(
        cpu,
        weights,
        rows,
        num_rows,
        bias,
        target,
        out.words_mut(),
        stride,
    );
}

/// The same into plain memory: row `i` starts at `out[i * stride]`.
///
/// # Panics
/// Widths disagree, or a buffer has fewer than `num_rows` rows.
#[allow(
    clippy::too_many_arguments,
    reason = "a matrix product has this many operands"
)]
pub fn linear_strided<O: Arithmetic>(
    cpu: &mut Cpu,
    weights: &PackedMatrix<O>,
    rows: &Rows<O>,
    num_rows: usize,
    bias: Option<&[f32]>,
    target: Target,
    out: &mut [f32],
    stride: usize,
) {
    let sink = Plain::new(out, stride, num_rows, weights.outputs, bias, target);
    product(cpu, weights, rows, num_rows, sink, O::product);
}

/// An output of one of two projections whose panels are interleaved.
pub(super) enum Interleaved {
    Gate(usize),
    Up(usize),
}

/// What stands at a slot of two interleaved projections of `width` outputs each: even panels are
/// the gate's. Nothing in the last panels' padding.
pub(super) fn interleaved(slot: usize, width: usize) -> Option<Interleaved> {
    let (panel, lane) = (slot / LANES, slot % LANES);
    let output = panel / 2 * LANES + lane;
    if output >= width {
        None
    } else if panel.is_multiple_of(2) {
        Some(Interleaved::Gate(output))
    } else {
        Some(Interleaved::Up(output))
    }
}

/// Gate and up projections, their panels interleaved: `activation(gate) * up`.
#[derive(Debug)]
pub struct GatedMatrix<O: Operand> {
    /// Panel `2i` holds sixteen gate outputs, panel `2i + 1` the same ones of up.
    packed: PackedMatrix<O>,
    width: usize,
}

impl<O: Operand> GatedMatrix<O> {
    /// Packs both matrices, each `[width, inputs]`; see [`PackedMatrix::pack`].
    ///
    /// # Errors
    /// The system refused the memory.
    pub fn pack(
        cpu: &mut Cpu,
        width: usize,
        inputs: usize,
        gate: impl Fn(usize, &mut [f32]) + Sync,
        up: impl Fn(usize, &mut [f32]) + Sync,
    ) -> std::io::Result<Self> {
        let slots = 2 * width.next_multiple_of(LANES);
        let packed = PackedMatrix::pack(cpu, slots, inputs, |slot, row| {
            match interleaved(slot, width) {
                Some(Interleaved::Gate(output)) => gate(output, row),
                Some(Interleaved::Up(output)) => up(output, row),
                None => {}
            }
        })?;
        Ok(Self { packed, width })
    }

    /// Outputs of each half.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }
}

/// `activation(rows * gate^T) * (rows * up^T)` into the first `num_rows` rows of `out`, rounded to
/// its storage type: what the down projection reads.
///
/// # Panics
/// Widths disagree, or a buffer has fewer than `num_rows` rows.
pub fn gated_linear<O: Arithmetic>(
    cpu: &mut Cpu,
    weights: &GatedMatrix<O>,
    rows: &Rows<O>,
    num_rows: usize,
    activation: Activation,
    out: &mut Rows<O>,
) {
    let sink = Gated::new(out, num_rows, weights.width, activation);
    product(cpu, &weights.packed, rows, num_rows, sink, O::gated_product);
}

/// One part of a product: a range of panels times a range of rows.
pub(super) struct Task<'a, O: Operand, K> {
    weights: &'a PackedMatrix<O>,
    rows: &'a Rows<O>,
    panels: Range<usize>,
    row_range: Range<usize>,
    /// The panel that the same thread will probably multiply after them.
    next_panel: usize,
    sink: K,
}

fn product<'a, O: Arithmetic, K: Sink>(
    cpu: &mut Cpu,
    weights: &'a PackedMatrix<O>,
    rows: &'a Rows<O>,
    num_rows: usize,
    sink: K,
    run: impl Fn(Isa, Task<'a, O, K>) + Sync,
) {
    assert_eq!(rows.width(), weights.inputs, "rows as wide as the weights");
    assert!(rows.rows() >= num_rows, "the rows are there");
    let (isa, row_bytes) = (cpu.isa, weights.words * size_of::<O::Word>());
    for_each_part(
        cpu,
        weights.panels(),
        num_rows,
        row_bytes,
        |panels, row_range, next_panel| {
            let task = Task {
                weights,
                rows,
                panels,
                row_range,
                next_panel,
                sink,
            };
            run(isa, task);
        },
    );
}

/// Cuts a product into parts, groups of panels times blocks of rows, and runs them on all threads. A
/// part gets its panels, its rows, and the first panel of what its thread will probably run next:
/// threads take turns.
pub(super) fn for_each_part(
    cpu: &mut Cpu,
    panels: usize,
    num_rows: usize,
    row_bytes: usize,
    part: impl Fn(Range<usize>, Range<usize>, usize) + Sync,
) {
    let threads = cpu.threads();
    let groups = panels.div_ceil(PANELS_PER_TASK);
    let bytes = if cpu.isa.has_matrix_tiles() {
        ROW_BYTES_PER_TASK_IN_TILES
    } else {
        ROW_BYTES_PER_TASK
    };
    let blocks = num_rows.div_ceil((bytes / row_bytes).max(LEAST_ROWS_PER_TASK));
    cpu.pool.for_each(groups * blocks, |task| {
        let (block, group) = (task / groups, task % groups);
        let first = group * PANELS_PER_TASK;
        part(
            first..(first + PANELS_PER_TASK).min(panels),
            num_rows * block / blocks..num_rows * (block + 1) / blocks,
            (group + threads) % groups * PANELS_PER_TASK,
        );
    });
}

/// Runs a task in matrix tiles where there are such.
pub(super) fn run_bf16<K: Sink>(isa: Isa, task: Task<'_, Bf16, K>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx() {
        return amx.simd().vectorize(OnTiles(task, amx));
    }
    isa.run(task);
}

/// A task in matrix tiles.
#[cfg(target_arch = "x86_64")]
struct OnTiles<'a, K>(Task<'a, Bf16, K>, Amx);

#[cfg(target_arch = "x86_64")]
impl<K: Sink> Kernel for OnTiles<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(task, amx) = self;
        let (panels, rows) = (task.panels.clone(), task.row_range.clone());
        let sums = amx::Sums::new();
        amx.for_each_tile(panels, rows, LANES, &mut Products { task, simd, sums });
    }
}

#[cfg(target_arch = "x86_64")]
struct Products<'a, S, K> {
    task: Task<'a, Bf16, K>,
    simd: S,
    sums: amx::Sums,
}

#[cfg(target_arch = "x86_64")]
impl<S: Simd, K: Sink> amx::TileWork for Products<'_, S, K> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut amx::Tiles,
        panel: usize,
        range: Range<usize>,
        pass: usize,
    ) {
        let Task {
            weights,
            rows,
            panels,
            next_panel,
            sink,
            ..
        } = &self.task;
        let (words, stride) = (weights.words, rows.stride());
        let next = if panel + P < panels.end {
            panel + P
        } else {
            *next_panel
        };
        let line = |panel: usize| weights.lines.as_ptr().wrapping_add(panel * words);
        let ahead = amx::ahead(pass, P, words, [line(panel), line(next)]);
        let panels =
            std::array::from_fn(|index| weights.lines[(panel + index) * words..][..words].as_ptr());
        let lines = &rows.words()[range.start * stride..range.end * stride];
        assert!(words <= stride);
        // SAFETY: the slices show `words` lines of each panel and words of each row; the tiles are
        // the latest and come with shapes that there are.
        unsafe {
            let rows = (lines.as_ptr(), stride);
            tiles.multiply_streamed::<P>(panels, rows, words, ahead, &mut self.sums);
        }
        for (index, row) in range.enumerate() {
            let sums: [_; P] = self.sums.row(self.simd, index);
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { sink.put(self.simd, row, panel, sums) };
        }
    }
}

impl<O: Arithmetic, K: Sink> Kernel for Task<'_, O, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for_each_tile(simd, self.panels.clone(), self.row_range.clone(), &mut self);
    }
}

impl<S: Simd, O: Arithmetic, K: Sink> Tiles<S> for Task<'_, O, K> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, row: usize) {
        simd.vectorize(tile::Tile::<_, P, T> {
            work: self,
            panel,
            row,
        });
    }
}

impl<O: Arithmetic, K: Sink, const P: usize, const T: usize> Kernel
    for tile::Tile<'_, Task<'_, O, K>, P, T>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { work, panel, row } = self;
        let words = work.weights.words;
        let panels = std::array::from_fn(|index| {
            work.weights.lines[(panel + index) * words..][..words].as_ptr()
        });
        let rows = std::array::from_fn(|index| work.rows.row_words(row + index)[..words].as_ptr());
        let zero = [[simd.splat(0.0); P]; T];
        // SAFETY: the slices above show `words` lines and words behind each pointer.
        let sums = unsafe { accumulate::<S, O, P, T>(simd, zero, panels, rows, words) };
        for (index, sums) in sums.into_iter().enumerate() {
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { work.sink.put(simd, row + index, panel, sums) };
        }
    }
}
