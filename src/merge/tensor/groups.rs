//! Sums over parts of a tensor that are treated as vectors of their own: the whole, rows, columns.

use super::{Block, Tensor};
use crate::kernels::elementwise::Elementwise;

/// Which elements form a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    /// All elements of the tensor.
    Whole,
    /// Each row; the number is its length.
    Rows(usize),
    /// Each column (all elements that differ in the first index only); the number counts them.
    Columns(usize),
}

impl Groups {
    /// Vectors along the last axis.
    pub(crate) fn along_last(shape: &[usize]) -> Self {
        match shape {
            [] | [_] => Self::Whole,
            [.., last] => Self::Rows(*last),
        }
    }

    /// Vectors along the first axis.
    pub(crate) fn along_first(shape: &[usize]) -> Self {
        match shape {
            [] | [_] => Self::Whole,
            [_, rest @ ..] => Self::Columns(rest.iter().product()),
        }
    }

    /// The vector that an element belongs to.
    #[inline(always)]
    pub(crate) fn of(self, element: usize) -> usize {
        match self {
            Self::Whole => 0,
            Self::Rows(len) => element / len,
            Self::Columns(count) => element % count,
        }
    }

    /// The first vector of a block and how many it touches.
    fn touched(self, block: &Block) -> (usize, usize) {
        match self {
            Self::Whole => (0, 1),
            Self::Rows(len) => (block.range.start / len, block.range.len() / len),
            Self::Columns(count) => (0, count),
        }
    }

    fn count(self, elements: usize) -> usize {
        match self {
            Self::Whole => 1,
            Self::Rows(len) => elements / len.max(1),
            Self::Columns(count) => count,
        }
    }
}

impl<F: Elementwise> Tensor<'_, F> {
    /// Adds up `width` terms per element over each vector: `terms` fills one slice per term for
    /// the chunk that starts at an element. Returns the sums of each term, by vector.
    pub(crate) fn group_sums(
        &self,
        groups: Groups,
        width: usize,
        terms: impl Fn(usize, &mut [Vec<f64>]) + Sync,
    ) -> Vec<Vec<f64>> {
        let mut sums = vec![vec![0.0; groups.count(self.num_elements())]; width];
        let per_block = |block: &Block| {
            let (first, touched) = groups.touched(block);
            let mut sums = vec![vec![0.0; touched]; width];
            let mut buffers = vec![Vec::new(); width];
            for chunk in self.chunks(block) {
                for buffer in &mut buffers {
                    buffer.resize(chunk.len(), 0.0);
                }
                terms(chunk.start, &mut buffers);
                for (sums, buffer) in sums.iter_mut().zip(&buffers) {
                    for (element, term) in chunk.clone().zip(buffer) {
                        sums[groups.of(element) - first] += term;
                    }
                }
            }
            (first, sums)
        };
        self.fold(per_block, |(first, blocks): (usize, Vec<Vec<f64>>)| {
            for (sums, block) in sums.iter_mut().zip(blocks) {
                for (sum, term) in sums[first..].iter_mut().zip(block) {
                    *sum += term;
                }
            }
        });
        sums
    }
}
