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
use std::thread::LocalKey;

use super::super::isa::Isa;
use super::super::line::Line;
use super::super::simd::{Kernel, LANES, Simd, bf16_bits, bf16_value};
use super::block::OnTiles;
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
