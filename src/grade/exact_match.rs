//! The `exact_match` metric of lm-evaluation-harness, option for option.
//!
//! Pinned by `golden/components/exact_match.jsonl`.

use std::borrow::Cow;

use serde::Deserialize;

use super::pattern::{Pattern, TooManySteps};
use super::{AnswerError, GradeError};

/// The metric's options, as a task's `metric_list` entry spells them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExactMatchOptions {
    /// Python regular expressions; every match is deleted from both sides, in list order.
    pub regexes_to_ignore: Option<Vec<String>>,
    /// Compares lower-cased texts.
    pub ignore_case: bool,
    /// Deletes ASCII punctuation from both sides.
    pub ignore_punctuation: bool,
    /// Deletes ASCII digits from both sides.
    pub ignore_numbers: bool,
}

/// The metric, ready to score.
#[derive(Clone, Debug)]
pub struct ExactMatch {
    ignored: Vec<Pattern>,
    ignore_case: bool,
    ignore_punctuation: bool,
    ignore_numbers: bool,
}

impl ExactMatch {
    /// Compiles the options.
    ///
    /// # Errors
    /// An expression of `regexes_to_ignore` does not compile.
    pub fn new(options: &ExactMatchOptions) -> Result<Self, GradeError> {
        let patterns = options.regexes_to_ignore.iter().flatten();
        Ok(Self {
            ignored: patterns
                .map(|p| Pattern::new(p))
                .collect::<Result<_, _>>()?,
            ignore_case: options.ignore_case,
            ignore_punctuation: options.ignore_punctuation,
            ignore_numbers: options.ignore_numbers,
        })
    }

    /// Whether the two texts are equal after what the options ignore is gone.
    ///
    /// # Errors
    /// A look-around expression gave up on one of the texts ([`AnswerError::Backtracking`]).
    pub fn score(&self, prediction: &str, reference: &str) -> Result<bool, AnswerError> {
        let reduced = |text| {
            self.reduce(text)
                .map_err(|TooManySteps| AnswerError::Backtracking)
        };
        Ok(reduced(prediction)? == reduced(reference)?)
    }

    fn reduce<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, TooManySteps> {
        let mut text = Cow::Borrowed(text);
        for pattern in &self.ignored {
            text = Cow::Owned(pattern.delete_all(&text)?);
        }
        if self.ignore_case {
            text = Cow::Owned(text.to_lowercase());
        }
        if self.ignore_punctuation {
            text.to_mut().retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.to_mut().retain(|c| !c.is_ascii_digit());
        }
        // The reference compares numpy strings, which end at their last character that is not NUL.
        if text.ends_with('\0') {
            let end = text.trim_end_matches('\0').len();
            text.to_mut().truncate(end);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gsm8k_options_reduce_a_solution_to_its_number() {
        let metric = ExactMatch::new(&ExactMatchOptions {
            regexes_to_ignore: Some(
                [",", r"\$", "(?s).*#### ", r"\.$"]
                    .map(String::from)
                    .to_vec(),
            ),
            ignore_case: true,
            ..ExactMatchOptions::default()
        })
        .unwrap();
        assert_eq!(metric.score("$1,800.", "six\n#### 5\n#### 1800"), Ok(true));
        assert_eq!(metric.score("1800.0", "#### 1800"), Ok(false));
    }
}
