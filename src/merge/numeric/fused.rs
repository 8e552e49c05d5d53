//! `acc += x * w` with a single rounding, over slices.

use super::Real;

/// `acc[i] = fma(x[i], w, acc[i])`.
#[inline(always)]
pub(crate) fn fused_multiply_add<F: Real>(acc: &mut [F], x: &[F], w: F) {
    assert_eq!(acc.len(), x.len(), "operands are of one block");
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc = x.fused(w, *acc);
    }
}
