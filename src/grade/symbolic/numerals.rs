//! The exact values of number literals.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::Unreadable;
use super::expr::Expr;
use super::limits::MAX_LITERAL_DIGITS;

/// The exact value of a literal: digits, at most one point, perhaps a decimal exponent.
pub(super) fn number(literal: &str) -> Result<Expr, Unreadable> {
    let (mantissa, exponent) = match literal.split_once('e') {
        None => (literal, 0),
        Some((mantissa, exponent)) => {
            let exponent: i64 = exponent.parse().map_err(|_| Unreadable::TooManyDigits)?;
            (mantissa, exponent)
        }
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = exponent.saturating_sub(fraction.len() as i64);
    if scale.unsigned_abs() > MAX_LITERAL_DIGITS as u64 {
        return Err(Unreadable::TooManyDigits);
    }
    if scale == 0 && fraction.is_empty() && whole.len() <= 18 {
        let value: i64 = whole
            .parse()
            .map_err(|_| Unreadable::Syntax("digits that are no number"))?;
        return Ok(Expr::integer(value));
    }
    let digits: BigInt = format!("0{whole}{fraction}")
        .parse()
        .map_err(|_| Unreadable::Syntax("digits that are no number"))?;
    let power = BigInt::from(10).pow(scale.unsigned_abs() as u32);
    Ok(Expr::Number(match scale {
        0.. => BigRational::from_integer(digits * power),
        _ => BigRational::new(digits, power),
    }))
}

/// `0.8\overline{4}` is 0.8 + 4/90.
pub(super) fn repeating(head: &str, tail: &str) -> Result<Expr, Unreadable> {
    let bad = || Unreadable::Syntax("digits that are no number");
    let decimals = head
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len()) as u32;
    let Expr::Number(head) = number(head.trim_end_matches('.'))? else {
        return Err(bad());
    };
    let period: BigInt = tail.parse().map_err(|_| bad())?;
    let nines = (BigInt::from(10).pow(tail.len() as u32) - 1) * BigInt::from(10).pow(decimals);
    Ok(Expr::Number(head + BigRational::new(period, nines)))
}

pub(super) fn base_in_words(name: &str) -> Option<u32> {
    Some(match name {
        "two" => 2,
        "three" => 3,
        "four" => 4,
        "five" => 5,
        "six" => 6,
        "seven" => 7,
        "eight" => 8,
        "nine" => 9,
        "ten" => 10,
        "sixteen" => 16,
        _ => return None,
    })
}
