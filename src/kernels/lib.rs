//! Numeric kernels. `reference` is the specification in plain Rust; `cpu` holds the fast paths,
//! chosen at run time and tested against it; `quant` knows the block formats of GGUF.

pub mod cpu;
pub mod grad;
pub mod quant;
pub mod reference;
