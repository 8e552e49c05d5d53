//! Operands of a product as rows of words and panels of lines.

use std::ops::Range;

use half::bf16;

use super::super::isa::Isa;
use super::super::line::Line;
use super::super::simd::{Kernel, LANES, Simd};
use super::{Matrix, Packed, Values};

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
        let stride = b.stride;
        if b.is_transposed {
            // Column `c` of B is a row of the memory.
            for lane in 0..LANES {
                if lane >= columns.len() {
                    for line in lines.iter_mut() {
                        line.0[lane] = O::Word::default();
                    }
                    continue;
                }
                let at = (columns.start + lane) * stride;
                let row = &values[at + depth.start..at + depth.end];
                let whole = row.len() / O::PER_WORD;
                for (line, pair) in lines[..whole].iter_mut().zip(row.chunks_exact(O::PER_WORD)) {
                    line.0[lane] = O::word(&[pair[0].widen(), pair[O::PER_WORD - 1].widen()]);
                }
                if whole < lines.len() {
                    lines[whole].0[lane] = O::word(&[row[whole * O::PER_WORD].widen(), 0.0]);
                }
            }
            return;
        }
        for (word, line) in lines.iter_mut().enumerate() {
            let mut parts = [[0.0f32; LANES]; 2];
            for (index, part) in parts.iter_mut().enumerate().take(O::PER_WORD) {
                let k = depth.start + word * O::PER_WORD + index;
                if k >= depth.end {
                    continue;
                }
                let row = &values[k * stride + columns.start..k * stride + columns.end];
                if let Some(row) = row.first_chunk::<LANES>() {
                    for lane in 0..LANES {
                        part[lane] = row[lane].widen();
                    }
                } else {
                    for (part, value) in part.iter_mut().zip(row) {
                        *part = value.widen();
                    }
                }
            }
            for (lane, to) in line.0.iter_mut().enumerate() {
                *to = O::word(&[parts[0][lane], parts[1][lane]]);
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
        let count = depth.len().div_ceil(O::PER_WORD);
        if !a.is_transposed {
            let chunk = LANES / O::PER_WORD;
            for (row, words) in rows.zip(words.chunks_mut(stride)) {
                let at = row * a.stride;
                let row = &values[at + depth.start..at + depth.end];
                let mut lanes = row.chunks_exact(LANES);
                let mut words = words[..count.next_multiple_of(chunk)].chunks_exact_mut(chunk);
                for (values, words) in lanes.by_ref().zip(words.by_ref()) {
                    let values = simd.load(values.first_chunk().expect("sixteen values"));
                    O::store_row(simd, values, words);
                }
                if let Some(words) = words.next() {
                    let mut rest = [0.0; LANES];
                    rest[..lanes.remainder().len()].copy_from_slice(lanes.remainder());
                    O::store_row(simd, simd.load(&rest), words);
                }
            }
            return;
        }
        // Row `r` of A is a column of the memory: squares of it are turned, so that both sides
        // move by whole lines.
        for first_word in (0..count).step_by(LANES) {
            let some = LANES.min(count - first_word);
            for first_row in (0..rows.len()).step_by(LANES) {
                let width = LANES.min(rows.len() - first_row);
                let mut square = [[O::Word::default(); LANES]; LANES];
                for (word, line) in square.iter_mut().enumerate().take(some) {
                    let mut parts = [[0.0f32; LANES]; 2];
                    for (index, part) in parts.iter_mut().enumerate().take(O::PER_WORD) {
                        let k = depth.start + (first_word + word) * O::PER_WORD + index;
                        if k < depth.end {
                            let at = k * a.stride + rows.start + first_row;
                            let row = &values[at..at + width];
                            if let Some(row) = row.first_chunk::<LANES>() {
                                *part = *row;
                            } else {
                                part[..width].copy_from_slice(row);
                            }
                        }
                    }
                    for lane in 0..LANES {
                        line[lane] = O::word(&[parts[0][lane], parts[1][lane]]);
                    }
                }
                for lane in 0..width {
                    let to = &mut words[(first_row + lane) * stride + first_word..][..LANES];
                    for word in 0..LANES {
                        to[word] = square[word][lane];
                    }
                }
            }
        }
    }
}
