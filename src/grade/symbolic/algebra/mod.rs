//! Exact normal forms: quotients of polynomials over the rationals in atoms with rational powers.
//!
//! Atoms are variables, constants, primes under a root, and whatever has no normal form here
//! (*opaque*: functions, roots of sums, symbolic powers), which is kept under its own normal form's
//! text. Roots of primes are linearly independent over the rationals (Besicovitch 1940), and so,
//! as far as anyone knows, are monomials in pi and e: without opaque atoms two values are equal
//! exactly when their forms are. With them, equal forms still mean equal values.

mod exact;
mod form;

use std::collections::BTreeMap;
use std::fmt::Write;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{CheckedAdd, CheckedMul, One, Signed, Zero};

use exact::{exact_function, integer_power};
pub(super) use form::Form;
use form::{Exponent, Monomial, Polynomial, add_term, bits, one, small_exponent, weight};

use super::expr::{Constant, Expr, Function};
use super::limits::{
    MAX_EXPANSION, MAX_FACTORIAL, MAX_INTEGER_BITS, MAX_STEPS, MAX_TERMS, MAX_TRIAL_DIVISOR,
    STEPS_PER_TERM,
};
use super::rational;

/// Why an expression has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoForm {
    /// It has no value: a division by zero, the logarithm of zero.
    Undefined,
    /// It would exceed a limit.
    TooLarge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Atom {
    Variable(String),
    Constant(Constant),
    /// A prime, or a factor without small divisors, under a root.
    Prime(BigInt),
    /// Anything else, by the text of its normal form.
    Opaque(String),
}

/// The atoms and the step budget that the forms of one comparison share.
#[derive(Default)]
pub(super) struct Algebra {
    atoms: Vec<Atom>,
    pub(super) steps: usize,
}

impl Algebra {
    /// Whether two forms are equal; `None` when opaque atoms leave that open.
    pub(super) fn equal(&mut self, a: &Form, b: &Form) -> Result<Option<bool>, NoForm> {
        if a == b {
            return Ok(Some(true));
        }
        let left = self.times(&a.above, &b.below)?;
        let right = self.times(&b.above, &a.below)?;
        let mut difference = left;
        for (monomial, coefficient) in right {
            add_term(&mut difference, monomial, -coefficient);
        }
        if difference.is_empty() {
            return Ok(Some(true));
        }
        let opaque = |monomial: &Monomial| {
            monomial
                .iter()
                .any(|&(atom, _)| matches!(self.atoms[atom], Atom::Opaque(_)))
        };
        Ok(if difference.keys().any(opaque) {
            None
        } else {
            Some(false)
        })
    }

    /// The normal form of an expression.
    pub(super) fn form(&mut self, expr: &Expr) -> Result<Form, NoForm> {
        self.step(1)?;
        match expr {
            Expr::Number(value) => Ok(Form::rational(value.clone())),
            Expr::Constant(constant) => Ok(self.atom(Atom::Constant(*constant))),
            Expr::Variable(name) => Ok(self.atom(Atom::Variable(name.clone()))),
            Expr::Sum(parts) => {
                let mut sum = Form::rational(BigRational::zero());
                for part in parts {
                    let part = self.form(part)?;
                    sum = self.plus(&sum, &part)?;
                }
                Ok(sum)
            }
            Expr::Product(parts) => {
                let mut product = Form::rational(BigRational::one());
                for part in parts {
                    let part = self.form(part)?;
                    product = self.product(&product, &part)?;
                }
                Ok(product)
            }
            Expr::Power(base, exponent) => {
                let base = self.form(base)?;
                let exponent = self.form(exponent)?;
                match exponent.as_rational() {
                    Some(exponent) => self.power(base, &exponent),
                    None => self.symbolic_power(&base, &exponent),
                }
            }
            Expr::Apply(function, arguments) => {
                let arguments: Vec<Form> = arguments
                    .iter()
                    .map(|a| self.form(a))
                    .collect::<Result<_, _>>()?;
                self.apply(function, &arguments)
            }
        }
    }

    fn step(&mut self, steps: usize) -> Result<(), NoForm> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            Err(NoForm::TooLarge)
        } else {
            Ok(())
        }
    }

    fn atom_id(&mut self, atom: Atom) -> usize {
        match self.atoms.iter().position(|known| *known == atom) {
            Some(id) => id,
            None => {
                self.atoms.push(atom);
                self.atoms.len() - 1
            }
        }
    }

    fn atom(&mut self, atom: Atom) -> Form {
        let id = self.atom_id(atom);
        Form::term(vec![(id, Exponent::one())], BigRational::one())
    }

    fn opaque(&mut self, text: String) -> Form {
        self.atom(Atom::Opaque(text))
    }

    fn plus(&mut self, a: &Form, b: &Form) -> Result<Form, NoForm> {
        let (left, right, below) = if a.below == b.below {
            (a.above.clone(), b.above.clone(), a.below.clone())
        } else {
            (
                self.times(&a.above, &b.below)?,
                self.times(&b.above, &a.below)?,
                self.times(&a.below, &b.below)?,
            )
        };
        let mut above = left;
        for (monomial, coefficient) in right {
            self.step(STEPS_PER_TERM + weight(&coefficient))?;
            add_term(&mut above, monomial, coefficient);
        }
        self.quotient(above, below)
    }

    fn product(&mut self, a: &Form, b: &Form) -> Result<Form, NoForm> {
        let above = self.times(&a.above, &b.above)?;
        let below = self.times(&a.below, &b.below)?;
        self.quotient(above, below)
    }

    /// Takes a denominator of one term into the numerator.
    fn quotient(&mut self, above: Polynomial, below: Polynomial) -> Result<Form, NoForm> {
        let mut terms = below.iter();
        match (terms.next(), terms.next()) {
            (None, _) => Err(NoForm::Undefined),
            (Some((monomial, coefficient)), None)
                if !(monomial.is_empty() && coefficient.is_one()) =>
            {
                let inverse: Monomial = monomial.iter().map(|&(atom, e)| (atom, -e)).collect();
                let term = Form::term(inverse, coefficient.recip()).above;
                let above = self.times(&above, &term)?;
                Ok(Form {
                    above,
                    below: one(),
                })
            }
            _ => Ok(Form { above, below }),
        }
    }

    fn times(&mut self, a: &Polynomial, b: &Polynomial) -> Result<Polynomial, NoForm> {
        self.step(STEPS_PER_TERM * a.len() * b.len())?;
        let mut product = Polynomial::new();
        for (left, c) in a {
            for (right, d) in b {
                let (monomial, factor) = self.merge(left, right)?;
                let coefficient = rational::product(&rational::product(c, d), &factor);
                self.step(weight(&coefficient))?;
                if bits(&coefficient) > MAX_INTEGER_BITS {
                    return Err(NoForm::TooLarge);
                }
                add_term(&mut product, monomial, coefficient);
                if product.len() > MAX_TERMS {
                    return Err(NoForm::TooLarge);
                }
            }
        }
        Ok(product)
    }

    /// Adds exponents; whole powers of primes and of i become a rational factor.
    fn merge(&self, a: &Monomial, b: &Monomial) -> Result<(Monomial, BigRational), NoForm> {
        let mut merged: BTreeMap<usize, Exponent> = a.iter().copied().collect();
        for &(atom, exponent) in b {
            let sum = merged.entry(atom).or_insert_with(Exponent::zero);
            *sum = sum.checked_add(&exponent).ok_or(NoForm::TooLarge)?;
        }
        let mut factor = BigRational::one();
        for (&atom, exponent) in &mut merged {
            match &self.atoms[atom] {
                Atom::Prime(prime) => {
                    let whole = exponent.floor().to_integer();
                    *exponent -= Exponent::from_integer(whole);
                    factor *= integer_power(&BigRational::from_integer(prime.clone()), whole)?;
                }
                Atom::Constant(Constant::I) if exponent.is_integer() => {
                    let turns = exponent.to_integer().mod_floor(&4);
                    *exponent = Exponent::from_integer(turns % 2);
                    if turns >= 2 {
                        factor = -factor;
                    }
                }
                _ => {}
            }
        }
        merged.retain(|_, exponent| !exponent.is_zero());
        Ok((merged.into_iter().collect(), factor))
    }

    /// A form to a rational power.
    fn power(&mut self, base: Form, exponent: &BigRational) -> Result<Form, NoForm> {
        let Some(small) = small_exponent(exponent) else {
            return self.huge_power(&base, &Form::rational(exponent.clone()));
        };
        if small.is_integer() {
            return match self.integer_power(&base, small.to_integer()) {
                Err(NoForm::TooLarge) => self.huge_power(&base, &Form::rational(exponent.clone())),
                outcome => outcome,
            };
        }
        if base.above.is_empty() {
            return if small.is_positive() {
                Ok(base)
            } else {
                Err(NoForm::Undefined)
            };
        }
        let exponent = small;
        if let Some(root) = self.monomial_root(&base, exponent)? {
            return Ok(root);
        }
        // The root of a sum is an atom; whole powers of it multiply out.
        let whole = exponent.floor().to_integer();
        let rest = exponent - Exponent::from_integer(whole);
        let text = self.text(&base);
        let id = self.atom_id(Atom::Opaque(format!("({text})")));
        let root = Form::term(vec![(id, rest)], BigRational::one());
        let power = self.integer_power(&base, whole)?;
        self.product(&power, &root)
    }

    fn huge_power(&mut self, base: &Form, exponent: &Form) -> Result<Form, NoForm> {
        let text = format!("({})^({})", self.text(base), self.text(exponent));
        Ok(self.opaque(text))
    }

    fn integer_power(&mut self, base: &Form, exponent: i64) -> Result<Form, NoForm> {
        if exponent < 0 {
            let inverse = self.quotient(base.below.clone(), base.above.clone())?;
            let positive = exponent.checked_neg().ok_or(NoForm::TooLarge)?;
            return self.integer_power(&inverse, positive);
        }
        if let (Some((monomial, coefficient)), true) = (base.single_term(), base.below == one()) {
            let by = Exponent::from_integer(exponent);
            let scaled: Option<Monomial> = monomial
                .iter()
                .map(|(atom, e)| Some((*atom, e.checked_mul(&by)?)))
                .collect();
            let coefficient = integer_power(coefficient, exponent)?;
            let (monomial, factor) = self.merge(&scaled.ok_or(NoForm::TooLarge)?, &Vec::new())?;
            return Ok(Form::term(monomial, coefficient * factor));
        }
        if base.above.is_empty() {
            // 0^0 is left to nobody; combinatorics reads it as 1.
            return Ok(if exponent == 0 {
                Form::rational(BigRational::one())
            } else {
                base.clone()
            });
        }
        if exponent > i64::from(MAX_EXPANSION) {
            return Err(NoForm::TooLarge);
        }
        let mut power = Form::rational(BigRational::one());
        for _ in 0..exponent {
            power = self.product(&power, base)?;
        }
        Ok(power)
    }

    /// The root of a single term, where taking it factor by factor is sound.
    fn monomial_root(&mut self, base: &Form, exponent: Exponent) -> Result<Option<Form>, NoForm> {
        let (Some((monomial, coefficient)), true) = (base.single_term(), base.below == one())
        else {
            return Ok(None);
        };
        let negative = coefficient.is_negative();
        // (-a)^(1/2) = i a^(1/2); other roots of negative numbers are left to evaluation.
        if negative
            && (*exponent.denom() != 2 || !monomial.iter().all(|&(a, _)| self.is_positive(a)))
        {
            return Ok(None);
        }
        let mut powers = Vec::new();
        for &(atom, e) in monomial {
            let even = e.is_integer() && e.to_integer().is_even();
            let sound = self.is_positive(atom)
                || (!even && e.is_integer() && matches!(self.atoms[atom], Atom::Variable(_)));
            if !sound {
                return Ok(None);
            }
            powers.push((atom, e.checked_mul(&exponent).ok_or(NoForm::TooLarge)?));
        }
        let mut root = Form::term(powers, BigRational::one());
        let coefficient = coefficient.abs();
        for (value, sign) in [(coefficient.numer(), 1), (coefficient.denom(), -1)] {
            for (prime, count) in self.factors(value)? {
                let by = exponent.checked_mul(&Exponent::from_integer(count * sign));
                let id = self.atom_id(Atom::Prime(prime));
                let factor = vec![(id, by.ok_or(NoForm::TooLarge)?)];
                let (monomial, scale) = self.merge(&factor, &Vec::new())?;
                root = self.product(&root, &Form::term(monomial, scale))?;
            }
        }
        if negative {
            let i = self.atom(Atom::Constant(Constant::I));
            let turned = self.integer_power(&i, *exponent.numer())?;
            root = self.product(&root, &turned)?;
        }
        Ok(Some(root))
    }

    fn is_positive(&self, atom: usize) -> bool {
        matches!(
            &self.atoms[atom],
            Atom::Prime(_) | Atom::Constant(Constant::Pi | Constant::E)
        )
    }

    /// `2^{2n-1}` is (2^n)^2 / 2: the exponent's terms become atoms of their own.
    fn symbolic_power(&mut self, base: &Form, exponent: &Form) -> Result<Form, NoForm> {
        let bases: Option<Vec<(String, i64)>> = match base.as_rational() {
            Some(value) if value.is_one() => return Ok(base.clone()),
            Some(value) if value.is_positive() => {
                let mut bases = Vec::new();
                for (part, sign) in [(value.numer(), 1), (value.denom(), -1)] {
                    let factors = self.factors(part)?.into_iter();
                    bases.extend(factors.map(|(prime, count)| (prime.to_string(), count * sign)));
                }
                Some(bases)
            }
            Some(_) => None,
            None => match base.single_term() {
                Some((monomial, coefficient)) if coefficient.is_one() && monomial.len() == 1 => {
                    let (atom, e) = monomial[0];
                    e.is_integer()
                        .then(|| vec![(format!("#{atom}"), e.to_integer())])
                }
                _ => None,
            },
        };
        let (Some(bases), true) = (bases, exponent.below == one()) else {
            return self.huge_power(base, exponent);
        };
        let mut power = Form::rational(BigRational::one());
        for (monomial, coefficient) in &exponent.above {
            if monomial.is_empty() {
                let constant = self.power(base.clone(), coefficient)?;
                power = self.product(&power, &constant)?;
                continue;
            }
            let scale = small_exponent(coefficient).ok_or(NoForm::TooLarge)?;
            let name = self.monomial_text(monomial);
            for (base, count) in &bases {
                let by = scale.checked_mul(&Exponent::from_integer(*count));
                let id = self.atom_id(Atom::Opaque(format!("{base}^({name})")));
                let factor =
                    Form::term(vec![(id, by.ok_or(NoForm::TooLarge)?)], BigRational::one());
                power = self.product(&power, &factor)?;
            }
        }
        Ok(power)
    }

    fn apply(&mut self, function: &Function, arguments: &[Form]) -> Result<Form, NoForm> {
        if let Function::Factorial | Function::Binomial = function {
            self.step(MAX_FACTORIAL as usize)?;
        }
        let rationals: Option<Vec<BigRational>> = arguments.iter().map(Form::as_rational).collect();
        if let Some(value) = rationals
            .as_deref()
            .and_then(|values| exact_function(function, values))
        {
            return value.map(Form::rational);
        }
        match (function, arguments) {
            (Function::Degrees, [degrees]) => {
                let pi = self.atom(Atom::Constant(Constant::Pi));
                let scale = Form::rational(BigRational::new(1.into(), 180.into()));
                let radians = self.product(&pi, &scale)?;
                return self.product(degrees, &radians);
            }
            (Function::Root, [radicand, degree]) => {
                if let Some(n) = degree
                    .as_rational()
                    .filter(|n| n.is_integer() && n.is_positive())
                {
                    let negative = radicand
                        .as_rational()
                        .is_some_and(|value| value.is_negative());
                    if negative && n.numer().is_odd() {
                        let minus = Form::rational(-BigRational::one());
                        let positive = self.product(radicand, &minus)?;
                        let root = self.power(positive, &n.recip())?;
                        return self.product(&root, &minus);
                    }
                    return self.power(radicand.clone(), &n.recip());
                }
            }
            (Function::Ln, [argument]) => {
                if let Some(form) = self.logarithm(argument)? {
                    return Ok(form);
                }
            }
            _ => {}
        }
        let mut text = match function {
            Function::Named(name) => format!("{name}("),
            function => format!("{function:?}("),
        };
        for argument in arguments {
            text.push_str(&self.text(argument));
            text.push(';');
        }
        Ok(self.opaque(text))
    }

    /// The logarithm of a positive rational, by its primes, or of a power of e.
    fn logarithm(&mut self, argument: &Form) -> Result<Option<Form>, NoForm> {
        if let Some(value) = argument.as_rational() {
            if value.is_zero() {
                return Err(NoForm::Undefined);
            }
            if value.is_negative() {
                return Ok(None);
            }
            let mut sum = Form::rational(BigRational::zero());
            for (part, sign) in [(value.numer(), 1), (value.denom(), -1)] {
                for (prime, count) in self.factors(part)? {
                    let id = self.atom_id(Atom::Opaque(format!("ln {prime}")));
                    let term = Form::term(
                        vec![(id, Exponent::one())],
                        BigRational::from_integer((count * sign).into()),
                    );
                    sum = self.plus(&sum, &term)?;
                }
            }
            return Ok(Some(sum));
        }
        let e = self.atom_id(Atom::Constant(Constant::E));
        Ok(match argument.single_term() {
            Some((monomial, coefficient)) if coefficient.is_one() && argument.below == one() => {
                match monomial.as_slice() {
                    [(atom, power)] if *atom == e => Some(Form::rational(BigRational::new(
                        (*power.numer()).into(),
                        (*power.denom()).into(),
                    ))),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// Primes and their counts by trial division. A large cofactor is kept whole.
    fn factors(&mut self, value: &BigInt) -> Result<Vec<(BigInt, i64)>, NoForm> {
        let twos = value.trailing_zeros().unwrap_or(0);
        let mut rest = value >> twos;
        let mut factors = Vec::new();
        if twos > 0 {
            factors.push((BigInt::from(2), twos as i64));
        }
        let mut divisor = 3_u32;
        while divisor <= MAX_TRIAL_DIVISOR && BigInt::from(divisor) * divisor <= rest {
            let mut count = 0;
            while (&rest % divisor).is_zero() {
                rest /= divisor;
                count += 1;
                self.step(1 + rest.bits() as usize / 64)?;
            }
            if count > 0 {
                factors.push((BigInt::from(divisor), count));
            }
            divisor += 2;
        }
        self.step(divisor as usize / 16)?;
        if !rest.is_one() {
            let root = rest.sqrt();
            // A square of a large prime would otherwise hide from its own root.
            match &root * &root == rest {
                true => factors.push((root, 2)),
                false => factors.push((rest, 1)),
            }
        }
        Ok(factors)
    }

    /// A text that is the same for equal forms of one comparison.
    fn text(&self, form: &Form) -> String {
        let polynomial = |polynomial: &Polynomial| {
            let mut text = String::new();
            for (monomial, coefficient) in polynomial {
                let _ = write!(text, "+{coefficient}*{}", self.monomial_text(monomial));
            }
            text
        };
        match form.below == one() {
            true => polynomial(&form.above),
            false => format!(
                "({})/({})",
                polynomial(&form.above),
                polynomial(&form.below)
            ),
        }
    }

    fn monomial_text(&self, monomial: &Monomial) -> String {
        let mut text = String::new();
        for (atom, exponent) in monomial {
            let _ = write!(text, "#{atom}^{exponent} ");
        }
        text
    }
}
