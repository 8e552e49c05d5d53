//! Which elements stay: by flags, or by magnitude.

use super::{Real, Rounding};
use crate::cpu::simd::{Kernel, Simd};

pub(super) struct KeepFlagged<'a, F>(pub(super) &'a mut [F], pub(super) &'a [u8]);

impl<F: Real> Kernel for KeepFlagged<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Self(values, flags) = self;
        Rounding::None.zip(
            values,
            flags,
            |value, flag| {
                if flag != 0 { value } else { F::ZERO }
            },
        );
    }
}

pub(super) struct KeepLarge<'a, F> {
    pub(super) values: &'a mut [F],
    pub(super) bound: u64,
    pub(super) inclusive: bool,
}

impl<F: Real> Kernel for KeepLarge<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        // Magnitudes are at most 63 bits long, so nothing is above this bound.
        let Some(least) = self.bound.checked_add(u64::from(!self.inclusive)) else {
            return self.values.fill(F::ZERO);
        };
        Rounding::None.map(self.values, |value| {
            if value.magnitude_at_least(least) {
                value
            } else {
                F::ZERO
            }
        });
    }
}

pub(super) struct CountMagnitude<'a, F>(pub(super) &'a [F], pub(super) u64);

impl<F: Real> Kernel for CountMagnitude<'_, F> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> u32 {
        let Self(values, magnitude) = self;
        let wanted = F::from_magnitude(magnitude).magnitude();
        values
            .iter()
            .map(|value| u32::from(value.magnitude() == wanted))
            .sum()
    }
}

pub(super) struct Extent<'a, F>(pub(super) &'a [F]);

impl<F: Real> Kernel for Extent<'_, F> {
    type Output = (F, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> (F, usize) {
        let mut largest = F::ZERO;
        let mut changed = 0;
        for value in self.0 {
            let magnitude = value.abs();
            largest = if magnitude > largest {
                magnitude
            } else {
                largest
            };
            changed += usize::from(*value != F::ZERO);
        }
        (largest, changed)
    }
}
