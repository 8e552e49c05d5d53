//! Single precision in matrix tiles: a value is the sum of three bfloat16 pieces (8 bits each, of its
//! 24), and a product the sum of those of its pieces that single precision can tell from nothing.
//!
//! With `a = a0 + a1 + a2`, largest first, `a b` is `a0 b0 + a0 b1 + a1 b0 + a1 b1 + a0 b2 + a2 b0`:
//! what is left out is below 2^-26 of the product, less than a rounding of f32. Six products in tiles
//! are twice as fast here as one in vectors. Pieces below the smallest normal number count as zero,
//! and a value above the largest bfloat16 is infinite.
//!
//! *Source*: Henry, Tang and Heinecke 2019, Leveraging the bfloat16 Artificial Intelligence Datatype
//! For Higher-Precision Computations.

use std::cell::RefCell;
use std::ops::Range;
use std::thread::LocalKey;

use super::super::amx::{self, Amx};
use super::super::isa::Isa;
use super::super::line::Line;
use super::super::simd::{Kernel, LANES, Simd, bf16_bits, bf16_value};
use super::{Block, MOST_PIECES, Packed, scratch};

/// f32 as three pieces of bfloat16, each in pairs of neighbours.
pub(super) struct Pieces;

impl Packed for Pieces {
    type Word = u32;

    const PER_WORD: usize = 2;
    const PIECES: usize = 3;
    const STRETCH: usize = 512;

    #[inline(always)]
    fn words(first: &[f32; LANES], second: &[f32; LANES]) -> [[u32; LANES]; MOST_PIECES] {
        let mut rest = (*first, *second);
        let mut pieces = [[0; LANES]; MOST_PIECES];
        for piece in &mut pieces {
            for (word, (first, second)) in piece.iter_mut().zip(rest.0.iter_mut().zip(&mut rest.1))
            {
                let halves = (bf16_bits(*first), bf16_bits(*second));
                *first -= bf16_value(halves.0);
                *second -= bf16_value(halves.1);
                *word = u32::from(halves.0) | u32::from(halves.1) << 16;
            }
        }
        pieces
    }

    #[inline(always)]
    fn row_words<S: Simd>(simd: S, values: [S::F32; 2]) -> [[u32; LANES]; MOST_PIECES] {
        let mut rest = values;
        let mut pieces = [[0; LANES]; MOST_PIECES];
        for piece in &mut pieces {
            for (words, rest) in piece.as_chunks_mut().0.iter_mut().zip(&mut rest) {
                *words = simd.to_bf16(*rest);
                *rest = simd.sub(*rest, simd.widen_bf16(words));
            }
        }
        pieces
    }

    scratch!(u32);

    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }

    fn multiply(isa: Isa, block: Block<'_, Self>) {
        let amx = isa.amx().expect("pieces are multiplied in tiles");
        amx.simd().vectorize(OnTiles(block, amx));
    }

    fn as_words(_values: &[f32]) -> Option<&[u32]> {
        None
    }
}

/// A block in matrix tiles.
struct OnTiles<'a>(Block<'a, Pieces>, Amx);

impl Kernel for OnTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(block, amx) = self;
        let (panels, rows) = (0..block.num_panels(), 0..block.num_rows);
        let sums = amx::Sums::new();
        amx.for_each_whole_tile(panels, rows, &mut Products { block, simd, sums });
    }
}

struct Products<'a, S> {
    block: Block<'a, Pieces>,
    simd: S,
    sums: amx::Sums,
}

impl<S: Simd> amx::TileWork for Products<'_, S> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut amx::Tiles,
        panel: usize,
        range: Range<usize>,
        _pass: usize,
    ) {
        let (block, simd) = (&self.block, self.simd);
        let (words, stride) = (block.words, block.row_stride);
        let panels: [*const Line<u32>; P] = std::array::from_fn(|index| {
            block.panels[(panel + index) * block.panel_stride..][..words].as_ptr()
        });
        // The rows of a whole tile are there, if not all of the block.
        let rows = &block.rows[range.start * stride..][..LANES * stride];
        assert!(words <= stride);
        // SAFETY: the slices show `words` lines of each panel and words of sixteen rows; the tiles are
        // the latest and whole.
        unsafe {
            tiles.multiply_pieces::<P>(panels, (rows.as_ptr(), stride), words, &mut self.sums)
        };
        for (index, row) in range.enumerate() {
            // SAFETY: `Block::run` gave this block its part of `out`.
            unsafe { block.finish::<_, P>(simd, panel, row, self.sums.row(simd, index)) };
        }
    }
}
