//! DELLA (Deep et al. 2024, arXiv:2406.11617) without the election of signs.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const DELLA_LINEAR: TaskVectors = TaskVectors {
    name: "della_linear",
    title: "Linear DELLA",
    reference: Some("https://arxiv.org/abs/2406.11617"),
    sparsify: Sparsify::Ranked,
    consensus: false,
    normalize: false,
    rescale: true,
};
