//! The symbolic grader (metric `math_equal`): does the answer mean the same as the gold?
//!
//! Four stages, each a file: [`candidates`] finds where a response states its answer, the parser
//! reads it (LaTeX and plain text alike), the decision compares by exact arithmetic, then normal
//! forms, then evaluation with error bounds. Nothing is accepted for looking alike, nothing can
//! hang: every bound is a counted limit, and the same input gives the same verdict anywhere.

mod algebra;
mod atoms;
mod candidates;
#[cfg(test)]
mod cases;
mod clean;
mod commands;
mod decide;
mod digits;
mod enclosure;
mod expr;
mod functions;
mod lexer;
mod limits;
mod numerals;
mod numeric;
mod parser;
mod rational;
mod relations;
mod terms;
mod words;

use std::borrow::Cow;
use std::fmt;

pub use candidates::{AnswerStyle, Candidate, Mark, candidates};
use decide::{Comparison, Decision, OutOfSteps};
pub use decide::{Difference, Equality};
use expr::Answer;
use lexer::Commas;
use limits::MAX_ANSWER_BYTES;

/// Name of the metric in results.
pub const METRIC: &str = "math_equal";

/// What the grader says of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'r> {
    /// The verdict proper.
    pub outcome: Outcome,
    /// The text of the candidate that counted.
    pub extracted: Option<Cow<'r, str>>,
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Equal, and how that was found.
    Equal(Equality),
    /// Different, and how.
    Different(Difference),
    /// The response states no answer.
    NoAnswer,
    /// The answer cannot be read as mathematics, and its text is not the gold's.
    Unparsable(&'static str),
    /// The gold cannot be read, and its text is not the answer's.
    UnparsableGold(&'static str),
    /// The answer exceeds a limit: length, depth, digits or steps.
    OverLimit(&'static str),
}

impl Outcome {
    /// Whether the response counts as correct.
    pub fn is_correct(self) -> bool {
        matches!(self, Self::Equal(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal(Equality::Text) => "equal: same text",
            Self::Equal(Equality::Structure) => "equal: same structure",
            Self::Equal(Equality::Rational) => "equal: same rational number",
            Self::Equal(Equality::WrittenOut) => "equal: repeating decimal written out",
            Self::Equal(Equality::NormalForm) => "equal: same normal form",
            Self::Equal(Equality::Evaluation) => "equal: same values at sample points",
            Self::Different(Difference::Value) => "different: value",
            Self::Different(Difference::Kind) => "different: kind of answer",
            Self::Different(Difference::Count) => "different: number of elements",
            Self::Different(Difference::Brackets) => "different: open or closed ends",
            Self::Different(Difference::Unit) => "different: unit",
            Self::Different(Difference::Undecided) => "different: equality could not be shown",
            Self::NoAnswer => "no answer",
            Self::Unparsable(what) => return write!(f, "unparsable: {what}"),
            Self::UnparsableGold(what) => return write!(f, "unparsable gold: {what}"),
            Self::OverLimit(what) => return write!(f, "over limit: {what}"),
        })
    }
}

/// Why a text is not read as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    Empty,
    Syntax(&'static str),
    TooManyTokens,
    TooDeep,
    TooManyDigits,
}

impl Unreadable {
    fn outcome(self) -> Outcome {
        match self {
            Self::Empty => Outcome::Unparsable("nothing to read"),
            Self::Syntax(what) => Outcome::Unparsable(what),
            Self::TooManyTokens => Outcome::OverLimit("tokens"),
            Self::TooDeep => Outcome::OverLimit("depth"),
            Self::TooManyDigits => Outcome::OverLimit("digits"),
        }
    }
}

/// Grades a response against the gold answer.
///
/// The gold may be written as freely as answers are. The task's `style` decides what counts as the
/// response's answer.
pub fn grade<'r>(response: &'r str, gold: &str, style: AnswerStyle) -> Verdict<'r> {
    grade_with(response, &Gold::new(gold), style)
}

/// A gold answer, read once for many responses.
#[derive(Clone, Debug)]
pub struct Gold {
    text: String,
    readings: Result<Vec<Answer>, Unreadable>,
}

impl Gold {
    /// Reads a gold answer. One that cannot be read is compared by its text.
    pub fn new(gold: &str) -> Self {
        let text = gold.trim();
        Self {
            text: text.to_owned(),
            readings: readings(text),
        }
    }
}

/// As [`grade`], for a gold that was read before.
pub fn grade_with<'r>(response: &'r str, gold: &Gold, style: AnswerStyle) -> Verdict<'r> {
    let Some(candidate) = candidates(response, style).pop() else {
        return Verdict {
            outcome: Outcome::NoAnswer,
            extracted: None,
        };
    };
    let extracted = candidate.text(response);
    Verdict {
        outcome: equal(&extracted, gold),
        extracted: Some(extracted),
    }
}

/// Whether an answer means the same as the gold.
pub fn equal(answer: &str, gold: &Gold) -> Outcome {
    if answer.len() > MAX_ANSWER_BYTES {
        return Outcome::OverLimit("length");
    }
    let golds = match &gold.readings {
        Ok(golds) => golds,
        Err(unreadable) => return by_text(answer, &gold.text, *unreadable, true),
    };
    let answers = match readings(answer) {
        Ok(answers) => answers,
        Err(unreadable) => return by_text(answer, &gold.text, unreadable, false),
    };
    let mut comparison = Comparison::default();
    let mut best = None;
    for answer in &answers {
        for gold in golds {
            match comparison.same(answer, gold) {
                Ok(Decision::Ok(equality)) => return Outcome::Equal(equality),
                Ok(Decision::Err(difference)) => best = best.or(Some(difference)),
                Err(OutOfSteps) => return Outcome::OverLimit("steps"),
            }
        }
    }
    Outcome::Different(best.unwrap_or(Difference::Undecided))
}

/// The ways to read a text: commas between digits as thousands marks and as separators.
fn readings(text: &str) -> Result<Vec<Answer>, Unreadable> {
    if text.len() > MAX_ANSWER_BYTES {
        return Err(Unreadable::TooManyTokens);
    }
    let folded = clean::fold(unemphasised(text));
    let mut found = Vec::new();
    let first = parser::parse(&folded, Commas::Group);
    let error = first.map(|answer| found.push(answer)).err();
    if folded.contains(',')
        && let Ok(answer) = parser::parse(&folded, Commas::Separate)
        && !found.contains(&answer)
    {
        found.push(answer);
    }
    match error {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// A text without the stars of Markdown around it.
fn unemphasised(text: &str) -> &str {
    let text = text.trim();
    match text
        .strip_prefix("**")
        .and_then(|text| text.strip_suffix("**"))
    {
        Some(inside) if !inside.contains('*') => inside,
        _ => text,
    }
}

/// A text that is the same for answers that are spelled differently but read the same, for counting
/// votes among answers. Answers that only a computation shows to be equal keep different keys.
pub fn vote_key(answer: &str) -> String {
    match readings(answer) {
        Ok(readings) => format!("{:?}", readings.first()),
        Err(_) => clean::fold(answer).split_whitespace().collect(),
    }
}

/// Layout that two spellings of one unreadable text may differ in.
const LAYOUT: [&str; 10] = [
    r"\displaystyle",
    r"\left",
    r"\right",
    r"\(",
    r"\)",
    r"\[",
    r"\]",
    r"\,",
    r"\!",
    r"\;",
];

/// Where one side cannot be read, only the very same text is equal.
fn by_text(answer: &str, gold: &str, unreadable: Unreadable, gold_is_bad: bool) -> Outcome {
    let bare = |text: &str| -> String {
        let mut folded = clean::fold(text).into_owned();
        for layout in LAYOUT {
            folded = folded.replace(layout, "");
        }
        let boxed = folded.trim().strip_prefix(r"\boxed{");
        let inside = boxed.and_then(|inside| inside.strip_suffix('}'));
        inside
            .unwrap_or(&folded)
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '$')
            .collect()
    };
    let (answer, gold) = (bare(answer), bare(gold));
    let stop = |text: &str| text.trim_end_matches('.').to_owned();
    match (stop(&answer) == stop(&gold), unreadable.outcome()) {
        (true, _) if !answer.is_empty() => Outcome::Equal(Equality::Text),
        (_, Outcome::Unparsable(what)) if gold_is_bad => Outcome::UnparsableGold(what),
        (_, outcome) => outcome,
    }
}
