//! TIES (Yadav et al. 2023, arXiv:2306.01708): task vectors are trimmed to their largest
//! magnitudes, each element elects a sign, and only the vectors of that sign are averaged.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const TIES: TaskVectors = TaskVectors {
    name: "ties",
    title: "TIES",
    reference: Some("https://arxiv.org/abs/2306.01708"),
    sparsify: Sparsify::Magnitude,
    consensus: true,
    normalize: true,
    rescale: false,
};
