//! From tokens to an [`Answer`]: lists, relations, sets and brackets. Scalar terms are read in
//! [`super::terms`].

use super::expr::{Answer, Expr, Function, Marks, Relation, SetOperation};
use super::lexer::{self, Commas, Lexeme, Token};
use super::limits::{MAX_DEPTH, MAX_SIGN_CHOICES};
use super::{Unreadable, words};

/// Reads a whole answer whose Unicode has been folded.
pub(super) fn parse(text: &str, commas: Commas) -> Result<Answer, Unreadable> {
    let mut tokens = lexer::tokens(text, commas)?;
    let in_matrix = tokens
        .iter()
        .any(|lexeme| matches!(lexeme.token, Token::Begin(_)));
    if !in_matrix {
        tokens.retain(|lexeme| lexeme.token != Token::RowBreak);
    }
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        bars: 0,
        marks: Marks::default(),
    };
    let mut answer = parser.list(&[])?;
    if let Answer::Value(_, marks) = &mut answer
        && marks.units.is_empty()
        && text.contains(r"\$")
    {
        marks.units.push("dollar");
    }
    match parser.peek() {
        None => Ok(answer),
        Some(_) => Err(Unreadable::Syntax("something after the end of the answer")),
    }
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Lexeme>,
    pub(super) at: usize,
    depth: usize,
    /// Open absolute-value bars.
    pub(super) bars: usize,
    /// Marks met in the current element.
    pub(super) marks: Marks,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|lexeme| &lexeme.token)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|lexeme| &lexeme.token)
    }

    pub(super) fn eat(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat_symbol(&mut self, symbol: char) -> bool {
        self.eat(&Token::Symbol(symbol))
    }

    pub(super) fn command(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Command(name)) => Some(name),
            _ => None,
        }
    }

    pub(super) fn word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Runs one level deeper, within the limit.
    pub(super) fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        if self.depth >= MAX_DEPTH {
            return Err(Unreadable::TooDeep);
        }
        self.depth += 1;
        let outcome = read(self);
        self.depth -= 1;
        outcome
    }

    /// Elements up to the end or one of the closing tokens: one element is itself.
    pub(super) fn list(&mut self, closers: &[Token]) -> Result<Answer, Unreadable> {
        let mut items = self.items(closers)?;
        match items.len() {
            0 => Err(Unreadable::Empty),
            1 => Ok(items.remove(0)),
            _ => Ok(Answer::List(items)),
        }
    }

    /// Elements between separators, up to the end or a closing token, which is left in place.
    pub(super) fn items(&mut self, closers: &[Token]) -> Result<Vec<Answer>, Unreadable> {
        let mut items = Vec::new();
        loop {
            while self.separator() {}
            if self.peek().is_none_or(|token| closers.contains(token)) {
                return Ok(items);
            }
            match self.nested(Self::item)? {
                Answer::List(several) => items.extend(several), // signs of `\pm`
                item => items.push(item),
            }
            let done = self.peek().is_none_or(|token| closers.contains(token));
            if !done && !self.separator() {
                return Err(Unreadable::Syntax("two elements without a separator"));
            }
        }
    }

    fn separator(&mut self) -> bool {
        let found = match self.peek() {
            Some(Token::Symbol(',' | ';')) => true,
            Some(Token::Word(word)) => words::is_connector(&word.to_lowercase()),
            Some(Token::Command(name)) => matches!(name.as_str(), "lor" | "land" | "vee" | "wedge"),
            _ => false,
        };
        self.at += usize::from(found);
        found
    }

    /// One element with its label, relations and marks.
    fn item(&mut self) -> Result<Answer, Unreadable> {
        let outer = std::mem::take(&mut self.marks);
        self.skip_introduction();
        let answer = match self.choice_letter() {
            Some(letter) => Ok(Answer::Choice(letter, Box::new(self.chain()?))),
            None => self.chain(),
        };
        self.marks = outer;
        answer
    }

    /// Skips `the answer is`, `Answer:`, and a numbered list's `1.`-like beginnings never.
    fn skip_introduction(&mut self) {
        // The article of `a hyperbola` is no letter.
        let article = matches!(self.peek(), Some(Token::Letter('a' | 'A')));
        if article
            && let Some(Token::Word(word)) = self.peek_at(1)
            && words::unit(word).is_none()
            && !words::is_connector(&word.to_lowercase())
            && !words::introduces(&word.to_lowercase())
        {
            self.at += 1;
        }
        let mut end = self.at;
        while let Some(Token::Word(word)) = self.tokens.get(end).map(|lexeme| &lexeme.token) {
            let word = word.to_lowercase();
            if words::qualifies(&word) || words::is_function_or_constant(&word) {
                return;
            }
            end += 1;
        }
        if end == self.at {
            return;
        }
        let last = match &self.tokens[end - 1].token {
            Token::Word(word) => word.to_lowercase(),
            _ => String::new(),
        };
        match self.tokens.get(end).map(|lexeme| &lexeme.token) {
            Some(Token::Symbol(':')) => self.at = end + 1,
            Some(_) if words::introduces(&last) => self.at = end,
            _ => {}
        }
    }

    /// `(C)` or `C.` before something else.
    fn choice_letter(&mut self) -> Option<String> {
        let open = self.peek() == Some(&Token::Symbol('('));
        let letter_at = usize::from(open);
        let Some(Token::Letter(letter @ 'A'..='H')) = self.peek_at(letter_at) else {
            return None;
        };
        let letter = letter.to_string();
        let close = match self.peek_at(letter_at + 1) {
            Some(Token::Symbol(')')) => true,
            Some(Token::Symbol(':')) => !open,
            _ => false,
        };
        let after = self.peek_at(letter_at + 2)?;
        let starts_value = match after {
            Token::Word(word) => !words::is_connector(&word.to_lowercase()),
            Token::Number(_) | Token::Letter(_) | Token::Command(_) => true,
            Token::Symbol(symbol) => matches!(symbol, '(' | '[' | '{' | '-' | '$'),
            _ => false,
        };
        let operator = matches!(after, Token::Command(name) if matches!(name.as_str(), "cdot" | "times" | "cup" | "cap"));
        // `(B)-1` is a difference, `(B) -1` a choice.
        let tight = !self
            .tokens
            .get(self.at + letter_at + 2)
            .is_some_and(|lexeme| lexeme.spaced);
        let minus = *after == Token::Symbol('-') && tight;
        if !close || !starts_value || operator || minus {
            return None;
        }
        self.at += letter_at + 2;
        Some(letter)
    }

    /// Sides joined by relations.
    fn chain(&mut self) -> Result<Answer, Unreadable> {
        let mut relations = Vec::new();
        let mut sides = Vec::new();
        // A leading relation sign: `= 9`.
        match self.relation() {
            Some(_) if self.peek().is_none() => return Err(Unreadable::Empty),
            None | Some(Relation::Equal | Relation::Element) => {}
            Some(_) => return Err(Unreadable::Syntax("a comparison with one side")),
        }
        sides.push(self.side()?);
        while let Some(relation) = self.relation() {
            relations.push(relation);
            sides.push(self.side()?);
        }
        if relations.is_empty() {
            return Ok(sides.remove(0));
        }
        Ok(Answer::Chain(sides, relations))
    }

    fn relation(&mut self) -> Option<Relation> {
        let relation = match self.peek()? {
            Token::Symbol('=') => Relation::Equal,
            Token::Symbol('<') => Relation::Less,
            Token::Symbol('>') => Relation::Greater,
            Token::Command(name) => match name.as_str() {
                "le" | "leq" | "leqslant" => Relation::LessOrEqual,
                "ge" | "geq" | "geqslant" => Relation::GreaterOrEqual,
                "lt" => Relation::Less,
                "gt" => Relation::Greater,
                "ne" | "neq" => Relation::NotEqual,
                "in" => Relation::Element,
                "equiv" => Relation::Equal,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        // `<=`, `>=`, `==`
        let relation = match relation {
            Relation::Less if self.eat_symbol('=') => Relation::LessOrEqual,
            Relation::Greater if self.eat_symbol('=') => Relation::GreaterOrEqual,
            Relation::Equal if self.eat_symbol('=') => Relation::Equal,
            relation => relation,
        };
        Some(relation)
    }

    /// Sets joined by union, intersection or difference; mostly a single one.
    fn side(&mut self) -> Result<Answer, Unreadable> {
        let mut answer = self.operand()?;
        let mut joints = 0;
        while let Some(operation) = self.set_operation() {
            joints += 1;
            if joints > MAX_DEPTH {
                return Err(Unreadable::TooDeep);
            }
            let right = self.operand()?;
            answer = match answer {
                Answer::Sets(previous, mut sets)
                    if previous == operation && operation != SetOperation::Difference =>
                {
                    sets.push(right);
                    Answer::Sets(operation, sets)
                }
                left => Answer::Sets(operation, vec![left, right]),
            };
        }
        Ok(answer)
    }

    fn set_operation(&mut self) -> Option<SetOperation> {
        let operation = match self.command()? {
            "cup" | "bigcup" => SetOperation::Union,
            "cap" => SetOperation::Intersection,
            "setminus" => SetOperation::Difference,
            _ => return None,
        };
        self.at += 1;
        Some(operation)
    }

    /// A scalar, or something in brackets.
    fn operand(&mut self) -> Result<Answer, Unreadable> {
        let answer = self.sum()?;
        let Answer::Value(expr, _) = answer else {
            return Ok(answer);
        };
        let marks = std::mem::take(&mut self.marks);
        match choose_signs(&expr)? {
            None => Ok(Answer::Value(expr, marks)),
            Some(choices) => Ok(Answer::List(
                choices
                    .into_iter()
                    .map(|choice| Answer::Value(choice, marks.clone()))
                    .collect(),
            )),
        }
    }
}

/// The values that an expression with `\pm` stands for: all signs together, so that
/// `\pm a \pm b` has four and `\pm a \mp a` has two.
fn choose_signs(expr: &Expr) -> Result<Option<Vec<Expr>>, Unreadable> {
    let mut plus = 0_u32;
    let mut opposite = false;
    expr.walk(&mut |node| {
        if let Expr::Apply(Function::PlusMinus(minus_first), _) = node {
            opposite |= minus_first;
            plus += 1;
        }
    });
    if plus == 0 {
        return Ok(None);
    }
    // With a `\mp` all signs move together.
    let choices = if opposite {
        2
    } else {
        1_usize.checked_shl(plus).unwrap_or(usize::MAX)
    };
    if choices > MAX_SIGN_CHOICES {
        return Err(Unreadable::TooManyTokens);
    }
    let choose = |choice: usize| {
        let mut met = 0;
        expr.clone().map(&mut |node| match node {
            Expr::Apply(Function::PlusMinus(minus_first), mut inside) if inside.len() == 1 => {
                let bit = if opposite { choice } else { choice >> met };
                met += 1;
                let negative = (bit & 1 == 1) != minus_first;
                let inside = inside.remove(0);
                if negative { inside.negated() } else { inside }
            }
            node => node,
        })
    };
    Ok(Some((0..choices).map(choose).collect()))
}
