//! Causal attention with grouped heads, forward and backward, without keeping the probabilities:
//! the backward pass computes them again, a block of rows at a time, from their normalisers (Dao
//! et al. 2022, FlashAttention, section 3.1).
//!
//! One task is a (sequence, KV head) pair with all its query heads, so that no two tasks write the
//! same gradient. Keys and values are packed to panels once per task; a block of query rows is
//! multiplied with those panels that some row of it may see.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::activation::exp;
use crate::cpu::disjoint::Disjoint;
use crate::cpu::isa::Isa;
use crate::cpu::line::{F32, Line};
use crate::cpu::matmul::{Block, Matrix, Start, pack_panel};
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::grad::turn::Turn;

/// Query rows of a block: a whole number of the widest register tiles, and of lines.
const BLOCK: usize = 48;

/// The shapes of a batch and which key each row may see.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Sequences in the batch.
    pub batch: usize,
    /// Rows per sequence, padding included.
    pub length: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; `num_heads` is a multiple.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// A row sees itself and the `window - 1` rows before it.
    pub window: Option<usize>,
    /// Per row of the batch: its segment, whose rows are neighbours. A row sees the earlier rows of
    /// its own segment; rows of segment 0 are padding, seen by nobody and seeing nothing.
    pub segments: Vec<u32>,
}

impl Shape {
    fn rows(&self) -> usize {
        self.batch * self.length
    }

    /// Values of a row of queries.
    fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Values of a row of keys, and of one of values.
    fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Values that [`forward`] writes to `normalisers`: one for each row and head.
    pub fn num_normalisers(&self) -> usize {
        self.rows() * self.num_heads
    }

    /// The first row that each row of a sequence sees; `None` for padding.
    fn first_seen(&self, sequence: usize) -> Vec<Option<usize>> {
        let segments = &self.segments[sequence * self.length..][..self.length];
        let mut begin = 0;
        let mut seen = Vec::with_capacity(self.length);
        for (row, segment) in segments.iter().enumerate() {
            if row > 0 && *segment != segments[row - 1] {
                begin = row;
            }
            let window = self.window.unwrap_or(usize::MAX);
            let first = begin.max((row + 1).saturating_sub(window));
            seen.push((*segment != 0).then_some(first));
        }
        seen
    }

    fn check(&self, saved: &Saved<'_>) {
        let (rows, q_width, kv_width) = (self.rows(), self.q_width(), self.kv_width());
        assert!(self.num_heads.is_multiple_of(self.num_kv_heads));
        assert_eq!(self.segments.len(), rows, "a segment for each row");
        assert_eq!(saved.q.len(), rows * q_width, "queries of each row");
        assert_eq!(saved.k.len(), rows * kv_width, "keys of each row");
        assert_eq!(saved.v.len(), rows * kv_width, "values of each row");
    }
}

/// The tensors that the forward pass reads, and the backward pass again. Shapes: `q`: `[batch *
/// length, num_heads * head_dim]`; `k`, `v`: `[batch * length, num_kv_heads * head_dim]`.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// Forward. Shapes: `out` as `q`; `normalisers`: `[batch, num_heads, length]`, the logarithms of
/// the rows' sums of exponentials. The output of padding rows is zero.
///
/// # Panics
/// A buffer has another size than the shape says.
pub fn forward(shape: &Shape, saved: &Saved<'_>, out: &mut [f32], normalisers: &mut [f32]) {
    shape.check(saved);
    assert_eq!(out.len(), saved.q.len(), "an output for each query");
    assert_eq!(normalisers.len(), shape.num_normalisers());
    let (out, normalisers) = (Disjoint::new(out), Disjoint::new(normalisers));
    for_each_task(shape, |task, scratch| {
        task.pack_keys(saved.k, &mut scratch.keys_t);
        task.pack_values(saved.v, &mut scratch.values);
        for (head, block) in task.blocks() {
            task.scores(saved.q, head, &block, &scratch.keys_t, &mut scratch.scores);
            // SAFETY: a head of a sequence is part of one task.
            let normalisers = unsafe { normalisers.range(task.normalisers(head, &block)) };
            for (index, normaliser) in normalisers.iter_mut().enumerate() {
                *normaliser = task.isa.run_elementwise(Softmax {
                    row: &mut scratch.scores[index * task.stride..][block.lines()],
                    visible: task.visible(block.rows.start + index, &block),
                    scale: shape.scale,
                });
            }
            // SAFETY: as above.
            unsafe { task.per_query(&scratch.scores, &block, &scratch.values, head, out) };
        }
    });
}

/// Where the gradients of queries, keys and values go, shaped like them.
pub struct Gradients<'a> {
    /// Of the queries.
    pub dq: &'a mut [f32],
    /// Of the keys.
    pub dk: &'a mut [f32],
    /// Of the values.
    pub dv: &'a mut [f32],
}

/// Backward: fills the gradients, given that of the output and the normalisers of the forward
/// pass.
///
/// # Panics
/// A buffer has another size than the shape says.
pub fn backward(
    shape: &Shape,
    saved: &Saved<'_>,
    normalisers: &[f32],
    dout: &[f32],
    gradients: Gradients<'_>,
) {
    shape.check(saved);
    assert_eq!(normalisers.len(), shape.num_normalisers());
    let Gradients { dq, dk, dv } = gradients;
    assert!(dout.len() == saved.q.len() && dq.len() == saved.q.len());
    assert!(dk.len() == saved.k.len() && dv.len() == saved.v.len());
    dk.fill(0.0);
    dv.fill(0.0);
    let (dq, dk, dv) = (Disjoint::new(dq), Disjoint::new(dk), Disjoint::new(dv));
    for_each_task(shape, |task, scratch| {
        task.pack_keys(saved.k, &mut scratch.keys_t);
        task.pack_keys(saved.v, &mut scratch.values_t);
        task.pack_values(saved.k, &mut scratch.keys);
        for (head, block) in task.blocks() {
            task.scores(saved.q, head, &block, &scratch.keys_t, &mut scratch.scores);
            task.scores(dout, head, &block, &scratch.values_t, &mut scratch.dscores);
            let normalisers = &normalisers[task.normalisers(head, &block)];
            for (index, normaliser) in normalisers.iter().enumerate() {
                let row = index * task.stride;
                task.isa.run_elementwise(SoftmaxBackward {
                    row: &mut scratch.scores[row..][block.lines()],
                    gradient: &mut scratch.dscores[row..][block.lines()],
                    visible: task.visible(block.rows.start + index, &block),
                    scale: shape.scale,
                    normaliser: *normaliser,
                });
            }
            // SAFETY: queries' and keys' heads of a sequence are part of one task.
            unsafe {
                task.per_query(&scratch.dscores, &block, &scratch.keys, head, dq);
                for (weights, rows, out) in
                    [(&scratch.scores, dout, dv), (&scratch.dscores, saved.q, dk)]
                {
                    task.pack_rows_of(rows, head, &block, &mut scratch.rows);
                    task.per_key(weights, &block, &scratch.rows, &mut scratch.turned, out);
                }
            }
        }
    });
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    /// Panels of keys and of values, `[head_dim, length]`.
    keys_t: Vec<Line<f32>>,
    values_t: Vec<Line<f32>>,
    /// Panels of keys and of values, `[length, head_dim]`.
    keys: Vec<Line<f32>>,
    values: Vec<Line<f32>>,
    /// Panels of a block's rows, `[BLOCK, head_dim]`.
    rows: Vec<Line<f32>>,
    /// A row for each query of a block: scores and then probabilities, and their gradients.
    scores: Vec<f32>,
    dscores: Vec<f32>,
    /// The same with a row for each key.
    turned: Vec<f32>,
}

fn for_each_task(shape: &Shape, run: impl Fn(&Task<'_>, &mut Scratch) + Sync) {
    (0..shape.batch * shape.num_kv_heads)
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, index| {
            let (sequence, kv_head) = (index / shape.num_kv_heads, index % shape.num_kv_heads);
            // An odd number of lines: rows a power of two apart would compete for the same sets.
            let stride = (shape.length.div_ceil(LANES) | 1) * LANES;
            scratch.scores.resize(BLOCK * stride, 0.0);
            scratch.dscores.resize(BLOCK * stride, 0.0);
            let task = Task {
                shape,
                isa: Isa::detect(),
                sequence,
                kv_head,
                seen: shape.first_seen(sequence),
                stride,
            };
            run(&task, scratch);
        });
}

/// A sequence and a KV head.
struct Task<'a> {
    shape: &'a Shape,
    isa: Isa,
    sequence: usize,
    kv_head: usize,
    seen: Vec<Option<usize>>,
    /// Values from one row of scores to the next.
    stride: usize,
}

/// Some rows of a sequence, and the keys that some of them see, from the beginning of a panel.
struct Rows {
    rows: Range<usize>,
    keys: Range<usize>,
}

impl Rows {
    /// The keys in whole lines of scores.
    fn lines(&self) -> Range<usize> {
        self.keys.start..self.keys.end.next_multiple_of(LANES)
    }
}

impl Task<'_> {
    /// Every block of every query head.
    fn blocks(&self) -> impl Iterator<Item = (usize, Rows)> + '_ {
        let group = self.shape.num_heads / self.shape.num_kv_heads;
        let heads = self.kv_head * group..(self.kv_head + 1) * group;
        heads.flat_map(move |head| {
            let starts = (0..self.shape.length).step_by(BLOCK);
            starts.map(move |start| {
                let rows = start..self.shape.length.min(start + BLOCK);
                let first = self.seen[rows.clone()].iter().flatten().min();
                let first = first.map_or(rows.end - 1, |first| *first);
                let keys = first / LANES * LANES..rows.end;
                (head, Rows { rows, keys })
            })
        })
    }

    /// Which of a block's keys a row sees.
    fn visible(&self, row: usize, block: &Rows) -> Range<usize> {
        match self.seen[row] {
            Some(first) => first - block.keys.start..row + 1 - block.keys.start,
            None => 0..0,
        }
    }

    fn normalisers(&self, head: usize, block: &Rows) -> Range<usize> {
        let first = (self.sequence * self.shape.num_heads + head) * self.shape.length;
        first + block.rows.start..first + block.rows.end
    }

    /// This sequence's part of queries (or outputs), of one head.
    fn of_head<'a>(&self, values: &'a [f32], head: usize) -> &'a [f32] {
        let first = self.sequence * self.shape.length * self.shape.q_width();
        &values[first + head * self.shape.head_dim..]
    }

    /// This task's keys or values.
    fn of_kv<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        let first = self.sequence * self.shape.length * self.shape.kv_width();
        let values = &values[first + self.kv_head * self.shape.head_dim..];
        Matrix::new(values, self.shape.kv_width())
    }

    /// Panels for products with each key (or each value).
    fn pack_keys(&self, keys: &[f32], panels: &mut Vec<Line<f32>>) {
        let keys = self.of_kv(keys).transposed();
        self.pack(keys, 0..self.shape.head_dim, self.shape.length, panels);
    }

    /// Panels for sums of values (or of keys) with a weight each.
    fn pack_values(&self, values: &[f32], panels: &mut Vec<Line<f32>>) {
        let values = self.of_kv(values);
        self.pack(values, 0..self.shape.length, self.shape.head_dim, panels);
    }

    /// Panels for sums of a block's queries (or gradients of outputs) with a weight each.
    fn pack_rows_of(&self, rows: &[f32], head: usize, block: &Rows, panels: &mut Vec<Line<f32>>) {
        let rows = Matrix::new(self.of_head(rows, head), self.shape.q_width());
        self.pack(rows, block.rows.clone(), self.shape.head_dim, panels);
    }

    fn pack(
        &self,
        matrix: Matrix<'_>,
        depth: Range<usize>,
        columns: usize,
        panels: &mut Vec<Line<f32>>,
    ) {
        let size = columns.div_ceil(LANES) * depth.len();
        panels.resize(size, Line([0.0; LANES]));
        for (index, panel) in panels.chunks_mut(depth.len()).enumerate() {
            let columns = index * LANES..columns.min((index + 1) * LANES);
            pack_panel::<F32>(self.isa, matrix, depth.clone(), columns, panel);
        }
    }

    /// The products of a block's rows with its keys, into rows of `scores`.
    fn scores(
        &self,
        rows: &[f32],
        head: usize,
        block: &Rows,
        panels: &[Line<f32>],
        scores: &mut [f32],
    ) {
        let (d, width) = (self.shape.head_dim, self.shape.q_width());
        let product = Block::<F32> {
            panels: &panels[block.keys.start / LANES * d..],
            panel_stride: d,
            words: d,
            rows: &self.of_head(rows, head)[block.rows.start * width..],
            row_stride: width,
            first_row: 0,
            num_rows: block.rows.len(),
            first_column: block.keys.start,
            columns: block.keys.end,
            out_stride: self.stride,
            start: Start::Zero,
            out: Disjoint::new(scores),
        };
        // SAFETY: `scores` is borrowed for this call alone.
        unsafe { product.run(self.isa) };
    }

    /// For each row of a block: the sum over its keys, each with a weight from `scores`.
    ///
    /// # Safety
    /// Nobody else uses this head of these rows of `out`.
    unsafe fn per_query(
        &self,
        scores: &[f32],
        block: &Rows,
        panels: &[Line<f32>],
        head: usize,
        out: Disjoint<'_, f32>,
    ) {
        let (d, length) = (self.shape.head_dim, self.shape.length);
        let product = Block::<F32> {
            panels: &panels[block.keys.start..],
            panel_stride: length,
            words: block.keys.len(),
            rows: &scores[block.keys.start..],
            row_stride: self.stride,
            first_row: self.sequence * length + block.rows.start,
            num_rows: block.rows.len(),
            first_column: head * d,
            columns: (head + 1) * d,
            out_stride: self.shape.q_width(),
            start: Start::Zero,
            out,
        };
        // SAFETY: the caller's promise is passed on.
        unsafe { product.run(self.isa) };
    }

    /// For each key of a block: adds the sum over the block's rows, each with a weight from
    /// `scores`.
    ///
    /// # Safety
    /// Nobody else uses this task's KV head of this sequence of `out`.
    unsafe fn per_key(
        &self,
        scores: &[f32],
        block: &Rows,
        panels: &[Line<f32>],
        turned: &mut Vec<f32>,
        out: Disjoint<'_, f32>,
    ) {
        let (d, count) = (self.shape.head_dim, block.rows.len());
        turned.resize(self.shape.length * BLOCK, 0.0);
        self.isa.run_elementwise(Turn {
            from: &scores[block.keys.start..],
            from_stride: self.stride,
            rows: count,
            columns: block.keys.len(),
            to: turned,
            to_stride: BLOCK,
        });
        let product = Block::<F32> {
            panels,
            panel_stride: count,
            words: count,
            rows: turned,
            row_stride: BLOCK,
            first_row: self.sequence * self.shape.length + block.keys.start,
            num_rows: block.keys.len(),
            first_column: self.kv_head * d,
            columns: (self.kv_head + 1) * d,
            out_stride: self.shape.kv_width(),
            start: Start::Present,
            out,
        };
        // SAFETY: the caller's promise is passed on.
        unsafe { product.run(self.isa) };
    }
}

/// What is added to the scores of a line: nothing where a row sees the key, and minus infinity where
/// it does not.
#[inline(always)]
fn hidden<S: Simd>(simd: S, line: usize, visible: &Range<usize>) -> S::F32 {
    const NOTHING: f32 = 0.0;
    const HIDDEN: f32 = f32::NEG_INFINITY;
    const BEFORE: [[f32; LANES]; 2] = [[HIDDEN; LANES], [NOTHING; LANES]];
    const AFTER: [[f32; LANES]; 2] = [[NOTHING; LANES], [HIDDEN; LANES]];
    let lane = |key: usize| LANES - key.saturating_sub(line * LANES).min(LANES);
    let part = |of: &[f32], lane: usize| {
        let part = of[lane..].first_chunk();
        simd.load(part.expect("sixteen lanes of two lines"))
    };
    simd.add(
        part(BEFORE.as_flattened(), lane(visible.start)),
        part(AFTER.as_flattened(), lane(visible.end)),
    )
}

/// The lines of a row of which it sees something; all others are made zero.
#[inline(always)]
fn seen_lines<'a>(row: &'a mut [f32], visible: &Range<usize>) -> &'a mut [[f32; LANES]] {
    let (lines, _) = row.as_chunks_mut::<LANES>();
    let seen = visible.start / LANES..visible.end.div_ceil(LANES);
    lines[..seen.start].fill([0.0; LANES]);
    lines[seen.end..].fill([0.0; LANES]);
    &mut lines[seen]
}

/// Scores of a row, in whole lines, to probabilities; the normaliser is returned. What the row does not
/// see is zero.
struct Softmax<'a> {
    row: &'a mut [f32],
    visible: Range<usize>,
    scale: f32,
}

impl Kernel for Softmax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let Self {
            row,
            visible,
            scale,
        } = self;
        let lines = seen_lines(row, &visible);
        if visible.is_empty() {
            return 0.0;
        }
        let first = visible.start / LANES;
        let factor = simd.splat(scale);
        let mut most = simd.splat(f32::NEG_INFINITY);
        for (index, line) in (first..).zip(&*lines) {
            let hidden = hidden(simd, index, &visible);
            most = simd.max(simd.mul_add(simd.load(line), factor, hidden), most);
        }
        let max = simd.max_lane(most);
        let shift = simd.splat(-max);
        let mut sums = simd.splat(0.0);
        for (index, line) in (first..).zip(&mut *lines) {
            let shifted = simd.mul_add(simd.load(line), factor, shift);
            let value = exp(simd, simd.add(shifted, hidden(simd, index, &visible)));
            sums = simd.add(sums, value);
            simd.store(value, line);
        }
        let sum = simd.sum(sums);
        let inverse = simd.splat(1.0 / sum);
        for line in lines {
            simd.store(simd.mul(simd.load(line), inverse), line);
        }
        max + sum.ln()
    }
}

/// Scores of a row, in whole lines, to probabilities, and the gradient of those to that of the scores.
struct SoftmaxBackward<'a> {
    row: &'a mut [f32],
    gradient: &'a mut [f32],
    visible: Range<usize>,
    scale: f32,
    normaliser: f32,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            row,
            gradient,
            visible,
            scale,
            normaliser,
        } = self;
        let lines = seen_lines(row, &visible);
        let gradients = seen_lines(gradient, &visible);
        let first = visible.start / LANES;
        let factor = simd.splat(scale);
        let shift = simd.splat(-normaliser);
        // The probabilities' own sum is divided out of the products' sum, so that the row's
        // gradients sum to zero as closely as f32 allows: a bias on the keys sees little else.
        let (mut sum, mut products) = (simd.splat(0.0), simd.splat(0.0));
        for (index, (line, gradient)) in (first..).zip(lines.iter_mut().zip(&*gradients)) {
            let shifted = simd.mul_add(simd.load(line), factor, shift);
            let probability = exp(simd, simd.add(shifted, hidden(simd, index, &visible)));
            sum = simd.add(sum, probability);
            products = simd.mul_add(probability, simd.load(gradient), products);
            simd.store(probability, line);
        }
        let mean = simd.splat(simd.sum(products) / simd.sum(sum));
        for (line, gradient) in lines.iter().zip(gradients) {
            let centred = simd.sub(simd.load(gradient), mean);
            let scaled = simd.mul(simd.load(line), factor);
            simd.store(simd.mul(scaled, centred), gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    fn shapes() -> Vec<Shape> {
        let small = Shape {
            batch: 2,
            length: 5,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 3,
            scale: 0.6,
            window: Some(4),
            segments: vec![1, 1, 1, 2, 2, 1, 1, 1, 1, 0],
        };
        // Several blocks, of which some rows see only late panels.
        let length = 2 * BLOCK + 7;
        let of_row = |row: usize| if row < 40 { 1 } else { 2 + (row > 99) as u32 };
        let long = Shape {
            batch: 1,
            length,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 2,
            scale: 1.0,
            window: None,
            segments: (0..length).map(of_row).collect(),
        };
        vec![small, long]
    }

    /// The same in plain loops and double precision.
    fn plain(shape: &Shape, saved: &Saved<'_>) -> Vec<f64> {
        let d = shape.head_dim;
        let mut out = vec![0.0; saved.q.len()];
        let group = shape.num_heads / shape.num_kv_heads;
        for i in 0..shape.rows() {
            let (sequence, own) = (i / shape.length, shape.segments[i]);
            for head in 0..shape.num_heads {
                let q = &saved.q[i * shape.q_width() + head * d..][..d];
                let of = |values: &[f32], j: usize| -> Vec<f64> {
                    let at = j * shape.kv_width() + head / group * d;
                    values[at..at + d].iter().map(|v| f64::from(*v)).collect()
                };
                let near = |j: &usize| shape.window.is_none_or(|window| i - j < window);
                let seen = (sequence * shape.length..=i).filter(near);
                let seen: Vec<usize> = seen
                    .filter(|j| own != 0 && shape.segments[*j] == own)
                    .collect();
                let score = |j: &usize| {
                    let products = of(saved.k, *j).into_iter().zip(q);
                    let sum: f64 = products.map(|(k, q)| k * f64::from(*q)).sum();
                    (sum * f64::from(shape.scale)).exp()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let sum: f64 = scores.iter().sum();
                for (j, score) in seen.iter().zip(&scores) {
                    for (c, value) in of(saved.v, *j).iter().enumerate() {
                        out[i * shape.q_width() + head * d + c] += score / sum * value;
                    }
                }
            }
        }
        out
    }

    fn inputs(shape: &Shape) -> [Vec<f32>; 4] {
        let (q, kv) = (
            shape.rows() * shape.q_width(),
            shape.rows() * shape.kv_width(),
        );
        [(1, q), (2, kv), (3, kv), (4, q)].map(|(seed, len)| test_values(seed, len))
    }

    #[test]
    fn forward_is_the_plain_formula() {
        for shape in shapes() {
            let [q, k, v, _] = inputs(&shape);
            let saved = Saved {
                q: &q,
                k: &k,
                v: &v,
            };
            let mut out = vec![f32::NAN; q.len()];
            let mut normalisers = vec![0.0; shape.num_normalisers()];
            forward(&shape, &saved, &mut out, &mut normalisers);
            for (found, wanted) in out.iter().zip(plain(&shape, &saved)) {
                assert!((f64::from(*found) - wanted).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn backward_matches_finite_differences() {
        for shape in shapes() {
            let [q, k, v, dout] = inputs(&shape);
            let loss = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
                let out = plain(&shape, &Saved { q, k, v });
                out.iter().zip(&dout).map(|(o, d)| o * f64::from(*d)).sum()
            };
            let saved = Saved {
                q: &q,
                k: &k,
                v: &v,
            };
            let mut out = vec![0.0; q.len()];
            let mut normalisers = vec![0.0; shape.num_normalisers()];
            forward(&shape, &saved, &mut out, &mut normalisers);
            let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|like| vec![f32::NAN; like.len()]);
            let gradients = Gradients {
                dq: &mut dq,
                dk: &mut dk,
                dv: &mut dv,
            };
            backward(&shape, &saved, &normalisers, &dout, gradients);
            assert_close("dq", &dq, &numeric_gradient(&q, |q| loss(q, &k, &v)));
            assert_close("dk", &dk, &numeric_gradient(&k, |k| loss(&q, k, &v)));
            assert_close("dv", &dv, &numeric_gradient(&v, |v| loss(&q, &k, v)));
        }
    }

    #[test]
    fn padding_sees_nothing_and_is_not_seen() {
        let shape = &shapes()[0];
        let [q, k, mut v, _] = inputs(shape);
        let mut normalisers = vec![0.0; shape.num_normalisers()];
        let mut run = |v: &[f32]| {
            let mut out = vec![f32::NAN; q.len()];
            let saved = Saved { q: &q, k: &k, v };
            forward(shape, &saved, &mut out, &mut normalisers);
            out
        };
        let before = run(&v);
        assert!(before[9 * 12..].iter().all(|o| *o == 0.0));
        v[9 * 6..].fill(1e9);
        assert_eq!(before, run(&v));
    }
}
