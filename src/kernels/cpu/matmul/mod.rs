//! Products of matrices that change from one to the next, as in training: `C = A B`, where either
//! operand may lie transposed and is packed on the way.
//!
//! B is cut to panels of sixteen columns (`line.rs`) for a stretch of the sum, on all threads; then
//! tasks take blocks of A's rows over those panels. Sums run in stretches in order, so results do not
//! depend on the number of threads.
//!
//! `pack` brings operands into words and panels, `block` multiplies what one task takes, `pieces`
//! does so in single precision on a CPU that multiplies bfloat16 much faster.
//!
//! *Source*: the loops of Goto and van de Geijn 2008 without their outermost one.

mod block;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pieces;

use std::cell::RefCell;
use std::ops::Range;
use std::thread::LocalKey;

use half::bf16;
use rayon::prelude::*;

use super::buffer::Plain;
use super::disjoint::Disjoint;
use super::isa::Isa;
use super::line::{Bf16, F32, Line, Operand};
use super::simd::{Kernel, LANES, Simd};
pub(crate) use block::{Block, load, store};
pub(crate) use pack::{pack_panel, pack_rows};
#[cfg(target_arch = "x86_64")]
use pieces::Pieces;

/// Panels that are packed together: 8 MB of them, which stay in the third-level cache.
const PANELS_PER_PASS: usize = 256;

/// Rows of A that a task takes.
const ROWS_PER_TASK: usize = 48;

/// Inputs of a sum from which on pieces pay: fewer would leave most of a tile empty.
#[cfg(target_arch = "x86_64")]
const LEAST_DEPTH_IN_PIECES: usize = 64;

/// Pieces of a value in any layout.
const MOST_PIECES: usize = 3;

/// Panels that a task takes where there are too few rows to go round.
const LEAST_PANELS_PER_TASK: usize = 8;

/// The type that operands are rounded to before they are multiplied. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Not rounded. Where the CPU has matrix tiles, values are multiplied in three pieces of bfloat16
    /// that together are the value; sums are as exact as of products in single precision.
    F32,
    /// To bfloat16, nearest, ties to even.
    Bf16,
}

/// The values of an operand.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// As f32.
    F32(&'a [f32]),
    /// As bfloat16.
    Bf16(&'a [bf16]),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// An operand: rows `stride` values apart, read as they lie or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: Values<'a>,
    stride: usize,
    is_transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of f32 that begin `stride` values apart.
    pub fn new(values: &'a [f32], stride: usize) -> Self {
        Self::of(Values::F32(values), stride)
    }

    /// Rows of either type that begin `stride` values apart.
    pub fn of(values: Values<'a>, stride: usize) -> Self {
        Self {
            values,
            stride,
            is_transposed: false,
        }
    }

    /// The same memory, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            is_transposed: !self.is_transposed,
            ..self
        }
    }

    /// # Panics
    /// A matrix of this size does not fit into the values.
    fn check(&self, rows: usize, columns: usize) {
        let (rows, columns) = if self.is_transposed {
            (columns, rows)
        } else {
            (rows, columns)
        };
        if rows > 0 && columns > 0 {
            assert!(columns <= self.stride || rows == 1, "rows do not overlap");
            assert!(
                (rows - 1) * self.stride + columns <= self.values.len(),
                "an operand has all its values"
            );
        }
    }
}

/// What a product begins with.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// `C = A B`.
    Zero,
    /// `C = A B` plus a bias for each column.
    Bias(&'a [f32]),
    /// `C += A B`.
    Present,
}

/// `out = A B`, or what `start` says. *Shapes*: A `[rows, depth]`, B `[depth, columns]`, `out`
/// `[rows, columns]`, contiguous. Uses rayon's threads.
///
/// # Panics
/// A matrix has not these sizes.
#[allow(
    clippy::too_many_arguments,
    reason = "a matrix product has this many operands"
)]
pub fn multiply(
    precision: Precision,
    a: Matrix<'_>,
    b: Matrix<'_>,
    rows: usize,
    depth: usize,
    columns: usize,
    start: Start<'_>,
    out: &mut [f32],
) {
    assert_eq!(out.len(), rows * columns, "a place for each result");
    a.check(rows, depth);
    b.check(depth, columns);
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), columns, "a bias for each column");
    }
    let size = (rows, depth, columns);
    match precision {
        #[cfg(target_arch = "x86_64")]
        Precision::F32 if Isa::detect().has_matrix_tiles() && depth >= LEAST_DEPTH_IN_PIECES => {
            run::<Pieces>(a, b, size, start, out);
        }
        Precision::F32 => run::<F32>(a, b, size, start, out),
        Precision::Bf16 => run::<Bf16>(a, b, size, start, out),
    }
}

/// How operands are laid out for a product, with scratch memory of its own in each thread.
pub(crate) trait Packed: Sized {
    /// What a lane multiplies in one step.
    type Word: Plain;
    /// Values in a word: one or two.
    const PER_WORD: usize;
    /// Words that hold a value, each a piece of it: sixteen words of each piece follow each other.
    const PIECES: usize;
    /// Values of a sum before the next stretch: four panels of it fit the second-level cache.
    const STRETCH: usize;

    /// Words of `depth` values.
    fn num_words(depth: usize) -> usize {
        if Self::PIECES == 1 {
            depth.div_ceil(Self::PER_WORD)
        } else {
            depth.div_ceil(LANES * Self::PER_WORD) * LANES * Self::PIECES
        }
    }

    /// Where a piece of the word that would be `word` of whole values lies.
    #[inline(always)]
    fn place(word: usize, piece: usize) -> usize {
        (word / LANES * Self::PIECES + piece) * LANES + word % LANES
    }

    /// A word for each lane, of a value or two; pieces one after the other.
    fn words(first: &[f32; LANES], second: &[f32; LANES]) -> [[Self::Word; LANES]; MOST_PIECES];

    /// Sixteen words of neighbouring values.
    fn row_words<S: Simd>(simd: S, values: [S::F32; 2]) -> [[Self::Word; LANES]; MOST_PIECES];

    /// Where panels are kept between products.
    fn panels() -> &'static LocalKey<RefCell<Vec<Line<Self::Word>>>>;
    /// Where a task's rows are kept between tasks.
    fn rows() -> &'static LocalKey<RefCell<Vec<Self::Word>>>;
    /// The kernels, with the instructions that this type has a use for.
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output;
    /// A block of a product, the same way.
    fn multiply(isa: Isa, block: Block<'_, Self>);
    /// Values as words, where they are.
    fn as_words(values: &[f32]) -> Option<&[Self::Word]>;
}

macro_rules! scratch {
    ($word:ty) => {
        fn panels() -> &'static LocalKey<RefCell<Vec<Line<$word>>>> {
            thread_local!(static PANELS: RefCell<Vec<Line<$word>>> = const { RefCell::new(Vec::new()) });
            &PANELS
        }

        fn rows() -> &'static LocalKey<RefCell<Vec<$word>>> {
            thread_local!(static ROWS: RefCell<Vec<$word>> = const { RefCell::new(Vec::new()) });
            &ROWS
        }
    };
}

use scratch;

impl Packed for F32 {
    type Word = f32;

    const PER_WORD: usize = 1;
    const PIECES: usize = 1;
    const STRETCH: usize = 512;

    #[inline(always)]
    fn words(first: &[f32; LANES], _second: &[f32; LANES]) -> [[f32; LANES]; MOST_PIECES] {
        [*first; MOST_PIECES]
    }

    #[inline(always)]
    fn row_words<S: Simd>(simd: S, values: [S::F32; 2]) -> [[f32; LANES]; MOST_PIECES] {
        let mut words = [0.0; LANES];
        simd.store(values[0], &mut words);
        [words; MOST_PIECES]
    }

    scratch!(f32);

    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run_elementwise(kernel)
    }

    fn multiply(isa: Isa, block: Block<'_, Self>) {
        isa.run_elementwise(block);
    }

    fn as_words(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Packed for Bf16 {
    type Word = u32;

    const PER_WORD: usize = 2;
    const PIECES: usize = 1;
    const STRETCH: usize = 1024;

    #[inline(always)]
    fn words(first: &[f32; LANES], second: &[f32; LANES]) -> [[u32; LANES]; MOST_PIECES] {
        let mut words = [0; LANES];
        for lane in 0..LANES {
            words[lane] = Self::word(&[first[lane], second[lane]]);
        }
        [words; MOST_PIECES]
    }

    #[inline(always)]
    fn row_words<S: Simd>(simd: S, values: [S::F32; 2]) -> [[u32; LANES]; MOST_PIECES] {
        let mut words = [0; LANES];
        for (words, values) in words.as_chunks_mut().0.iter_mut().zip(values) {
            *words = simd.to_bf16(values);
        }
        [words; MOST_PIECES]
    }

    scratch!(u32);

    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }

    fn multiply(isa: Isa, block: Block<'_, Self>) {
        block::run_bf16(isa, block);
    }

    fn as_words(_values: &[f32]) -> Option<&[u32]> {
        None
    }
}

fn run<O: Packed>(
    a: Matrix<'_>,
    b: Matrix<'_>,
    (rows, depth, columns): (usize, usize, usize),
    start: Start<'_>,
    out: &mut [f32],
) {
    let isa = Isa::detect();
    let out = Disjoint::new(out);
    let panels = columns.div_ceil(LANES);
    // Taken out while in use: a thread that waits for others may be given another product.
    let mut packed = O::panels().take();
    for first_panel in (0..panels).step_by(PANELS_PER_PASS) {
        let pass = first_panel..panels.min(first_panel + PANELS_PER_PASS);
        for first in (0..depth.max(1)).step_by(O::STRETCH) {
            let range = first..depth.min(first + O::STRETCH);
            let words = O::num_words(range.len());
            let size = pass.len() * words;
            if packed.len() < size {
                packed.resize(size, Line([O::Word::default(); LANES]));
            }
            let lines = &mut packed[..size];
            if words > 0 {
                let in_pass = lines.par_chunks_mut(words).zip(pass.clone());
                in_pass.for_each(|(lines, panel)| {
                    let part = panel * LANES..columns.min((panel + 1) * LANES);
                    pack_panel::<O>(isa, b, range.clone(), part, lines);
                });
            }
            let start = if first == 0 { start } else { Start::Present };
            let blocks = rows.div_ceil(ROWS_PER_TASK);
            let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
            let groups = wanted.clamp(1, pass.len().div_ceil(LEAST_PANELS_PER_TASK));
            (0..blocks * groups).into_par_iter().for_each(|task| {
                let (block, group) = (task / groups, task % groups);
                let block = rows * block / blocks..rows * (block + 1) / blocks;
                // Whole tiles: a group begins at a multiple of four panels.
                let cut = |group: usize| {
                    (pass.len() * group / groups)
                        .next_multiple_of(4)
                        .min(pass.len())
                };
                let group = cut(group)..cut(group + 1);
                with_rows::<O, _>(isa, a, block.clone(), range.clone(), |rows, stride| {
                    let block = Block::<O> {
                        panels: &lines[group.start * words..],
                        panel_stride: words,
                        words,
                        rows,
                        row_stride: stride,
                        first_row: block.start,
                        num_rows: block.len(),
                        first_column: (pass.start + group.start) * LANES,
                        columns: columns.min((pass.start + group.end) * LANES),
                        out_stride: columns,
                        start,
                        out,
                    };
                    // SAFETY: tasks are disjoint in rows or in columns.
                    unsafe { block.run(isa) };
                });
            });
        }
    }
    O::panels().set(packed);
}

/// Calls `f` with the words of some of A's rows: those of the matrix itself where they are what
/// the product takes, else packed ones; and with the words from one row to the next.
fn with_rows<O: Packed, R>(
    isa: Isa,
    a: Matrix<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    f: impl FnOnce(&[O::Word], usize) -> R,
) -> R {
    if let (false, Values::F32(values)) = (a.is_transposed, a.values) {
        let first = rows.start * a.stride + depth.start;
        let end = (rows.end - 1) * a.stride + depth.end;
        if let Some(words) = O::as_words(&values[first..end]) {
            return f(words, a.stride);
        }
    }
    let words = O::num_words(depth.len());
    // An odd number of lines: rows a power of two apart would compete for the same cache sets.
    let stride = (words.div_ceil(LANES) | 1) * LANES;
    let mut packed = O::rows().take();
    // Room for whole tiles of rows.
    let size = rows.len().next_multiple_of(LANES) * stride;
    if packed.len() < size {
        packed.resize(size, O::Word::default());
    }
    pack_rows::<O>(isa, a, rows, depth, &mut packed, stride);
    let result = f(&packed, stride);
    O::rows().set(packed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u32, len: usize) -> Vec<f32> {
        let one = |i: usize| (i as f32 * 0.37 + seed as f32).sin();
        (0..len).map(one).collect()
    }

    /// `A B` in double precision, of operands that lie as they are said to.
    fn expected(a: &[f32], b: &[f32], size: (usize, usize, usize), lies: (bool, bool)) -> Vec<f64> {
        let (m, k, n) = size;
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                for l in 0..k {
                    let a = if lies.0 { a[l * m + i] } else { a[i * k + l] };
                    let b = if lies.1 { b[j * k + l] } else { b[l * n + j] };
                    out[i * n + j] += f64::from(a) * f64::from(b);
                }
            }
        }
        out
    }

    #[test]
    fn every_way_to_lie_gives_the_product() {
        let long = 2 * F32::STRETCH + 3;
        let sizes = [
            (1, 1, 1),
            (7, 5, 17),
            (50, 33, 70),
            (3, long, 5),
            (20, 64, 32),
        ];
        for (m, k, n) in sizes {
            let (a, b) = (values(1, m * k), values(2, k * n));
            for lies in [(false, false), (false, true), (true, false), (true, true)] {
                let (mut left, mut right) = (
                    Matrix::new(&a, if lies.0 { m } else { k }),
                    Matrix::new(&b, if lies.1 { k } else { n }),
                );
                if lies.0 {
                    left = left.transposed();
                }
                if lies.1 {
                    right = right.transposed();
                }
                let wanted = expected(&a, &b, (m, k, n), lies);
                for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 1e-2)] {
                    // The terms of these sums do not cancel.
                    let bound = tolerance * k as f64;
                    let mut out = vec![f32::NAN; m * n];
                    multiply(precision, left, right, m, k, n, Start::Zero, &mut out);
                    for (found, wanted) in out.iter().zip(&wanted) {
                        assert!(
                            (f64::from(*found) - wanted).abs() < bound,
                            "{m} {k} {n} {lies:?}"
                        );
                    }
                    let once = out.clone();
                    multiply(precision, left, right, m, k, n, Start::Present, &mut out);
                    let bias = values(3, n);
                    let mut biased = vec![f32::NAN; m * n];
                    multiply(
                        precision,
                        left,
                        right,
                        m,
                        k,
                        n,
                        Start::Bias(&bias),
                        &mut biased,
                    );
                    for i in 0..m * n {
                        assert!((f64::from(out[i]) - 2.0 * wanted[i]).abs() < 2.0 * bound);
                        assert!(
                            f64::from(biased[i] - once[i] - bias[i % n]).abs()
                                < 2e-6 * (k + 1) as f64
                        );
                    }
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn three_pieces_are_the_value() {
        let samples = values(5, 4096).into_iter().enumerate();
        let samples = samples.map(|(i, value)| value * 2f32.powi(i as i32 % 120 - 60));
        let samples: Vec<f32> = samples.collect();
        for pair in samples.as_chunks::<LANES>().0.as_chunks::<2>().0 {
            let across = Pieces::words(&pair[0], &pair[1]);
            let along = Pieces::row_words(super::super::simd::portable::Portable, *pair);
            let sum = |pieces: [[u32; LANES]; MOST_PIECES], lane: usize, half: usize| -> f64 {
                let pieces = pieces.map(|words| f64::from(Bf16::values(words[lane])[half]));
                pieces.into_iter().sum()
            };
            for (index, value) in pair.as_flattened().iter().enumerate() {
                let wanted = f64::from(*value);
                assert_eq!(sum(across, index % LANES, index / LANES), wanted);
                assert_eq!(sum(along, index / 2, index % 2), wanted);
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn products_of_pieces_are_as_exact_as_those_of_single_precision() {
        if !Isa::detect().has_matrix_tiles() {
            return;
        }
        for (m, k, n) in [(33, 64, 17), (16, 700, 70), (50, 1100, 20)] {
            let (a, b) = (values(1, m * k), values(2, k * n));
            let (left, right) = (Matrix::new(&a, k), Matrix::new(&b, n));
            let wanted = expected(&a, &b, (m, k, n), (false, false));
            let error = |found: &[f32]| {
                let pairs = found.iter().zip(&wanted);
                let squares = pairs.map(|(found, wanted)| (f64::from(*found) - wanted).powi(2));
                squares.sum::<f64>().sqrt()
            };
            let (mut pieces, mut single) = (vec![0.0; m * n], vec![0.0; m * n]);
            run::<Pieces>(left, right, (m, k, n), Start::Zero, &mut pieces);
            run::<F32>(left, right, (m, k, n), Start::Zero, &mut single);
            let (pieces, single) = (error(&pieces), error(&single));
            assert!(pieces < 1.5 * single, "{m} {k} {n}: {pieces} {single}");
        }
    }

    #[test]
    fn a_weight_in_bfloat16_is_taken_as_it_is() {
        let (m, k, n) = (9, 20, 18);
        let (a, b) = (values(1, m * k), values(2, k * n));
        let stored: Vec<bf16> = b.iter().map(|value| bf16::from_f32(*value)).collect();
        let widened: Vec<f32> = stored.iter().map(|value| value.to_f32()).collect();
        let (mut found, mut wanted) = (vec![0.0; m * n], vec![0.0; m * n]);
        for precision in [Precision::F32, Precision::Bf16] {
            let left = Matrix::new(&a, k);
            let right = Matrix::of(Values::Bf16(&stored), n);
            multiply(precision, left, right, m, k, n, Start::Zero, &mut found);
            let right = Matrix::new(&widened, n);
            multiply(precision, left, right, m, k, n, Start::Zero, &mut wanted);
            assert_eq!(found, wanted);
        }
    }
}
