//! Evaluation in floating point with a bound on the error, at pseudo-random points.
//!
//! Every operation carries a bound on its absolute error, so that two values are called different
//! only when the bounds exclude equality, and equal only when the bounds are tight. Points are a
//! function of the variable's name and the point's number: the same verdict every time.

use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};
use statrs::function::gamma::ln_gamma;

use super::expr::{Constant, Expr, Function};
use super::limits::{MIN_AGREEING_POINTS, SAMPLE_POINTS};

/// Relative error of one rounded operation, with room for a library function's last digits.
const UNIT: f64 = 4.0 * f64::EPSILON;
/// Relative error of the gamma function's approximation.
const GAMMA_ERROR: f64 = 1e-11;
/// Bounds wider than this, relative to the values, decide nothing.
const MAX_RELATIVE_BOUND: f64 = 1e-8;
/// Values below this are compared absolutely.
const TINY: f64 = 1e-3;

/// A complex number known up to an absolute error.
#[derive(Clone, Copy, Debug)]
struct Ball {
    re: f64,
    im: f64,
    error: f64,
}

/// Compares two expressions by value; `None` when too few points decide.
pub(super) fn equal(a: &Expr, b: &Expr) -> Option<bool> {
    let mut variables = a.variables();
    variables.extend(b.variables());
    let integers = live_on_integers(a, b);
    let complex = has_imaginary_unit(a) || has_imaginary_unit(b);
    let (points, enough) = match variables.is_empty() {
        true => (1, 1),
        false => (SAMPLE_POINTS, MIN_AGREEING_POINTS),
    };
    let mut agreeing = 0;
    for point in 0..points {
        let at = Point {
            number: point,
            integers,
        };
        let (Some(x), Some(y)) = (at.value(a), at.value(b)) else {
            continue;
        };
        // Beyond the reals only one branch of a root or logarithm is taken.
        let real = x.is_real() && y.is_real();
        if !complex && !real {
            continue;
        }
        match x.agrees(&y) {
            Some(true) => agreeing += 1,
            Some(false) => return Some(false),
            None => {}
        }
    }
    (agreeing >= enough).then_some(true)
}

/// Whether `a / b` has the same value at every point: the two vanish together.
pub(super) fn proportional(a: &Expr, b: &Expr) -> Option<bool> {
    let integers = live_on_integers(a, b);
    let mut ratio: Option<Ball> = None;
    let mut agreeing = 0;
    for number in 0..SAMPLE_POINTS {
        let at = Point { number, integers };
        let (Some(x), Some(y)) = (at.value(a), at.value(b)) else {
            continue;
        };
        let Some(next) = y.inverse().map(|inverse| x.times(inverse)) else {
            continue;
        };
        if next.size() <= next.error {
            return Some(false);
        }
        match ratio.map(|ratio| ratio.agrees(&next)) {
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
    let mut nodes = 0;
    expr.walk(&mut |_| nodes += 1);
    nodes * SAMPLE_POINTS as usize
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
}

impl Point {
    fn variable(&self, name: &str) -> f64 {
        let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The finaliser of SplitMix64.
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
        if self.integers {
            return (2 + state % 29) as f64;
        }
        let unit = (state >> 11) as f64 / (1_u64 << 53) as f64;
        let magnitude = 0.25 + 3.0 * unit;
        // At the later points each variable is negative every other time.
        let parity = name
            .bytes()
            .fold(0, |parity, byte| parity ^ byte.count_ones());
        let negative = self.number * 2 >= SAMPLE_POINTS && (self.number as u32 ^ parity) & 1 == 1;
        if negative { -magnitude } else { magnitude }
    }

    /// The value of an expression; `None` where it has none or it overflows.
    fn value(&self, expr: &Expr) -> Option<Ball> {
        let value = match expr {
            Expr::Number(value) => {
                let rounded = value.to_f64()?;
                let exact = BigRational::from_float(rounded).is_some_and(|exact| exact == *value);
                Ball::with_error(
                    rounded,
                    if exact {
                        0.0
                    } else {
                        rounded.abs() * f64::EPSILON
                    },
                )
            }
            Expr::Constant(Constant::Pi) => Ball::rounded_constant(std::f64::consts::PI),
            Expr::Constant(Constant::E) => Ball::rounded_constant(std::f64::consts::E),
            Expr::Constant(Constant::I) => Ball {
                re: 0.0,
                im: 1.0,
                error: 0.0,
            },
            Expr::Constant(Constant::Infinity) => return None,
            Expr::Variable(name) => Ball {
                re: self.variable(name),
                im: 0.0,
                error: 0.0,
            },
            Expr::Sum(parts) => {
                let mut sum = Ball {
                    re: 0.0,
                    im: 0.0,
                    error: 0.0,
                };
                for part in parts {
                    sum = sum.plus(self.value(part)?);
                }
                sum
            }
            Expr::Product(parts) => {
                let mut product = Ball {
                    re: 1.0,
                    im: 0.0,
                    error: 0.0,
                };
                for part in parts {
                    product = product.times(self.value(part)?);
                }
                product
            }
            Expr::Power(base, exponent) => self.value(base)?.power(self.value(exponent)?)?,
            Expr::Apply(function, arguments) => {
                let arguments: Option<Vec<Ball>> =
                    arguments.iter().map(|a| self.value(a)).collect();
                self.apply(function, &arguments?)?
            }
        };
        let finite = value.re.is_finite() && value.im.is_finite() && value.error.is_finite();
        finite.then_some(value)
    }

    fn apply(&self, function: &Function, arguments: &[Ball]) -> Option<Ball> {
        let x = *arguments.first()?;
        if let Function::Abs = function {
            return Some(Ball::with_error(x.size(), x.error + x.size() * UNIT));
        }
        if !arguments.iter().all(Ball::is_real) {
            return None;
        }
        let real = x.re;
        let (value, slope) = match function {
            Function::Sin => (real.sin(), 1.0),
            Function::Cos => (real.cos(), 1.0),
            Function::Tan => (real.tan(), 1.0 + real.tan().powi(2)),
            Function::Cot => (real.tan().recip(), 1.0 + real.tan().recip().powi(2)),
            Function::Sec => (real.cos().recip(), real.tan().abs() / real.cos().abs()),
            Function::Csc => (real.sin().recip(), real.sin().recip().powi(2)),
            Function::Arcsin => (real.asin(), (1.0 - real * real).sqrt().recip().min(1e8)),
            Function::Arccos => (real.acos(), (1.0 - real * real).sqrt().recip().min(1e8)),
            Function::Arctan => (real.atan(), 1.0),
            Function::Sinh => (real.sinh(), real.cosh()),
            Function::Cosh => (real.cosh(), real.sinh().abs()),
            Function::Tanh => (real.tanh(), 1.0),
            Function::Ln if real > x.error => (real.ln(), (real - x.error).recip()),
            Function::Degrees => (real.to_radians(), 1.0_f64.to_radians()),
            Function::Floor => return x.rounded(f64::floor),
            Function::Ceil => return x.rounded(f64::ceil),
            Function::Factorial => return gamma_quotient(&[real + 1.0], &[]),
            Function::Binomial => {
                let k = arguments.get(1)?.re;
                return gamma_quotient(&[real + 1.0], &[k + 1.0, real - k + 1.0]);
            }
            Function::Root => {
                let degree = arguments.get(1)?;
                let odd = degree.re.fract() == 0.0 && degree.re.rem_euclid(2.0) == 1.0;
                if odd && real < 0.0 {
                    let positive = Ball { re: -real, ..x }.power(degree.inverse()?)?;
                    return Some(Ball {
                        re: -positive.re,
                        ..positive
                    });
                }
                return x.power(degree.inverse()?);
            }
            Function::Max => {
                return arguments
                    .iter()
                    .copied()
                    .max_by(|a, b| a.re.total_cmp(&b.re));
            }
            Function::Min => {
                return arguments
                    .iter()
                    .copied()
                    .min_by(|a, b| a.re.total_cmp(&b.re));
            }
            // An unknown function: any fixed smooth one distinguishes its arguments.
            Function::Named(name) => {
                let shift = self.variable(name);
                let sum: f64 = arguments
                    .iter()
                    .zip(1..)
                    .map(|(a, n)| a.re * f64::from(n))
                    .sum();
                let slope: f64 = arguments
                    .iter()
                    .zip(1..)
                    .map(|(a, n)| a.error * f64::from(n))
                    .sum();
                return Some(Ball::with_error((sum + shift).sin() + 2.0, slope + UNIT));
            }
            Function::Ln
            | Function::Gcd
            | Function::Lcm
            | Function::Abs
            | Function::PlusMinus(_) => {
                return None;
            }
        };
        let rounding = value.abs().max(slope * real.abs()) * UNIT;
        Some(Ball::with_error(value, slope * x.error + rounding))
    }
}

/// Quotient of gamma functions at positive arguments.
fn gamma_quotient(above: &[f64], below: &[f64]) -> Option<Ball> {
    if above.iter().chain(below).any(|&x| x <= 0.0 || x > 160.0) {
        return None;
    }
    let sum = |values: &[f64]| values.iter().map(|&x| ln_gamma(x)).sum::<f64>();
    let value = (sum(above) - sum(below)).exp();
    Some(Ball::with_error(value, value * GAMMA_ERROR))
}

impl Ball {
    fn rounded_constant(re: f64) -> Self {
        Self::with_error(re, re.abs() * f64::EPSILON)
    }

    fn with_error(re: f64, error: f64) -> Self {
        Self { re, im: 0.0, error }
    }

    fn size(&self) -> f64 {
        self.re.hypot(self.im)
    }

    fn is_real(&self) -> bool {
        self.im.abs() <= self.error
    }

    /// Whether this is a real number without any error: whole numbers and halves stay exact, which
    /// decides what rounding functions do with them.
    fn is_exact(&self) -> bool {
        self.error == 0.0 && self.im == 0.0
    }

    fn plus(self, other: Self) -> Self {
        let (re, im) = (self.re + other.re, self.im + other.im);
        let lossless = re - self.re == other.re && re - other.re == self.re;
        if self.is_exact() && other.is_exact() && lossless {
            return Self::with_error(re, 0.0);
        }
        let rounding = (self.size() + other.size()) * UNIT;
        let error = self.error + other.error + rounding;
        Self { re, im, error }
    }

    fn times(self, other: Self) -> Self {
        let re = self.re * other.re - self.im * other.im;
        let im = self.re * other.im + self.im * other.re;
        let lossless = self.re.mul_add(other.re, -re) == 0.0;
        if self.is_exact() && other.is_exact() && lossless {
            return Self::with_error(re, 0.0);
        }
        let (a, b) = (self.size(), other.size());
        let error = a * other.error + b * self.error + self.error * other.error + a * b * UNIT;
        Self { re, im, error }
    }

    fn inverse(self) -> Option<Self> {
        let size = self.size();
        if size <= 2.0 * self.error {
            return None;
        }
        let reciprocal = self.re.recip();
        if self.is_exact() && reciprocal.mul_add(self.re, -1.0) == 0.0 {
            return Some(Self::with_error(reciprocal, 0.0));
        }
        let square = size * size;
        let error = 2.0 * self.error / square + UNIT / size;
        Some(Self {
            re: self.re / square,
            im: -self.im / square,
            error,
        })
    }

    fn power(self, exponent: Self) -> Option<Self> {
        let size = self.size();
        if size <= 2.0 * self.error {
            // A base that may be zero: a positive power of it is small, anything else unknown.
            if size == 0.0 && self.error == 0.0 && exponent.re == 0.0 {
                return Some(Self::with_error(1.0, 0.0));
            }
            let positive = exponent.im == 0.0 && exponent.re > exponent.error;
            return positive.then(|| Self::with_error(0.0, (size + self.error).powf(exponent.re)));
        }
        let whole = exponent.im == 0.0 && exponent.re.fract() == 0.0 && exponent.re.abs() < 1e6;
        if self.im == 0.0 && (self.re > 0.0 || whole) && exponent.im == 0.0 {
            let value = if whole {
                self.re.powi(exponent.re as i32)
            } else {
                self.re.powf(exponent.re)
            };
            if self.is_exact() && exponent.re == -1.0 {
                return self.inverse();
            }
            let log = size.ln().abs();
            let relative = exponent.re.abs() * (2.0 * self.error / size + UNIT)
                + log * (exponent.error + exponent.re.abs() * UNIT)
                + UNIT;
            return Some(Self::with_error(value, value.abs() * relative));
        }
        // e^(exponent ln(base)) on the principal branch.
        let (log, angle) = (size.ln(), self.im.atan2(self.re));
        let log_error = 2.0 * self.error / size + UNIT * (log.abs() + angle.abs() + 1.0);
        let log = Self {
            re: log,
            im: angle,
            error: log_error,
        };
        let product = log.times(exponent);
        let scale = product.re.exp();
        let error = scale * (2.0 * product.error + UNIT * (1.0 + product.size()));
        Some(Self {
            re: scale * product.im.cos(),
            im: scale * product.im.sin(),
            error,
        })
    }

    fn rounded(self, round: impl Fn(f64) -> f64) -> Option<Self> {
        // Next to a whole number the bound decides nothing, unless there is none.
        let (low, high) = (round(self.re - self.error), round(self.re + self.error));
        (low == high).then(|| Self::with_error(low, 0.0))
    }

    /// Whether two values can be equal; `None` when the bounds are too wide to say that they are.
    fn agrees(&self, other: &Self) -> Option<bool> {
        let distance = (self.re - other.re).hypot(self.im - other.im);
        let bound = 2.0 * (self.error + other.error);
        let scale = self.size().max(other.size());
        if distance > bound {
            return Some(false);
        }
        (bound <= MAX_RELATIVE_BOUND * scale.max(TINY)).then_some(true)
    }
}
