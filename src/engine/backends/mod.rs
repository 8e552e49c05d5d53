//! Executors of a model behind [`ModelRunner`](super::ModelRunner).

pub mod cpu;
