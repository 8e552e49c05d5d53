//! How runs of digits are written: thousands marks, repeating decimals, exponents.

use super::lexer::Commas;
use super::limits::MAX_LITERAL_DIGITS;

pub(super) fn take_digits<'t>(text: &'t str, digits: &mut String) -> &'t str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    digits.push_str(&text[..end]);
    &text[end..]
}

pub(super) fn three_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 3
        && bytes[..3].iter().all(u8::is_ascii_digit)
        && !bytes.get(3).is_some_and(u8::is_ascii_digit)
}

/// What follows a thousands mark, if one opens `text`: it starts with exactly three digits.
pub(super) fn group_separator(text: &str, commas: Commas) -> Option<&str> {
    let after = [
        r",\!", "{,}", r"\,", r"\ ", r"\;", r"\:", "~", " ", "{ }", "'",
    ]
    .iter()
    .find_map(|mark| text.strip_prefix(mark))
    .or_else(|| text.strip_prefix(',').filter(|_| commas == Commas::Group))?;
    let after = match text.starts_with(r",\!") {
        true => after.trim_start(),
        false => after,
    };
    three_digits(after).then_some(after)
}

const REPETENDS: &[(&str, char)] = &[(r"\overline{", '}'), (r"\bar{", '}'), (r"\dot{", '}')];

pub(super) fn is_repetend(text: &str) -> bool {
    take_repetend(text).is_some()
}

pub(super) fn take_repetend(text: &str) -> Option<(&str, &str)> {
    let (digits, after) = REPETENDS
        .iter()
        .find_map(|(open, close)| text.strip_prefix(open)?.split_once(*close))?;
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (decimal && digits.len() <= MAX_LITERAL_DIGITS).then_some((digits, after))
}

/// The digits of a bracket that opens `text` and holds nothing else.
pub(super) fn bracketed_digits(text: &str) -> Option<(&str, &str)> {
    let (digits, after) = text.strip_prefix('(')?.split_once(')')?;
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (decimal && digits.len() <= MAX_LITERAL_DIGITS).then_some((digits, after))
}

/// `0.333...`: a decimal that goes on as it ends, with its period. What goes on must have been seen
/// twice, a single digit three times.
pub(super) fn written_repeating<'t>(
    digits: &str,
    rest: &'t str,
) -> Option<(String, String, &'t str)> {
    let after = ["...", r"\ldots", r"\dots", r"\cdots", "\u{2026}"]
        .iter()
        .find_map(|dots| rest.trim_start().strip_prefix(dots))?;
    let (whole, decimals) = digits.split_once('.')?;
    let period = (1..=decimals.len() / 2).find(|&period| {
        let (start, end) = decimals.split_at(decimals.len() - period);
        let seen = if period == 1 { 2 } else { 1 };
        start.len() >= seen * period && start.ends_with(&end.repeat(seen))
    })?;
    let (head, tail) = decimals.split_at(decimals.len() - period);
    Some((format!("{whole}.{head}"), tail.to_owned(), after))
}

/// A decimal exponent directly after the digits: `9e0`, `1.5E-3`.
pub(super) fn take_exponent(text: &str) -> Option<(&str, &str)> {
    let body = text.strip_prefix(['e', 'E'])?;
    let digits = body.strip_prefix(['+', '-']).unwrap_or(body);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    if end == 0 || digits[end..].starts_with(char::is_alphabetic) {
        return None;
    }
    let length = body.len() - digits.len() + end;
    Some((&body[..length], &body[length..]))
}
