//! Operands of a product as rows of words and panels of lines.

use std::ops::Range;

use half::bf16;

use super::super::isa::Isa;
use super::super::line::Line;
use super::super::simd::{Kernel, LANES, Simd};
use super::super::square::{Square, turned};
use super::{MOST_PIECES, Matrix, Packed, Values};

/// Packs B's `columns` (at most sixteen) over `depth` into one panel.
pub(crate) fn pack_panel<O: Packed>(
    isa: Isa,
    b: Matrix<'_>,
    depth: Range<usize>,
    columns: Range<usize>,
    lines: &mut [Line<O::Word>],
) {
    match b.values {
        Values::F32(values) => O::run(
            isa,
            PackPanel::<O, f32> {
                values,
                b,
                depth,
                columns,
                lines,
            },
        ),
        Values::Bf16(values) => O::run(
            isa,
            PackPanel::<O, bf16> {
                values,
                b,
                depth,
                columns,
                lines,
            },
        ),
    }
}

/// Packs A's rows over `depth` into rows of words, `stride` words apart.
pub(crate) fn pack_rows<O: Packed>(
    isa: Isa,
    a: Matrix<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    words: &mut [O::Word],
    stride: usize,
) {
    let Values::F32(values) = a.values else {
        unreachable!("the first operand of a product is f32: activations or gradients")
    };
    O::run(
        isa,
        PackRows::<O> {
            values,
            a,
            rows,
            depth,
            words,
            stride,
        },
    );
}

/// A value that can be read as f32.
trait Element: Copy {
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Up to sixteen values; missing lanes are zero.
//
// Kernels here use plain loops, and loads and stores of `Simd`: closures given to the standard
// library are not compiled with their instructions, and copies of arrays become calls.
#[inline(always)]
fn load_some<S: Simd, E: Element>(simd: S, from: &[E]) -> S::F32 {
    let mut lanes = [0.0; LANES];
    if let Some(from) = from.first_chunk::<LANES>() {
        for (lane, from) in lanes.iter_mut().zip(from) {
            *lane = from.widen();
        }
    } else {
        for (lane, from) in lanes.iter_mut().zip(from) {
            *lane = from.widen();
        }
    }
    simd.load(&lanes)
}

/// Up to sixteen values of each of up to sixteen rows; what is missing is zero.
#[inline(always)]
fn read<S: Simd, E: Element>(
    simd: S,
    values: &[E],
    stride: usize,
    rows: &Range<usize>,
    columns: &Range<usize>,
    square: &mut Square<f32>,
) {
    for (index, line) in square.iter_mut().enumerate() {
        let row = if index < rows.len() {
            let start = (rows.start + index) * stride;
            load_some(simd, &values[start + columns.start..start + columns.end])
        } else {
            simd.splat(0.0)
        };
        simd.store(row, line);
    }
}

/// Sixteen positions of a range, or what is left of them.
#[inline(always)]
fn sixteen(of: &Range<usize>, first: usize) -> Range<usize> {
    let start = of.end.min(of.start + first);
    start..of.end.min(start + LANES)
}

struct PackPanel<'a, O: Packed, E> {
    values: &'a [E],
    b: Matrix<'a>,
    depth: Range<usize>,
    columns: Range<usize>,
    lines: &'a mut [Line<O::Word>],
}

impl<O: Packed, E: Element> Kernel for PackPanel<'_, O, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            values,
            b,
            depth,
            columns,
            lines,
        } = self;
        let num_values = O::num_words(depth.len()) / O::PIECES * O::PER_WORD;
        let mut square = [[0.0; LANES]; LANES];
        for first in (0..num_values).step_by(LANES) {
            let part = sixteen(&depth, first);
            if b.is_transposed {
                // Column `c` of B is a row of the memory.
                read(simd, values, b.stride, &columns, &part, &mut square);
                square = turned(&square);
            } else {
                read(simd, values, b.stride, &part, &columns, &mut square);
            }
            let first = first / O::PER_WORD;
            for (index, values) in square.chunks_exact(O::PER_WORD).enumerate() {
                let words = O::words(&values[0], &values[O::PER_WORD - 1]);
                for (piece, words) in words.iter().take(O::PIECES).enumerate() {
                    // A panel of single words may end before the sixteenth.
                    if let Some(line) = lines.get_mut(O::place(first + index, piece)) {
                        line.0 = *words;
                    }
                }
            }
        }
    }
}

struct PackRows<'a, O: Packed> {
    values: &'a [f32],
    a: Matrix<'a>,
    rows: Range<usize>,
    depth: Range<usize>,
    words: &'a mut [O::Word],
    stride: usize,
}

impl<O: Packed> Kernel for PackRows<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let lines = (O::num_words(self.depth.len()) / O::PIECES).div_ceil(LANES);
        let mut pieces = [[[O::Word::default(); LANES]; LANES]; MOST_PIECES];
        for first in (0..self.rows.len()).step_by(LANES) {
            let rows = sixteen(&self.rows, first);
            for line in 0..lines {
                if self.a.is_transposed {
                    self.across(simd, line, &rows, &mut pieces);
                } else {
                    self.along(simd, line, &rows, &mut pieces);
                }
                for lane in 0..rows.len() {
                    let at = (first + lane) * self.stride + O::place(line * LANES, 0);
                    let to = self.words[at..].chunks_exact_mut(LANES).take(O::PIECES);
                    for (to, piece) in to.zip(&pieces) {
                        let to = to.first_chunk_mut().expect("chunks of sixteen");
                        *to = piece[lane];
                    }
                }
            }
        }
    }
}

impl<O: Packed> PackRows<'_, O> {
    /// Sixteen words of each of some rows that lie as rows.
    #[inline(always)]
    fn along<S: Simd>(
        &self,
        simd: S,
        line: usize,
        rows: &Range<usize>,
        pieces: &mut [Square<O::Word>; MOST_PIECES],
    ) {
        for (lane, row) in rows.clone().enumerate() {
            let mut values = [simd.splat(0.0); 2];
            for (half, values) in values.iter_mut().enumerate().take(O::PER_WORD) {
                let part = sixteen(&self.depth, (line * O::PER_WORD + half) * LANES);
                let start = row * self.a.stride;
                *values = load_some(simd, &self.values[start + part.start..start + part.end]);
            }
            let words = O::row_words(simd, values);
            for (piece, words) in pieces.iter_mut().zip(&words).take(O::PIECES) {
                piece[lane] = *words;
            }
        }
    }

    /// The same of rows that are columns of the memory.
    #[inline(always)]
    fn across<S: Simd>(
        &self,
        simd: S,
        line: usize,
        rows: &Range<usize>,
        pieces: &mut [Square<O::Word>; MOST_PIECES],
    ) {
        let mut square = [[0.0; LANES]; LANES];
        for half in 0..O::PER_WORD {
            let part = sixteen(&self.depth, (line * O::PER_WORD + half) * LANES);
            read(simd, self.values, self.a.stride, &part, rows, &mut square);
            for (index, pair) in square.chunks_exact(O::PER_WORD).enumerate() {
                let words = O::words(&pair[0], &pair[O::PER_WORD - 1]);
                for (piece, words) in pieces.iter_mut().zip(&words).take(O::PIECES) {
                    piece[half * LANES / O::PER_WORD + index] = *words;
                }
            }
        }
        for piece in pieces.iter_mut().take(O::PIECES) {
            *piece = turned(piece);
        }
    }
}
