//! Task arithmetic (Ilharco et al. 2022, arXiv:2212.04089): `b + λ·Σ w_i·(x_i − b)`.

use super::task_vectors::{Sparsify, TaskVectors};

/// See the module.
pub(crate) const TASK_ARITHMETIC: TaskVectors = TaskVectors {
    name: "task_arithmetic",
    title: "Task Arithmetic",
    reference: Some("https://arxiv.org/abs/2212.04089"),
    sparsify: Sparsify::None,
    consensus: false,
    normalize: false,
    rescale: false,
};
