//! Two bounds and the arithmetic on them.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::float::{Float, Towards};
use crate::grade::symbolic::limits::MAX_INTEGER_BITS;

/// Bits that bounds keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grade::symbolic) struct Precision(pub(in crate::grade::symbolic) u64);

/// A number between two bounds.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    pub(super) low: Float,
    pub(super) high: Float,
}

impl Interval {
    pub(super) fn point(value: Float) -> Self {
        Self {
            low: value.clone(),
            high: value,
        }
    }

    pub(super) fn zero() -> Self {
        Self::point(Float::zero())
    }

    pub(super) fn from_rational(value: &BigRational, precision: Precision) -> Self {
        Self {
            low: Float::from_rational(value, precision.0, Towards::Below),
            high: Float::from_rational(value, precision.0, Towards::Above),
        }
    }

    /// `centre` units of `2^-places`, give or take `error` of them.
    pub(super) fn around(centre: &BigInt, error: &BigInt, places: u64) -> Self {
        Self {
            low: Float::new(centre - error, -(places as i64)),
            high: Float::new(centre + error, -(places as i64)),
        }
    }

    /// Rounds the bounds outwards; `None` where they leave the range of sizes.
    pub(super) fn rounded(self, precision: Precision) -> Option<Self> {
        let limit = MAX_INTEGER_BITS as i64;
        let fits = |bound: &Float| bound.top().is_none_or(|top| top.abs() <= limit);
        let rounded = Self {
            low: self.low.rounded(precision.0, Towards::Below),
            high: self.high.rounded(precision.0, Towards::Above),
        };
        (fits(&rounded.low) && fits(&rounded.high)).then_some(rounded)
    }

    pub(super) fn is_positive(&self) -> bool {
        self.low.is_positive()
    }

    pub(super) fn is_negative(&self) -> bool {
        self.high.is_negative()
    }

    pub(super) fn has_zero(&self) -> bool {
        !self.is_positive() && !self.is_negative()
    }

    pub(super) fn negated(&self) -> Self {
        Self {
            low: self.high.negated(),
            high: self.low.negated(),
        }
    }

    pub(super) fn plus(&self, other: &Self, precision: Precision) -> Option<Self> {
        Self {
            low: self.low.plus(&other.low),
            high: self.high.plus(&other.high),
        }
        .rounded(precision)
    }

    pub(super) fn times(&self, other: &Self, precision: Precision) -> Option<Self> {
        let corners = [
            self.low.times(&other.low),
            self.low.times(&other.high),
            self.high.times(&other.low),
            self.high.times(&other.high),
        ];
        let low = corners.iter().min_by(|a, b| a.compare(b))?.clone();
        let high = corners.iter().max_by(|a, b| a.compare(b))?.clone();
        Self { low, high }.rounded(precision)
    }

    /// One over the value; `None` where that may be zero.
    pub(super) fn inverse(&self, precision: Precision) -> Option<Self> {
        if self.has_zero() {
            return None;
        }
        let divide = |bound: &Float, towards: Towards| {
            let places = precision.0 + bound.mantissa.bits();
            let one = BigInt::one() << places;
            let quotient = match towards {
                Towards::Below => num_integer::Integer::div_floor(&one, &bound.mantissa),
                Towards::Above => num_integer::Integer::div_ceil(&one, &bound.mantissa),
            };
            Float::new(quotient, -(places as i64) - bound.exponent)
        };
        Self {
            low: divide(&self.high, Towards::Below),
            high: divide(&self.low, Towards::Above),
        }
        .rounded(precision)
    }

    /// The root of a whole degree of a number that is known not to be negative.
    pub(super) fn root(&self, degree: u32, precision: Precision) -> Option<Self> {
        let bound = |of: &Float, towards: Towards| {
            if !of.is_positive() {
                return Float::zero();
            }
            let wanted = (precision.0 + 2) * u64::from(degree);
            let mut places = wanted.saturating_sub(of.mantissa.bits());
            let uneven = (of.exponent - places as i64).rem_euclid(i64::from(degree));
            places += uneven as u64;
            let radicand = &of.mantissa << places;
            let mut root = radicand.nth_root(degree);
            if towards == Towards::Above && root.pow(degree) != radicand {
                root += 1;
            }
            Float::new(root, (of.exponent - places as i64) / i64::from(degree))
        };
        Self {
            low: bound(&self.low, Towards::Below),
            high: bound(&self.high, Towards::Above),
        }
        .rounded(precision)
    }

    /// The distance from zero.
    pub(super) fn size(&self) -> Self {
        if self.is_positive() {
            return self.clone();
        }
        if self.is_negative() {
            return self.negated();
        }
        let (low, high) = (self.low.negated(), self.high.clone());
        Self {
            low: Float::zero(),
            high: if low.compare(&high) == Ordering::Greater {
                low
            } else {
                high
            },
        }
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.low.compare(&other.high) != Ordering::Greater
            && other.low.compare(&self.high) != Ordering::Greater
    }

    /// The place of the highest bit of its width; `None` for a point.
    pub(super) fn width_top(&self) -> Option<i64> {
        self.high.plus(&self.low.negated()).top()
    }

    /// The larger or, `smallest`, the smaller of two.
    pub(super) fn extreme(&self, other: &Self, smallest: bool) -> Self {
        let pick = |a: &Float, b: &Float| {
            let first = (a.compare(b) == Ordering::Less) == smallest;
            if first { a.clone() } else { b.clone() }
        };
        Self {
            low: pick(&self.low, &other.low),
            high: pick(&self.high, &other.high),
        }
    }

    /// The whole number below, where all of the interval has the same.
    pub(super) fn floor(&self) -> Option<BigInt> {
        let low = self.low.floor();
        (low == self.high.floor()).then_some(low)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.low.mantissa.is_zero() && self.high.mantissa.is_zero()
    }
}
