//! Executors of a model behind [`ModelRunner`](super::ModelRunner).

pub mod cpu;
#[cfg(feature = "ggml")]
#[allow(
    unsafe_code,
    reason = "ggml is a C library; its safe layer is in this room"
)]
pub mod ggml;
