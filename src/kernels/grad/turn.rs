//! Transposing: what a gradient sums over lies across its operands.

use rayon::prelude::*;

use crate::cpu::isa::Isa;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::square::turned;

/// Values from one row of a turned matrix to the next: room for `rows`, and an odd number of lines,
/// since rows a power of two apart would compete for the same cache sets.
pub fn turned_stride(rows: usize) -> usize {
    (rows.div_ceil(LANES) | 1) * LANES
}

/// `to[c][r] = from[r][c]`, on all threads. Shapes: `from`: `[rows, columns]`; `to`: `[columns,
/// turned_stride(rows)]`, of which the first `rows` values of each row are written.
///
/// # Panics
/// A buffer has another size.
pub fn turn(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    let (stride, isa) = (turned_stride(rows), Isa::detect());
    assert_eq!(from.len(), rows * columns, "a value for each place");
    assert_eq!(to.len(), columns * stride, "a place for each value");
    if rows == 0 {
        return;
    }
    let strips = to.par_chunks_mut(LANES * stride).enumerate();
    strips.for_each(|(strip, to)| {
        isa.run_elementwise(Turn {
            from: &from[strip * LANES..],
            from_stride: columns,
            rows,
            columns: to.len() / stride,
            to,
            to_stride: stride,
        });
    });
}

/// `to[c][r] = from[r][c]` on one thread, of `rows` rows and `columns` columns.
pub(super) struct Turn<'a> {
    pub(super) from: &'a [f32],
    /// Values from one row of `from` to the next.
    pub(super) from_stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) to: &'a mut [f32],
    /// Values from one row of `to` to the next.
    pub(super) to_stride: usize,
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Self {
            from,
            from_stride,
            rows,
            columns,
            to,
            to_stride,
        } = self;
        for first_row in (0..rows).step_by(LANES) {
            let height = LANES.min(rows - first_row);
            for first in (0..columns).step_by(LANES) {
                let width = LANES.min(columns - first);
                let mut square = [[0.0f32; LANES]; LANES];
                for (row, line) in square.iter_mut().enumerate().take(height) {
                    let at = (first_row + row) * from_stride + first;
                    match from[at..].first_chunk::<LANES>() {
                        Some(values) if width == LANES => *line = *values,
                        _ => line[..width].copy_from_slice(&from[at..at + width]),
                    }
                }
                let turned = turned(&square);
                for (column, line) in turned.iter().enumerate().take(width) {
                    let at = (first + column) * to_stride + first_row;
                    let to = &mut to[at..at + height];
                    match to.first_chunk_mut::<LANES>() {
                        Some(to) => *to = *line,
                        None => to.copy_from_slice(&line[..height]),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lands_across() {
        for (rows, columns) in [(1, 1), (5, 40), (16, 16), (33, 19), (64, 3)] {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let stride = turned_stride(rows);
            let mut to = vec![-1.0; columns * stride];
            turn(&from, rows, columns, &mut to);
            for c in 0..columns {
                for r in 0..stride {
                    let expected = if r < rows {
                        from[r * columns + c]
                    } else {
                        -1.0
                    };
                    assert_eq!(to[c * stride + r], expected, "{rows} {columns}: {r} {c}");
                }
            }
        }
    }
}
