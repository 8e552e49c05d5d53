//! The decision: whether two answers mean the same, and how that was found.
//!
//! Numbers and expressions: exact rational arithmetic, then normal forms, then evaluation.
//! Tuples and intervals keep their order and bracket kinds; lists and sets have none.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::algebra::{Algebra, NoForm};
use super::expr::{Answer, Constant, Expr, Function, Marks, Relation, SetOperation};
use super::limits::{MAX_STEPS, MAX_UNORDERED, WRITTEN_OUT_DECIMALS};
use super::numeric;
use super::relations::{
    as_set, as_union, ascending, equation, is_bound, is_label, overlooked_label, rename_argument,
    zero_form,
};

/// How two answers were found equal, from the strongest to the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Equality {
    /// The same text once wrappers and spacing are gone.
    Text,
    /// The same structure.
    Structure,
    /// Equal rational numbers.
    Rational,
    /// A repeating decimal, written out to many places.
    WrittenOut,
    /// Equal algebraic normal forms.
    NormalForm,
    /// Equal values at every pseudo-random point (or of the constants), within error bounds.
    Evaluation,
}

/// Why two answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Values differ.
    Value,
    /// One is a single value, the other several, or a matrix and not a matrix, and so on.
    Kind,
    /// Lists, sets, tuples or matrices of different sizes.
    Count,
    /// Open and closed ends differ.
    Brackets,
    /// Different units of measurement.
    Unit,
    /// No method could decide; nothing is accepted on a guess.
    Undecided,
}

pub(super) type Decision = Result<Equality, Difference>;

/// The step budget of one comparison is used up.
#[derive(Debug)]
pub(super) struct OutOfSteps;

#[derive(Default)]
pub(super) struct Comparison {
    steps: usize,
    /// Inside of a list, where `x=1, y=2` and `x=2, y=1` differ.
    names_matter: bool,
}

type Outcome = Result<Decision, OutOfSteps>;

impl Comparison {
    fn step(&mut self, steps: usize) -> Result<(), OutOfSteps> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            Err(OutOfSteps)
        } else {
            Ok(())
        }
    }

    /// Whether `answer` means the same as `gold`. The two sides are not alike: a label that the
    /// answer puts before its value (`m + n = 7`) is overlooked, one that the gold asks for is not.
    pub(super) fn same(&mut self, answer: &Answer, gold: &Answer) -> Outcome {
        self.step(1)?;
        if answer == gold {
            return Ok(Ok(Equality::Structure));
        }
        match (answer, gold) {
            (Answer::Choice(letter, _), Answer::Choice(other, _)) if letter == other => {
                Ok(Ok(Equality::Structure))
            }
            (Answer::Choice(letter, value), gold) => match is_letter(gold, letter) {
                true => Ok(Ok(Equality::Structure)),
                false => self.same(value, gold),
            },
            (answer, Answer::Choice(letter, value)) => match is_letter(answer, letter) {
                true => Ok(Ok(Equality::Structure)),
                false => self.same(answer, value),
            },
            (Answer::Value(a, marks), Answer::Value(b, others)) => {
                self.same_value(a, marks, b, others)
            }
            (Answer::Chain(..), _) | (_, Answer::Chain(..)) => self.same_relation(answer, gold),
            (Answer::BaseN(..), _) | (_, Answer::BaseN(..)) => Ok(same_base(answer, gold)),
            (Answer::Sets(..), _) | (_, Answer::Sets(..)) => self.same_sets(answer, gold),
            (Answer::Matrix(a), Answer::Matrix(b)) => self.same_matrix(a, b),
            (Answer::Matrix(a), other) | (other, Answer::Matrix(a)) if rows(other).is_some() => {
                let b = rows(other).unwrap_or_default();
                self.same_matrix(a, &b)
            }
            _ => self.same_collection(answer, gold),
        }
    }

    fn same_collection(&mut self, answer: &Answer, gold: &Answer) -> Outcome {
        match (answer, gold) {
            (
                Answer::Bracketed { open, close, items },
                Answer::Bracketed {
                    open: gold_open,
                    close: gold_close,
                    items: gold_items,
                },
            ) => {
                let interval = items.len() == 2;
                if interval && (open, close) != (gold_open, gold_close) {
                    return Ok(Err(Difference::Brackets));
                }
                self.in_order(items, gold_items)
            }
            (Answer::List(items) | Answer::Set(items), Answer::List(gold) | Answer::Set(gold)) => {
                if let Some((intervals, golds)) = as_union(items).zip(as_union(gold)) {
                    return self.same_sets(&intervals, &golds);
                }
                self.any_order(items, gold)
            }
            // A tuple without its brackets, or a list in brackets.
            (Answer::Bracketed { items, .. }, Answer::List(gold))
            | (Answer::List(items), Answer::Bracketed { items: gold, .. }) => {
                self.in_order(items, gold)
            }
            // The set of one value is that value.
            (Answer::Set(items), gold @ Answer::Value(..)) if items.len() == 1 => {
                self.same(&items[0], gold)
            }
            (answer @ Answer::Value(..), Answer::Set(items)) if items.len() == 1 => {
                self.same(answer, &items[0])
            }
            (Answer::List(items), _) if items.iter().all(is_bound) => self.same_sets(answer, gold),
            (_, Answer::List(items)) if items.iter().all(is_bound) => self.same_sets(answer, gold),
            _ => Ok(Err(Difference::Kind)),
        }
    }

    fn in_order(&mut self, answer: &[Answer], gold: &[Answer]) -> Outcome {
        if answer.len() != gold.len() {
            return Ok(Err(Difference::Count));
        }
        let mut weakest = Equality::Structure;
        for (a, b) in answer.iter().zip(gold) {
            match self.same(a, b)? {
                Ok(equality) => weakest = weakest.max(equality),
                different => return Ok(different),
            }
        }
        Ok(Ok(weakest))
    }

    fn any_order(&mut self, answer: &[Answer], gold: &[Answer]) -> Outcome {
        if answer.len() != gold.len() {
            return Ok(Err(Difference::Count));
        }
        if gold.len() > MAX_UNORDERED {
            return self.in_order(answer, gold);
        }
        let outer = std::mem::replace(&mut self.names_matter, gold.len() > 1);
        let decision = self.matched(answer, gold);
        self.names_matter = outer;
        decision
    }

    /// Finds a partner for every element.
    fn matched(&mut self, answer: &[Answer], gold: &[Answer]) -> Outcome {
        let mut taken = vec![false; gold.len()];
        let mut weakest = Equality::Structure;
        for (index, item) in answer.iter().enumerate() {
            let mut found = None;
            // The same place first: most lists keep their order.
            for candidate in std::iter::once(index).chain(0..gold.len()) {
                if taken[candidate] {
                    continue;
                }
                if let Ok(equality) = self.same(item, &gold[candidate])? {
                    found = Some((candidate, equality));
                    break;
                }
            }
            let Some((candidate, equality)) = found else {
                return Ok(Err(Difference::Value));
            };
            taken[candidate] = true;
            weakest = weakest.max(equality);
        }
        Ok(Ok(weakest))
    }

    fn same_matrix(&mut self, answer: &[Vec<Answer>], gold: &[Vec<Answer>]) -> Outcome {
        if answer.len() != gold.len() {
            return Ok(Err(Difference::Count));
        }
        let mut weakest = Equality::Structure;
        for (row, other) in answer.iter().zip(gold) {
            match self.in_order(row, other)? {
                Ok(equality) => weakest = weakest.max(equality),
                different => return Ok(different),
            }
        }
        Ok(Ok(weakest))
    }

    fn same_sets(&mut self, answer: &Answer, gold: &Answer) -> Outcome {
        let (answer, gold) = (as_set(answer), as_set(gold));
        match (&answer, &gold) {
            (Answer::Sets(operation, sets), Answer::Sets(other, others)) if operation == other => {
                match operation {
                    SetOperation::Difference => self.in_order(sets, others),
                    _ => self.any_order(sets, others),
                }
            }
            (Answer::Sets(..), _) | (_, Answer::Sets(..)) => Ok(Err(Difference::Kind)),
            _ => self.same_collection(&answer, &gold),
        }
    }

    fn same_relation(&mut self, answer: &Answer, gold: &Answer) -> Outcome {
        // `x \in S` is S.
        if let Answer::Chain(sides, relations) = answer
            && relations[..] == [Relation::Element]
        {
            return self.same(&sides[1], gold);
        }
        if let Answer::Chain(sides, relations) = gold
            && relations[..] == [Relation::Element]
        {
            return self.same(answer, &sides[1]);
        }
        match (equation(answer), equation(gold)) {
            (Some(sides), Some(golds)) => self.same_equation(sides, golds),
            (Some(sides), None) if !matches!(gold, Answer::Chain(..)) => {
                match overlooked_label(sides) {
                    Some(value) => self.same(value, gold),
                    None => Ok(Err(Difference::Kind)),
                }
            }
            (None, Some(golds)) if !matches!(answer, Answer::Chain(..)) => match golds {
                [label, value] if is_label(label) => self.same(answer, value),
                _ => Ok(Err(Difference::Kind)),
            },
            _ => self.same_inequality(answer, gold),
        }
    }

    fn same_equation(&mut self, answer: &[Answer], gold: &[Answer]) -> Outcome {
        if let ([.., label, value], [gold_label, gold_value]) = (answer, gold)
            && is_label(label)
            && is_label(gold_label)
            && (label == gold_label || !self.names_matter)
        {
            let value = rename_argument(value, label, gold_label);
            if let Ok(equality) = self.same(&value, gold_value)? {
                return Ok(Ok(equality));
            }
        }
        // Two equations are the same when their differences are proportional.
        let (Some(a), Some(b)) = (zero_form(answer), zero_form(gold)) else {
            return Ok(Err(Difference::Value));
        };
        if a.variables() != b.variables() || a.variables().is_empty() {
            return Ok(Err(Difference::Value));
        }
        self.step(numeric::cost(&a) + numeric::cost(&b))?;
        Ok(match numeric::proportional(&a, &b) {
            Some(true) => Ok(Equality::Evaluation),
            Some(false) => Err(Difference::Value),
            None => Err(Difference::Undecided),
        })
    }

    fn same_inequality(&mut self, answer: &Answer, gold: &Answer) -> Outcome {
        let (set, gold_set) = (as_set(answer), as_set(gold));
        if !matches!(set, Answer::Chain(..)) && !matches!(gold_set, Answer::Chain(..)) {
            return self.same(&set, &gold_set);
        }
        match (ascending(answer), ascending(gold)) {
            (Some((sides, strict)), Some((golds, gold_strict))) if strict == gold_strict => {
                self.in_order(&sides, &golds)
            }
            (Some(_), Some(_)) => Ok(Err(Difference::Brackets)),
            _ => Ok(Err(Difference::Kind)),
        }
    }

    fn same_value(&mut self, a: &Expr, marks: &Marks, b: &Expr, others: &Marks) -> Outcome {
        let both_have_units = !marks.units.is_empty() && !others.units.is_empty();
        let both_have_powers = !marks.unit_powers.is_empty() && !others.unit_powers.is_empty();
        if (both_have_units && marks.units != others.units)
            || (both_have_powers && marks.unit_powers != others.unit_powers)
        {
            return Ok(Err(Difference::Unit));
        }
        let decision = self.same_expr(a, b)?;
        if decision.is_ok() {
            return Ok(decision);
        }
        // 50% is 1/2 as well as it is 50.
        let hundredth = |expr: &Expr| expr.clone().over(Expr::integer(100));
        if marks.percent && !others.percent {
            return self.same_expr(&hundredth(a), b);
        }
        if others.percent && !marks.percent {
            return self.same_expr(a, &hundredth(b));
        }
        // 30 degrees are pi/6.
        let radians = |expr: &Expr| Expr::Apply(Function::Degrees, vec![expr.clone()]);
        if marks.degrees && !others.degrees && is_angle(b) {
            return self.same_expr(&radians(a), b);
        }
        if others.degrees && !marks.degrees && is_angle(a) {
            return self.same_expr(a, &radians(b));
        }
        Ok(decision)
    }

    fn same_expr(&mut self, a: &Expr, b: &Expr) -> Outcome {
        if let (Expr::Number(a), Expr::Number(b)) = (a, b) {
            self.step(1)?;
            return Ok(match a == b {
                true => Ok(Equality::Rational),
                false if is_written_out(a, b) || is_written_out(b, a) => Ok(Equality::WrittenOut),
                false => Err(Difference::Value),
            });
        }
        if a == b {
            return Ok(Ok(Equality::Structure));
        }
        let mut algebra = Algebra::default();
        let forms = algebra
            .form(a)
            .and_then(|x| algebra.form(b).map(|y| (x, y)));
        let exact = match forms {
            Ok((x, y)) => algebra.equal(&x, &y).map(|equal| {
                let rational = x.as_rational().is_some() && y.as_rational().is_some();
                (equal, rational)
            }),
            Err(error) => Err(error),
        };
        self.step(1 + algebra.steps)?;
        match exact {
            Ok((Some(true), true)) => return Ok(Ok(Equality::Rational)),
            Ok((Some(true), false)) => return Ok(Ok(Equality::NormalForm)),
            Ok((Some(false), _)) | Err(NoForm::Undefined) => return Ok(Err(Difference::Value)),
            Ok((None, _)) | Err(NoForm::TooLarge) => {}
        }
        self.step(numeric::cost(a) + numeric::cost(b))?;
        Ok(match numeric::equal(a, b) {
            Some(true) => Ok(Equality::Evaluation),
            Some(false) => Err(Difference::Value),
            None => Err(Difference::Undecided),
        })
    }
}

/// The rows of a matrix in square brackets: `[[1, 2], [3, 4]]`.
fn rows(answer: &Answer) -> Option<Vec<Vec<Answer>>> {
    let row = |answer: &Answer| match answer {
        Answer::Bracketed {
            open: '[',
            close: ']',
            items,
        } => Some(items.clone()),
        _ => None,
    };
    row(answer)?.iter().map(row).collect()
}

fn is_letter(answer: &Answer, letter: &str) -> bool {
    matches!(answer, Answer::Value(Expr::Variable(name), _) if name == letter)
}

/// Whether an expression looks like an angle in radians: it has pi or an inverse function in it.
fn is_angle(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |node| {
        found |= match node {
            Expr::Constant(Constant::Pi) => true,
            Expr::Apply(function, _) => matches!(
                function,
                Function::Arcsin | Function::Arccos | Function::Arctan
            ),
            _ => false,
        }
    });
    found
}

/// Whether `decimal` is a repeating decimal's beginning: cut off, or rounded in its last place.
fn is_written_out(decimal: &BigRational, exact: &BigRational) -> bool {
    let Some(places) = decimal_places(decimal.denom()) else {
        return false;
    };
    let one_unit = BigRational::new(1.into(), BigInt::from(10).pow(places));
    places >= WRITTEN_OUT_DECIMALS
        && decimal_places(exact.denom()).is_none()
        && (decimal - exact).abs() < one_unit
}

/// Places after the point of a fraction with this denominator, if they end.
fn decimal_places(denominator: &BigInt) -> Option<u32> {
    let mut rest = denominator.clone();
    let mut places = 0;
    for prime in [2_u32, 5] {
        let mut count = 0;
        while (&rest % prime).is_zero() {
            rest /= prime;
            count += 1;
        }
        places = places.max(count);
    }
    rest.is_one().then_some(places)
}

/// Numbers with a base: the same digits in the same base, or the digits without the base.
fn same_base(answer: &Answer, gold: &Answer) -> Decision {
    let significant = |digits: &str| digits.trim_start_matches('0').to_owned();
    let equal = match (answer, gold) {
        (Answer::BaseN(a, base), Answer::BaseN(b, other)) => {
            base == other && significant(a) == significant(b)
        }
        (Answer::BaseN(digits, _), Answer::Value(Expr::Number(value), _))
        | (Answer::Value(Expr::Number(value), _), Answer::BaseN(digits, _)) => {
            value.is_integer() && value.to_integer().to_string() == significant(digits)
        }
        _ => return Err(Difference::Kind),
    };
    if equal {
        Ok(Equality::Structure)
    } else {
        Err(Difference::Value)
    }
}
