//! The reference's boxed grader, verdict for verdict: last box, unwrapping, textual normal form.
//!
//! Two variants exist. *Plain* is hendrycks_math's; *trimmed* (AIME, AMC, Olympiad) first strips
//! leading zeros and a zero fraction from both sides. Its mistakes are kept on purpose, because
//! published numbers rest on them; the symbolic grader is where answers are judged as mathematics.
//! Pinned by `golden/grading`.

mod extract;
mod normal_form;

use std::borrow::Cow;

pub use extract::extract;
use normal_form::{normal_form, trim};

use super::AnswerError;

/// Which of the two boxed rules applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// hendrycks_math_500 and the data filter: no trimming.
    Plain,
    /// AIME, AMC, Olympiad: leading zeros and a zero fraction go first.
    Trimmed,
}

/// The rule's verdict on one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxedVerdict<'r> {
    /// The text inside the last box; `None` without one, or where the reference raises.
    pub extracted: Option<&'r str>,
    /// Whether it equals the gold by the rule.
    pub correct: bool,
    /// What the reference would have died of; the sample then scores 0.
    pub error: Option<AnswerError>,
}

/// Extracts the last box of `response` and compares it with `gold`.
pub fn grade<'r>(response: &'r str, gold: &str, variant: Variant) -> BoxedVerdict<'r> {
    let (extracted, error) = match extract(response) {
        Ok(extracted) => (extracted, None),
        Err(error) => (None, Some(error)),
    };
    BoxedVerdict {
        extracted,
        correct: extracted.is_some_and(|answer| is_equiv(answer, gold, variant)),
        error,
    }
}

/// Whether two answers have the same normal form by the rule.
///
/// Where the normalisation of either would raise in the reference, the two are compared as they
/// stand (trimmed, in that variant).
pub fn is_equiv(answer: &str, gold: &str, variant: Variant) -> bool {
    let (answer, gold) = match variant {
        Variant::Plain => (answer, gold),
        Variant::Trimmed => (trim(answer), trim(gold)),
    };
    match (normal_form(answer), normal_form(gold)) {
        (Some(answer), Some(gold)) => answer == gold,
        _ => answer == gold,
    }
}

/// The normal form that the rule compares, `None` where the reference raises.
pub fn normalized(answer: &str, variant: Variant) -> Option<Cow<'_, str>> {
    normal_form(match variant {
        Variant::Plain => answer,
        Variant::Trimmed => trim(answer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trimmed_variant_forgives_zeros() {
        for accepted in ["204", "0204", "204.0", "204.", "204.00", "204.0.7"] {
            assert!(is_equiv(accepted, "204", Variant::Trimmed), "{accepted}");
        }
        for rejected in ["204.0 ", r"204.0\text{ m}", "-0204", "x=025"] {
            assert!(!is_equiv(rejected, "204", Variant::Trimmed), "{rejected}");
        }
        assert!(is_equiv("000", "0", Variant::Trimmed));
        assert!(!is_equiv("0204", "204", Variant::Plain));
    }

    #[test]
    fn an_aborted_pair_is_compared_as_it_stands() {
        assert!(is_equiv("x/2", "x/2", Variant::Plain));
        assert!(!is_equiv("x /2", "x/2", Variant::Plain));
    }

    #[test]
    fn an_fbox_inside_a_box_is_counted() {
        let verdict = grade(r"\boxed{\fbox{5}}", "5", Variant::Plain);
        assert_eq!(verdict.error, Some(AnswerError::FboxInside));
        assert!(!verdict.correct);
        assert_eq!(verdict.extracted, None);
    }
}
