//! Model breadcrumbs (Davari and Belilovsky 2023, arXiv:2312.06795): of each task vector the very
//! largest magnitudes (outliers) and the small ones are dropped.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const BREADCRUMBS: TaskVectors = TaskVectors {
    name: "breadcrumbs",
    title: "Model Breadcrumbs",
    reference: Some("https://arxiv.org/abs/2312.06795"),
    sparsify: Sparsify::WithoutOutliers,
    consensus: false,
    normalize: false,
    rescale: false,
};
