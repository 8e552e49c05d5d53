//! Root-mean-square norms, a row at a time.

use super::Cpu;
use super::disjoint::Disjoint;
use super::line::{Arithmetic, F32, Operand, Rows};
use super::simd::{Kernel, LANES, Simd};

/// A norm's or bias's weights, padded with zeros to whole vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    lines: Vec<[f32; LANES]>,
    len: usize,
}

impl Vector {
    /// Copies `values`.
    pub fn new(values: &[f32]) -> Self {
        let pad = |chunk: &[f32]| {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            lanes
        };
        Self {
            lines: values.chunks(LANES).map(pad).collect(),
            len: values.len(),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values.
    pub fn values(&self) -> &[f32] {
        &self.lines.as_flattened()[..self.len]
    }
}

/// Normalises row `sources[i]` of `x` into row `i` of `out`, rounded to its storage type.
///
/// *Shapes* `x`: `[_, width]`, `weight`: `[width]`, `out`: `[sources.len(), width]`.
///
/// # Panics
/// Widths disagree, or a row is missing.
pub fn rms_norm<O: Arithmetic>(
    cpu: &mut Cpu,
    x: &Rows<F32>,
    sources: &[usize],
    weight: &Vector,
    eps: f32,
    out: &mut Rows<O>,
) {
    assert_eq!(x.width(), weight.len(), "a weight for each column");
    assert_eq!(out.width(), weight.len(), "a column for each weight");
    assert!(out.rows() >= sources.len(), "a result row for each row");
    let (isa, stride) = (cpu.isa, out.stride());
    let words = weight.lines.len() * LANES / O::PER_WORD;
    let shared = Disjoint::new(out.words_mut());
    cpu.pool.for_each(sources.len(), |row| {
        // SAFETY: a row is one task.
        let out = unsafe { shared.range(row * stride..row * stride + words) };
        let row = Normalise {
            x: &x.row_words(sources[row])[..weight.lines.len() * LANES],
            weight,
            eps,
            out,
        };
        O::normalise(isa, row);
    });
}

pub(super) struct Normalise<'a, O: Operand> {
    /// Padded with zeros to whole vectors, like `weight`.
    x: &'a [f32],
    weight: &'a Vector,
    eps: f32,
    out: &'a mut [O::Word],
}

impl<O: Arithmetic> Kernel for Normalise<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(inverse_rms(simd, self.x, self.weight.len, self.eps));
        let (x, _) = self.x.as_chunks::<LANES>();
        let out = self.out.chunks_exact_mut(LANES / O::PER_WORD);
        for ((x, weight), out) in x.iter().zip(&self.weight.lines).zip(out) {
            let value = simd.mul(simd.mul(simd.load(x), scale), simd.load(weight));
            O::store_row(simd, value, out);
        }
    }
}

/// Adds the norm of each of the first `num_rows` rows of `y` to the same row of `x`.
///
/// # Panics
/// Widths disagree, or a row is missing.
pub fn add_rms_norm(
    cpu: &mut Cpu,
    y: &Rows<F32>,
    num_rows: usize,
    weight: &Vector,
    eps: f32,
    x: &mut Rows<F32>,
) {
    assert_eq!(y.width(), weight.len(), "a weight for each column");
    assert_eq!(x.width(), weight.len(), "a column for each weight");
    assert!(x.rows() >= num_rows, "a result row for each row");
    let (isa, stride) = (cpu.isa, x.stride());
    let words = weight.lines.len() * LANES;
    let shared = Disjoint::new(x.words_mut());
    cpu.pool.for_each(num_rows, |row| {
        // SAFETY: a row is one task.
        let x = unsafe { shared.range(row * stride..row * stride + words) };
        isa.run(AddNormalised {
            y: &y.row_words(row)[..words],
            weight,
            eps,
            x,
        });
    });
}

struct AddNormalised<'a> {
    y: &'a [f32],
    weight: &'a Vector,
    eps: f32,
    x: &'a mut [f32],
}

impl Kernel for AddNormalised<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(inverse_rms(simd, self.y, self.weight.len, self.eps));
        let (y, _) = self.y.as_chunks::<LANES>();
        let (x, _) = self.x.as_chunks_mut::<LANES>();
        for ((y, weight), x) in y.iter().zip(&self.weight.lines).zip(x) {
            let value = simd.mul(simd.mul(simd.load(y), scale), simd.load(weight));
            simd.store(simd.add(simd.load(x), value), x);
        }
    }
}

/// Normalises one head in place; `head` is as long as `weight`.
#[inline(always)]
pub(super) fn normalise_head<S: Simd>(simd: S, head: &mut [f32], weight: &Vector, eps: f32) {
    let scale = inverse_rms(simd, head, head.len(), eps);
    for (value, weight) in head.iter_mut().zip(weight.values()) {
        *value = *value * scale * weight;
    }
}

/// `1 / sqrt(mean(x^2) + eps)`: sixteen partial sums, the tail in the first lanes.
#[inline(always)]
fn inverse_rms<S: Simd>(simd: S, x: &[f32], len: usize, eps: f32) -> f32 {
    let (lines, tail) = x.as_chunks::<LANES>();
    let mut padded = [0.0; LANES];
    padded[..tail.len()].copy_from_slice(tail);
    let mut sum = simd.splat(0.0);
    for line in lines.iter().chain((!tail.is_empty()).then_some(&padded)) {
        let value = simd.load(line);
        sum = simd.mul_add(value, value, sum);
    }
    1.0 / (simd.sum(sum) / len as f32 + eps).sqrt()
}
