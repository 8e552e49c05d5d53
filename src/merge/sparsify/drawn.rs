//! Elements that stay by chance: a 24-bit draw is compared with each one's threshold.

use super::kept::Kept;
use super::ranks::Ranks;
use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::kernels::words::{Bounds, below};
use crate::merge::tensor::{BlockDraws, DRAW_BITS};

/// The chances of a tensor's elements, as thresholds of their draws.
pub(crate) enum Chances {
    /// All elements have the same.
    Same(u32),
    /// By the rank of the magnitude in its row.
    ByRank(Vec<u32>),
}

/// The threshold of a probability: `draw * 2^-24 < p`, in integers.
pub(super) fn threshold(probability: f32) -> u32 {
    (f64::from(probability) * f64::from(1_u32 << DRAW_BITS)).ceil() as u32
}

/// The draws of a block, as far as they have been taken.
pub(crate) struct DrawnBlock<'t> {
    draws: BlockDraws<'t>,
    thresholds: Thresholds<'t>,
    /// Room for the draws of a chunk.
    words: Vec<u32>,
    /// 1 for each element that stays, of all chunks so far.
    flags: Vec<u8>,
}

enum Thresholds<'t> {
    Same(u32),
    ByRank(Ranks<'t>),
}

impl<'t> DrawnBlock<'t> {
    /// `rounding` is the grid of the values that are ranked.
    pub(super) fn new<F: Elementwise>(
        chances: &'t Chances,
        draws: BlockDraws<'t>,
        rounding: Rounding,
    ) -> Self {
        Self {
            draws,
            thresholds: match chances {
                Chances::Same(threshold) => Thresholds::Same(*threshold),
                Chances::ByRank(by_rank) => Thresholds::ByRank(Ranks::new::<F>(by_rank, rounding)),
            },
            words: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// Sets the dropped elements of the block's next chunk to zero.
    pub(super) fn apply<F: Elementwise>(&mut self, isa: Isa, deltas: &mut [F]) {
        self.words.resize(deltas.len(), 0);
        self.draws.fill(&mut self.words);
        let bounds = match &mut self.thresholds {
            Thresholds::Same(threshold) => Bounds::Same(*threshold),
            Thresholds::ByRank(ranks) => Bounds::Each(ranks.thresholds(deltas)),
        };
        let start = self.flags.len();
        self.flags.resize(start + deltas.len(), 0);
        let flags = &mut self.flags[start..];
        below(isa, &self.words, bounds, flags);
        F::keep_flagged(isa, deltas, flags);
    }

    /// What has been kept of the block.
    pub(super) fn kept(&self) -> Kept {
        Kept::pack(&self.flags)
    }
}
