//! DARE (Yu et al. 2023, arXiv:2311.03099) with TIES' sign election: elements of each task vector
//! are dropped at random, the rest is rescaled to the same L1 norm, and signs are elected.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const DARE_TIES: TaskVectors = TaskVectors {
    name: "dare_ties",
    title: "DARE TIES",
    reference: Some("https://arxiv.org/abs/2311.03099"),
    sparsify: Sparsify::Random,
    consensus: true,
    normalize: false,
    rescale: true,
};
