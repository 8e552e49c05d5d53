//! Exponential, sigmoid and what is made of them, sixteen at a time.

use super::Cpu;
use super::disjoint::Disjoint;
use super::simd::{Kernel, LANES, Simd};

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// Below this `exp` is zero: the result would not be a normal number.
pub(super) const EXP_LOWEST: f32 = -87.0;
/// Above this `exp` stays at its largest result.
const EXP_HIGHEST: f32 = 88.0;

/// ln 2 in two parts, the first short enough that its products with small integers are exact.
pub(super) const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The polynomial of Cephes' `expf` (Moshier 1989) from `x^7` down to `x^2`, the last two terms of
/// the series, `x` and 1, left out.
pub(super) const EXP_POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// `exp(x)` to within two units in the last place; exactly 1 at 0, exactly 0 below -87.
///
/// *Source*: range reduction by [`LN_2`] and [`EXP_POLYNOMIAL`].
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let lowest = simd.splat(EXP_LOWEST);
    let clamped = simd.min(simd.max(x, lowest), simd.splat(EXP_HIGHEST));
    let n = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-LN_2[0]), clamped);
    let r = simd.mul_add(n, simd.splat(-LN_2[1]), r);
    let [c7, c6, c5, c4, c3, c2] = EXP_POLYNOMIAL;
    // Written out: as a loop over the coefficients it stays one, ten times as slow.
    let series = simd.mul_add(simd.splat(c7), r, simd.splat(c6));
    let series = simd.mul_add(series, r, simd.splat(c5));
    let series = simd.mul_add(series, r, simd.splat(c4));
    let series = simd.mul_add(series, r, simd.splat(c3));
    let series = simd.mul_add(series, r, simd.splat(c2));
    let series = simd.mul_add(series, r, simd.splat(1.0));
    let series = simd.mul_add(series, r, simd.splat(1.0));
    simd.keep_where_at_least(simd.mul(series, simd.pow2(n)), x, lowest)
}

/// `(2^x - 1) / x` on [-1/2, 1/2], from `x^4` down, fitted for the least relative error of `2^x`.
#[expect(
    clippy::approx_constant,
    reason = "a fitted coefficient, which ends near ln 2"
)]
const EXP2_POLYNOMIAL: [f32; 5] = [
    1.326_472_7e-3,
    9.671_513e-3,
    5.550_733_6e-2,
    2.402_224_2e-1,
    6.931_47e-1,
];

/// Below this [`exp2`] is zero on every instruction set.
pub(super) const EXP2_LOWEST: f32 = -160.0;

/// `2^x` for `x <= 0` with a relative error below 4e-7 down to -126; exactly 1 at 0, exactly 0 from
/// -160 down, at minus infinity and where `x` is not a number.
///
/// *Source*: [`EXP2_POLYNOMIAL`], a Remez fit.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = simd.max(x, simd.splat(EXP2_LOWEST));
    let n = simd.round(x);
    let r = simd.sub(x, n);
    let [c5, c4, c3, c2, c1] = EXP2_POLYNOMIAL;
    let series = simd.mul_add(simd.splat(c5), r, simd.splat(c4));
    let series = simd.mul_add(series, r, simd.splat(c3));
    let series = simd.mul_add(series, r, simd.splat(c2));
    let series = simd.mul_add(series, r, simd.splat(c1));
    let series = simd.mul_add(series, r, simd.splat(1.0));
    simd.scale_by_pow2(series, n)
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let one = simd.splat(1.0);
    let negative = simd.sub(simd.splat(0.0), x);
    simd.div(one, simd.add(one, exp(simd, negative)))
}

/// The activation of each lane.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, activation: Activation, x: S::F32) -> S::F32 {
    match activation {
        Activation::Silu => simd.mul(x, sigmoid(simd, x)),
        Activation::GeluTanh => {
            // 0.5 * (1 + tanh(u)) is sigmoid(2u), with u = sqrt(2 / pi) * (x + 0.044715 x^3).
            let square = simd.mul(x, x);
            let inner = simd.mul_add(square, simd.splat(0.044_715), simd.splat(1.0));
            let twice_u = simd.mul(simd.mul(x, simd.splat(1.595_769)), inner);
            simd.mul(x, sigmoid(simd, twice_u))
        }
    }
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(simd: S, x: S::F32, cap: f32) -> S::F32 {
    // tanh(v) = 2 sigmoid(2v) - 1.
    let twice = simd.mul(x, simd.splat(2.0 / cap));
    let doubled = simd.mul(simd.splat(2.0), sigmoid(simd, twice));
    simd.mul(simd.splat(cap), simd.sub(doubled, simd.splat(1.0)))
}

/// Values that a thread caps at once.
const VALUES_PER_TASK: usize = 1 << 14;

/// Replaces every value `x` by `cap * tanh(x / cap)`.
pub fn soft_cap_all(cpu: &mut Cpu, values: &mut [f32], cap: f32) {
    let (isa, len) = (cpu.isa, values.len());
    let values = Disjoint::new(values);
    cpu.pool.for_each(len.div_ceil(VALUES_PER_TASK), |task| {
        let start = task * VALUES_PER_TASK;
        // SAFETY: tasks are back to back.
        let values = unsafe { values.range(start..(start + VALUES_PER_TASK).min(len)) };
        isa.run(SoftCap(values, cap));
    });
}

struct SoftCap<'a>(&'a mut [f32], f32);

impl Kernel for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for chunk in self.0.chunks_mut(LANES) {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            simd.store(soft_cap(simd, simd.load(&lanes), self.1), &mut lanes);
            chunk.copy_from_slice(&lanes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::super::simd::{Kernel, LANES};
    use super::*;

    /// Applies a function of lanes to any number of values.
    struct Map<'a, F>(&'a [f32], F);

    trait LaneFunction {
        fn call<S: Simd>(&self, simd: S, x: S::F32) -> S::F32;
    }

    impl<F: LaneFunction> Kernel for Map<'_, F> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut out = Vec::new();
            for chunk in self.0.chunks(LANES) {
                let mut lanes = [0.0; LANES];
                lanes[..chunk.len()].copy_from_slice(chunk);
                let value = self.1.call(simd, simd.load(&lanes));
                simd.store(value, &mut lanes);
                out.extend_from_slice(&lanes[..chunk.len()]);
            }
            out
        }
    }

    struct Exp;
    impl LaneFunction for Exp {
        fn call<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
            exp(simd, x)
        }
    }

    struct Exp2;
    impl LaneFunction for Exp2 {
        fn call<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
            exp2(simd, x)
        }
    }

    #[test]
    fn powers_of_two_are_accurate_and_exact_at_their_ends() {
        for isa in Isa::available() {
            let xs: Vec<_> = (0..=12_600).map(|step| step as f32 * -0.01).collect();
            for (x, y) in xs.iter().zip(isa.run(Map(&xs, Exp2))) {
                let exact = f64::from(*x).exp2();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 4e-7, "{isa}: 2^{x} is off by {error}");
            }
            let ends = [0.0, -0.0, -160.0, -1e30, f32::NEG_INFINITY, f32::NAN];
            let expected = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
            assert_eq!(isa.run(Map(&ends, Exp2)), expected, "{isa}");
        }
    }

    struct Activate(Activation);
    impl LaneFunction for Activate {
        fn call<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
            activate(simd, self.0, x)
        }
    }

    struct Cap(f32);
    impl LaneFunction for Cap {
        fn call<S: Simd>(&self, simd: S, x: S::F32) -> S::F32 {
            soft_cap(simd, x, self.0)
        }
    }

    fn sweep() -> Vec<f32> {
        (-4000..=4000).map(|step| step as f32 * 0.0217).collect()
    }

    #[test]
    fn exp_is_accurate_and_exact_at_its_ends() {
        for isa in Isa::available() {
            let xs = sweep();
            for (x, y) in xs.iter().zip(isa.run(Map(&xs, Exp))) {
                let exact = f64::from(*x).exp();
                if *x >= EXP_LOWEST {
                    let error = (f64::from(y) - exact).abs() / exact;
                    assert!(error < 3e-7, "{isa}: exp({x}) is off by {error}");
                }
            }
            let ends = [0.0, -0.0, -88.0, f32::NEG_INFINITY];
            assert_eq!(isa.run(Map(&ends, Exp)), [1.0, 1.0, 0.0, 0.0], "{isa}");
        }
    }

    #[test]
    fn activations_agree_with_their_definitions() {
        for isa in Isa::available() {
            let xs = sweep();
            let close = |y: f32, exact: f64, what: &str| {
                let error = (f64::from(y) - exact).abs() / exact.abs().max(1.0);
                assert!(error < 1e-6, "{isa}: {what} is off by {error}");
            };
            for (x, y) in xs.iter().zip(isa.run(Map(&xs, Activate(Activation::Silu)))) {
                let x = f64::from(*x);
                close(y, x / (1.0 + (-x).exp()), "silu");
            }
            let gelu = isa.run(Map(&xs, Activate(Activation::GeluTanh)));
            for (x, y) in xs.iter().zip(gelu) {
                let x = f64::from(*x);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                close(y, 0.5 * x * (1.0 + u.tanh()), "gelu");
            }
            for (x, y) in xs.iter().zip(isa.run(Map(&xs, Cap(50.0)))) {
                let exact = 50.0 * (f64::from(*x) / 50.0).tanh();
                let error = (f64::from(y) - exact).abs();
                assert!(error < 2e-5, "{isa}: soft cap of {x} is off by {error}");
            }
        }
    }
}
