//! Equations with their labels, and the sets of numbers that relations describe.

use super::atoms::reals;
use super::expr::{Answer, Constant, Expr, Function, Relation, SetOperation};

/// The sides of a chain of equals signs.
pub(super) fn equation(answer: &Answer) -> Option<&[Answer]> {
    match answer {
        Answer::Chain(sides, relations) => relations
            .iter()
            .all(|r| *r == Relation::Equal)
            .then_some(sides),
        _ => None,
    }
}

/// A name for the value on the other side: `x`, `a_1`, `f(x)`, `p(x)`, `(x, y)`.
pub(super) fn is_label(answer: &Answer) -> bool {
    let variable = |expr: &Expr| matches!(expr, Expr::Variable(_));
    match answer {
        Answer::Value(expr, _) => match expr {
            Expr::Variable(_) => true,
            Expr::Apply(Function::Named(_), arguments) => arguments.iter().all(variable),
            // `P(x)`, `\angle ABC` and `AB` read as products of letters.
            Expr::Product(parts) => parts.iter().all(variable),
            _ => false,
        },
        Answer::Bracketed { items, .. } => items.iter().all(is_label),
        _ => false,
    }
}

/// The value that an answer states under a label of its own: `m + n = 7`, `190 + 7 = 197`, `5 = x`.
///
/// `-x = 5` and `2x = 10` state something else about x, so nothing is overlooked there.
pub(super) fn overlooked_label(sides: &[Answer]) -> Option<&Answer> {
    let (first, last) = (sides.first()?, sides.last()?);
    if is_label(last) && !is_label(first) {
        return Some(first);
    }
    let Answer::Value(expr, _) = first else {
        return is_label(first).then_some(last);
    };
    let variables = expr.variables();
    match (variables.len(), expr) {
        (0, _) => Some(last), // a calculation and its result
        (1, Expr::Variable(_) | Expr::Apply(..)) => Some(last),
        (1, Expr::Power(..)) => Some(last),
        (1, _) => None,
        _ => Some(last),
    }
}

/// `f(n) = n` and `f(x) = x` are the same function: the answer's argument takes the gold's name.
pub(super) fn rename_argument(value: &Answer, label: &Answer, gold_label: &Answer) -> Answer {
    let argument = |label: &Answer| match label {
        Answer::Value(Expr::Apply(Function::Named(_), arguments), _) => {
            match arguments.as_slice() {
                [Expr::Variable(name)] => Some(name.clone()),
                _ => None,
            }
        }
        _ => None,
    };
    match (argument(label), argument(gold_label), value) {
        (Some(from), Some(to), Answer::Value(expr, marks)) if from != to => {
            let renamed = expr.clone().map(&mut |node| match node {
                Expr::Variable(name) if name == from => Expr::Variable(to.clone()),
                node => node,
            });
            Answer::Value(renamed, marks.clone())
        }
        _ => value.clone(),
    }
}

/// `a = b` as `a - b`.
pub(super) fn zero_form(sides: &[Answer]) -> Option<Expr> {
    match sides {
        [Answer::Value(left, _), Answer::Value(right, _)] => {
            Some(Expr::Sum(vec![left.clone(), right.clone().negated()]))
        }
        _ => None,
    }
}

/// An inequality for one variable.
pub(super) fn is_bound(answer: &Answer) -> bool {
    matches!(answer, Answer::Chain(..)) && !matches!(as_set(answer), Answer::Chain(..))
}

/// `x < 1 or x > 3` as a union of intervals.
pub(super) fn as_union(items: &[Answer]) -> Option<Answer> {
    let all = items.len() > 1 && items.iter().all(is_bound);
    all.then(|| Answer::Sets(SetOperation::Union, items.iter().map(as_set).collect()))
}

/// The set that an answer describes: inequalities for one variable become intervals.
pub(super) fn as_set(answer: &Answer) -> Answer {
    if let Answer::List(items) = answer
        && let Some(union) = as_union(items)
    {
        return union;
    }
    let infinity = || Expr::Constant(Constant::Infinity);
    if let Some(hole) = hole(answer) {
        let end = |low: Answer, high: Answer| Answer::Bracketed {
            open: '(',
            close: ')',
            items: vec![low, high],
        };
        let ends = [
            end(Answer::value(infinity().negated()), hole.clone()),
            end(hole.clone(), Answer::value(infinity())),
        ];
        return Answer::Sets(SetOperation::Union, ends.to_vec());
    }
    let Some((sides, strict)) = ascending(answer) else {
        return answer.clone();
    };
    let bracket = |strict: bool, open: char, closed: char| if strict { open } else { closed };
    let interval = |low: Answer, open: char, high: Answer, close: char| Answer::Bracketed {
        open,
        close,
        items: vec![low, high],
    };
    match (sides.as_slice(), strict.as_slice()) {
        ([low, variable, high], [low_strict, high_strict]) if is_label(variable) => interval(
            low.clone(),
            bracket(*low_strict, '(', '['),
            high.clone(),
            bracket(*high_strict, ')', ']'),
        ),
        ([variable, high], [strict]) if is_label(variable) => interval(
            Answer::value(infinity().negated()),
            '(',
            high.clone(),
            bracket(*strict, ')', ']'),
        ),
        ([low, variable], [strict]) if is_label(variable) => interval(
            low.clone(),
            bracket(*strict, '(', '['),
            Answer::value(infinity()),
            ')',
        ),
        _ => answer.clone(),
    }
}

/// The one number that is left out: `x \ne 1`, `\mathbb{R} \setminus \{1\}`.
fn hole(answer: &Answer) -> Option<&Answer> {
    match answer {
        Answer::Chain(sides, relations) if relations[..] == [Relation::NotEqual] => {
            is_label(&sides[0]).then_some(&sides[1])
        }
        Answer::Sets(SetOperation::Difference, sets) => match sets.as_slice() {
            [all, Answer::Set(left_out)] if *all == reals() && left_out.len() == 1 => {
                left_out.first()
            }
            _ => None,
        },
        _ => None,
    }
}

/// The sides of a chain of inequalities from small to large, and which signs are strict.
pub(super) fn ascending(answer: &Answer) -> Option<(Vec<Answer>, Vec<bool>)> {
    let Answer::Chain(sides, relations) = answer else {
        return None;
    };
    let strict: Vec<bool> = relations
        .iter()
        .map(|r| matches!(r, Relation::Less | Relation::Greater))
        .collect();
    let up = |r: &Relation| matches!(r, Relation::Less | Relation::LessOrEqual);
    let down = |r: &Relation| matches!(r, Relation::Greater | Relation::GreaterOrEqual);
    if relations.iter().all(up) {
        return Some((sides.clone(), strict));
    }
    relations.iter().all(down).then(|| {
        (
            sides.iter().rev().cloned().collect(),
            strict.into_iter().rev().collect(),
        )
    })
}
