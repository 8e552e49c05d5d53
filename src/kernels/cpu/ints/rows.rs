//! Activations as integers of 8 bits.

use super::super::Cpu;
use super::super::disjoint::Disjoint;
use super::super::line::{Arithmetic, FlattenLines, Line, Operand, Rows};
use super::super::simd::{Kernel, LANES, Simd};
use super::format::groups;
use super::{GROUP, GROUP_WORDS};

/// A matrix of rows of signed bytes, four to a word, with scales.
#[derive(Clone, Debug)]
pub struct IntRows {
    lines: Vec<Line<u32>>,
    /// Lines from one row to the next, an odd number (see [`Rows`]).
    stride: usize,
    /// `[rows, groups]`.
    scales: Vec<f32>,
    /// `[rows, groups]`: -128 times the sum of a group's integers, the correction for weights that
    /// are stored with 128 added.
    corrections: Vec<i32>,
    groups: usize,
    /// Values that share a scale; all of a row where `None`.
    group: Option<usize>,
    width: usize,
}

impl IntRows {
    /// `rows` rows of `width` zeros, with a scale for each `group` values, or one for each row (see
    /// [`IntFormat::group`](super::IntFormat::group)).
    pub fn zeros(rows: usize, width: usize, group: Option<usize>) -> Self {
        let stride = width.div_ceil(4 * LANES) | 1;
        let groups = groups(group, width);
        Self {
            lines: vec![Line([0; LANES]); rows * stride],
            stride,
            scales: vec![0.0; rows * groups],
            corrections: vec![0; rows * groups],
            groups,
            group,
            width,
        }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Values that share a scale; all of a row where `None`.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lines.len() / self.stride
    }

    /// Grows to at least `rows` rows; contents of new rows are zero.
    pub fn reserve_rows(&mut self, rows: usize) {
        if rows > self.rows() {
            self.lines.resize(rows * self.stride, Line([0; LANES]));
            self.scales.resize(rows * self.groups, 0.0);
            self.corrections.resize(rows * self.groups, 0);
        }
    }

    /// Words from one row to the next.
    #[inline(always)]
    pub(super) fn stride(&self) -> usize {
        self.stride * LANES
    }

    /// The words of all rows, padding included.
    #[inline(always)]
    pub(super) fn words(&self) -> &[u32] {
        self.lines.as_flattened_words()
    }

    /// The words of a row, whole groups.
    #[inline(always)]
    pub(super) fn row_words(&self, row: usize) -> &[u32] {
        let words = self.width.div_ceil(GROUP) * GROUP_WORDS;
        &self.words()[row * self.stride()..][..words]
    }

    /// Scales and corrections of a row's groups.
    #[inline(always)]
    pub(super) fn row_groups(&self, row: usize) -> (&[f32], &[i32]) {
        let groups = row * self.groups..(row + 1) * self.groups;
        (&self.scales[groups.clone()], &self.corrections[groups])
    }

    /// A row's integers and its scales.
    pub fn row(&self, row: usize) -> (Vec<i8>, &[f32]) {
        let bytes = self.row_words(row).iter().flat_map(|w| w.to_le_bytes());
        let integers = bytes.map(|byte| byte as i8).take(self.width).collect();
        (integers, self.row_groups(row).0)
    }
}

/// Rounds each of the first `num_rows` rows of `x` to integers: the largest magnitude of a group (or
/// of the row) becomes 127. A group with a value that is not finite gets a scale that is no number.
///
/// # Panics
/// Widths disagree, or a row is missing.
pub fn quantise_rows<O: Arithmetic>(
    cpu: &mut Cpu,
    x: &Rows<O>,
    num_rows: usize,
    out: &mut IntRows,
) {
    assert_eq!(x.width(), out.width, "as wide as the rows");
    assert!(x.rows() >= num_rows && out.rows() >= num_rows);
    let (isa, stride) = (cpu.isa, out.stride * LANES);
    let words = out.width.div_ceil(GROUP) * GROUP_WORDS;
    let groups = out.groups;
    let group_vectors = out.group.unwrap_or(out.width).div_ceil(LANES);
    let lines = Disjoint::new(out.lines.as_flattened_words_mut());
    let scales = Disjoint::new(&mut out.scales);
    let corrections = Disjoint::new(&mut out.corrections);
    cpu.pool.for_each(num_rows, |row| {
        // SAFETY: a row is one task, here and below.
        let out = unsafe { lines.range(row * stride..row * stride + words) };
        // SAFETY: as above.
        let scales = unsafe { scales.range(row * groups..(row + 1) * groups) };
        // SAFETY: as above.
        let corrections = unsafe { corrections.range(row * groups..(row + 1) * groups) };
        let row = Quantise {
            x: x.row_words(row),
            group_vectors,
            out,
            scales,
            corrections,
        };
        O::quantise(isa, row);
    });
}

pub(in crate::cpu) struct Quantise<'a, O: Operand> {
    /// Padded with zeros.
    x: &'a [O::Word],
    /// Vectors of sixteen values that share a scale.
    group_vectors: usize,
    out: &'a mut [u32],
    scales: &'a mut [f32],
    corrections: &'a mut [i32],
}

impl<O: Arithmetic> Kernel for Quantise<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let group_words = self.group_vectors * LANES / O::PER_WORD;
        let (out, _) = self.out.as_chunks_mut::<{ LANES / 4 }>();
        let groups = self
            .x
            .chunks(group_words)
            .zip(out.chunks_mut(self.group_vectors));
        let numbers = self.scales.iter_mut().zip(self.corrections);
        for ((x, out), (scale, correction)) in groups.zip(numbers) {
            let vectors = x.chunks_exact(LANES / O::PER_WORD);
            let zero = simd.splat(0.0);
            let (mut largest, mut damage) = (zero, zero);
            for vector in vectors.clone() {
                let x = O::load_row(simd, vector);
                largest = simd.max(simd.max(x, simd.sub(zero, x)), largest);
                // Zero for every number, and not a number for all else.
                damage = simd.add(damage, simd.mul(x, zero));
            }
            let step = simd.max_lane(largest) / 127.0;
            let inverse = simd.splat(if step > 0.0 { 1.0 / step } else { 0.0 });
            let mut sum = zero;
            for (vector, out) in vectors.zip(out) {
                let x = simd.round(simd.mul(O::load_row(simd, vector), inverse));
                let x = simd.min(simd.max(x, simd.splat(-127.0)), simd.splat(127.0));
                sum = simd.add(sum, x);
                *out = simd.to_bytes(x);
            }
            *scale = step + simd.sum(damage);
            // A sum of integers below 2^24: exact in any order.
            *correction = -128 * simd.sum(sum) as i32;
        }
    }
}
