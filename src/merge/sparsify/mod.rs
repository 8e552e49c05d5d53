//! Which elements of a task vector are dropped.
//!
//! [`Trim`] is decided once per tensor and input; [`TrimBlock`] carries it out on a block, chunk
//! after chunk in order.

mod drawn;
mod kept;
mod magnitude;
mod ranks;

use super::tensor::{Block, Input, Tensor};
use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};
use drawn::{Chances, DrawnBlock};
use kept::KeptBlock;

pub(crate) use kept::Kept;
pub(crate) use magnitude::{Cut, CutBlock, Deltas, Values};

/// A decision about one task vector of one tensor.
pub(crate) enum Trim {
    Nothing,
    Everything,
    /// Keeps what is in the first cut and not in the second (the outliers).
    Magnitude(Cut, Option<Cut>),
    /// Keeps elements whose random draw is below their chance, as the `slot`-th input that draws.
    Drawn {
        chances: Chances,
        slot: usize,
    },
    /// Keeps what an earlier pass has kept, by block.
    Kept(Vec<Kept>),
}

impl Trim {
    /// Keeps the `density` share of largest magnitudes, at least one if density is above 0.
    pub(crate) fn magnitude<F: Elementwise>(
        tensor: &Tensor<'_, F>,
        input: &Input<'_>,
        density: f64,
    ) -> Self {
        let elements = tensor.num_elements();
        if density >= 1.0 {
            return Self::Nothing;
        }
        if density <= 0.0 {
            return Self::Everything;
        }
        let kept = ((density * elements as f64) as usize).max(1);
        let [cut] = Cut::find(tensor, &Deltas { tensor, input }, [kept]);
        Self::Magnitude(cut, None)
    }

    /// Keeps the `density` share of magnitudes that are largest below the `gamma` share of
    /// outliers; fewer outliers are dropped where not enough would remain.
    pub(crate) fn without_outliers<F: Elementwise>(
        tensor: &Tensor<'_, F>,
        input: &Input<'_>,
        density: f64,
        gamma: f64,
    ) -> Self {
        if density >= 1.0 {
            return Self::Nothing;
        }
        let elements = tensor.num_elements();
        let kept = (density * elements as f64) as usize;
        let outliers = (gamma * elements as f64) as usize;
        let outliers = outliers.min(elements - kept);
        if kept == 0 {
            return Self::Everything;
        }
        let [cut, outliers] = Cut::find(
            tensor,
            &Deltas { tensor, input },
            [kept + outliers, outliers],
        );
        Self::Magnitude(cut, Some(outliers))
    }

    /// Keeps each element with probability `density`, as the `slot`-th input that draws.
    pub(crate) fn random(rounding: Rounding, density: f64, slot: usize) -> Self {
        if density >= 1.0 {
            return Self::Nothing;
        }
        let probability: f32 = rounding.of_masks().scalar(density);
        let chances = Chances::Same(drawn::threshold(probability));
        Self::Drawn { chances, slot }
    }

    /// Keeps elements with probabilities from `density - epsilon` (the smallest of its row) to
    /// `density + epsilon` (the largest).
    pub(crate) fn ranked<F: Elementwise>(
        tensor: &Tensor<'_, F>,
        density: f64,
        epsilon: f64,
        slot: usize,
    ) -> Self {
        if density >= 1.0 {
            Self::Nothing
        } else if density <= 0.0 {
            Self::Everything
        } else {
            let of_masks = tensor.rounding.of_masks();
            let chances = ranks::by_rank(of_masks, density, epsilon, tensor.row_len());
            Self::Drawn {
                chances: Chances::ByRank(chances),
                slot,
            }
        }
    }

    /// Whether anything may be dropped.
    pub(crate) fn drops(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Whether it takes random numbers.
    pub(crate) fn draws(&self) -> bool {
        matches!(self, Self::Drawn { .. })
    }

    /// The decision for one block.
    pub(crate) fn block<'t, F: Elementwise>(
        &'t self,
        tensor: &'t Tensor<'_, F>,
        block: &Block,
    ) -> TrimBlock<'t> {
        match self {
            Self::Nothing => TrimBlock::Nothing,
            Self::Everything => TrimBlock::Everything,
            Self::Magnitude(cut, outliers) => TrimBlock::Magnitude(
                cut.block(block),
                outliers.as_ref().map(|cut| cut.block(block)),
            ),
            Self::Drawn { chances, slot } => TrimBlock::Drawn(DrawnBlock::new::<F>(
                chances,
                tensor.draws.block(*slot, block),
                tensor.rounding,
            )),
            Self::Kept(blocks) => TrimBlock::Kept(blocks[block.index].block(block.range.len())),
        }
    }
}

/// A decision about a block, and how far it has been carried out.
pub(crate) enum TrimBlock<'t> {
    Nothing,
    Everything,
    Magnitude(CutBlock, Option<CutBlock>),
    Drawn(DrawnBlock<'t>),
    Kept(KeptBlock),
}

impl TrimBlock<'_> {
    /// Sets the dropped elements of the block's next chunk (whole rows) to zero.
    pub(crate) fn apply<F: Elementwise>(&mut self, isa: Isa, deltas: &mut [F]) {
        match self {
            Self::Nothing => {}
            Self::Everything => deltas.fill(F::ZERO),
            Self::Magnitude(cut, None) => cut.keep_inside(isa, deltas),
            Self::Magnitude(cut, Some(outliers)) => {
                let mut inliers = deltas.to_vec();
                outliers.keep_outside(&mut inliers);
                cut.keep_inside(isa, deltas);
                for (delta, inlier) in deltas.iter_mut().zip(inliers) {
                    *delta = if inlier == F::ZERO { F::ZERO } else { *delta };
                }
            }
            Self::Drawn(drawn) => drawn.apply(isa, deltas),
            Self::Kept(kept) => kept.apply(isa, deltas),
        }
    }

    /// What random draws have kept, once all of the block's chunks are done.
    pub(crate) fn kept(&self) -> Option<Kept> {
        match self {
            Self::Drawn(drawn) => Some(drawn.kept()),
            _ => None,
        }
    }
}
