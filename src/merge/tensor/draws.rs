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

/// Generator states (of 2.5 kB) that are kept of one tensor.
const MAX_STATES: usize = 1 << 13;

/// The random numbers of one tensor.
pub(crate) enum Draws<'a> {
    /// The method draws nothing for this tensor.
    None,
    /// The places of the blocks in the reference's stream, for each input that draws, in order.
    Stream(Vec<StreamStates>),
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
            Self::Stream(states) => BlockDraws::Stream(Box::new(states[slot].at(block.index))),
            Self::Counter(rngs) => BlockDraws::Counter(rngs[slot], block.range.start as u64),
            Self::Masks(masks) => BlockDraws::Mask(&masks[slot][block.range.clone()]),
        }
    }
}

impl BlockDraws<'_> {
    /// The next draws.
    pub(crate) fn fill(&mut self, out: &mut [u32]) {
        match self {
            Self::Stream(rng) => rng.fill(DRAW_MASK, out),
            Self::Counter(rng, next) => {
                rng.fill(*next, 32 - DRAW_BITS, out);
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
    pub(crate) fn states(&mut self, shape: &[usize], num_inputs: usize) -> Vec<StreamStates> {
        let blocks = blocks(shape);
        let per_input = Self::states_per_input(blocks.len(), num_inputs);
        let spacing = blocks.len().div_ceil(per_input.max(1)).max(1);
        let mut input = || {
            let states = blocks.chunks(spacing).map(|blocks| {
                let state = self.0.clone();
                self.0
                    .skip(blocks.iter().map(|block| block.range.len()).sum());
                state
            });
            StreamStates {
                states: states.collect(),
                spacing,
                block_len: blocks.first().map_or(0, |block| block.range.len()),
            }
        };
        (0..num_inputs).map(|_| input()).collect()
    }

    /// How many states are kept of one input: one per block, fewer in tensors so large that they
    /// would take much memory.
    pub(crate) fn states_per_input(num_blocks: usize, num_inputs: usize) -> usize {
        num_blocks.min((MAX_STATES / num_inputs.max(1)).max(1))
    }
}

/// Places in the reference's stream at the blocks of one tensor and input.
pub(crate) struct StreamStates {
    /// At every `spacing`-th block.
    states: Vec<Mt19937>,
    spacing: usize,
    /// Elements of every block but the last.
    block_len: usize,
}

impl StreamStates {
    /// The generator at a block's first element.
    fn at(&self, block: usize) -> Mt19937 {
        let mut state = self.states[block / self.spacing].clone();
        state.skip(block % self.spacing * self.block_len);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_states_stand_where_the_stream_does() {
        let shape = [3 * MAX_STATES / 2 + 5, 1 << 16];
        let states = SeededStream::new(5).states(&shape, 1);
        assert!(states[0].states.len() <= MAX_STATES);
        let mut stream = Mt19937::from_word(5);
        stream.skip(7 << 16);
        let mut draws = [[0; 3]; 2];
        stream.fill(DRAW_MASK, &mut draws[0]);
        states[0].at(7).fill(DRAW_MASK, &mut draws[1]);
        assert_eq!(draws[0], draws[1]);
    }
}
