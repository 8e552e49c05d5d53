//! Named functions: what they apply to, and what they are.

use super::Unreadable;
use super::expr::{Constant, Expr, Function};
use super::lexer::Token;
use super::parser::Parser;
use super::terms::{divide, scalar};

impl Parser {
    /// A function with its power, base and argument: `\sin^2 x`, `\log_{10} 250`.
    pub(super) fn function(&mut self, name: &str) -> Result<Expr, Unreadable> {
        let mut base = None;
        let mut power = None;
        loop {
            if self.eat_symbol('_') {
                base = Some(self.argument()?);
            } else if self.eat_symbol('^') {
                power = Some(match self.peek() {
                    Some(Token::Symbol('-')) => scalar(self.signed_power()?)?,
                    _ => self.argument()?,
                });
            } else {
                break;
            }
        }
        let inverse = power.as_ref() == Some(&Expr::integer(-1));
        let arguments = self.function_arguments()?;
        let applied = apply(name, base, arguments, inverse)?;
        Ok(match power {
            Some(power) if !inverse => applied.power(power),
            _ => applied,
        })
    }

    /// What a function applies to: a bracket, or the factors up to the next sign or function.
    fn function_arguments(&mut self) -> Result<Vec<Expr>, Unreadable> {
        let degrees = std::mem::take(&mut self.marks.degrees);
        let mut arguments = if self.eat_symbol('(') {
            let arguments = self.scalars(&[Token::Symbol(')')])?;
            self.expect(&Token::Symbol(')'))?;
            arguments
        } else {
            let mut factors = vec![scalar(self.signed_power()?)?];
            loop {
                let function_next = match self.peek() {
                    Some(Token::Command(name)) => function(name).is_some(),
                    Some(Token::Word(word)) => function(&word.to_lowercase()).is_some(),
                    // `\sin x (x+1)`: the bracket is another factor.
                    Some(Token::Symbol('(')) => true,
                    _ => false,
                };
                if self.eat_symbol('/') {
                    divide(&mut factors, scalar(self.power()?)?);
                } else if !function_next && self.starts_factor() {
                    factors.push(scalar(self.power()?)?);
                } else {
                    break;
                }
            }
            vec![match factors.len() {
                1 => factors.remove(0),
                _ => Expr::Product(factors),
            }]
        };
        if std::mem::replace(&mut self.marks.degrees, degrees) {
            arguments = vec![Expr::Apply(Function::Degrees, arguments)];
        }
        Ok(arguments)
    }
}

/// The function of a name, where it takes one argument.
pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" => Function::Tan,
        "cot" => Function::Cot,
        "sec" => Function::Sec,
        "csc" => Function::Csc,
        "arcsin" | "asin" => Function::Arcsin,
        "arccos" | "acos" => Function::Arccos,
        "arctan" | "atan" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" | "log" | "lg" | "exp" | "cbrt" => Function::Ln, // worked out in `apply`
        "abs" => Function::Abs,
        "floor" => Function::Floor,
        "ceil" => Function::Ceil,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "max" => Function::Max,
        "min" => Function::Min,
        _ => return None,
    })
}

fn apply(
    name: &str,
    base: Option<Expr>,
    mut arguments: Vec<Expr>,
    inverse: bool,
) -> Result<Expr, Unreadable> {
    let several = matches!(name, "gcd" | "lcm" | "max" | "min");
    if arguments.is_empty() || (arguments.len() > 1 && !several) {
        return Err(Unreadable::Syntax(
            "a function with the wrong number of arguments",
        ));
    }
    if several {
        let function = function(name).unwrap_or(Function::Max);
        return Ok(Expr::Apply(function, arguments));
    }
    let argument = arguments.remove(0);
    let logarithm = |of: Expr| Expr::Apply(Function::Ln, vec![of]);
    Ok(match (name, base) {
        ("exp", _) => Expr::Constant(Constant::E).power(argument),
        ("cbrt", _) => Expr::Apply(Function::Root, vec![argument, Expr::integer(3)]),
        ("ln", _) => logarithm(argument),
        ("log" | "lg", Some(base)) => logarithm(argument).over(logarithm(base)),
        // Without a base, school mathematics means ten; a quotient of two logarithms does not care.
        ("log" | "lg", None) => logarithm(argument).over(logarithm(Expr::integer(10))),
        (name, _) => {
            let function = function(name).ok_or(Unreadable::Syntax("an unknown function"))?;
            let function = match (inverse, function) {
                (true, Function::Sin) => Function::Arcsin,
                (true, Function::Cos) => Function::Arccos,
                (true, Function::Tan) => Function::Arctan,
                (true, other) => {
                    return Ok(Expr::Apply(other, vec![argument]).inverse());
                }
                (false, function) => function,
            };
            Expr::Apply(function, vec![argument])
        }
    })
}
