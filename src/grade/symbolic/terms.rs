//! Scalar terms: sums, products, powers, functions, groups, matrices, units.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::expr::{Answer, Constant, Expr, Function};
use super::lexer::Token;
use super::limits::{MAX_DEPTH, MAX_LITERAL_DIGITS};
use super::parser::Parser;
use super::{Unreadable, words};

const NOT_A_NUMBER: Unreadable = Unreadable::Syntax("arithmetic on something that is not a number");

fn scalar(answer: Answer) -> Result<Expr, Unreadable> {
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
    fn signed_power(&mut self) -> Result<Answer, Unreadable> {
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

    fn starts_factor(&self) -> bool {
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
    fn power(&mut self) -> Result<Answer, Unreadable> {
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

    fn atom(&mut self) -> Result<Answer, Unreadable> {
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

    fn expect(&mut self, token: &Token) -> Result<(), Unreadable> {
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

    fn scalars(&mut self, closers: &[Token]) -> Result<Vec<Expr>, Unreadable> {
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

    /// A function with its power, base and argument: `\sin^2 x`, `\log_{10} 250`.
    fn function(&mut self, name: &str) -> Result<Expr, Unreadable> {
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

/// Divides a product. Numbers divide at once; anything else becomes a factor of its own, so that a
/// long row of slashes makes a long product and not a deep one.
fn divide(product: &mut Vec<Expr>, below: Expr) {
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

/// Commands that join or close, so that no factor starts with them.
fn is_infix_or_closing(name: &str) -> bool {
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

/// The function of a name, where it takes one argument.
fn function(name: &str) -> Option<Function> {
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

fn base_in_words(name: &str) -> Option<u32> {
    Some(match name {
        "two" => 2,
        "three" => 3,
        "four" => 4,
        "five" => 5,
        "six" => 6,
        "seven" => 7,
        "eight" => 8,
        "nine" => 9,
        "ten" => 10,
        "sixteen" => 16,
        _ => return None,
    })
}

/// The exact value of a literal: digits, at most one point, perhaps a decimal exponent.
pub(super) fn number(literal: &str) -> Result<Expr, Unreadable> {
    let (mantissa, exponent) = match literal.split_once('e') {
        None => (literal, 0),
        Some((mantissa, exponent)) => {
            let exponent: i64 = exponent.parse().map_err(|_| Unreadable::TooManyDigits)?;
            (mantissa, exponent)
        }
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = exponent.saturating_sub(fraction.len() as i64);
    if scale.unsigned_abs() > MAX_LITERAL_DIGITS as u64 {
        return Err(Unreadable::TooManyDigits);
    }
    if scale == 0 && fraction.is_empty() && whole.len() <= 18 {
        let value: i64 = whole
            .parse()
            .map_err(|_| Unreadable::Syntax("digits that are no number"))?;
        return Ok(Expr::integer(value));
    }
    let digits: BigInt = format!("0{whole}{fraction}")
        .parse()
        .map_err(|_| Unreadable::Syntax("digits that are no number"))?;
    let power = BigInt::from(10).pow(scale.unsigned_abs() as u32);
    Ok(Expr::Number(match scale {
        0.. => BigRational::from_integer(digits * power),
        _ => BigRational::new(digits, power),
    }))
}

/// `0.8\overline{4}` is 0.8 + 4/90.
fn repeating(head: &str, tail: &str) -> Result<Expr, Unreadable> {
    let bad = || Unreadable::Syntax("digits that are no number");
    let decimals = head
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len()) as u32;
    let Expr::Number(head) = number(head.trim_end_matches('.'))? else {
        return Err(bad());
    };
    let period: BigInt = tail.parse().map_err(|_| bad())?;
    let nines = (BigInt::from(10).pow(tail.len() as u32) - 1) * BigInt::from(10).pow(decimals);
    Ok(Expr::Number(head + BigRational::new(period, nines)))
}
