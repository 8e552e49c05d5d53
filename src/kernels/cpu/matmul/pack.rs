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

/// Up to sixteen values of each of up to sixteen rows; what is missing is zero.
#[inline(always)]
fn read<E: Element>(
    values: &[E],
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Square<f32> {
    let mut square = [[0.0; LANES]; LANES];
    for (row, line) in rows.zip(&mut square) {
        let from = &values[row * stride + columns.start..row * stride + columns.end];
        match from.first_chunk::<LANES>() {
            Some(from) => *line = from.map(E::widen),
            None => {
                for (value, from) in line.iter_mut().zip(from) {
                    *value = from.widen();
                }
            }
        }
    }
    square
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
    fn run<S: Simd>(self, _simd: S) {
        let Self {
            values,
            b,
            depth,
            columns,
            lines,
        } = self;
        let num_values = O::num_words(depth.len()) / O::PIECES * O::PER_WORD;
        for first in (0..num_values).step_by(LANES) {
            let part = sixteen(&depth, first);
            let square = if b.is_transposed {
                // Column `c` of B is a row of the memory.
                turned(&read(values, b.stride, columns.clone(), part))
            } else {
                read(values, b.stride, part, columns.clone())
            };
            let first = first / O::PER_WORD;
            for (index, values) in square.chunks_exact(O::PER_WORD).enumerate() {
                let words = O::words(&values[0], &values[O::PER_WORD - 1]);
                for (piece, words) in words.into_iter().take(O::PIECES).enumerate() {
                    // A panel of single words may end before the sixteenth.
                    if let Some(line) = lines.get_mut(O::place(first + index, piece)) {
                        line.0 = words;
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
        let Self {
            values,
            a,
            rows,
            depth,
            words,
            stride,
        } = self;
        let lines = (O::num_words(depth.len()) / O::PIECES).div_ceil(LANES);
        for first in (0..rows.len()).step_by(LANES) {
            let some = sixteen(&rows, first);
            for line in 0..lines {
                let first_value = line * LANES * O::PER_WORD;
                let parts = [0, LANES].map(|half| sixteen(&depth, first_value + half));
                let parts = &parts[..O::PER_WORD];
                let to = words[first * stride..].chunks_mut(stride);
                let to = to.map(|row| &mut row[O::place(line * LANES, 0)..]);
                if a.is_transposed {
                    // Row `r` of A is a column of the memory.
                    let mut pieces = [[[O::Word::default(); LANES]; LANES]; MOST_PIECES];
                    for (half, part) in parts.iter().enumerate() {
                        let square = read(values, a.stride, part.clone(), some.clone());
                        for (index, pair) in square.chunks_exact(O::PER_WORD).enumerate() {
                            let words = O::words(&pair[0], &pair[O::PER_WORD - 1]);
                            for (piece, words) in words.into_iter().take(O::PIECES).enumerate() {
                                pieces[piece][half * LANES / O::PER_WORD + index] = words;
                            }
                        }
                    }
                    let pieces = pieces.map(|piece| turned(&piece));
                    for (lane, to) in to.take(some.len()).enumerate() {
                        for (piece, to) in to.chunks_exact_mut(LANES).take(O::PIECES).enumerate() {
                            to.copy_from_slice(&pieces[piece][lane]);
                        }
                    }
                } else {
                    for (row, to) in some.clone().zip(to) {
                        let mut row_values = [[0.0; LANES]; 2];
                        for (part, to) in parts.iter().zip(&mut row_values) {
                            *to = read(values, a.stride, row..row + 1, part.clone())[0];
                        }
                        let pieces = O::row_words(simd, &row_values);
                        let to = to.chunks_exact_mut(LANES).take(O::PIECES);
                        for (to, words) in to.zip(&pieces) {
                            to.copy_from_slice(words);
                        }
                    }
                }
            }
        }
    }
}
