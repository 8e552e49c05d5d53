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

use super::Cpu;
use super::activation::{Activation, activate};
use super::buffer::LineBuffer;
use super::disjoint::Disjoint;
use super::isa::Isa;
use super::line::{Arithmetic, F32, Operand, Rows};
use super::simd::{Kernel, LANES, Simd};
use super::tile::{accumulate, row_tiles, tile_panels, with_tile_shape};

/// Rows that a task takes at once: few enough that they stay in the second-level cache while a
/// group of panels passes over them.
const ROWS_PER_TASK: usize = 192;

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
    assert!(stride >= weights.outputs, "a column for each output");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), weights.outputs, "a bias for each output");
    }
    if num_rows > 0 {
        assert!(out.len() >= (num_rows - 1) * stride + weights.outputs);
    }
    let sink = Plain {
        out: Disjoint::new(out),
        stride,
        outputs: weights.outputs,
        bias,
        target,
    };
    product(cpu, weights, rows, num_rows, sink);
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
            let (panel, lane) = (slot / LANES, slot % LANES);
            let output = panel / 2 * LANES + lane;
            if output < width {
                if panel % 2 == 0 {
                    gate(output, row);
                } else {
                    up(output, row);
                }
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
    assert_eq!(out.width(), weights.width, "a column for each output");
    assert!(out.rows() >= num_rows, "a result row for each row");
    let stride = out.stride();
    let sink = Gated::<O> {
        out: Disjoint::new(out.words_mut()),
        stride,
        activation,
    };
    product(cpu, &weights.packed, rows, num_rows, sink);
}

/// Where finished sums go.
pub(super) trait Sink<O: Operand>: Copy + Sync {
    /// Runs a task that ends in this sink.
    fn run(isa: Isa, task: Task<'_, O, Self>);

    /// Takes the sums of `P` panels from `panel` on, for one row.
    ///
    /// # Safety
    /// No other thread holds a sink for the same row and panels.
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    );
}

#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    out: Disjoint<'a, f32>,
    stride: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    target: Target,
}

impl<O: Arithmetic> Sink<O> for Plain<'_> {
    fn run(isa: Isa, task: Task<'_, O, Self>) {
        O::product(isa, task);
    }

    #[inline(always)]
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    ) {
        for (index, sum) in sums.into_iter().enumerate() {
            let first = (panel + index) * LANES;
            let end = (first + LANES).min(self.outputs);
            let start = row * self.stride;
            // SAFETY: this row's part of this panel belongs to the caller.
            let out = unsafe { self.out.range(start + first..start + end) };
            let bias = self.bias.map(|bias| &bias[first..end]);
            if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
                self.finish(simd, sum, bias.and_then(|bias| bias.first_chunk()), out);
            } else {
                // The last panel of a matrix whose outputs are no multiple of sixteen.
                let mut padded = [0.0; LANES];
                padded[..out.len()].copy_from_slice(out);
                let bias = bias.map(|bias| {
                    let mut padded = [0.0; LANES];
                    padded[..bias.len()].copy_from_slice(bias);
                    padded
                });
                self.finish(simd, sum, bias.as_ref(), &mut padded);
                out.copy_from_slice(&padded[..out.len()]);
            }
        }
    }
}

impl Plain<'_> {
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        mut sum: S::F32,
        bias: Option<&[f32; LANES]>,
        out: &mut [f32; LANES],
    ) {
        if let Some(bias) = bias {
            sum = simd.add(sum, simd.load(bias));
        }
        if self.target == Target::Add {
            sum = simd.add(simd.load(out), sum);
        }
        simd.store(sum, out);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Gated<'a, O: Operand> {
    out: Disjoint<'a, O::Word>,
    stride: usize,
    activation: Activation,
}

impl<O: Arithmetic> Sink<O> for Gated<'_, O> {
    fn run(isa: Isa, task: Task<'_, O, Self>) {
        O::gated_product(isa, task);
    }

    #[inline(always)]
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    ) {
        let words = LANES / O::PER_WORD;
        for pair in 0..P / 2 {
            let (gate, up) = (sums[2 * pair], sums[2 * pair + 1]);
            let value = simd.mul(activate(simd, self.activation, gate), up);
            let start = row * self.stride + (panel / 2 + pair) * words;
            // SAFETY: this row's part of these panels belongs to the caller. Lanes past the width
            // hold zero: their weights are zero, so is `activate(0) * 0`.
            let out = unsafe { self.out.range(start..start + words) };
            O::store_row(simd, value, out);
        }
    }
}

/// One task of a product: a range of panels times a range of rows.
pub(super) struct Task<'a, O: Operand, K> {
    weights: &'a PackedMatrix<O>,
    rows: &'a Rows<O>,
    panels: std::ops::Range<usize>,
    row_range: std::ops::Range<usize>,
    sink: K,
}

fn product<O: Arithmetic, K: Sink<O>>(
    cpu: &mut Cpu,
    weights: &PackedMatrix<O>,
    rows: &Rows<O>,
    num_rows: usize,
    sink: K,
) {
    assert_eq!(rows.width(), weights.inputs, "rows as wide as the weights");
    assert!(rows.rows() >= num_rows, "the rows are there");
    let isa = cpu.isa;
    let groups = weights.panels().div_ceil(PANELS_PER_TASK);
    let blocks = num_rows.div_ceil(ROWS_PER_TASK);
    cpu.pool.for_each(groups * blocks, |task| {
        let (block, group) = (task / groups, task % groups);
        let panels = group * PANELS_PER_TASK;
        let task = Task {
            weights,
            rows,
            panels: panels..(panels + PANELS_PER_TASK).min(weights.panels()),
            row_range: num_rows * block / blocks..num_rows * (block + 1) / blocks,
            sink,
        };
        K::run(isa, task);
    });
}

impl<O: Arithmetic, K: Sink<O>> Kernel for Task<'_, O, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let panels = tile_panels::<S>(self.panels.end - panel);
            for (first, rows) in row_tiles::<S>(self.row_range.len()) {
                let row = self.row_range.start + first;
                macro_rules! tile {
                    ($p:literal, $t:literal, ()) => {
                        self.tile::<S, $p, $t>(simd, panel, row)
                    };
                }
                with_tile_shape!(S, (panels, rows), tile!());
            }
            panel += panels;
        }
    }
}

impl<O: Arithmetic, K: Sink<O>> Task<'_, O, K> {
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const T: usize>(&self, simd: S, panel: usize, row: usize) {
        let words = self.weights.words;
        let panels = std::array::from_fn(|index| {
            self.weights.lines[(panel + index) * words..][..words].as_ptr()
        });
        let rows = std::array::from_fn(|index| self.rows.row_words(row + index)[..words].as_ptr());
        let zero = [[simd.splat(0.0); P]; T];
        // SAFETY: the slices above show `words` lines and words behind each pointer.
        let sums = unsafe { accumulate::<S, O, P, T>(simd, zero, panels, rows, words) };
        for (index, sums) in sums.into_iter().enumerate() {
            // SAFETY: tasks are disjoint in rows or in panels, tiles within a task too.
            unsafe { self.sink.put(simd, row + index, panel, sums) };
        }
    }
}
