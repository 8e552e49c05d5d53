//! Squares of sixteen by sixteen values: the unit in which matrices are turned.

use super::simd::LANES;

/// Sixteen rows of sixteen values.
pub(crate) type Square<T> = [[T; LANES]; LANES];

/// A square, rows and columns exchanged: four by four, which compilers know how to do in registers.
#[inline(always)]
pub(crate) fn turned<T: Copy + Default>(square: &Square<T>) -> Square<T> {
    let mut turned = [[T::default(); LANES]; LANES];
    for row in (0..LANES).step_by(4) {
        for column in (0..LANES).step_by(4) {
            let part = |index: usize| {
                let line = &square[row + index];
                [
                    line[column],
                    line[column + 1],
                    line[column + 2],
                    line[column + 3],
                ]
            };
            let [a, b, c, d] = [part(0), part(1), part(2), part(3)];
            for index in 0..4 {
                turned[column + index][row..row + 4]
                    .copy_from_slice(&[a[index], b[index], c[index], d[index]]);
            }
        }
    }
    turned
}
