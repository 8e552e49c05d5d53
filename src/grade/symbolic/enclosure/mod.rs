//! Enclosures: numbers known to lie between two bounds, in any precision.
//!
//! Every operation rounds its bounds outwards, so the true value always lies between them: two
//! values whose enclosures do not meet *are* different, whatever the precision. (Moore, Kearfott,
//! Cloud: Introduction to Interval Analysis, 2009.) Three layers: [`float`] is a binary floating
//! point number of any length, [`interval`] two of them, [`real`] a rational number as long as that
//! is short and an interval from then on, so that whole numbers stay whole under rounding functions.
//! [`elementary`] has the functions.

mod elementary;
mod float;
mod interval;
mod real;

pub(super) use interval::Precision;
pub(super) use real::{Elementary, Real};

#[cfg(test)]
mod tests {
    use num_rational::BigRational;
    use proptest::prelude::*;

    use super::*;

    const FEW: Precision = Precision(96);
    const MANY: Precision = Precision(400);

    fn fraction(numer: i64, denom: i64) -> Real {
        Real::Exact(BigRational::new(numer.into(), denom.into()))
    }

    /// 50 digits of a constant as a fraction.
    fn decimal(digits: &str) -> Real {
        let (whole, decimals) = digits.split_once('.').unwrap();
        let numer: num_bigint::BigInt = format!("{whole}{decimals}").parse().unwrap();
        let denom = num_bigint::BigInt::from(10).pow(decimals.len() as u32);
        Real::rational(BigRational::new(numer, denom), MANY)
    }

    fn apply(function: Elementary, x: &Real, precision: Precision) -> Real {
        x.apply(function, precision).unwrap()
    }

    #[test]
    fn known_constants_lie_between_the_bounds() {
        let pi = "3.14159265358979323846264338327950288419716939937510";
        let e = "2.71828182845904523536028747135266249775724709369995";
        let ln_10 = "2.30258509299404568401799145468436420760110148862877";
        let sin_1 = "0.84147098480789650665250232163029899962256306079837";
        let arctan_2 = "1.10714871779409050301706546017853704007004764540143";
        let values = [
            (Real::pi(MANY).unwrap(), pi),
            (apply(Elementary::Exp, &fraction(1, 1), MANY), e),
            (apply(Elementary::Ln, &fraction(10, 1), MANY), ln_10),
            (apply(Elementary::Sin, &fraction(1, 1), MANY), sin_1),
            (apply(Elementary::Arctan, &fraction(2, 1), MANY), arctan_2),
        ];
        for (value, digits) in values {
            // The digits are right to 50 places: a bound of half of one covers what they leave out.
            let distance = value.plus(&decimal(digits).negated(), MANY).unwrap();
            let scaled = distance
                .times(&Real::integer(num_bigint::BigInt::from(10).pow(49)), MANY)
                .unwrap();
            assert_eq!(
                scaled.size().floor().unwrap().as_small(1),
                Some(0),
                "{digits}"
            );
            assert!(value.is_known_to(390), "{digits}");
        }
    }

    proptest! {
        #[test]
        fn coarse_bounds_hold_what_fine_ones_do(numer in -400_i64..400, denom in 1_i64..400) {
            let x = fraction(numer, denom);
            let inside = |coarse: Real, fine: Real| coarse.meets(&fine, MANY) && coarse.is_known_to(80);
            for function in [Elementary::Exp, Elementary::Sin, Elementary::Cos, Elementary::Arctan] {
                prop_assert!(inside(apply(function, &x, FEW), apply(function, &x, MANY)));
            }
            if x.is_positive() {
                prop_assert!(inside(apply(Elementary::Ln, &x, FEW), apply(Elementary::Ln, &x, MANY)));
                for degree in [2, 3, 7] {
                    prop_assert!(inside(x.root(degree, FEW).unwrap(), x.root(degree, MANY).unwrap()));
                }
            }
        }

        #[test]
        fn identities_hold(numer in 1_i64..4_000, denom in 1_i64..400) {
            let x = fraction(numer, denom);
            let same = |a: &Real, b: &Real| a.meets(b, MANY) && a.is_known_to(300) && b.is_known_to(300);
            let [sin, cos] = [Elementary::Sin, Elementary::Cos].map(|f| apply(f, &x, MANY));
            let squares = sin.times(&sin, MANY).unwrap().plus(&cos.times(&cos, MANY).unwrap(), MANY);
            prop_assert!(same(&squares.unwrap(), &Real::integer(1)));
            let back = apply(Elementary::Ln, &apply(Elementary::Exp, &x, MANY), MANY);
            prop_assert!(same(&back, &x));
            let root = x.root(5, MANY).unwrap();
            let fourth = root.times(&root, MANY).and_then(|square| square.times(&square, MANY));
            prop_assert!(same(&fourth.unwrap().times(&root, MANY).unwrap(), &x));
        }
    }
}
