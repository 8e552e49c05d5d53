//! Binary floating point of any length: exact sums and products, and rounding on request.

use std::cmp::Ordering;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, Zero};

/// `mantissa * 2^exponent`.
#[derive(Clone, Debug)]
pub(super) struct Float {
    pub(super) mantissa: BigInt,
    pub(super) exponent: i64,
}

/// Where a number is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Towards {
    Below,
    Above,
}

/// Shifts right; what falls off rounds the result down or up.
pub(super) fn shift_right(value: &BigInt, places: u64, towards: Towards) -> BigInt {
    match towards {
        Towards::Below => value >> places,
        Towards::Above => -(-value >> places),
    }
}

impl Float {
    pub(super) fn new(mantissa: BigInt, exponent: i64) -> Self {
        Self { mantissa, exponent }
    }

    pub(super) fn zero() -> Self {
        Self::new(BigInt::zero(), 0)
    }

    /// A rational number, rounded to `bits`.
    pub(super) fn from_rational(value: &BigRational, bits: u64, towards: Towards) -> Self {
        let (numer, denom) = (value.numer(), value.denom());
        let places = (bits + denom.bits()).saturating_sub(numer.bits()) + 1;
        let scaled = numer << places;
        let quotient = match towards {
            Towards::Below => num_integer::Integer::div_floor(&scaled, denom),
            Towards::Above => num_integer::Integer::div_ceil(&scaled, denom),
        };
        Self::new(quotient, -(places as i64)).rounded(bits, towards)
    }

    pub(super) fn rounded(self, bits: u64, towards: Towards) -> Self {
        let excess = self.mantissa.bits().saturating_sub(bits);
        if excess == 0 {
            return self;
        }
        let mantissa = shift_right(&self.mantissa, excess, towards);
        Self::new(mantissa, self.exponent + excess as i64)
    }

    /// The place of the highest bit: the value's size is below `2^top`. Zero has none.
    pub(super) fn top(&self) -> Option<i64> {
        (!self.mantissa.is_zero()).then(|| self.mantissa.bits() as i64 + self.exponent)
    }

    pub(super) fn is_negative(&self) -> bool {
        self.mantissa.is_negative()
    }

    pub(super) fn is_positive(&self) -> bool {
        self.mantissa.is_positive()
    }

    pub(super) fn negated(&self) -> Self {
        Self::new(-&self.mantissa, self.exponent)
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        if self.mantissa.is_zero() {
            return other.clone();
        }
        if other.mantissa.is_zero() {
            return self.clone();
        }
        let (low, high) = match self.exponent <= other.exponent {
            true => (self, other),
            false => (other, self),
        };
        let raised = &high.mantissa << (high.exponent - low.exponent) as u64;
        Self::new(raised + &low.mantissa, low.exponent)
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        Self::new(
            &self.mantissa * &other.mantissa,
            self.exponent + other.exponent,
        )
    }

    /// Half of the value, exactly.
    pub(super) fn half(&self) -> Self {
        Self::new(self.mantissa.clone(), self.exponent - 1)
    }

    /// The value in units of `2^-places`, rounded down.
    pub(super) fn fixed(&self, places: u64) -> BigInt {
        let shift = self.exponent + places as i64;
        match shift {
            0.. => &self.mantissa << shift as u64,
            _ => &self.mantissa >> shift.unsigned_abs(),
        }
    }

    pub(super) fn floor(&self) -> BigInt {
        self.fixed(0)
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.sign().cmp(&other.mantissa.sign());
        if signs != Ordering::Equal || self.mantissa.is_zero() {
            return signs;
        }
        match self.top().cmp(&other.top()) {
            Ordering::Equal => self
                .plus(&other.negated())
                .mantissa
                .sign()
                .cmp(&num_bigint::Sign::NoSign),
            larger if self.is_negative() => larger.reverse(),
            larger => larger,
        }
    }
}
