//! The random numbers of a tensor, by input and block.
//!
//! Three sources give the same thing, 24-bit integers: the reference's sequential stream (a
//! generator state per block, set down by one pass that runs ahead), our own counter-based
//! generator, which needs no state, and masks from a file.

use super::{Block, blocks};
use crate::random::{CounterRng, Mt19937};

/// Draws are 24-bit integers: `draw * 2^-24` is the uniform number that torch makes of them.
pub(crate) const DRAW_BITS: u32 = 24;
const DRAW_MASK: u32 = (1 << DRAW_BITS) - 1;

/// The random numbers of one tensor.
pub(crate) enum Draws<'a> {
    /// The method draws nothing for this tensor.
    None,
    /// Generator states: for each input that draws, in order, one per block.
    Stream(Vec<Vec<Mt19937>>),
    /// One generator for each input that draws.
    Counter(Vec<CounterRng>),
    /// One mask for each input that draws: not 0 where the element is kept.
    Masks(Vec<&'a [u8]>),
}

/// The random numbers of one input and block, to be taken in order.
pub(crate) enum BlockDraws<'a> {
    Stream(Box<Mt19937>),
    Counter(CounterRng, u64),
    Mask(&'a [u8]),
}

impl Draws<'_> {
    /// The draws of the `slot`-th drawing input for a block.
    pub(crate) fn block(&self, slot: usize, block: &Block) -> BlockDraws<'_> {
        match self {
            Self::None => unreachable!("an input that draws has draws"),
            Self::Stream(states) => BlockDraws::Stream(Box::new(states[slot][block.index].clone())),
            Self::Counter(rngs) => BlockDraws::Counter(rngs[slot], block.range.start as u64),
            Self::Masks(masks) => BlockDraws::Mask(&masks[slot][block.range.clone()]),
        }
    }
}

impl BlockDraws<'_> {
    /// The next draws.
    #[inline(always)]
    pub(crate) fn fill(&mut self, out: &mut [u32]) {
        match self {
            Self::Stream(rng) => {
                rng.fill(out);
                out.iter_mut().for_each(|draw| *draw &= DRAW_MASK);
            }
            Self::Counter(rng, next) => {
                rng.fill(*next, out);
                out.iter_mut().for_each(|draw| *draw >>= 32 - DRAW_BITS);
                *next += out.len() as u64;
            }
            Self::Mask(mask) => {
                let (now, later) = mask.split_at(out.len());
                for (draw, kept) in out.iter_mut().zip(now) {
                    *draw = if *kept == 0 { DRAW_MASK } else { 0 };
                }
                *mask = later;
            }
        }
    }
}

/// torch's CPU stream, walked in the order in which the reference draws.
pub(crate) struct SeededStream(Mt19937);

impl SeededStream {
    /// torch takes the low 32 bits of its seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mt19937::from_word(seed as u32))
    }

    /// The states of the next tensor, of which `num_inputs` inputs draw.
    pub(crate) fn states(&mut self, shape: &[usize], num_inputs: usize) -> Vec<Vec<Mt19937>> {
        let blocks = blocks(shape);
        let mut input = || {
            let states = blocks.iter().map(|block| {
                let state = self.0.clone();
                self.0.skip(block.range.len());
                state
            });
            states.collect()
        };
        (0..num_inputs).map(|_| input()).collect()
    }
}
