//! DARE (Yu et al. 2023, arXiv:2311.03099): elements of each task vector are dropped at random, the
//! rest is rescaled to the same L1 norm, and the vectors are added.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const DARE_LINEAR: TaskVectors = TaskVectors {
    name: "dare_linear",
    title: "Linear DARE",
    reference: Some("https://arxiv.org/abs/2311.03099"),
    sparsify: Sparsify::Random,
    consensus: false,
    normalize: false,
    rescale: true,
};
