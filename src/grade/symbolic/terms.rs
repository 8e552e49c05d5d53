//! Scalar terms: sums, products, powers, functions, groups, matrices, units.

use num_rational::BigRational;
use num_traits::{One, Zero};

use super::expr::{Answer, Expr, Function};
use super::lexer::Token;
use super::limits::MAX_DEPTH;
use super::numerals::{base_in_words, number};
use super::parser::Parser;
use super::{Unreadable, words};

const NOT_A_NUMBER: Unreadable = Unreadable::Syntax("arithmetic on something that is not a number");

pub(super) fn scalar(answer: Answer) -> Result<Expr, Unreadable> {
    match answer {
        Answer::Value(expr, _) => Ok(expr),
        _ => Err(NOT_A_NUMBER),
    }
}

impl Parser {
    /// Terms joined by `+`, `-`, `\pm`, `\mp`.
    pub(super) fn sum(&mut self) -> Result<Answer, Unreadable> {
        let mut terms = Vec::new();
        loop {
            let sign = self.sign();
            if sign.is_none() && !terms.is_empty() {
                break;
            }
            let term = self.nested(Self::product)?;
            match (sign, term) {
                (None, term @ Answer::Value(..)) => terms.push(scalar(term)?),
                (None, other) => return self.alone(other),
                (Some(Sign::Plus), term) => terms.push(scalar(term)?),
                (Some(Sign::Minus), term) => terms.push(scalar(term)?.negated()),
                (Some(Sign::Either(minus_first)), term) => {
                    let term = scalar(term)?;
                    terms.push(Expr::Apply(Function::PlusMinus(minus_first), vec![term]));
                }
            }
        }
        Ok(Answer::value(match terms.len() {
            1 => terms.remove(0),
            _ => Expr::Sum(terms),
        }))
    }

    /// Something that is not a number stands alone: no sign may follow it.
    fn alone(&mut self, answer: Answer) -> Result<Answer, Unreadable> {
        match self.sign() {
            None => Ok(answer),
            Some(_) => Err(NOT_A_NUMBER),
        }
    }

    /// A run of signs: minus signs cancel, `\pm` stays.
    fn sign(&mut self) -> Option<Sign> {
        let mut sign = None;
        loop {
            let next = match self.peek() {
                Some(Token::Symbol('+')) => Sign::Plus,
                Some(Token::Symbol('-')) => Sign::Minus,
                Some(Token::Command(name)) if name == "pm" => Sign::Either(false),
                Some(Token::Command(name)) if name == "mp" => Sign::Either(true),
                _ => return sign,
            };
            self.at += 1;
            sign = Some(match (sign, next) {
                (None | Some(Sign::Plus), next) => next,
                (Some(Sign::Minus), Sign::Minus) => Sign::Plus,
                (Some(Sign::Minus), Sign::Either(first)) => Sign::Either(!first),
                (Some(earlier), _) => earlier,
            });
        }
    }

    /// Factors joined by `*`, `/`, `\cdot`, `\div` or nothing; units and words may follow.
    fn product(&mut self) -> Result<Answer, Unreadable> {
        let first = self.power()?;
        if !matches!(first, Answer::Value(..)) {
            self.trailing_words()?;
            return Ok(first);
        }
        let mut product = vec![scalar(first)?];
        let mut ratios = 0;
        loop {
            ratios += usize::from(self.peek() == Some(&Token::Symbol(':')));
            if ratios > 1 {
                return Err(Unreadable::Syntax("a ratio of more than two"));
            }
            match self.operator() {
                Some(Operator::Times) => product.push(scalar(self.signed_power()?)?),
                Some(Operator::Over) => divide(&mut product, scalar(self.signed_power()?)?),
                None if self.starts_factor() => self.implicit_factor(&mut product)?,
                None => break,
            }
        }
        self.trailing_words()?;
        Ok(Answer::value(match product.len() {
            1 => product.remove(0),
            _ => Expr::Product(product),
        }))
    }

    fn operator(&mut self) -> Option<Operator> {
        let operator = match self.peek()? {
            Token::Symbol('*') => Operator::Times,
            Token::Symbol('/' | ':') => Operator::Over,
            Token::Command(name) => match name.as_str() {
                "cdot" | "times" | "ast" | "star" => Operator::Times,
                "div" | "colon" => Operator::Over,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        // `**` is a power in plain text.
        if operator == Operator::Times && self.peek() == Some(&Token::Symbol('*')) {
            self.at -= 1;
            return None;
        }
        Some(operator)
    }

    /// A factor after an operator may carry a sign: `2 \cdot -3`.
    pub(super) fn signed_power(&mut self) -> Result<Answer, Unreadable> {
        match self.sign() {
            None | Some(Sign::Plus) => self.power(),
            Some(Sign::Minus) => Ok(Answer::value(scalar(self.power()?)?.negated())),
            Some(Sign::Either(_)) => Err(Unreadable::Syntax("a double sign inside a product")),
        }
    }

    /// A factor without an operator: a product, or the fraction of a mixed number.
    fn implicit_factor(&mut self, product: &mut Vec<Expr>) -> Result<(), Unreadable> {
        let after_number = matches!(
            self.tokens[self.at - 1].token,
            Token::Number(_) | Token::Repeating(..)
        );
        let number_next = matches!(self.peek(), Some(Token::Number(_) | Token::Repeating(..)));
        let fraction_next = self.command().is_some_and(|name| name.ends_with("frac"));
        if !(after_number && (number_next || fraction_next)) {
            product.push(scalar(self.power()?)?);
            return Ok(());
        }
        // `5\frac{1}{2}` and `5 1/2`.
        let start = self.at;
        let mut fraction = scalar(self.power()?)?;
        if number_next {
            if !self.eat_symbol('/') {
                return Err(Unreadable::Syntax("two numbers without an operator"));
            }
            fraction = fraction.over(scalar(self.power()?)?);
        }
        let literal = self.tokens[start..self.at].iter().all(|lexeme| {
            matches!(
                lexeme.token,
                Token::Number(_) | Token::Symbol('{' | '}' | '/') | Token::Command(_)
            )
        });
        let proper = |value: &BigRational| {
            literal
                && !value.is_integer()
                && *value > BigRational::zero()
                && *value < BigRational::one()
        };
        match (product.last_mut(), &fraction) {
            (Some(Expr::Number(whole)), Expr::Number(part))
                if whole.is_integer() && proper(part) =>
            {
                *whole += part;
                Ok(())
            }
            _ if number_next => Err(Unreadable::Syntax("two numbers without an operator")),
            _ => {
                product.push(fraction);
                Ok(())
            }
        }
    }

    pub(super) fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Repeating(..) | Token::Letter(_)) => true,
            Some(Token::Symbol(symbol)) => match symbol {
                '(' => !self.starts_remark(),
                '{' | '[' => true,
                '|' => self.bars == 0,
                _ => false,
            },
            Some(Token::Command(name)) => !is_infix_or_closing(name),
            Some(Token::Word(word)) => self.is_function_word(word),
            _ => false,
        }
    }

    /// Whether a bracket holds words, which say something about the value: `(as required)`.
    fn starts_remark(&self) -> bool {
        self.peek() == Some(&Token::Symbol('('))
            && matches!(self.peek_at(1), Some(Token::Word(word)) if !words::is_function_or_constant(&word.to_lowercase()))
    }

    /// Whether a word in factor position is a function or constant rather than a unit: `5 sec` and
    /// `5 min` are times, `5 sec x` is a secant.
    fn is_function_word(&self, word: &str) -> bool {
        let lower = word.to_lowercase();
        if words::unit(word).is_some() {
            let operand = matches!(
                self.peek_at(1),
                Some(Token::Number(_) | Token::Letter(_) | Token::Symbol('(' | '{' | '^'))
            );
            return operand && words::is_function_or_constant(&lower);
        }
        words::is_function_or_constant(&lower)
    }

    /// Units and other words after a value. A word that changes the value makes it unreadable.
    fn trailing_words(&mut self) -> Result<(), Unreadable> {
        if self
            .command()
            .is_some_and(|name| matches!(name, "pmod" | "bmod" | "mod"))
        {
            return self.modulus();
        }
        if self.starts_remark() {
            return self.remark();
        }
        let mut any = false;
        while let Some(word) = self.word() {
            let lower = word.to_lowercase();
            if words::is_connector(&lower) {
                break;
            }
            if words::qualifies(&lower) {
                return Err(Unreadable::Syntax("a word that changes the value"));
            }
            match words::unit(word).or_else(|| words::unit(&lower)) {
                Some("percent") => self.marks.percent = true,
                Some("degree") => self.marks.degrees = true,
                Some("radian") | None => {}
                Some("") => match lower.as_str() {
                    "square" | "sq" => self.marks.unit_powers.push("2".to_owned()),
                    "cubic" => self.marks.unit_powers.push("3".to_owned()),
                    _ => {}
                },
                Some(unit) => self.marks.units.extend(unit.split('/')),
            }
            any = true;
            self.at += 1;
            self.unit_power()?;
        }
        // Closing words of a sentence may come with a bracket: `(as required)`.
        if any && self.starts_remark() {
            return self.remark();
        }
        Ok(())
    }

    /// `^2` after a unit, and the `/` of a rate.
    fn unit_power(&mut self) -> Result<(), Unreadable> {
        if self.eat_symbol('^')
            && let Expr::Number(power) = self.argument()?
        {
            self.marks.unit_powers.push(power.to_string());
        }
        if self.peek() == Some(&Token::Symbol('/'))
            && matches!(self.peek_at(1), Some(Token::Word(_) | Token::Letter(_)))
        {
            self.at += 1;
            if let Some(Token::Letter(_)) = self.peek() {
                self.at += 1;
            }
        }
        Ok(())
    }

    /// A remark in words and brackets.
    fn remark(&mut self) -> Result<(), Unreadable> {
        let mut open = 0_usize;
        while let Some(token) = self.peek() {
            match token {
                Token::Symbol('(') => open += 1,
                Token::Symbol(')') => open -= 1,
                Token::Word(_) | Token::Letter(_) | Token::Symbol(',') => {}
                _ => return Err(Unreadable::Syntax("a remark with mathematics in it")),
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
        Err(Unreadable::Syntax("a bracket that is not closed"))
    }

    /// `\pmod{1000}` says where the value lives; it is not part of it.
    fn modulus(&mut self) -> Result<(), Unreadable> {
        self.at += 1;
        self.argument().map(drop)
    }

    /// A factor with its power, factorials and marks.
    pub(super) fn power(&mut self) -> Result<Answer, Unreadable> {
        let mut answer = self.nested(Self::atom)?;
        for _ in 0..MAX_DEPTH {
            match self.peek() {
                Some(Token::Symbol('^')) => {
                    self.at += 1;
                    answer = self.raised(answer)?;
                }
                Some(Token::Symbol('*')) if self.peek_at(1) == Some(&Token::Symbol('*')) => {
                    self.at += 2;
                    let exponent = scalar(self.signed_power()?)?;
                    answer = Answer::value(scalar(answer)?.power(exponent));
                }
                Some(Token::Symbol('!')) => {
                    self.at += 1;
                    let inside = scalar(answer)?;
                    answer = Answer::value(Expr::Apply(Function::Factorial, vec![inside]));
                }
                Some(Token::Symbol('%')) => {
                    self.at += 1;
                    self.marks.percent = true;
                }
                Some(Token::Command(name)) if matches!(name.as_str(), "degree" | "circ") => {
                    self.at += 1;
                    self.marks.degrees = true;
                }
                Some(Token::Symbol('_')) => {
                    self.at += 1;
                    answer = self.subscripted(answer)?;
                }
                Some(Token::Symbol('\'')) => {
                    self.at += 1;
                    answer = match answer {
                        Answer::Value(Expr::Variable(name), marks) => {
                            Answer::Value(Expr::Variable(name + "'"), marks)
                        }
                        other => other,
                    };
                }
                _ => return Ok(answer),
            }
        }
        Err(Unreadable::TooDeep)
    }

    fn raised(&mut self, answer: Answer) -> Result<Answer, Unreadable> {
        if self.degree_mark() {
            self.marks.degrees = true;
            return Ok(answer);
        }
        let exponent = match self.peek() {
            Some(Token::Symbol('-' | '+')) => scalar(self.signed_power()?)?,
            Some(Token::Symbol('\'')) => return Ok(answer),
            _ => self.argument()?,
        };
        // A tower in plain text groups from the right: `2^2^3` is `2^{(2^3)}`.
        let exponent = match self.eat_symbol('^') {
            true => scalar(self.nested(|parser| parser.raised(Answer::value(exponent)))?)?,
            false => exponent,
        };
        match answer {
            Answer::Value(base, _) => Ok(Answer::value(base.power(exponent))),
            // The transpose or inverse of a matrix is not worked out.
            _ => Err(NOT_A_NUMBER),
        }
    }

    /// `^\circ`, `^{\circ}`, `^o`-free.
    fn degree_mark(&mut self) -> bool {
        let braced = self.peek() == Some(&Token::Symbol('{'));
        let mark_at = usize::from(braced);
        let is_mark = matches!(
            self.peek_at(mark_at),
            Some(Token::Command(name)) if matches!(name.as_str(), "circ" | "degree")
        );
        let closed = !braced || self.peek_at(2) == Some(&Token::Symbol('}'));
        if is_mark && closed {
            self.at += if braced { 3 } else { 1 };
        }
        is_mark && closed
    }

    /// `x_1` is a name; `204_5` a number in base 5.
    fn subscripted(&mut self, answer: Answer) -> Result<Answer, Unreadable> {
        let before = |back: usize| {
            let lexeme = self.tokens.get(self.at.wrapping_sub(back));
            lexeme.map(|lexeme| &lexeme.token)
        };
        // `204_5`, and `(204)_5`.
        let bracketed =
            before(2) == Some(&Token::Symbol(')')) && before(4) == Some(&Token::Symbol('('));
        let digits = match before(if bracketed { 3 } else { 2 }) {
            Some(Token::Number(digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.clone())
            }
            _ => None,
        };
        if let Answer::Value(Expr::Variable(name), marks) = answer {
            let name = name + "_" + &self.name_tokens()?;
            return Ok(Answer::Value(Expr::Variable(name), marks));
        }
        let subscript = self.argument()?;
        match (answer, digits, subscript) {
            (Answer::Value(Expr::Number(_), _), Some(digits), Expr::Number(base)) => {
                let base = u32::try_from(base.to_integer())
                    .ok()
                    .filter(|base| (2..=36).contains(base));
                let base = base.ok_or(Unreadable::Syntax("a base that is none"))?;
                Ok(Answer::BaseN(digits, base))
            }
            (Answer::Value(Expr::Number(_), _), Some(digits), Expr::Variable(name)) => {
                let base = base_in_words(&name).ok_or(Unreadable::Syntax("a base that is none"))?;
                Ok(Answer::BaseN(digits, base))
            }
            _ => Err(Unreadable::Syntax(
                "a subscript on something without a name",
            )),
        }
    }

    /// The text of a name's subscript, whatever it is: a group, or the next token.
    fn name_tokens(&mut self) -> Result<String, Unreadable> {
        let mut text = String::new();
        let mut open = 0_usize;
        loop {
            let missing = Unreadable::Syntax("a bracket that is not closed");
            match self.peek().ok_or(missing)? {
                Token::Symbol('{') => open += 1,
                Token::Symbol('}') if open == 0 => return Err(missing),
                Token::Symbol('}') => open -= 1,
                Token::Symbol(symbol) => text.push(*symbol),
                Token::Letter(letter) => text.push(*letter),
                Token::Number(name) | Token::Word(name) | Token::Command(name) => {
                    text.push_str(name);
                }
                _ => return Err(Unreadable::Syntax("a subscript that is no name")),
            }
            self.at += 1;
            if open == 0 {
                return Ok(text);
            }
        }
    }

    /// A command's argument: a group, or the next single character.
    pub(super) fn argument(&mut self) -> Result<Expr, Unreadable> {
        if let Some(Token::Number(digits)) = self.peek() {
            // TeX takes one digit: `\frac12`.
            let digits = digits.clone();
            let (first, rest) = digits.split_at(1);
            if rest.is_empty() || !rest.bytes().all(|b| b.is_ascii_digit()) {
                self.at += 1;
                return number(&digits);
            }
            self.tokens[self.at].token = Token::Number(rest.to_owned());
            self.tokens[self.at].spaced = false;
            return number(first);
        }
        scalar(self.nested(Self::atom)?)
    }
}

/// Divides a product. Numbers divide at once; anything else becomes a factor of its own, so that a
/// long row of slashes makes a long product and not a deep one.
pub(super) fn divide(product: &mut Vec<Expr>, below: Expr) {
    match (product.pop(), below) {
        (Some(Expr::Number(above)), Expr::Number(below)) => {
            product.push(Expr::Number(above).over(Expr::Number(below)));
        }
        (above, below) => {
            product.extend(above);
            product.push(below.inverse());
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Plus,
    Minus,
    Either(bool),
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Times,
    Over,
}

/// Commands that join or close, so that no factor starts with them.
pub(super) fn is_infix_or_closing(name: &str) -> bool {
    matches!(
        name,
        "cdot"
            | "times"
            | "div"
            | "ast"
            | "star"
            | "pm"
            | "mp"
            | "le"
            | "leq"
            | "leqslant"
            | "ge"
            | "geq"
            | "geqslant"
            | "lt"
            | "gt"
            | "ne"
            | "neq"
            | "in"
            | "cup"
            | "bigcup"
            | "cap"
            | "setminus"
            | "over"
            | "choose"
            | "rfloor"
            | "rceil"
            | "rvert"
            | "vert"
            | "mid"
            | "equiv"
            | "pmod"
            | "bmod"
            | "mod"
            | "circ"
            | "degree"
            | "lor"
            | "land"
            | "vee"
            | "wedge"
            | "colon"
            | "to"
            | "rbrack"
            | "prime"
    )
}
