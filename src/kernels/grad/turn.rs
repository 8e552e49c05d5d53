//! Transposing: what a gradient of attention sums over lies across its operands.

use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::square::turned;

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
    fn run<S: Simd>(self, simd: S) {
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
                    // Not copies of arrays, which become calls.
                    match from[at..].first_chunk::<LANES>() {
                        Some(values) if width == LANES => simd.store(simd.load(values), line),
                        _ => line[..width].copy_from_slice(&from[at..at + width]),
                    }
                }
                let turned = turned(&square);
                for (column, line) in turned.iter().enumerate().take(width) {
                    let at = (first + column) * to_stride + first_row;
                    let to = &mut to[at..at + height];
                    match to.first_chunk_mut::<LANES>() {
                        Some(to) => simd.store(simd.load(line), to),
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
    use crate::cpu::isa::Isa;

    #[test]
    fn every_value_lands_across() {
        for (rows, columns) in [(1, 1), (5, 40), (16, 16), (33, 19), (64, 3)] {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let stride = rows + 3;
            let mut to = vec![-1.0; columns * stride];
            Isa::detect().run_elementwise(Turn {
                from: &from,
                from_stride: columns,
                rows,
                columns,
                to: &mut to,
                to_stride: stride,
            });
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
