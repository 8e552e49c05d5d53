//! Functions of rational numbers that have rational values.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::NoForm;
use super::form::bits;
use crate::grade::symbolic::expr::Function;
use crate::grade::symbolic::limits::{MAX_FACTORIAL, MAX_INTEGER_BITS};

pub(super) fn integer_power(base: &BigRational, exponent: i64) -> Result<BigRational, NoForm> {
    if exponent < 0 && base.is_zero() {
        return Err(NoForm::Undefined);
    }
    if base.is_one() || exponent == 0 {
        return Ok(BigRational::one());
    }
    let size = bits(base)
        .checked_mul(exponent.unsigned_abs())
        .ok_or(NoForm::TooLarge)?;
    let unit = base.numer().abs().is_one() && base.is_integer();
    if size > MAX_INTEGER_BITS && !unit {
        return Err(NoForm::TooLarge);
    }
    if unit {
        let odd = exponent % 2 != 0;
        return Ok(if odd {
            base.clone()
        } else {
            BigRational::one()
        });
    }
    Ok(base.pow(exponent as i32))
}

/// A function of rational numbers that has a rational value; an inner error where it has none.
pub(super) fn exact_function(
    function: &Function,
    values: &[BigRational],
) -> Option<Result<BigRational, NoForm>> {
    let integer = |value: &BigRational| value.is_integer().then(|| value.to_integer());
    let small = |value: &BigRational| {
        integer(value)
            .and_then(|n| n.to_u32())
            .filter(|&n| n <= MAX_FACTORIAL)
    };
    let whole = |value: BigInt| Some(Ok(BigRational::from_integer(value)));
    match (function, values) {
        (Function::Abs, [value]) => Some(Ok(value.abs())),
        (Function::Floor, [value]) => Some(Ok(value.floor())),
        (Function::Ceil, [value]) => Some(Ok(value.ceil())),
        (Function::Max, values) => values.iter().max().cloned().map(Ok),
        (Function::Min, values) => values.iter().min().cloned().map(Ok),
        (Function::Factorial, [value]) if value.is_negative() && value.is_integer() => {
            Some(Err(NoForm::Undefined))
        }
        (Function::Factorial, [value]) => whole((2..=small(value)?).map(BigInt::from).product()),
        (Function::Binomial, [n, k]) => {
            let (n, k) = (small(n)?, small(k)?);
            if k > n {
                return whole(BigInt::zero());
            }
            let mut value = BigInt::one();
            for i in 0..k.min(n - k) {
                value = value * (n - i) / (i + 1);
            }
            whole(value)
        }
        (Function::Gcd | Function::Lcm, values) => {
            let mut values = values.iter().map(integer);
            let mut value = values.next()??;
            for next in values {
                value = match function {
                    Function::Gcd => value.gcd(&next?),
                    _ => value.lcm(&next?),
                };
                if value.bits() > MAX_INTEGER_BITS {
                    return Some(Err(NoForm::TooLarge));
                }
            }
            whole(value)
        }
        _ => None,
    }
}
