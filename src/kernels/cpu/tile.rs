//! The inner loop of every product: a tile of panels times rows held in registers.
//!
//! Each output has one accumulator and takes its words in order, whatever the tile's shape: that
//! is what makes a row's bits independent of the rows beside it.

use std::ops::Range;

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

/// One tile of some work, as a kernel: with [`Simd::vectorize`] each size of tile becomes a function
/// of its own. As one function, all sizes together took the compiler minutes, and their registers
/// were spilled.
pub(super) struct Tile<'w, W, const P: usize, const T: usize> {
    pub(super) work: &'w mut W,
    pub(super) panel: usize,
    pub(super) row: usize,
}

/// Work that is done tile by tile.
pub(super) trait Tiles<S: Simd> {
    /// Panels and rows of the largest tile whose accumulators and operands fit the registers. At
    /// least two panels: a gate and its partner are finished together.
    const LARGEST: (usize, usize);
    /// Panels come in multiples of this power of two; smaller tiles are not compiled.
    const LEAST_PANELS: usize = 1;

    /// Works on the tile of `P` panels from `panel` on and `T` rows from `row` on.
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, row: usize);
}

/// Covers some panels and rows with tiles.
///
/// Heights are powers of two. Rows are cut into the fewest tiles and those as equal as possible: 64
/// rows are 9 tiles of 6 and 2 of 5, never 10 of 6 and one of 4 that wastes registers.
#[inline(always)]
pub(super) fn for_each_tile<S: Simd, W: Tiles<S>>(
    simd: S,
    panels: Range<usize>,
    rows: Range<usize>,
    work: &mut W,
) {
    let (most_panels, most_rows) = W::LARGEST;
    let tiles = rows.len().div_ceil(most_rows);
    let mut panel = panels.start;
    while panel < panels.end {
        let height = match panels.end - panel {
            4.. if most_panels >= 4 => 4,
            2.. if most_panels >= 2 => 2,
            _ => 1,
        };
        for tile in 0..tiles {
            let row = rows.start + tile * rows.len() / tiles;
            let end = rows.start + (tile + 1) * rows.len() / tiles;
            call_tile(simd, (height, end - row), panel, row, work);
        }
        panel += height;
    }
}

/// Calls [`Tiles::tile`] with constants chosen at run time. Shapes beyond the largest are not
/// compiled.
#[inline(always)]
fn call_tile<S: Simd, W: Tiles<S>>(
    simd: S,
    shape: (usize, usize),
    panel: usize,
    row: usize,
    work: &mut W,
) {
    macro_rules! shapes {
        ($(($p:literal $t:literal))*) => {
            match shape {
                $(($p, $t) => {
                    if const {
                        $p >= W::LEAST_PANELS && $p <= W::LARGEST.0 && $t <= W::LARGEST.1
                    } {
                        work.tile::<$p, $t>(simd, panel, row);
                    } else {
                        unreachable!("tiles are cut to the shapes there are")
                    }
                })*
                shape => unreachable!("no tile of shape {shape:?}"),
            }
        };
    }
    shapes!(
        (1 1)(1 2)(1 3)(1 4)(1 5)(1 6)
        (2 1)(2 2)(2 3)(2 4)(2 5)(2 6)
        (4 1)(4 2)(4 3)(4 4)(4 5)(4 6)
    );
}
