//! What an answer is once it is read: a value, or values in brackets, relations, matrices.

use num_rational::BigRational;
use num_traits::One;

/// A scalar expression. Subtraction and division are sums and products with negative signs and
/// powers; a square root is a power of one half.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(BigRational),
    Constant(Constant),
    /// A letter with its subscripts and primes, or a phrase in words.
    Variable(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Apply(Function, Vec<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Constant {
    Pi,
    E,
    I,
    Infinity,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Ln,
    /// The real root of an odd degree, the principal one of an even degree: (radicand, degree).
    Root,
    Abs,
    Floor,
    Ceil,
    Factorial,
    /// (n, k)
    Binomial,
    Gcd,
    Lcm,
    Max,
    Min,
    /// Degrees of arc under a trigonometric function.
    Degrees,
    /// A sign that is either plus (`\pm`) or, `true`, first minus (`\mp`).
    PlusMinus(bool),
    /// An unknown function such as `f`.
    Named(String),
}

/// What stands beside a value and does not change it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Marks {
    pub(super) percent: bool,
    pub(super) degrees: bool,
    /// Canonical units, in order.
    pub(super) units: Vec<&'static str>,
    /// Powers of units where they are written: 2 for `cm^2` and `square cm`.
    pub(super) unit_powers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Element,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetOperation {
    Union,
    Intersection,
    Difference,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Value(Expr, Marks),
    /// An integer with a base: digits and base.
    BaseN(String, u32),
    /// `(a, b)`, `[a, b)`, ...: an interval or a tuple.
    Bracketed {
        open: char,
        close: char,
        items: Vec<Answer>,
    },
    /// `{a, b}`.
    Set(Vec<Answer>),
    /// Elements without brackets around them.
    List(Vec<Answer>),
    /// Sets joined by an operation.
    Sets(SetOperation, Vec<Answer>),
    Matrix(Vec<Vec<Answer>>),
    /// `a R b S c ...`: one more side than relations.
    Chain(Vec<Answer>, Vec<Relation>),
    /// A choice letter with the value beside it: `(C) 8`.
    Choice(String, Box<Answer>),
}

impl Expr {
    pub(super) fn integer(value: i64) -> Self {
        Self::Number(BigRational::from_integer(value.into()))
    }

    pub(super) fn negated(self) -> Self {
        match self {
            Self::Number(value) => Self::Number(-value),
            other => Self::Product(vec![Self::integer(-1), other]),
        }
    }

    pub(super) fn inverse(self) -> Self {
        Self::Power(Box::new(self), Box::new(Self::integer(-1)))
    }

    pub(super) fn over(self, below: Self) -> Self {
        match (self, below) {
            // A zero denominator stays: it has no value, which the decision finds out.
            (Self::Number(a), Self::Number(b)) if b != BigRational::default() => {
                Self::Number(a / b)
            }
            (above, below) => Self::Product(vec![above, below.inverse()]),
        }
    }

    pub(super) fn power(self, exponent: Self) -> Self {
        match exponent {
            Self::Number(n) if n.is_one() => self,
            exponent => Self::Power(Box::new(self), Box::new(exponent)),
        }
    }

    pub(super) fn square_root(self) -> Self {
        let half = BigRational::new(1.into(), 2.into());
        self.power(Self::Number(half))
    }

    /// Calls `visit` on this node and all below.
    pub(super) fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        match self {
            Self::Number(_) | Self::Constant(_) | Self::Variable(_) => {}
            Self::Sum(parts) | Self::Product(parts) | Self::Apply(_, parts) => {
                parts.iter().for_each(|part| part.walk(visit));
            }
            Self::Power(base, exponent) => {
                base.walk(visit);
                exponent.walk(visit);
            }
        }
    }

    /// Rebuilds the tree bottom-up through `change`.
    pub(super) fn map(self, change: &mut impl FnMut(Self) -> Self) -> Self {
        let mut all = |parts: Vec<Self>| -> Vec<Self> {
            parts.into_iter().map(|part| part.map(change)).collect()
        };
        let rebuilt = match self {
            Self::Sum(parts) => Self::Sum(all(parts)),
            Self::Product(parts) => Self::Product(all(parts)),
            Self::Apply(function, parts) => Self::Apply(function, all(parts)),
            Self::Power(base, exponent) => {
                Self::Power(Box::new(base.map(change)), Box::new(exponent.map(change)))
            }
            leaf => leaf,
        };
        change(rebuilt)
    }

    /// The distinct variables, sorted.
    pub(super) fn variables(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.walk(&mut |node| {
            if let Self::Variable(name) = node {
                names.push(name.clone());
            }
        });
        names.sort();
        names.dedup();
        names
    }
}

impl Answer {
    pub(super) fn value(expr: Expr) -> Self {
        Self::Value(expr, Marks::default())
    }
}
