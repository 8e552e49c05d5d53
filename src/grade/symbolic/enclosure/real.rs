//! A real number: exact as long as it is a short fraction, between bounds from then on.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::elementary;
use super::interval::{Interval, Precision};
use crate::grade::symbolic::rational;

/// Bits up to which a fraction stays exact. Beyond, its arithmetic is dearer than an interval's.
const MAX_EXACT_BITS: u64 = 256;

#[derive(Clone, Debug)]
pub(in crate::grade::symbolic) enum Real {
    Exact(BigRational),
    Between(Bounds),
}

/// The interval of a number that has no short fraction.
#[derive(Clone, Debug)]
pub(in crate::grade::symbolic) struct Bounds(Interval);

/// The functions of one real number that are evaluated.
#[derive(Clone, Copy, Debug)]
pub(in crate::grade::symbolic) enum Elementary {
    Exp,
    Ln,
    Sin,
    Cos,
    Arctan,
}

impl Real {
    pub(in crate::grade::symbolic) fn zero() -> Self {
        Self::Exact(BigRational::zero())
    }

    pub(in crate::grade::symbolic) fn integer(value: impl Into<BigInt>) -> Self {
        Self::Exact(BigRational::from_integer(value.into()))
    }

    /// A number; a long fraction becomes an interval.
    pub(in crate::grade::symbolic) fn rational(value: BigRational, precision: Precision) -> Self {
        if value.numer().bits().max(value.denom().bits()) <= MAX_EXACT_BITS {
            return Self::Exact(value);
        }
        let interval = Interval::from_rational(&value, precision);
        Self::Between(Bounds(interval))
    }

    pub(in crate::grade::symbolic) fn pi(precision: Precision) -> Option<Self> {
        elementary::pi(precision).map(Self::between)
    }

    fn between(interval: Interval) -> Self {
        if interval.is_zero() {
            return Self::zero();
        }
        Self::Between(Bounds(interval))
    }

    fn interval(&self, precision: Precision) -> Interval {
        match self {
            Self::Exact(value) if value.is_zero() => Interval::zero(),
            Self::Exact(value) => Interval::from_rational(value, precision),
            Self::Between(Bounds(interval)) => interval.clone(),
        }
    }

    /// The whole number that this is known to be.
    pub(in crate::grade::symbolic) fn as_integer(&self) -> Option<BigInt> {
        self.as_rational()
            .filter(|value| value.is_integer())
            .map(BigRational::to_integer)
    }

    pub(in crate::grade::symbolic) fn as_rational(&self) -> Option<&BigRational> {
        match self {
            Self::Exact(value) => Some(value),
            Self::Between(_) => None,
        }
    }

    pub(in crate::grade::symbolic) fn is_zero(&self) -> bool {
        matches!(self, Self::Exact(value) if value.is_zero())
    }

    pub(in crate::grade::symbolic) fn may_be_zero(&self) -> bool {
        match self {
            Self::Exact(value) => value.is_zero(),
            Self::Between(Bounds(interval)) => interval.has_zero(),
        }
    }

    pub(in crate::grade::symbolic) fn is_positive(&self) -> bool {
        match self {
            Self::Exact(value) => value.is_positive(),
            Self::Between(Bounds(interval)) => interval.is_positive(),
        }
    }

    pub(in crate::grade::symbolic) fn is_negative(&self) -> bool {
        match self {
            Self::Exact(value) => value.is_negative(),
            Self::Between(Bounds(interval)) => interval.is_negative(),
        }
    }

    pub(in crate::grade::symbolic) fn negated(&self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(-value),
            Self::Between(Bounds(interval)) => Self::between(interval.negated()),
        }
    }

    pub(in crate::grade::symbolic) fn size(&self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(value.abs()),
            Self::Between(Bounds(interval)) => Self::between(interval.size()),
        }
    }

    pub(in crate::grade::symbolic) fn plus(
        &self,
        other: &Self,
        precision: Precision,
    ) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => {
                Some(Self::rational(rational::sum(a, b), precision))
            }
            (zero, number) | (number, zero) if zero.is_zero() => Some(number.clone()),
            (a, b) => {
                let sum = a
                    .interval(precision)
                    .plus(&b.interval(precision), precision)?;
                Some(Self::between(sum))
            }
        }
    }

    pub(in crate::grade::symbolic) fn times(
        &self,
        other: &Self,
        precision: Precision,
    ) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => {
                Some(Self::rational(rational::product(a, b), precision))
            }
            (zero, _) | (_, zero) if zero.is_zero() => Some(Self::zero()),
            (a, b) => {
                let product = a
                    .interval(precision)
                    .times(&b.interval(precision), precision)?;
                Some(Self::between(product))
            }
        }
    }

    /// One over the number; `None` where that may be zero.
    pub(in crate::grade::symbolic) fn inverse(&self, precision: Precision) -> Option<Self> {
        match self {
            Self::Exact(value) if value.is_zero() => None,
            Self::Exact(value) => Some(Self::Exact(value.recip())),
            Self::Between(Bounds(interval)) => interval.inverse(precision).map(Self::between),
        }
    }

    /// The root of a whole degree; the part of the number's bounds below zero is left out.
    pub(in crate::grade::symbolic) fn root(
        &self,
        degree: u32,
        precision: Precision,
    ) -> Option<Self> {
        if let Self::Exact(value) = self
            && !value.is_negative()
        {
            let root = BigRational::new_raw(
                value.numer().nth_root(degree),
                value.denom().nth_root(degree),
            );
            if root.numer().pow(degree) == *value.numer()
                && root.denom().pow(degree) == *value.denom()
            {
                return Some(Self::Exact(root));
            }
        }
        self.interval(precision)
            .root(degree, precision)
            .map(Self::between)
    }

    pub(in crate::grade::symbolic) fn apply(
        &self,
        function: Elementary,
        precision: Precision,
    ) -> Option<Self> {
        let x = self.interval(precision);
        Some(Self::between(match function {
            Elementary::Exp => elementary::exp(&x, precision)?,
            Elementary::Ln if self.as_rational().is_some_and(One::is_one) => {
                return Some(Self::zero());
            }
            Elementary::Ln => elementary::ln(&x, precision)?,
            Elementary::Sin => elementary::sin_cos(&x, precision)?.0,
            Elementary::Cos => elementary::sin_cos(&x, precision)?.1,
            Elementary::Arctan => elementary::arctan(&x, precision)?,
        }))
    }

    /// The whole number below; `None` where the bounds leave that open.
    pub(in crate::grade::symbolic) fn floor(&self) -> Option<Self> {
        match self {
            Self::Exact(value) => Some(Self::Exact(value.floor())),
            Self::Between(Bounds(interval)) => interval.floor().map(Self::integer),
        }
    }

    /// The larger or, `smallest`, the smaller of two numbers.
    pub(in crate::grade::symbolic) fn extreme(
        &self,
        other: &Self,
        smallest: bool,
        precision: Precision,
    ) -> Self {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => {
                Self::Exact(if smallest { a.min(b) } else { a.max(b) }.clone())
            }
            (a, b) => Self::between(
                a.interval(precision)
                    .extreme(&b.interval(precision), smallest),
            ),
        }
    }

    /// Whether the two can be the same number.
    pub(in crate::grade::symbolic) fn meets(&self, other: &Self, precision: Precision) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (a, b) => a.interval(precision).meets(&b.interval(precision)),
        }
    }

    /// Whether the bounds leave less than `2^-bits` of the number's size open, or of one where it is
    /// smaller than that.
    pub(in crate::grade::symbolic) fn is_known_to(&self, bits: u64) -> bool {
        match self {
            Self::Exact(_) => true,
            Self::Between(Bounds(interval)) => {
                let size = interval.size().high.top().unwrap_or(0).max(0);
                interval
                    .width_top()
                    .is_none_or(|width| width <= size - bits as i64)
            }
        }
    }

    /// Whether the bounds leave less than `2^-bits` open.
    pub(in crate::grade::symbolic) fn is_known_behind_point(&self, bits: u64) -> bool {
        match self {
            Self::Exact(_) => true,
            Self::Between(Bounds(interval)) => interval
                .width_top()
                .is_none_or(|width| width <= -(bits as i64)),
        }
    }

    /// A small whole number that this is known to be.
    pub(in crate::grade::symbolic) fn as_small(&self, limit: u32) -> Option<u32> {
        self.as_integer()
            .and_then(|n| n.to_u32())
            .filter(|&n| n <= limit)
    }

    /// Whether this is an odd whole number.
    pub(in crate::grade::symbolic) fn is_odd(&self) -> bool {
        self.as_integer().is_some_and(|n| n.is_odd())
    }
}
