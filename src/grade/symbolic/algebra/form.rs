//! Quotients of polynomials, and arithmetic with their coefficients.

use std::collections::BTreeMap;

use num_rational::{BigRational, Ratio};
use num_traits::{One, ToPrimitive, Zero};

use crate::grade::symbolic::rational;

pub(super) type Exponent = Ratio<i64>;
/// Sorted by atom, without zero exponents.
pub(super) type Monomial = Vec<(usize, Exponent)>;
pub(super) type Polynomial = BTreeMap<Monomial, BigRational>;

/// A quotient. The denominator is 1 or has several terms.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::grade::symbolic) struct Form {
    pub(super) above: Polynomial,
    pub(super) below: Polynomial,
}

impl Form {
    pub(super) fn rational(value: BigRational) -> Self {
        Self::term(Vec::new(), value)
    }

    pub(super) fn term(monomial: Monomial, coefficient: BigRational) -> Self {
        let mut above = Polynomial::new();
        add_term(&mut above, monomial, coefficient);
        Self {
            above,
            below: one(),
        }
    }

    pub(super) fn single_term(&self) -> Option<(&Monomial, &BigRational)> {
        if self.above.len() == 1 {
            self.above.first_key_value()
        } else {
            None
        }
    }

    /// The value, where it is a rational number.
    pub(in crate::grade::symbolic) fn as_rational(&self) -> Option<BigRational> {
        if self.below != one() {
            return None;
        }
        match self.single_term() {
            None if self.above.is_empty() => Some(BigRational::zero()),
            Some((monomial, coefficient)) if monomial.is_empty() => Some(coefficient.clone()),
            _ => None,
        }
    }
}

pub(super) fn one() -> Polynomial {
    Polynomial::from([(Vec::new(), BigRational::one())])
}

pub(super) fn add_term(polynomial: &mut Polynomial, monomial: Monomial, coefficient: BigRational) {
    if coefficient.is_zero() {
        return;
    }
    match polynomial.entry(monomial) {
        std::collections::btree_map::Entry::Vacant(vacant) => {
            vacant.insert(coefficient);
        }
        std::collections::btree_map::Entry::Occupied(mut occupied) => {
            let sum = rational::sum(occupied.get(), &coefficient);
            *occupied.get_mut() = sum;
            if occupied.get().is_zero() {
                occupied.remove();
            }
        }
    }
}

/// Steps that arithmetic with a coefficient of its length costs beside those of its term: quadratic
/// in the words, and dear for fractions, which take greatest common divisors.
pub(super) fn weight(coefficient: &BigRational) -> usize {
    let words = bits(coefficient) as usize / 64;
    words * words / if coefficient.is_integer() { 64 } else { 4 }
}

/// An exponent that fits the arithmetic of exponents with room to spare.
pub(super) fn small_exponent(exponent: &BigRational) -> Option<Exponent> {
    let numer = exponent.numer().to_i32()?;
    let denom = exponent.denom().to_i32()?;
    Some(Exponent::new(numer.into(), denom.into()))
}

pub(super) fn bits(value: &BigRational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}
