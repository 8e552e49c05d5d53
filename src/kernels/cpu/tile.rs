//! The inner loop of every product: a tile of panels times rows held in registers.
//!
//! Each output has one accumulator and takes its words in order, whatever the tile's shape: that
//! is what makes a row's bits independent of the rows beside it.

use super::line::{Arithmetic, Line};
use super::simd::Simd;

/// Adds `words` steps of the products of `P` panels and `T` rows to the accumulators.
///
/// # Safety
/// Each panel pointer has `words` readable lines, each row pointer `words` readable words.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, O: Arithmetic, const P: usize, const T: usize>(
    simd: S,
    mut acc: [[S::F32; P]; T],
    panels: [*const Line<O::Word>; P],
    rows: [*const O::Word; T],
    words: usize,
) -> [[S::F32; P]; T] {
    for word in 0..words {
        for row in 0..T {
            // SAFETY: `word < words`.
            let x = unsafe { *rows[row].add(word) };
            for panel in 0..P {
                // SAFETY: `word < words`.
                let line = unsafe { &(*panels[panel].add(word)).0 };
                acc[row][panel] = O::multiply_add(simd, acc[row][panel], line, x);
            }
        }
    }
    acc
}

/// Calls a method with the constants `P` and `T` of a tile chosen at run time. Shapes beyond the
/// instruction set's largest are not compiled.
macro_rules! with_tile_shape {
    ($simd:ty, ($panels:expr, $rows:expr), $call:ident!($($argument:tt)*)) => {
        with_tile_shape!(@match $simd, ($panels, $rows), $call, ($($argument)*),
            (1 1)(1 2)(1 3)(1 4)(1 5)(1 6)
            (2 1)(2 2)(2 3)(2 4)(2 5)(2 6)
            (4 1)(4 2)(4 3)(4 4)(4 5)(4 6))
    };
    (@match $simd:ty, ($panels:expr, $rows:expr), $call:ident, $arguments:tt, $(($p:literal $t:literal))*) => {
        match ($panels, $rows) {
            $(($p, $t) => {
                if const { $p <= <$simd>::TILE.0 && $t <= <$simd>::TILE.1 } {
                    $call!($p, $t, $arguments)
                } else {
                    unreachable!("tiles are cut to the largest shape")
                }
            })*
            shape => unreachable!("no tile of shape {shape:?}"),
        }
    };
}
pub(super) use with_tile_shape;

/// The largest tile height for `left` panels: a power of two.
#[inline(always)]
pub(super) fn tile_panels<S: Simd>(left: usize) -> usize {
    match left {
        4.. if S::TILE.0 >= 4 => 4,
        2.. if S::TILE.0 >= 2 => 2,
        _ => 1,
    }
}

/// Cuts `rows` into the fewest tiles and makes them as equal as possible: 64 rows are 9 tiles of 6
/// and 2 of 5, never 10 of 6 and one of 4 that wastes registers. Yields (first row, rows).
#[inline(always)]
pub(super) fn row_tiles<S: Simd>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = rows.div_ceil(S::TILE.1);
    (0..tiles).map(move |tile| {
        let first = tile * rows / tiles;
        (first, (tile + 1) * rows / tiles - first)
    })
}
