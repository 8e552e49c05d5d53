//! Model breadcrumbs (Davari and Belilovsky 2023, arXiv:2312.06795) with TIES' sign election.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const BREADCRUMBS_TIES: TaskVectors = TaskVectors {
    name: "breadcrumbs_ties",
    title: "Model Breadcrumbs with TIES",
    reference: Some("https://arxiv.org/abs/2312.06795"),
    sparsify: Sparsify::WithoutOutliers,
    consensus: true,
    normalize: false,
    rescale: false,
};
