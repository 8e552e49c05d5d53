//! Sums, products and quotients of slices.

use super::{Real, Rounding};
use crate::cpu::simd::{Kernel, Simd};

macro_rules! kernel {
    ($name:ident($($field:ty),*) = |$($argument:ident),*| $body:expr) => {
        pub(super) struct $name<'a, F>($(pub(super) $field),*);

        impl<F: Real> Kernel for $name<'_, F> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, _simd: S) {
                let Self($($argument),*) = self;
                $body;
            }
        }
    };
}

kernel!(Round(Rounding, &'a mut [F]) = |r, out| r.map(out, |x| x));
kernel!(Add(Rounding, &'a mut [F], &'a [F]) = |r, out, b| r.zip(out, b, |a, b| a + b));
kernel!(Subtract(Rounding, &'a mut [F], &'a [F]) = |r, out, b| r.zip(out, b, |a, b| a - b));
kernel!(Scale(Rounding, &'a mut [F], F) = |r, out, factor| r.map(out, |x| x * factor));
kernel!(Divide(Rounding, &'a mut [F], F) = |r, out, divisor| r.map(out, |x| x / divisor));
kernel!(DivideBy(Rounding, &'a mut [F], &'a [F]) = |r, out, divisors| {
    r.zip(out, divisors, |x, divisor| {
        if divisor == F::ZERO { x } else { x / divisor }
    })
});
kernel!(AddScaled(&'a mut [F], &'a [F], F) = |out, b, factor| {
    Rounding::None.zip(out, b, |sum, b| sum + b * factor)
});
kernel!(AddScaledFused(&'a mut [F], &'a [F], F) = |out, b, factor| {
    Rounding::None.zip(out, b, |sum, b| b.fused(factor, sum))
});
kernel!(Blend(Rounding, &'a mut [F], &'a [F], [F; 2]) = |r, out, b, shares| {
    let [share_a, share_b] = shares;
    r.zip(out, b, |a, b| share_a * a + share_b * b)
});
