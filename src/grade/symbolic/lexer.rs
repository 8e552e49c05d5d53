//! From the text of an answer to tokens: wrappers, spacing, fonts and colours fall away here.
//!
//! The text has been through [`super::clean::fold`]. A comma between digits is ambiguous (`1,234`
//! is a number or a list of two), so the caller says how it reads them and may try both.

use super::commands::{DROPPED_ARGUMENT, FONTS, KNOWN, SPACING, is_unit_font};
use super::digits::{
    bracketed_digits, group_separator, is_repetend, take_digits, take_exponent, take_repetend,
    three_digits, written_repeating,
};
use super::limits::{MAX_DEPTH, MAX_LITERAL_DIGITS, MAX_TOKENS};
use super::{Unreadable, words};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Decimal digits with at most one point.
    Number(String),
    /// A number with a repeating tail: `0.8\overline{4}` is ("0.8", "4").
    Repeating(String, String),
    Letter(char),
    /// Letters that are read as a word, in their own case.
    Word(String),
    /// A LaTeX command without its backslash.
    Command(String),
    Symbol(char),
    /// `\{` and `\}`.
    SetOpen,
    SetClose,
    Begin(String),
    End(String),
    RowBreak,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    /// Whether a blank stands before it.
    pub(super) spaced: bool,
}

/// How a comma between digits reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commas {
    /// `1,234` is one thousand two hundred and thirty-four.
    Group,
    /// `1,234` is a list of two.
    Separate,
}

/// Splits an answer into tokens.
pub(super) fn tokens(text: &str, commas: Commas) -> Result<Vec<Lexeme>, Unreadable> {
    let mut lexer = Lexer {
        out: Vec::new(),
        spaced: false,
        commas,
        depth: 0,
        brackets: 0,
    };
    lexer.run(text, None)?;
    Ok(lexer.out)
}

struct Lexer {
    out: Vec<Lexeme>,
    spaced: bool,
    commas: Commas,
    depth: usize,
    /// Open brackets: a comma in there separates elements.
    brackets: usize,
}

impl Lexer {
    fn push(&mut self, token: Token) -> Result<(), Unreadable> {
        if self.out.len() >= MAX_TOKENS {
            return Err(Unreadable::TooManyTokens);
        }
        match token {
            Token::Symbol('(' | '[') | Token::SetOpen => self.brackets += 1,
            Token::Symbol(')' | ']') | Token::SetClose => {
                self.brackets = self.brackets.saturating_sub(1);
            }
            _ => {}
        }
        let spaced = std::mem::take(&mut self.spaced);
        self.out.push(Lexeme { token, spaced });
        Ok(())
    }

    fn last(&self) -> Option<&Token> {
        self.out.last().map(|lexeme| &lexeme.token)
    }

    /// Lexes `text`; `font` names the font macro whose group it is.
    fn run(&mut self, mut text: &str, font: Option<&str>) -> Result<(), Unreadable> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unreadable::TooDeep);
        }
        while let Some(c) = text.chars().next() {
            text = match c {
                '0'..='9' => self.number(text)?,
                '.' if text[1..].starts_with(|d: char| d.is_ascii_digit()) => self.number(text)?,
                '.' if text.starts_with("...") => {
                    self.push(Token::Command("ldots".to_owned()))?;
                    &text[3..]
                }
                '\\' => self.command(text)?,
                c if c.is_alphabetic() => self.letters(text, font)?,
                c => {
                    match c {
                        ' ' | '\t' | '\n' | '\r' | '~' => self.spaced = true,
                        '$' | '"' | '`' | '.' | '#' => {}
                        c if c.is_whitespace() => self.spaced = true,
                        c => self.push(Token::Symbol(c))?,
                    }
                    &text[c.len_utf8()..]
                }
            };
        }
        self.depth -= 1;
        Ok(())
    }

    fn number<'t>(&mut self, text: &'t str) -> Result<&'t str, Unreadable> {
        let mut digits = String::new();
        let mut rest = take_digits(text, &mut digits);
        if (1..=3).contains(&digits.len()) && !digits.starts_with('0') {
            let commas = match self.brackets {
                0 => self.commas,
                _ => Commas::Separate,
            };
            while let Some(after) = group_separator(rest, commas) {
                digits.push_str(&after[..3]);
                rest = &after[3..];
            }
        }
        let fraction = rest.strip_prefix('.').or_else(|| rest.strip_prefix("{.}"));
        // `0.(3)` is the repeating decimal; `0.1(6)` may be a product.
        if let Some((period, after)) = fraction.and_then(|text| bracketed_digits(text)) {
            self.push(Token::Repeating(digits + ".", period.to_owned()))?;
            return Ok(after);
        }
        let opens =
            |text: &&str| text.starts_with(|c: char| c.is_ascii_digit()) || is_repetend(text);
        if let Some(fraction) = fraction.filter(opens) {
            digits.push('.');
            rest = take_digits(fraction, &mut digits);
            if rest.starts_with('.') && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
                return Err(Unreadable::Syntax("a number with two points"));
            }
            // Decimals may be grouped as well: `0.123\,456`.
            while let Some(after) = rest.strip_prefix(r"\,").filter(|t| three_digits(t)) {
                digits.push_str(&after[..3]);
                rest = &after[3..];
            }
        }
        if digits.len() > MAX_LITERAL_DIGITS {
            return Err(Unreadable::TooManyDigits);
        }
        if let Some((repetend, after)) = take_repetend(rest).filter(|_| digits.contains('.')) {
            self.push(Token::Repeating(digits, repetend.to_owned()))?;
            return Ok(after);
        }
        if let Some((head, period, after)) = written_repeating(&digits, rest) {
            self.push(Token::Repeating(head, period))?;
            return Ok(after);
        }
        if let Some((exponent, after)) = take_exponent(rest) {
            self.push(Token::Number(format!("{digits}e{exponent}")))?;
            return Ok(after);
        }
        self.push(Token::Number(digits))?;
        Ok(rest)
    }

    fn letters<'t>(&mut self, text: &'t str, font: Option<&str>) -> Result<&'t str, Unreadable> {
        let end = text
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(text.len());
        let (run, rest) = text.split_at(end);
        let after_number = !self.spaced && matches!(self.last(), Some(Token::Number(_)));
        let ordinal = after_number && matches!(run, "st" | "nd" | "rd" | "th");
        let lower = run.to_lowercase();
        let long = run.chars().nth(1).is_some();
        let word = match font {
            _ if ordinal => true,
            Some(font) => long || (is_unit_font(font) && is_lone_unit(run, text, rest)),
            None => {
                run.chars().nth(3).is_some()
                    || (long
                        && (words::is_function_or_constant(&lower)
                            || words::is_connector(&lower)
                            || words::unit(run).is_some()
                            || words::introduces(&lower)
                            || words::qualifies(&lower)
                            || words::is_filler(&lower)
                            || words::is_short_answer(&lower)))
            }
        };
        if word {
            self.push(Token::Word(run.to_owned()))?;
            // The hyphen of `twenty-one` is no minus sign.
            let joined = rest.strip_prefix('-').filter(|after| {
                let tens = words::small_number(&lower).is_some_and(|n| n >= 20);
                tens && after.starts_with(|c: char| c.is_alphabetic())
            });
            return Ok(joined.unwrap_or(rest));
        }
        for letter in run.chars() {
            self.push(Token::Letter(letter))?;
        }
        Ok(rest)
    }

    fn command<'t>(&mut self, text: &'t str) -> Result<&'t str, Unreadable> {
        let rest = &text[1..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        if end == 0 {
            let Some(c) = rest.chars().next() else {
                return Ok(rest);
            };
            match c {
                '{' => self.push(Token::SetOpen)?,
                '}' => self.push(Token::SetClose)?,
                '|' => self.push(Token::Symbol('|'))?,
                '%' => self.push(Token::Symbol('%'))?,
                '\\' => {
                    // Two backslashes before letters are a doubly escaped command: `\\frac`.
                    if KNOWN.iter().any(|name| rest[1..].starts_with(name)) {
                        return Ok(rest);
                    }
                    self.push(Token::RowBreak)?;
                }
                ',' | ';' | ':' | ' ' | '!' | '>' => self.spaced |= c != '!',
                _ => {}
            }
            return Ok(&rest[c.len_utf8()..]);
        }
        let (name, after) = rest.split_at(end);
        self.named_command(name, after, rest)
    }

    fn named_command<'t>(
        &mut self,
        name: &str,
        after: &'t str,
        rest: &'t str,
    ) -> Result<&'t str, Unreadable> {
        if SPACING.contains(&name) {
            self.spaced |= name.ends_with("quad");
            let after = after.trim_start();
            // `\left.` and `\right.` are delimiters that are not there.
            return Ok(match name {
                "left" | "right" => after.strip_prefix('.').unwrap_or(after),
                _ => after,
            });
        }
        if FONTS.contains(&name) {
            return match group(after) {
                Some((inside, after)) => {
                    self.font(name, inside)?;
                    Ok(after)
                }
                None => Ok(after),
            };
        }
        if DROPPED_ARGUMENT.contains(&name) {
            return Ok(group(after).map_or(after, |(_, after)| after));
        }
        match name {
            "begin" | "end" => {
                let (environment, mut after) = group(after).unwrap_or(("", after));
                if name == "begin" {
                    if environment == "array" {
                        after = group(after).map_or(after, |(_, after)| after);
                    }
                    self.push(Token::Begin(environment.to_owned()))?;
                } else {
                    self.push(Token::End(environment.to_owned()))?;
                }
                Ok(after)
            }
            "lbrace" => self.push(Token::SetOpen).map(|()| after),
            "rbrace" => self.push(Token::SetClose).map(|()| after),
            "dollar" => Ok(after),
            name if KNOWN.contains(&name) => {
                self.push(Token::Command(name.to_owned()))?;
                Ok(after)
            }
            name => {
                // `\fracn2` is `\frac n2` to TeX's readers, if not to TeX.
                let prefix = KNOWN.iter().filter(|known| name.starts_with(**known));
                match prefix.max_by_key(|known| known.len()) {
                    Some(known) => {
                        self.push(Token::Command((*known).to_owned()))?;
                        Ok(&rest[known.len()..])
                    }
                    None => {
                        self.push(Token::Command(name.to_owned()))?;
                        Ok(after)
                    }
                }
            }
        }
    }

    /// The group of a font macro. It keeps its braces where it is an argument.
    fn font(&mut self, name: &str, inside: &str) -> Result<(), Unreadable> {
        let argument = match self.last() {
            Some(Token::Symbol('^' | '_')) => true,
            Some(Token::Command(command)) => command.ends_with("frac") || command == "sqrt",
            _ => false,
        };
        if argument {
            self.push(Token::Symbol('{'))?;
        }
        self.run(inside, Some(name))?;
        if argument {
            self.push(Token::Symbol('}'))?;
        }
        self.spaced = true;
        Ok(())
    }
}

/// Whether a single letter is a unit that fills its group: `\text{ m}`, `\text{m}^2`, `m/s`.
fn is_lone_unit(run: &str, from_run: &str, rest: &str) -> bool {
    debug_assert!(from_run.starts_with(run), "the run opens the text");
    let plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '/' | '^' | '.' | '{' | '}');
    words::unit(run).is_some() && rest.chars().all(plain)
}

/// The contents of the brace group that opens `text`, and what follows it.
pub(super) fn group(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if !text.starts_with('{') {
        return None;
    }
    let mut open = 0_usize;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some((&text[1..at], &text[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Vec<Token> {
        tokens(text, Commas::Group)
            .unwrap()
            .into_iter()
            .map(|l| l.token)
            .collect()
    }

    fn number(text: &str) -> Token {
        Token::Number(text.to_owned())
    }

    #[test]
    fn thousands_marks_join() {
        for text in [
            "10080",
            r"10,\!080",
            "10,080",
            "10{,}080",
            r"10\,080",
            "10 080",
            r"10,\! 080",
        ] {
            assert_eq!(lex(text), [number("10080")], "{text}");
        }
        assert_eq!(lex("352146,362145").len(), 3);
        assert_eq!(tokens("1,234", Commas::Separate).unwrap().len(), 3);
    }

    #[test]
    fn wrappers_fall_away() {
        for text in [
            r"\text{5}",
            r"\displaystyle 5",
            r"\color{blue} 5",
            r"$5$",
            r"\boxed 5",
            r"\left.5",
        ] {
            assert_eq!(lex(text), [number("5")], "{text}");
        }
    }

    #[test]
    fn a_run_of_letters_is_a_word_or_a_product() {
        assert_eq!(lex("ab"), [Token::Letter('a'), Token::Letter('b')]);
        assert_eq!(lex("5 cm"), [number("5"), Token::Word("cm".into())]);
        assert_eq!(
            lex(r"\fracn2"),
            [
                Token::Command("frac".into()),
                Token::Letter('n'),
                number("2")
            ]
        );
        assert!(tokens("13.0.7", Commas::Group).is_err());
    }
}
