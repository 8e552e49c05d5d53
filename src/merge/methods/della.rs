//! DELLA (Deep et al. 2024, arXiv:2406.11617): as DARE, but within each row small magnitudes are
//! dropped more often than large ones; signs are elected as in TIES.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const DELLA: TaskVectors = TaskVectors {
    name: "della",
    title: "DELLA",
    reference: Some("https://arxiv.org/abs/2406.11617"),
    sparsify: Sparsify::Ranked,
    consensus: true,
    normalize: true,
    rescale: true,
};
