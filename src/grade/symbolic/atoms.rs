//! The smallest parts of an answer: literals, letters, groups and brackets, commands, words, matrices.

use super::expr::{Answer, Constant, Expr, Function};
use super::functions::function;
use super::lexer::Token;
use super::numerals::{number, repeating};
use super::parser::Parser;
use super::terms::{is_infix_or_closing, scalar};
use super::{Unreadable, words};

impl Parser {
    pub(super) fn atom(&mut self) -> Result<Answer, Unreadable> {
        let Some(token) = self.peek().cloned() else {
            return Err(Unreadable::Syntax("an operand is missing"));
        };
        self.at += 1;
        match token {
            Token::Number(digits) => Ok(Answer::value(number(&digits)?)),
            Token::Repeating(head, tail) => Ok(Answer::value(repeating(&head, &tail)?)),
            Token::Letter(letter) => Ok(Answer::value(self.letter(letter)?)),
            Token::Symbol('{') => self.group(),
            Token::Symbol(open @ ('(' | '[')) => self.bracketed(open),
            Token::Symbol('|') => self.bars(&[Token::Symbol('|')]),
            Token::SetOpen => {
                if self.set_builder() {
                    let condition = self.list(&[Token::SetClose])?;
                    self.expect(&Token::SetClose)?;
                    return Ok(condition);
                }
                let items = self.items(&[Token::SetClose])?;
                self.expect(&Token::SetClose)?;
                Ok(Answer::Set(items))
            }
            Token::Command(name) => self.named(&name),
            Token::Word(word) => self.phrase(word),
            Token::Begin(environment) => self.environment(&environment),
            _ => Err(Unreadable::Syntax("an operator without an operand")),
        }
    }

    /// Skips the `x \mid` or `x :` of `\{x \mid x > 2\}`, which is its condition.
    fn set_builder(&mut self) -> bool {
        let bar = match (self.peek(), self.peek_at(1)) {
            (Some(Token::Letter(_)), Some(Token::Symbol('|' | ':'))) => true,
            (Some(Token::Letter(_)), Some(Token::Command(name))) => {
                matches!(name.as_str(), "mid" | "vert" | "colon")
            }
            _ => false,
        };
        self.at += if bar { 2 } else { 0 };
        bar
    }

    pub(super) fn expect(&mut self, token: &Token) -> Result<(), Unreadable> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(Unreadable::Syntax("a bracket that is not closed")),
        }
    }

    fn letter(&mut self, letter: char) -> Result<Expr, Unreadable> {
        let constant = match letter {
            'e' => Some(Constant::E),
            'i' => Some(Constant::I),
            _ => None,
        };
        if let Some(constant) = constant {
            return Ok(Expr::Constant(constant));
        }
        // f(x) is an application; n(n+1) is a product.
        if matches!(letter, 'f' | 'g' | 'h' | 'F' | 'G') && self.peek() == Some(&Token::Symbol('('))
        {
            self.at += 1;
            let arguments = self.scalars(&[Token::Symbol(')')])?;
            self.expect(&Token::Symbol(')'))?;
            return Ok(Expr::Apply(Function::Named(letter.to_string()), arguments));
        }
        Ok(Expr::Variable(letter.to_string()))
    }

    pub(super) fn scalars(&mut self, closers: &[Token]) -> Result<Vec<Expr>, Unreadable> {
        self.items(closers)?.into_iter().map(scalar).collect()
    }

    /// `{...}`: a plain group, `{a \over b}` or `{n \choose k}`.
    fn group(&mut self) -> Result<Answer, Unreadable> {
        let close = Token::Symbol('}');
        let over = |name: &str| Token::Command(name.to_owned());
        let closers = [close.clone(), over("over"), over("choose")];
        if self.eat(&close) {
            return Err(Unreadable::Empty);
        }
        let first = self.list(&closers)?;
        let infix = self.command().map(str::to_owned);
        if let Some(infix) = infix {
            self.at += 1;
            let below = scalar(self.list(std::slice::from_ref(&close))?)?;
            self.expect(&close)?;
            let above = scalar(first)?;
            return Ok(Answer::value(match infix.as_str() {
                "over" => above.over(below),
                _ => Expr::Apply(Function::Binomial, vec![above, below]),
            }));
        }
        self.expect(&close)?;
        Ok(first)
    }

    /// `(...)` or `[...`: one element is a group, several an interval or tuple.
    fn bracketed(&mut self, open: char) -> Result<Answer, Unreadable> {
        let closers = [Token::Symbol(')'), Token::Symbol(']')];
        let bars = std::mem::take(&mut self.bars);
        let items = self.items(&closers);
        self.bars = bars;
        let mut items = items?;
        let close = match self.peek() {
            Some(Token::Symbol(close)) => *close,
            _ => return Err(Unreadable::Syntax("a bracket that is not closed")),
        };
        self.at += 1;
        match items.len() {
            0 => Err(Unreadable::Empty),
            1 => Ok(items.remove(0)),
            _ => Ok(Answer::Bracketed { open, close, items }),
        }
    }

    fn bars(&mut self, closers: &[Token]) -> Result<Answer, Unreadable> {
        self.bars += 1;
        let inside = self.sum();
        self.bars -= 1;
        let inside = scalar(inside?)?;
        match self.peek() {
            Some(token) if closers.contains(token) => self.at += 1,
            _ => return Err(Unreadable::Syntax("a bar that is not closed")),
        }
        Ok(Answer::value(Expr::Apply(Function::Abs, vec![inside])))
    }

    fn named(&mut self, name: &str) -> Result<Answer, Unreadable> {
        let close = |name: &str| [Token::Command(name.to_owned())];
        let expr = match name {
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let above = self.argument()?;
                above.over(self.argument()?)
            }
            "binom" | "dbinom" | "tbinom" => {
                Expr::Apply(Function::Binomial, vec![self.argument()?, self.argument()?])
            }
            "sqrt" => return self.root(),
            "pi" => Expr::Constant(Constant::Pi),
            "infty" => Expr::Constant(Constant::Infinity),
            "lvert" | "vert" => {
                return self.bars(&[
                    Token::Command("rvert".into()),
                    Token::Command("vert".into()),
                ]);
            }
            "mid" => return self.bars(&close("mid")),
            "lfloor" => return self.enclosed(Function::Floor, &close("rfloor")),
            "lceil" => return self.enclosed(Function::Ceil, &close("rceil")),
            "emptyset" | "varnothing" => return Ok(Answer::Set(Vec::new())),
            "mathbb" => return self.blackboard(),
            "lbrack" => return self.bracketed('['),
            "ldots" | "dots" | "cdots" => Expr::Variable("...".to_owned()),
            name => match function(name) {
                Some(_) => return self.function(name).map(Answer::value),
                None if is_infix_or_closing(name) => {
                    return Err(Unreadable::Syntax("an operator without an operand"));
                }
                None => Expr::Variable(name.to_owned()),
            },
        };
        Ok(Answer::value(expr))
    }

    fn enclosed(&mut self, function: Function, closers: &[Token]) -> Result<Answer, Unreadable> {
        let inside = scalar(self.list(closers)?)?;
        if self.peek().is_none() {
            return Err(Unreadable::Syntax("a bracket that is not closed"));
        }
        self.at += 1;
        Ok(Answer::value(Expr::Apply(function, vec![inside])))
    }

    fn root(&mut self) -> Result<Answer, Unreadable> {
        if !self.eat_symbol('[') {
            return Ok(Answer::value(self.argument()?.square_root()));
        }
        let degree = scalar(self.list(&[Token::Symbol(']')])?)?;
        self.expect(&Token::Symbol(']'))?;
        let radicand = self.argument()?;
        Ok(Answer::value(Expr::Apply(
            Function::Root,
            vec![radicand, degree],
        )))
    }

    /// `\mathbb{R}` is an interval; other number sets are names.
    fn blackboard(&mut self) -> Result<Answer, Unreadable> {
        match self.argument()? {
            Expr::Variable(name) if name == "R" => Ok(reals()),
            Expr::Variable(name) => Ok(Answer::value(Expr::Variable(format!("set {name}")))),
            _ => Err(Unreadable::Syntax("an unknown set")),
        }
    }

    /// A word where a value is expected: a function, a constant, a named set, or a phrase.
    fn phrase(&mut self, word: String) -> Result<Answer, Unreadable> {
        let lower = word.to_lowercase();
        match lower.as_str() {
            "pi" => return Ok(Answer::value(Expr::Constant(Constant::Pi))),
            "infinity" | "infty" | "inf" | "oo" => {
                return Ok(Answer::value(Expr::Constant(Constant::Infinity)));
            }
            "theta" | "alpha" | "beta" => return Ok(Answer::value(Expr::Variable(lower))),
            "sqrt" | "frac" | "binom" => {
                let bracket = self.peek() == Some(&Token::Symbol('('));
                return match lower.as_str() {
                    "sqrt" if bracket => Ok(Answer::value(
                        scalar(self.nested(Self::atom)?)?.square_root(),
                    )),
                    _ => self.named(&lower),
                };
            }
            lower if function(lower).is_some() && self.starts_operand() => {
                return self.function(lower).map(Answer::value);
            }
            _ => {}
        }
        let mut phrase = Vec::new();
        let mut next = Some(lower);
        while let Some(word) = next {
            if !words::is_filler(&word) || (phrase.is_empty() && word == "a") {
                phrase.push(word);
            }
            next = self
                .word()
                .map(str::to_lowercase)
                .filter(|word| !words::is_connector(word));
            self.at += usize::from(next.is_some());
        }
        if phrase.len() > 1 && phrase[0] == "a" {
            phrase.remove(0);
        }
        if let Some(value) = words::number(&phrase) {
            return Ok(Answer::value(Expr::integer(value)));
        }
        let phrase = phrase.join(" ");
        Ok(match phrase.as_str() {
            "infinite" | "infinitely many" => Answer::value(Expr::Constant(Constant::Infinity)),
            "real numbers" | "reals" | "real number" => reals(),
            "no solution" | "no solutions" | "no real solutions" | "no real solution"
            | "empty set" => Answer::Set(Vec::new()),
            _ => Answer::value(Expr::Variable(phrase)),
        })
    }

    fn starts_operand(&self) -> bool {
        self.starts_factor() || matches!(self.peek(), Some(Token::Symbol('^' | '_' | '-')))
    }

    fn environment(&mut self, environment: &str) -> Result<Answer, Unreadable> {
        let end = Token::End(environment.to_owned());
        let cell_end = [Token::Symbol('&'), Token::RowBreak, end.clone()];
        let mut rows = vec![Vec::new()];
        loop {
            if self.peek().is_some_and(|token| !cell_end.contains(token)) {
                let cell = self.list(&cell_end)?;
                rows.last_mut().expect("there is always a row").push(cell);
            }
            match self.peek() {
                Some(Token::Symbol('&')) => {}
                Some(Token::RowBreak) => rows.push(Vec::new()),
                Some(token) if *token == end => break,
                _ => return Err(Unreadable::Syntax("an environment that is not closed")),
            }
            self.at += 1;
        }
        self.at += 1;
        rows.retain(|row| !row.is_empty());
        let matrix = environment.trim_end_matches('*');
        match matrix {
            "vmatrix" => Err(Unreadable::Syntax("a determinant is not worked out")),
            "align" | "aligned" | "gathered" | "cases" => {
                let mut items: Vec<Answer> = rows.into_iter().flatten().collect();
                match items.len() {
                    0 => Err(Unreadable::Empty),
                    1 => Ok(items.remove(0)),
                    _ => Ok(Answer::List(items)),
                }
            }
            _ if rows.is_empty() => Err(Unreadable::Empty),
            _ => Ok(Answer::Matrix(rows)),
        }
    }
}

/// The interval of all real numbers.
pub(super) fn reals() -> Answer {
    let infinity = Expr::Constant(Constant::Infinity);
    Answer::Bracketed {
        open: '(',
        close: ')',
        items: vec![
            Answer::value(infinity.clone().negated()),
            Answer::value(infinity),
        ],
    }
}
