//! Numeric kernels. `reference` is the specification in plain Rust; `cpu` holds the fast paths,
//! chosen at run time and tested against it; `quant` knows the block formats of GGUF;
//! `elementwise` and `words` are what merging computes with: arithmetic rounded after each
//! operation, and random words by the block.

pub mod cpu;
pub mod elementwise;
pub mod grad;
pub mod quant;
pub mod reference;
pub mod words;
