//! Sums and products of rational numbers that spare integers the greatest common divisor, which is
//! most of the work of theirs.

use num_rational::BigRational;

pub(super) fn sum(a: &BigRational, b: &BigRational) -> BigRational {
    match a.is_integer() && b.is_integer() {
        true => BigRational::from_integer(a.numer() + b.numer()),
        false => a + b,
    }
}

pub(super) fn product(a: &BigRational, b: &BigRational) -> BigRational {
    match a.is_integer() && b.is_integer() {
        true => BigRational::from_integer(a.numer() * b.numer()),
        false => a * b,
    }
}
