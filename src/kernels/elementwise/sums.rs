//! Sums in float64 over sixteen lanes, which makes their order a fixed one. Wide enough that the
//! sum of a float32 tensor is the correctly rounded one in all but contrived cases.

use super::Real;
use crate::cpu::simd::{Kernel, Simd};

const LANES: usize = 16;

pub(super) struct Magnitudes<'a, F>(pub(super) &'a [F]);

impl<F: Real> Kernel for Magnitudes<'_, F> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let groups = self.0.chunks_exact(LANES);
        let rest = groups.remainder();
        for group in groups {
            for (lane, x) in lanes.iter_mut().zip(group) {
                *lane += x.abs().to_f64();
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += x.abs().to_f64();
        }
        lanes.iter().sum()
    }
}

pub(super) struct Products<'a, F>(pub(super) &'a [F], pub(super) &'a [F]);

impl<F: Real> Kernel for Products<'_, F> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> f64 {
        let Self(a, b) = self;
        assert_eq!(a.len(), b.len(), "operands are of one block");
        let mut lanes = [0.0_f64; LANES];
        let whole = a.len() - a.len() % LANES;
        let groups = a[..whole].chunks_exact(LANES);
        for (a, b) in groups.zip(b[..whole].chunks_exact(LANES)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += a.to_f64() * b.to_f64();
            }
        }
        for ((lane, a), b) in lanes.iter_mut().zip(&a[whole..]).zip(&b[whole..]) {
            *lane += a.to_f64() * b.to_f64();
        }
        lanes.iter().sum()
    }
}
