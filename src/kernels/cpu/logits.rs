//! Passes over rows of logits: the greatest, and the sum of exponentials.
//!
//! Nothing here is fused, and sums run in sixteen lanes and blocks of fixed size, so the results are
//! the same bits on every instruction set and whatever else runs.

use super::activation::{EXP_LOWEST, EXP_POLYNOMIAL, LN_2};
use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// Logits handled together: lanes are added up, in double precision, after each block.
pub const LOGITS_PER_BLOCK: usize = 1024;

/// What one pass finds in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Greatest {
    /// The greatest value that is a number; minus infinity where there is none.
    pub value: f32,
    /// Where the block of [`LOGITS_PER_BLOCK`] with the first such value begins.
    pub block_start: usize,
    /// Whether some value is not a number.
    pub has_nan: bool,
}

/// Finds the greatest value of a row.
pub fn greatest(isa: Isa, logits: &[f32]) -> Greatest {
    isa.run(FindGreatest(logits))
}

/// The sum of [`exp_of_nonpositive`] of `(logit - max) * inverse_temperature`, in lanes and then in
/// double precision. `max` is the greatest logit.
pub fn sum_of_exponentials(isa: Isa, logits: &[f32], max: f32, inverse_temperature: f32) -> f64 {
    isa.run(SumExponentials {
        logits,
        max,
        inverse_temperature,
    })
}

/// What [`scan`] finds in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// The greatest value.
    pub greatest: Greatest,
    /// The sum of the exponentials of all values less the greatest; of no meaning where that is not
    /// finite.
    pub sum: f64,
}

/// [`greatest`], and [`sum_of_exponentials`] from it, while the row is read once: what a block adds is
/// taken relative to the greatest so far, and scaled when there is a greater one.
pub fn scan(isa: Isa, logits: &[f32]) -> Scan {
    isa.run(ScanRow(logits))
}

struct FindGreatest<'a>(&'a [f32]);

impl Kernel for FindGreatest<'_> {
    type Output = Greatest;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Greatest {
        let mut found = Greatest::NONE;
        for (index, block) in self.0.chunks(LOGITS_PER_BLOCK).enumerate() {
            found.look_at(simd, index, block);
        }
        found
    }
}

impl Greatest {
    /// Of no values.
    const NONE: Self = Self {
        value: f32::NEG_INFINITY,
        block_start: 0,
        has_nan: false,
    };

    /// Takes a block in.
    #[inline(always)]
    fn look_at<S: Simd>(&mut self, simd: S, index: usize, block: &[f32]) {
        let (one, lowest) = (simd.splat(1.0), simd.splat(f32::NEG_INFINITY));
        let (mut most, mut numbers) = (lowest, one);
        let (lines, rest) = block.as_chunks::<LANES>();
        for line in lines {
            (most, numbers) = look_at_lanes(simd, simd.load(line), most, numbers);
        }
        if !rest.is_empty() {
            (most, numbers) = look_at_lanes(simd, load_rest(simd, rest), most, numbers);
        }
        let value = simd.max_lane(most);
        if value > self.value {
            (self.value, self.block_start) = (value, index * LOGITS_PER_BLOCK);
        }
        self.has_nan |= simd.sum(numbers) < LANES as f32;
    }
}

/// The greatest of each lane, and 1 in lanes that held nothing but numbers.
#[inline(always)]
fn look_at_lanes<S: Simd>(simd: S, x: S::F32, most: S::F32, numbers: S::F32) -> (S::F32, S::F32) {
    let is_number = simd.keep_where_at_least(simd.splat(1.0), x, x);
    // The second operand stays where the first is no number.
    (simd.max(x, most), simd.min(is_number, numbers))
}

struct SumExponentials<'a> {
    logits: &'a [f32],
    max: f32,
    inverse_temperature: f32,
}

impl Kernel for SumExponentials<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let (max, factor) = (simd.splat(self.max), simd.splat(self.inverse_temperature));
        let mut total = 0.0;
        for block in self.logits.chunks(LOGITS_PER_BLOCK) {
            total += sum_of_block(simd, block, max, factor);
        }
        total
    }
}

/// The sum of the exponentials of a block's values, less `max` and times `factor`.
#[inline(always)]
fn sum_of_block<S: Simd>(simd: S, block: &[f32], max: S::F32, factor: S::F32) -> f64 {
    let mut sums = simd.splat(0.0);
    let (lines, rest) = block.as_chunks::<LANES>();
    for line in lines {
        let x = simd.mul(simd.sub(simd.load(line), max), factor);
        sums = simd.add(sums, exp_lanes(simd, x));
    }
    if !rest.is_empty() {
        let x = simd.mul(simd.sub(load_rest(simd, rest), max), factor);
        sums = simd.add(sums, exp_lanes(simd, x));
    }
    let mut lanes = [0.0; LANES];
    simd.store(sums, &mut lanes);
    lanes.into_iter().map(f64::from).sum()
}

struct ScanRow<'a>(&'a [f32]);

impl Kernel for ScanRow<'_> {
    type Output = Scan;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Scan {
        let one = simd.splat(1.0);
        let (mut greatest, mut sum) = (Greatest::NONE, 0.0);
        for (index, block) in self.0.chunks(LOGITS_PER_BLOCK).enumerate() {
            let before = greatest.value;
            greatest.look_at(simd, index, block);
            if greatest.value > before {
                // Zero while there was nothing before.
                let scale = exp_lanes(simd, simd.splat(before - greatest.value));
                sum *= f64::from(simd.max_lane(scale));
            }
            // Minus infinity alone adds nothing, and has no difference from itself.
            if greatest.value > f32::NEG_INFINITY {
                sum += sum_of_block(simd, block, simd.splat(greatest.value), one);
            }
        }
        Scan { greatest, sum }
    }
}

/// Fewer than sixteen values, filled up with minus infinity.
#[inline(always)]
fn load_rest<S: Simd>(simd: S, rest: &[f32]) -> S::F32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    simd.load(&lanes)
}

/// `exp(x)` for `x <= 0`, relative error below 2e-7; zero below -87. Range reduction by powers of
/// two and [`EXP_POLYNOMIAL`], each operation rounded on its own.
#[inline(always)]
fn exp_lanes<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let lowest = simd.splat(EXP_LOWEST);
    let clamped = simd.max(x, lowest);
    let power = simd.round(simd.mul(clamped, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.sub(clamped, simd.mul(power, simd.splat(LN_2[0])));
    let r = simd.sub(r, simd.mul(power, simd.splat(LN_2[1])));
    let [first, rest @ ..] = EXP_POLYNOMIAL;
    let mut p = simd.splat(first);
    for coefficient in rest {
        p = simd.add(simd.mul(p, r), simd.splat(coefficient));
    }
    let p = simd.add(simd.mul(simd.mul(p, r), r), r);
    let fraction = simd.add(p, simd.splat(1.0));
    simd.keep_where_at_least(simd.mul(fraction, simd.pow2(power)), x, lowest)
}

/// The exponential that [`sum_of_exponentials`] adds up, of one value.
pub fn exp_of_nonpositive(x: f32) -> f32 {
    let simd = super::simd::portable::Portable;
    simd.max_lane(exp_lanes(simd, simd.splat(x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(count: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7919 + 13) % 10_007) as f32 / 250.0 - 20.0;
        (0..count).map(value).collect()
    }

    #[test]
    fn every_path_finds_the_same() {
        for count in [1, 15, 16, 1000, 1024, 1025, 5003] {
            let mut logits = logits(count);
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            let portable: Isa = "portable".parse().unwrap();
            let expected = sum_of_exponentials(portable, &logits, most, 1.0);
            assert!((expected - exact).abs() < 1e-6 * exact);
            for isa in Isa::available() {
                let found = greatest(isa, &logits);
                assert_eq!(found.value, most, "{isa}");
                let block = logits[found.block_start..].iter().take(LOGITS_PER_BLOCK);
                assert!(block.copied().any(|x| x == most) && !found.has_nan);
                let sum = sum_of_exponentials(isa, &logits, most, 1.0);
                assert_eq!(sum.to_bits(), expected.to_bits(), "{isa}, {count}");
                let both = scan(isa, &logits);
                assert_eq!(both, scan(portable, &logits), "{isa}, {count}");
                assert_eq!(both.greatest, found, "{isa}, {count}");
                assert!((both.sum - exact).abs() < 1e-6 * exact, "{isa}, {count}");
            }
            let last = count - 1;
            logits[last] = f32::NAN;
            for isa in Isa::available() {
                assert!(greatest(isa, &logits).has_nan, "{isa}, {count}");
            }
            logits[last] = f32::NEG_INFINITY;
            for isa in Isa::available() {
                assert!(!greatest(isa, &logits).has_nan, "{isa}, {count}");
            }
            // The greatest comes last, after a block of nothing.
            logits.fill(f32::NEG_INFINITY);
            logits[last] = 3.0;
            for isa in Isa::available() {
                assert_eq!(scan(isa, &logits).sum, 1.0, "{isa}, {count}");
            }
        }
    }

    #[test]
    fn exp_is_accurate_over_its_range() {
        for step in 0..87_000 {
            let x = -(step as f32) * 1e-3;
            let (found, expected) = (exp_of_nonpositive(x), f64::from(x).exp());
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}) = {found}, relative error {error}");
        }
        assert_eq!(exp_of_nonpositive(0.0), 1.0);
        assert_eq!(exp_of_nonpositive(f32::NEG_INFINITY), 0.0);
    }
}
