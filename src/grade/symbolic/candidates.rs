//! Where a response states its answer: every candidate with its place, and the one that counts.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

use super::lexer;
use super::limits::{MAX_ANSWER_BYTES, MAX_CANDIDATES, TAIL_BYTES};

/// How a task asks for its answer, which decides what counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerStyle {
    /// In a box; without one, after `final answer is`, or in the last mathematics.
    Boxed,
    /// As a number: in a box, after `####` or `the answer is`, or the last one of the text.
    Number,
}

/// What marks a candidate, from the strongest to the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// `\boxed{..}`, `\fbox{..}`, `\framebox{..}`, with or without braces.
    Box,
    /// `####`, `final answer:`, `the answer is`.
    Phrase,
    /// `$..$`, `\(..\)`, `\[..\]`.
    Mathematics,
    /// A number in the text.
    Number,
    /// A box that is never closed.
    OpenBox,
}

/// A place where the response may state its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Byte ranges in the response. Mostly one; boxes that state one answer together have several.
    pub parts: Vec<Range<usize>>,
    /// What marks it.
    pub mark: Mark,
}

impl Candidate {
    fn new(place: Range<usize>, mark: Mark) -> Self {
        Self {
            parts: vec![place],
            mark,
        }
    }

    /// The candidate's text: its parts as a list.
    pub fn text<'r>(&self, response: &'r str) -> Cow<'r, str> {
        match self.parts.as_slice() {
            [only] => Cow::Borrowed(&response[only.clone()]),
            parts => {
                let texts: Vec<&str> = parts.iter().map(|part| &response[part.clone()]).collect();
                Cow::Owned(texts.join(", "))
            }
        }
    }
}

/// Texts that end a turn; what follows belongs to nobody's answer.
const END_OF_TURN: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "</s>",
    "<end_of_turn>",
];
/// The end of a chain of thought that is marked as such.
const END_OF_THOUGHT: &str = "</think>";
/// Commands that box an answer.
const BOXES: &[&str] = &["boxed", "fbox", "framebox"];
/// Boxes that repeat the instruction instead of answering.
const PLACEHOLDERS: &[&str] = &[
    "your_answer",
    "your answer",
    "your\\_answer",
    "answer",
    "...",
    r"\ldots",
    r"\dots",
    "?",
];

static PHRASE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)####|\b(?:final\s+answer|answer|result|total)\b\**\s*(?:is|are|:|=|equals)\**:?\**|\b(?:answer|答案)(?:是|为|：)")
        .expect("a constant pattern")
});
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x) \\?[$€£]? [-+−]? \\?[$€£]?
          (?: \p{Nd}{1,3} (?: ,\p{Nd}{3} )+ (?: \.\p{Nd}+ )?
            | [1-9]\p{Nd}{0,2} (?: [\ \u{a0}\u{2009}\u{202f}] \p{Nd}{3} )+ \b
            | \p{Nd}+ (?: \.\p{Nd}+ )? (?: [eE][-+]?\p{Nd}+ )?
            | \.\p{Nd}+ )
          (?: /\p{Nd}+ )? (?: \\?% )?",
    )
    .expect("a constant pattern")
});

/// The candidates of a response, the one that counts last. Empty when it states no answer.
pub fn candidates(response: &str, style: AnswerStyle) -> Vec<Candidate> {
    let turn = end_of_turn(response);
    let text = &response[..turn];
    // After a marked chain of thought only the answer proper counts, if there is one.
    if let Some(at) = memmem::rfind(text.as_bytes(), END_OF_THOUGHT.as_bytes()) {
        let start = at + END_OF_THOUGHT.len();
        let found = candidates_in(&text[start..], style);
        if !found.is_empty() {
            let moved = |mut candidate: Candidate| {
                for part in &mut candidate.parts {
                    *part = part.start + start..part.end + start;
                }
                candidate
            };
            return found.into_iter().map(moved).collect();
        }
    }
    candidates_in(text, style)
}

fn end_of_turn(response: &str) -> usize {
    let ends = END_OF_TURN
        .iter()
        .filter_map(|mark| memmem::find(response.as_bytes(), mark.as_bytes()));
    ends.min().unwrap_or(response.len())
}

fn candidates_in(text: &str, style: AnswerStyle) -> Vec<Candidate> {
    let mut found = boxes(text);
    let complete = |c: &Candidate| c.mark == Mark::Box;
    if found.iter().any(complete) {
        found.retain(complete);
        join_last(text, &mut found);
    } else {
        found.extend(phrases(text, style));
        if found.iter().all(|c| c.mark == Mark::OpenBox) {
            let rest = match style {
                // Who opens a box and leaves it empty has not answered in passing before.
                AnswerStyle::Boxed if text.contains(r"\boxed") => Vec::new(),
                AnswerStyle::Boxed => mathematics(text, tail(text)),
                AnswerStyle::Number => numbers(text, tail(text)),
            };
            found.extend(rest);
        }
        // An open box is the weakest of all.
        found.sort_by_key(|c| c.mark != Mark::OpenBox);
    }
    let surplus = found.len().saturating_sub(MAX_CANDIDATES);
    found.drain(..surplus);
    found
}

/// The boxes of a text that hold something, in order.
fn boxes(text: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut tried = 0;
    for slash in memchr::memrchr_iter(b'\\', text.as_bytes()) {
        let after = &text[slash + 1..];
        let Some(name) = BOXES.iter().find(|name| after.starts_with(**name)) else {
            continue;
        };
        let rest = &after[name.len()..];
        if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        if let Some((inside, mark)) = boxed(rest) {
            let start = inside.as_ptr() as usize - text.as_ptr() as usize;
            found.push(Candidate::new(start..start + inside.len(), mark));
        }
        tried += 1;
        if tried == MAX_CANDIDATES {
            break;
        }
    }
    found.reverse();
    // A box that encloses another says the same: the inner one of `\boxed{\boxed{5}}` counts.
    let real = |c: &Candidate| !is_placeholder(&c.text(text));
    if found.iter().any(real) {
        found.retain(real);
    }
    found
}

/// What a box holds: its group, or the value that follows without braces.
fn boxed(rest: &str) -> Option<(&str, Mark)> {
    let trimmed = rest.trim_start();
    if let Some(opened) = trimmed.strip_prefix('{') {
        return match lexer::group(trimmed) {
            Some((inside, _)) if inside.trim().is_empty() => None,
            Some((inside, _)) => Some((inside.trim(), Mark::Box)),
            None => {
                let line = opened.lines().next().unwrap_or_default().trim();
                (!line.is_empty()).then_some((line, Mark::OpenBox))
            }
        };
    }
    // Without braces: a number or a command, up to the end of the mathematics or sentence.
    let value = trimmed.starts_with(|c: char| {
        c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | '(' | '\\' | '$')
    });
    if !value || trimmed.starts_with(r"\)") || trimmed.starts_with(r"\]") {
        return None;
    }
    let trimmed = trimmed.trim_start_matches('$');
    let end = bare_end(trimmed);
    let inside = trimmed[..end].trim().trim_end_matches(['.', ',', ';']);
    (!inside.is_empty()).then_some((inside, Mark::Box))
}

/// Where a value without braces ends: with its mathematics, its sentence, or the group around it.
fn bare_end(text: &str) -> usize {
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        let rest = &text.as_bytes()[at + 1..];
        let ends = match byte {
            b'$' | b'\n' => true,
            b'\\' => matches!(rest.first(), Some(b')' | b']')),
            b'{' => {
                open += 1;
                false
            }
            b'}' => {
                let outer = open == 0;
                open = open.saturating_sub(1);
                outer
            }
            b'.' | b',' | b';' => open == 0 && rest.first() == Some(&b' '),
            // A word after the value is the sentence going on.
            b' ' => {
                open == 0
                    && rest
                        .iter()
                        .take(2)
                        .filter(|b| b.is_ascii_alphabetic())
                        .count()
                        == 2
            }
            _ => false,
        };
        if ends {
            return at;
        }
    }
    text.len()
}

fn is_placeholder(inside: &str) -> bool {
    let bare = inside
        .trim_start_matches(r"\text{")
        .trim_end_matches('}')
        .trim();
    PLACEHOLDERS
        .iter()
        .any(|placeholder| bare.eq_ignore_ascii_case(placeholder))
}

/// `\boxed{1}, \boxed{2} and \boxed{3}` state one answer with three parts: where only such joints
/// stand between the last boxes, one more candidate has them all.
fn join_last(text: &str, found: &mut Vec<Candidate>) {
    let mut first = found.len();
    while first >= 2 && is_joint(text, &found[first - 2], &found[first - 1]) {
        first -= 1;
    }
    if (1..found.len()).contains(&first) {
        let parts = found[first - 1..]
            .iter()
            .flat_map(|c| c.parts.clone())
            .collect();
        found.push(Candidate {
            parts,
            mark: Mark::Box,
        });
    }
}

/// Whether only a comma or an "and" stands between two boxes.
fn is_joint(text: &str, left: &Candidate, right: &Candidate) -> bool {
    let (Some(left), Some(right)) = (left.parts.last(), right.parts.first()) else {
        return false;
    };
    let Some(between) = text.get(left.end..right.start) else {
        return false; // one encloses the other
    };
    let layout =
        |c: char| c.is_whitespace() || matches!(c, '$' | ',' | ';' | '(' | ')' | '\\' | '}');
    between
        .strip_prefix('}')
        .and_then(|between| between.strip_suffix(r"\boxed{"))
        .map(|between| {
            between
                .trim_matches(layout)
                .trim_start_matches("text{")
                .trim_matches(layout)
        })
        .is_some_and(|words| matches!(words, "" | "and" | "or"))
}

/// What follows phrases that announce an answer.
fn phrases(text: &str, style: AnswerStyle) -> Vec<Candidate> {
    let mut found = Vec::new();
    let all: Vec<_> = PHRASE.find_iter(text).collect();
    for phrase in &all[all.len().saturating_sub(MAX_CANDIDATES)..] {
        let rest = text[phrase.end()..]
            .trim_start_matches(|c: char| c.is_whitespace() || c == '*' || c == ':');
        let start = text.len() - rest.len();
        if style == AnswerStyle::Number {
            let rest = skip_list_number(rest);
            let start = text.len() - rest.len();
            let line = rest.split('\n').next().unwrap_or_default();
            found.extend(
                first_number(line)
                    .map(|n| Candidate::new(start + n.start..start + n.end, Mark::Phrase)),
            );
            continue;
        }
        let line = rest.lines().next().unwrap_or_default();
        let place = first_mathematics(line).unwrap_or_else(|| 0..sentence(line));
        let inside = line[place.clone()].trim();
        if !inside.is_empty() && !inside.contains(r"\boxed") {
            found.push(Candidate::new(
                start + place.start..start + place.end,
                Mark::Phrase,
            ));
        }
    }
    found
}

/// Length of the first sentence of a line, without its stop and markup.
fn sentence(line: &str) -> usize {
    let end = line.find(". ").unwrap_or(line.len());
    line[..end]
        .trim_end_matches(['.', '*', ' ', '!', '`'])
        .len()
}

/// Where the last bytes of a text begin that are searched for unmarked answers.
fn tail(text: &str) -> usize {
    text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES))
}

/// The first `$..$` or `\(..\)` of a line, when the line starts with it.
fn first_mathematics(line: &str) -> Option<Range<usize>> {
    let (open, close) = match line {
        line if line.starts_with("$$") => ("$$", "$$"),
        line if line.starts_with('$') => ("$", "$"),
        line if line.starts_with(r"\(") => (r"\(", r"\)"),
        line if line.starts_with(r"\[") => (r"\[", r"\]"),
        _ => return None,
    };
    let inside = &line[open.len()..];
    let window = &inside[..inside.floor_char_boundary(MAX_ANSWER_BYTES)];
    let end = window.find(close)?;
    Some(open.len()..open.len() + end)
}

/// Mathematics set off from the text, in order.
fn mathematics(text: &str, mut from: usize) -> Vec<Candidate> {
    let mut found = Vec::new();
    while let Some(at) = text[from..].find(['$', '\\']).map(|at| at + from) {
        let Some(place) = first_mathematics(&text[at..]) else {
            from = at + 1;
            continue;
        };
        if !text[at + place.start..at + place.end].trim().is_empty() {
            found.push(Candidate::new(
                at + place.start..at + place.end,
                Mark::Mathematics,
            ));
        }
        from = at
            + place.end
            + if text[at..].starts_with("$$") || text[at..].starts_with('\\') {
                2
            } else {
                1
            };
    }
    found
}

/// `1. 1920`: the first number is the list's.
fn skip_list_number(text: &str) -> &str {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    match digits.strip_prefix(". ") {
        Some(rest)
            if digits.len() < text.len()
                && rest.starts_with(|c: char| c.is_ascii_digit() || c == '$') =>
        {
            rest
        }
        _ => text,
    }
}

fn first_number(text: &str) -> Option<Range<usize>> {
    numbers(text, 0)
        .into_iter()
        .next()
        .and_then(|candidate| candidate.parts.into_iter().next())
}

/// The numbers of a text, in order, each with its sign if that is one.
fn numbers(text: &str, from: usize) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(number) = NUMBER.find_at(text, at) {
        at = number.end();
        let mut start = number.start();
        let before = text[..start].chars().next_back();
        // `10-18` is a difference or a range, `x-5` too: the sign belongs to nobody.
        if before.is_some_and(|c| c.is_alphanumeric() || c == ')') {
            let sign = number.as_str().find(['-', '+', '−']);
            if let Some(sign) = sign {
                let length = number.as_str()[sign..]
                    .chars()
                    .next()
                    .map_or(0, char::len_utf8);
                start += sign + length;
            }
        }
        found.push(Candidate::new(start..number.end(), Mark::Number));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(response: &str, style: AnswerStyle) -> Option<String> {
        candidates(response, style)
            .last()
            .map(|c| c.text(response).into_owned())
    }

    #[test]
    fn the_last_complete_box_counts() {
        let cases = [
            (r"\boxed{1} then \boxed{2}", Some("2")),
            (r"\boxed{7} is my answer, given in \boxed", Some("7")),
            ("Final Answer: \\boxed\n{7}", Some("7")),
            (r"\boxed {5}", Some("5")),
            (r"\boxed 5.", Some("5")),
            (r"\boxed5", Some("5")),
            (r"put it in \boxed at the end. \boxed{7}", Some("7")),
            (r"in \boxed{your_answer}: \boxed{7}", Some("7")),
            (r"\framebox{66}", Some("66")),
            (r"\boxed{7} So \boxed{}", Some("7")),
            (r"maybe \boxed{3}? </think> \boxed{4}", Some("4")),
            (r"\boxed{4}<|im_end|> \boxed{9}", Some("4")),
            (r"$\boxed{1}$ and $\boxed{2}$", Some("1, 2")),
            (r"\boxed{", None),
            ("", None),
        ];
        for (response, expected) in cases {
            assert_eq!(
                chosen(response, AnswerStyle::Boxed).as_deref(),
                expected,
                "{response}"
            );
        }
    }

    #[test]
    fn without_a_box_a_phrase_counts_then_mathematics() {
        let cases = [
            ("so the answer is $5$.", Some("5")),
            ("**Answer: 5**", Some("5")),
            ("#### 1,200", Some("1,200")),
            ("Hence $x=4$ and $x = 5$ hold.", Some("x = 5")),
            ("no idea", None),
        ];
        for (response, expected) in cases {
            assert_eq!(
                chosen(response, AnswerStyle::Boxed).as_deref(),
                expected,
                "{response}"
            );
        }
    }

    #[test]
    fn numbers_are_found_with_their_signs() {
        let cases = [
            ("The answer is 12. Steps: 1) read 2) compute", Some("12")),
            ("Answer:\n1. 1920", Some("1920")),
            ("So 3 + 4 = 7", Some("7")),
            ("It is between 1-16", Some("16")),
            ("The answer is −98", Some("−98")),
            ("The answer is 27 000", Some("27 000")),
            ("it costs $1,800.", Some("$1,800")),
            ("..., ,, $$", None),
        ];
        for (response, expected) in cases {
            assert_eq!(
                chosen(response, AnswerStyle::Number).as_deref(),
                expected,
                "{response}"
            );
        }
    }
}
