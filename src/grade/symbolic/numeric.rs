//! Evaluation at pseudo-random points, in enclosures of the value.
//!
//! Two values whose enclosures do not meet are different, beyond doubt. Two whose enclosures meet
//! are called equal only where these are narrow: every point is tried with [`FEW_BITS`], the first
//! ones again with [`MANY_BITS`], so that e^(pi sqrt 163) is not 262537412640768744. Points are a
//! function of the variable's name and the point's number: the same verdict every time.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Signed;

use super::enclosure::{Elementary, Precision, Real};
use super::expr::{Constant, Expr, Function};
use super::limits::{
    FEW_BITS, INTEGER_POINTS, KNOWN_BITS, MANY_BITS, MAX_POINT_FACTORIAL, MAX_POWER, MAX_ROOT,
    MIN_AGREEING_POINTS, SAMPLE_POINTS, SHARP_POINTS, STEPS_OF_SHARP_POINT, STEPS_PER_FUNCTION,
};

/// A complex number between bounds.
#[derive(Clone, Debug)]
struct Complex {
    re: Real,
    im: Real,
}

/// Compares two expressions by value; `None` when too few points decide.
pub(super) fn equal(a: &Expr, b: &Expr) -> Option<bool> {
    let constant = a.variables().is_empty() && b.variables().is_empty();
    let integers = live_on_integers(a, b);
    let complex = has_imaginary_unit(a) || has_imaginary_unit(b);
    let (points, enough) = match (constant, integers) {
        (true, _) => (1, 1),
        (false, true) => (INTEGER_POINTS, MIN_AGREEING_POINTS),
        (false, false) => (SAMPLE_POINTS, MIN_AGREEING_POINTS),
    };
    let mut agreeing = 0;
    let mut sharp = 0;
    for number in 0..points {
        let mut agrees = None;
        for bits in [FEW_BITS, MANY_BITS] {
            if bits == MANY_BITS && sharp == SHARP_POINTS {
                break;
            }
            let at = Point {
                number,
                integers,
                precision: Precision(bits),
            };
            let (Some(x), Some(y)) = (at.value(a), at.value(b)) else {
                break;
            };
            // Beyond the reals only one branch of a root or logarithm is taken.
            if !(complex || x.is_real() && y.is_real()) {
                break;
            }
            agrees = x.agrees(&y, at.precision);
            if agrees == Some(false) {
                return Some(false);
            }
            sharp += usize::from(bits == MANY_BITS && agrees.is_some());
        }
        agreeing += usize::from(agrees.is_some());
    }
    (agreeing >= enough && sharp > 0).then_some(true)
}

/// Whether `a / b` has the same value at every point: the two vanish together.
pub(super) fn proportional(a: &Expr, b: &Expr) -> Option<bool> {
    let integers = live_on_integers(a, b);
    let mut ratio: Option<Complex> = None;
    let mut agreeing = 0;
    for number in 0..SAMPLE_POINTS {
        let at = Point {
            number,
            integers,
            precision: Precision(MANY_BITS / 2),
        };
        let (Some(x), Some(y)) = (at.value(a), at.value(b)) else {
            continue;
        };
        let Some(next) = y
            .inverse(at.precision)
            .and_then(|inverse| x.times(&inverse, at.precision))
        else {
            continue;
        };
        if next.may_be_zero() {
            return Some(false);
        }
        match ratio
            .as_ref()
            .map(|ratio| ratio.agrees(&next, at.precision))
        {
            None => ratio = Some(next),
            Some(Some(true)) => agreeing += 1,
            Some(Some(false)) => return Some(false),
            Some(None) => {}
        }
    }
    (agreeing >= MIN_AGREEING_POINTS).then_some(true)
}

/// Steps that evaluating an expression at all points takes.
pub(super) fn cost(expr: &Expr) -> usize {
    let points = match expr.variables().is_empty() {
        true => 1,
        false => SAMPLE_POINTS as usize,
    };
    let mut steps = 0;
    expr.walk(&mut |node| {
        steps += match node {
            Expr::Power(..) | Expr::Apply(..) => STEPS_PER_FUNCTION,
            _ => 1,
        }
    });
    steps * (points + STEPS_OF_SHARP_POINT)
}

/// Whether the variables of two expressions are whole numbers by what is done with them: factorials,
/// signs like (-1)^n, or rounding on both sides. (Rounding on one side alone is a difference.)
fn live_on_integers(a: &Expr, b: &Expr) -> bool {
    let (mut rounding, mut counting) = (0, false);
    for expr in [a, b] {
        let mut rounds = false;
        expr.walk(&mut |node| match node {
            Expr::Apply(Function::Floor | Function::Ceil, _) => rounds = true,
            Expr::Apply(Function::Factorial | Function::Binomial, _) => counting = true,
            Expr::Power(base, exponent) => {
                let negative = matches!(&**base, Expr::Number(value) if value.is_negative());
                counting |= negative && !exponent.variables().is_empty();
            }
            _ => {}
        });
        rounding += usize::from(rounds);
    }
    counting || rounding == 2
}

fn has_imaginary_unit(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |node| found |= *node == Expr::Constant(Constant::I));
    found
}

/// One assignment of values to variables.
struct Point {
    number: u64,
    integers: bool,
    precision: Precision,
}

impl Point {
    fn variable(&self, name: &str) -> BigRational {
        let number = if self.integers { 0 } else { self.number };
        let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The finaliser of SplitMix64.
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
        if self.integers {
            // Every whole number of the range once, in another order for each variable.
            let stride = 1 + (state >> 32) % (INTEGER_POINTS - 1);
            let value = 1 + (state % INTEGER_POINTS + self.number * stride) % INTEGER_POINTS;
            return BigRational::from_integer(value.into());
        }
        // Between 1/4 and 13/4, in steps of 2^-20.
        let magnitude = BigRational::new((3 * (state >> 44) + (1 << 18)).into(), (1 << 20).into());
        // At the later points each variable is negative every other time.
        let parity = name
            .bytes()
            .fold(0, |parity, byte| parity ^ byte.count_ones());
        let negative = self.number * 2 >= SAMPLE_POINTS && (self.number as u32 ^ parity) & 1 == 1;
        if negative { -magnitude } else { magnitude }
    }

    /// The value of an expression; `None` where it has none, or none of a reasonable size.
    fn value(&self, expr: &Expr) -> Option<Complex> {
        let precision = self.precision;
        let real = |value: BigRational| Complex::real(Real::rational(value, precision));
        Some(match expr {
            Expr::Number(value) => real(value.clone()),
            Expr::Constant(Constant::Pi) => Complex::real(Real::pi(precision)?),
            Expr::Constant(Constant::E) => {
                Complex::real(Real::integer(1).apply(Elementary::Exp, precision)?)
            }
            Expr::Constant(Constant::I) => Complex {
                re: Real::zero(),
                im: Real::integer(1),
            },
            Expr::Constant(Constant::Infinity) => return None,
            Expr::Variable(name) => real(self.variable(name)),
            Expr::Sum(parts) => {
                let mut sum = Complex::real(Real::zero());
                for part in parts {
                    sum = sum.plus(&self.value(part)?, precision)?;
                }
                sum
            }
            Expr::Product(parts) => {
                let mut product = Complex::real(Real::integer(1));
                for part in parts {
                    product = product.times(&self.value(part)?, precision)?;
                }
                product
            }
            Expr::Power(base, exponent) => {
                self.value(base)?.power(&self.value(exponent)?, precision)?
            }
            Expr::Apply(function, arguments) => {
                let arguments: Option<Vec<Complex>> =
                    arguments.iter().map(|a| self.value(a)).collect();
                self.apply(function, &arguments?)?
            }
        })
    }

    fn apply(&self, function: &Function, arguments: &[Complex]) -> Option<Complex> {
        let precision = self.precision;
        if let (Function::Abs, [x]) = (function, arguments) {
            return x.size(precision).map(Complex::real);
        }
        if let (Function::Root, [x, degree]) = (function, arguments) {
            return x.root(degree, precision);
        }
        let reals: Option<Vec<&Real>> = arguments.iter().map(Complex::as_real).collect();
        let reals = reals?;
        let x = *reals.first()?;
        let sin = |x: &Real| x.apply(Elementary::Sin, precision);
        let cos = |x: &Real| x.apply(Elementary::Cos, precision);
        let over = |above: Real, below: Real| above.times(&below.inverse(precision)?, precision);
        let exp = |x: &Real| x.apply(Elementary::Exp, precision);
        let half = Real::Exact(BigRational::new(1.into(), 2.into()));
        Some(Complex::real(match function {
            Function::Sin => sin(x)?,
            Function::Cos => cos(x)?,
            Function::Tan => over(sin(x)?, cos(x)?)?,
            Function::Cot => over(cos(x)?, sin(x)?)?,
            Function::Sec => cos(x)?.inverse(precision)?,
            Function::Csc => sin(x)?.inverse(precision)?,
            Function::Arcsin => arcsin(x, precision)?,
            Function::Arccos => {
                let quarter = Real::pi(precision)?.times(&half, precision)?;
                quarter.plus(&arcsin(x, precision)?.negated(), precision)?
            }
            Function::Arctan => x.apply(Elementary::Arctan, precision)?,
            Function::Sinh => {
                let difference = exp(x)?.plus(&exp(&x.negated())?.negated(), precision)?;
                difference.times(&half, precision)?
            }
            Function::Cosh => {
                let sum = exp(x)?.plus(&exp(&x.negated())?, precision)?;
                sum.times(&half, precision)?
            }
            Function::Tanh => {
                let square = exp(&x.plus(x, precision)?)?;
                let below = square.plus(&Real::integer(1), precision)?;
                over(square.plus(&Real::integer(-1), precision)?, below)?
            }
            Function::Ln => x.apply(Elementary::Ln, precision)?,
            Function::Degrees => {
                let degree = Real::Exact(BigRational::new(1.into(), 180.into()));
                let radians = x.times(&degree, precision)?;
                radians.times(&Real::pi(precision)?, precision)?
            }
            Function::Floor => x.floor()?,
            Function::Ceil => x.negated().floor()?.negated(),
            Function::Factorial => factorial(x, precision)?,
            Function::Binomial => binomial(x, reals.get(1)?, precision)?,
            Function::Max | Function::Min => {
                let smallest = *function == Function::Min;
                let first = x.clone();
                reals[1..]
                    .iter()
                    .fold(first, |a, b| a.extreme(b, smallest, precision))
            }
            // An unknown function: any fixed smooth one distinguishes its arguments.
            Function::Named(name) => {
                let mut sum = Real::rational(self.variable(name), precision);
                for (n, argument) in (1..).zip(&reals) {
                    let weighted = argument.times(&Real::integer(n), precision)?;
                    sum = sum.plus(&weighted, precision)?;
                }
                sin(&sum)?.plus(&Real::integer(2), precision)?
            }
            Function::Gcd
            | Function::Lcm
            | Function::Abs
            | Function::Root
            | Function::PlusMinus(_) => {
                return None;
            }
        }))
    }
}

/// `arcsin x = 2 arctan(x / (1 + sqrt(1 - x^2)))`, which is stable up to both ends.
fn arcsin(x: &Real, precision: Precision) -> Option<Real> {
    let one = Real::integer(1);
    let rest = one.plus(&x.times(x, precision)?.negated(), precision)?;
    if rest.is_negative() {
        return None;
    }
    let below = one.plus(&rest.root(2, precision)?, precision)?;
    let tangent = x.times(&below.inverse(precision)?, precision)?;
    let angle = tangent.apply(Elementary::Arctan, precision)?;
    angle.plus(&angle, precision)
}

/// The factorial of a whole number, or of half an odd one by the square root of pi.
fn factorial(x: &Real, precision: Precision) -> Option<Real> {
    let one = Real::integer(1);
    if let Some(n) = x.as_small(MAX_POINT_FACTORIAL) {
        return (2..=n).try_fold(one, |product, k| {
            product.times(&Real::integer(k), precision)
        });
    }
    let twice = x.plus(x, precision)?;
    let range = BigInt::from(-1)..=BigInt::from(2 * MAX_POINT_FACTORIAL);
    if !twice.is_odd() || !twice.as_integer().is_some_and(|n| range.contains(&n)) {
        return None;
    }
    // x! = x (x - 1) ... (1/2) (-1/2)!, and (-1/2)! is the square root of pi.
    let mut value = Real::pi(precision)?.root(2, precision)?;
    let mut factor = x.clone();
    while factor.is_positive() {
        value = value.times(&factor, precision)?;
        factor = factor.plus(&Real::integer(-1), precision)?;
    }
    Some(value)
}

/// `n (n - 1) ... (n - k + 1) / k!` for a whole k.
fn binomial(n: &Real, k: &Real, precision: Precision) -> Option<Real> {
    let below = n.plus(&k.negated(), precision)?;
    let k = match (
        k.as_small(MAX_POINT_FACTORIAL),
        below.as_small(MAX_POINT_FACTORIAL),
    ) {
        (Some(k), Some(rest)) => k.min(rest),
        (Some(k), None) => k,
        (None, Some(rest)) => rest,
        (None, None) => return None,
    };
    let mut value = Real::integer(1);
    for i in 0..k {
        let factor = n.plus(&Real::integer(i).negated(), precision)?;
        let by = Real::Exact(BigRational::new(1.into(), (i + 1).into()));
        value = value.times(&factor, precision)?.times(&by, precision)?;
    }
    Some(value)
}

impl Complex {
    fn real(re: Real) -> Self {
        Self {
            re,
            im: Real::zero(),
        }
    }

    fn as_real(&self) -> Option<&Real> {
        self.is_real().then_some(&self.re)
    }

    fn is_real(&self) -> bool {
        self.im.may_be_zero()
    }

    fn may_be_zero(&self) -> bool {
        self.re.may_be_zero() && self.im.may_be_zero()
    }

    fn plus(&self, other: &Self, precision: Precision) -> Option<Self> {
        Some(Self {
            re: self.re.plus(&other.re, precision)?,
            im: self.im.plus(&other.im, precision)?,
        })
    }

    fn times(&self, other: &Self, precision: Precision) -> Option<Self> {
        let times = |a: &Real, b: &Real| a.times(b, precision);
        let crossed = times(&self.im, &other.im)?.negated();
        Some(Self {
            re: times(&self.re, &other.re)?.plus(&crossed, precision)?,
            im: times(&self.re, &other.im)?.plus(&times(&self.im, &other.re)?, precision)?,
        })
    }

    fn inverse(&self, precision: Precision) -> Option<Self> {
        if self.im.is_zero() {
            return self.re.inverse(precision).map(Self::real);
        }
        let below = self.square(precision)?.inverse(precision)?;
        Some(Self {
            re: self.re.times(&below, precision)?,
            im: self.im.negated().times(&below, precision)?,
        })
    }

    /// The square of the distance from zero.
    fn square(&self, precision: Precision) -> Option<Real> {
        let (re, im) = (self.re.size(), self.im.size());
        re.times(&re, precision)?
            .plus(&im.times(&im, precision)?, precision)
    }

    fn size(&self, precision: Precision) -> Option<Real> {
        match self.im.is_zero() {
            true => Some(self.re.size()),
            false => self.square(precision)?.root(2, precision),
        }
    }

    fn power(&self, exponent: &Self, precision: Precision) -> Option<Self> {
        if let Some(n) = exponent.as_integer() {
            return self.integer_power(&n, precision);
        }
        let fraction = exponent.re.as_rational().filter(|_| exponent.im.is_zero());
        if let Some(fraction) = fraction
            && self.im.is_zero()
            && let Ok(degree) = u32::try_from(fraction.denom())
            && degree <= MAX_ROOT
            && (degree == 2 || !self.re.is_negative())
        {
            let root = self.re.size().root(degree, precision)?;
            let root = match self.re.is_negative() {
                true => Self {
                    re: Real::zero(),
                    im: root,
                },
                // Bounds on both sides of zero may hide a root that is not real.
                false if self.re.may_be_zero() && !self.re.is_zero() => Self {
                    re: root.clone(),
                    im: Real::zero().extreme(&root.negated(), true, precision),
                },
                false => Self::real(root),
            };
            return root.integer_power(fraction.numer(), precision);
        }
        if self.re.is_zero() && self.im.is_zero() {
            return exponent.re.is_positive().then(|| self.clone());
        }
        // e^(exponent ln(base)) on the principal branch.
        let ln = Self {
            re: self.size(precision)?.apply(Elementary::Ln, precision)?,
            im: self.angle(precision)?,
        };
        let product = ln.times(exponent, precision)?;
        let size = product.re.apply(Elementary::Exp, precision)?;
        if product.im.is_zero() {
            return Some(Self::real(size));
        }
        let part = |function| {
            let turned = product.im.apply(function, precision)?;
            turned.times(&size, precision)
        };
        Some(Self {
            re: part(Elementary::Cos)?,
            im: part(Elementary::Sin)?,
        })
    }

    fn as_integer(&self) -> Option<BigInt> {
        self.re.as_integer().filter(|_| self.im.is_zero())
    }

    fn integer_power(&self, exponent: &BigInt, precision: Precision) -> Option<Self> {
        let n = u32::try_from(exponent.magnitude())
            .ok()
            .filter(|&n| n <= MAX_POWER)?;
        let mut power = Self::real(Real::integer(1));
        for bit in (0..u32::BITS - n.leading_zeros()).rev() {
            power = power.times(&power, precision)?;
            if n >> bit & 1 == 1 {
                power = power.times(self, precision)?;
            }
        }
        match exponent.is_negative() {
            true => power.inverse(precision),
            false => Some(power),
        }
    }

    /// The angle from the positive real axis; `None` where the bounds allow both of its signs.
    fn angle(&self, precision: Precision) -> Option<Real> {
        let pi = || Real::pi(precision);
        if self.im.is_zero() {
            return match (self.re.is_positive(), self.re.is_negative()) {
                (true, _) => Some(Real::zero()),
                (_, true) => pi(),
                _ => None,
            };
        }
        let arctan = |above: &Real, below: &Real| {
            let quotient = above.times(&below.inverse(precision)?, precision)?;
            quotient.apply(Elementary::Arctan, precision)
        };
        if self.re.is_positive() {
            return arctan(&self.im, &self.re);
        }
        let half = Real::Exact(BigRational::new(1.into(), 2.into()));
        let quarter = pi()?.times(&half, precision)?;
        let from_top = arctan(&self.re, &self.im)?.negated();
        match (self.im.is_positive(), self.im.is_negative()) {
            (true, _) => quarter.plus(&from_top, precision),
            (_, true) => quarter.negated().plus(&from_top, precision),
            _ => None,
        }
    }

    /// The real root of an odd degree, else the principal one.
    fn root(&self, degree: &Self, precision: Precision) -> Option<Self> {
        let odd = degree.im.is_zero() && degree.re.is_odd();
        let power = degree.inverse(precision)?;
        if odd && self.im.is_zero() && self.re.is_negative() {
            let positive = Self::real(self.re.negated()).power(&power, precision)?;
            return Some(Self::real(positive.re.negated()));
        }
        self.power(&power, precision)
    }

    /// Whether two values can be equal; `None` when the bounds are too wide to say that they are.
    fn agrees(&self, other: &Self, precision: Precision) -> Option<bool> {
        let meet = |a: &Real, b: &Real| a.meets(b, precision);
        if !meet(&self.re, &other.re) || !meet(&self.im, &other.im) {
            return Some(false);
        }
        let parts = [&self.re, &self.im, &other.re, &other.im];
        let known = |part: &&Real| match precision.0 {
            MANY_BITS => part.is_known_behind_point(KNOWN_BITS),
            bits => part.is_known_to(bits / 2),
        };
        parts.iter().all(known).then_some(true)
    }
}
