//! Elementwise arithmetic as torch does it on a CPU: every operation in float32 (float64 for
//! float64 tensors), its result rounded to the tensor's type before the next one.
//!
//! Everything here is written as plain loops over slices, for the compiler to vectorise; callers
//! wrap whole blocks in [`vectorised`], which compiles them for the machine's instruction set.

mod convert;
mod fused;
mod real;
mod rounding;

pub(crate) use convert::{load, store};
pub(crate) use fused::fused_multiply_add;
pub(crate) use real::Real;
pub(crate) use rounding::Rounding;

/// Runs `work` with the machine's vector instructions. The result does not depend on them: no
/// operation is reordered or contracted.
#[inline]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    work()
}
