//! Elementary functions of intervals, from their series in fixed-point arithmetic.
//!
//! Arguments are first made small (by the function's period, halving or reciprocals); then each
//! term of the series costs one product. The errors named at each function are in units of the last
//! place and are wide: a dozen bits of [`GUARD_BITS`] would do.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::float::{Float, Towards};
use super::interval::{Interval, Precision};

/// Places beyond the precision that the series are summed with.
const GUARD_BITS: u64 = 80;
/// How often an exponential's argument is halved.
const EXP_HALVINGS: u32 = 8;
/// How often an arc tangent's argument is halved.
const ARCTAN_HALVINGS: u32 = 3;
/// Largest exponent of two of an exponential's argument: e^(2^14) has 23,637 bits.
const MAX_EXP_TOP: i64 = 14;
/// Largest exponent of two of an angle: reduction takes as many more places of pi.
const MAX_ANGLE_TOP: i64 = 256;

/// Sums `x - x^3/3 + x^5/5 - ..` for `x = 1/n` (or with all signs plus), in units of `2^-places`.
fn reciprocal_series(n: u32, alternating: bool, places: u64) -> BigInt {
    let square = n * n;
    let mut power = (BigInt::one() << places) / n;
    let mut sum = BigInt::zero();
    let mut k = 1_u32;
    while !power.is_zero() {
        let term = &power / k;
        if alternating && k % 4 == 3 {
            sum -= term;
        } else {
            sum += term;
        }
        power /= square;
        k += 2;
    }
    sum
}

/// Pi, rounded down, give or take one unit of `2^-places`. (Machin 1706.)
fn pi_fixed(places: u64) -> BigInt {
    let more = places + 16;
    let pi = reciprocal_series(5, true, more) * 16 - reciprocal_series(239, true, more) * 4;
    pi >> 16_u32
}

/// The logarithm of 2, give or take one unit of `2^-places`.
fn ln_2_fixed(places: u64) -> BigInt {
    (reciprocal_series(3, false, places + 16) * 2) >> 16_u32
}

pub(super) fn pi(precision: Precision) -> Option<Interval> {
    let places = precision.0 + GUARD_BITS;
    Interval::around(&pi_fixed(places), &BigInt::from(2), places).rounded(precision)
}

/// Evaluates an increasing function at both bounds.
fn increasing(
    x: &Interval,
    precision: Precision,
    function: impl Fn(&Float) -> Option<Interval>,
) -> Option<Interval> {
    let low = function(&x.low)?;
    let high = match x.width_top() {
        None => low.high,
        Some(_) => function(&x.high)?.high,
    };
    Interval { low: low.low, high }.rounded(precision)
}

pub(super) fn exp(x: &Interval, precision: Precision) -> Option<Interval> {
    increasing(x, precision, |x| exp_at(x, precision))
}

fn exp_at(x: &Float, precision: Precision) -> Option<Interval> {
    if x.top().is_some_and(|top| top > MAX_EXP_TOP) {
        return None;
    }
    let places = precision.0 + GUARD_BITS;
    let x = x.fixed(places);
    let ln_2 = ln_2_fixed(places);
    let turns = Integer::div_floor(&x, &ln_2);
    // 0 <= rest < ln 2, wrong by `turns` units, fewer than 2^15; halving leaves 2^7 of them.
    let rest = (&x - &turns * &ln_2) >> EXP_HALVINGS;
    let one = BigInt::one() << places;
    let mut sum = one.clone();
    let mut term = one;
    for n in 1_u32.. {
        term = ((term * &rest) >> places) / n;
        if term.is_zero() {
            break;
        }
        sum += &term;
    }
    // Squaring at most multiplies an error by 2e < 6 when the value is below e: 2^8 * 6^8 < 2^29.
    for _ in 0..EXP_HALVINGS {
        sum = (&sum * &sum) >> places;
    }
    let turns = turns.to_i64()?;
    let around = Interval::around(&sum, &(BigInt::one() << 32_u32), places);
    let scaled = |bound: Float| Float::new(bound.mantissa, bound.exponent + turns);
    Some(Interval {
        low: scaled(around.low),
        high: scaled(around.high),
    })
}

/// The logarithm of a positive number.
pub(super) fn ln(x: &Interval, precision: Precision) -> Option<Interval> {
    if !x.is_positive() {
        return None;
    }
    increasing(x, precision, |x| {
        let places = precision.0 + GUARD_BITS;
        // x = y 2^shift with 1/2 <= y < 1.
        let shift = x.top()?;
        let y = Float::new(x.mantissa.clone(), x.exponent - shift).fixed(places);
        let one = BigInt::one() << places;
        // ln y = 2 artanh((y - 1) / (y + 1)), and (y - 1) / (y + 1) is between -1/3 and 0.
        let z = ((&y - &one) << places) / (&y + &one);
        let square = (&z * &z) >> places;
        let mut power = z;
        let mut sum = BigInt::zero();
        let mut k = 1_u32;
        // A negative power rounds down to -1 for ever.
        while power < -BigInt::one() {
            sum += &power / k;
            power = (power * &square) >> places;
            k += 2;
        }
        let ln = sum * 2 + ln_2_fixed(places) * shift;
        // Under 2^10 terms with 3 units each, and `shift` units of the logarithm of 2.
        Some(Interval::around(&ln, &(BigInt::one() << 18_u32), places))
    })
}

pub(super) fn arctan(x: &Interval, precision: Precision) -> Option<Interval> {
    increasing(x, precision, |x| {
        let places = precision.0 + GUARD_BITS;
        let one = BigInt::one() << places;
        let size = Float::new(x.mantissa.abs(), x.exponent).fixed(places);
        let inverted = size > one;
        let mut z = if inverted {
            (&one << places) / &size
        } else {
            size
        };
        for _ in 0..ARCTAN_HALVINGS {
            let hypotenuse = (&one * &one + &z * &z).sqrt();
            z = (z << places) / (&one + hypotenuse);
        }
        let square = (&z * &z) >> places;
        let mut power = z;
        let mut sum = BigInt::zero();
        let mut k = 1_u32;
        while !power.is_zero() {
            let term = &power / k;
            if k % 4 == 3 {
                sum -= term;
            } else {
                sum += term;
            }
            power = (power * &square) >> places;
            k += 2;
        }
        let mut angle: BigInt = sum << ARCTAN_HALVINGS;
        if inverted {
            angle = (pi_fixed(places) >> 1_u32) - angle;
        }
        if x.is_negative() {
            angle = -angle;
        }
        // Under 2^9 terms and a few roundings before them, times 2^3.
        Some(Interval::around(&angle, &(BigInt::one() << 16_u32), places))
    })
}

/// Sine and cosine: of the middle of the interval, widened by half its width, as slopes are at most 1.
pub(super) fn sin_cos(x: &Interval, precision: Precision) -> Option<(Interval, Interval)> {
    let middle = x.low.plus(&x.high).half();
    let radius = x.high.plus(&x.low.negated()).half();
    let top = middle.top().unwrap_or(0).max(0);
    if top > MAX_ANGLE_TOP || radius.top().is_some_and(|top| top > 2) {
        return None;
    }
    let places = precision.0 + GUARD_BITS;
    let more = places + top as u64;
    let angle = middle.fixed(more);
    let quarter = pi_fixed(more) >> 1_u32;
    let twice = &angle * 2_u32 + &quarter;
    let turns: BigInt = Integer::div_floor(&twice, &(&quarter * 2_u32));
    let rest: BigInt = (angle - &turns * quarter) >> top as u64;
    let square = (&rest * &rest) >> places;
    let series = |first: BigInt, mut n: u32| {
        let mut sum = first.clone();
        let mut term = first;
        let mut sign = -1;
        while !term.is_zero() && term != BigInt::from(-1) {
            term = ((term * &square) >> places) / (n * (n + 1));
            sum += &term * sign;
            sign = -sign;
            n += 2;
        }
        sum
    };
    let cos = series(BigInt::one() << places, 1);
    let sin = series(rest, 2);
    let (sin, cos) = match turns.mod_floor(&BigInt::from(4)).to_u8() {
        Some(0) => (sin, cos),
        Some(1) => (cos, -sin),
        Some(2) => (-sin, -cos),
        _ => (-cos, sin),
    };
    // Under 2^8 terms of 2 units each, and the reduction's.
    let error = (BigInt::one() << 14_u32) + radius.rounded(64, Towards::Above).fixed(places) + 1;
    let around = |value| Interval::around(&value, &error, places).rounded(precision);
    Some((around(sin)?, around(cos)?))
}
