//! Products of integers: weights of 8 or 4 bits with activations of 8 bits.
//!
//! `format` names the ways in which weights lie in memory, `row` makes one output's weights from
//! floats or from ggml's blocks, `weights` packs them in panels, `rows` quantises activations, and
//! `product` multiplies, `tiled` in matrix tiles.
//!
//! Sums within a group of inputs are exact integers, and what follows them (scales, in order of
//! the groups) is multiplications and additions that no instruction set fuses. So given the same
//! activations, a product has the same bits on every kernel path.

mod format;
mod product;
mod row;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod weights;

pub use format::IntFormat;
pub use product::{gated_linear_ints, linear_ints, linear_ints_strided};
pub use row::IntRow;
pub(super) use rows::Quantise;
pub use rows::{IntRows, quantise_rows};
pub use weights::{IntGatedMatrix, IntMatrix};

/// Inputs that share a scale in ggml's blocks.
pub const GROUP: usize = 32;

/// Inputs that share a scale in wide groups: few scales, so that products are mostly products.
pub const WIDE_GROUP: usize = 128;

/// Words (of four activations) of a group.
const GROUP_WORDS: usize = GROUP / 4;

/// The most inputs of a matrix: sums of a whole row stay within 32 bits, and sums of its activations
/// within what a float holds exactly.
const MOST_INPUTS: usize = 1 << 16;
