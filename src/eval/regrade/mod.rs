//! Grading answers that were logged before, without a model: the legacy verdict, the symbolic one,
//! and where they part. Rows are graded one by one ([`LoggedSample`] to [`GradedRow`]); what is kept of them
//! is a [`Tally`].

mod logged;
mod tally;

use serde::Serialize;
use serde_json::Value;

use super::EvalError;
use crate::grade::boxed::{self, Variant};
use crate::grade::exact_match::{ExactMatch, ExactMatchOptions};
use crate::grade::filters::{DEFAULT_FALLBACK, FilterPipeline, FilterSpec};
use crate::grade::symbolic::{self, AnswerStyle, Outcome};
use crate::task::python;

pub use logged::{FieldNames, LoggedSample};
pub use tally::{SampleMark, Tally, document_key, votes};

/// The reference's last number of a response, with its quirks.
const FLEXIBLE_EXTRACT: &str = "flexible-extract";
const FLEXIBLE_PATTERN: &str = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";

/// How a task's answers are graded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The last box, by one of the reference's two rules.
    Boxed(Variant),
    /// The last number.
    Number,
}

impl Rule {
    /// The rule of a task by its name, or of the family that the name begins with.
    pub fn of_task(task: &str) -> Option<Self> {
        let name = task.to_ascii_lowercase();
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if starts(&["aime", "amc", "olympiad"]) {
            Some(Self::Boxed(Variant::Trimmed))
        } else if starts(&[
            "hendrycks_math",
            "minerva_math",
            "math",
            "rejection_filter",
            "leaderboard_math",
        ]) {
            Some(Self::Boxed(Variant::Plain))
        } else if starts(&["gsm8k", "svamp", "asdiv", "mgsm"]) {
            Some(Self::Number)
        } else {
            None
        }
    }

    fn style(self) -> AnswerStyle {
        match self {
            Self::Boxed(_) => AnswerStyle::Boxed,
            Self::Number => AnswerStyle::Number,
        }
    }
}
/// Both verdicts on one response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseVerdicts {
    /// By the reference's rule.
    pub legacy: u8,
    /// What that rule extracted.
    pub legacy_extracted: Option<String>,
    /// The exception by which the reference would end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy_error: Option<&'static str>,
    /// By mathematical equality.
    pub symbolic: u8,
    /// The candidate that counted.
    pub symbolic_extracted: Option<String>,
    /// Why the symbolic verdict is what it is.
    pub reason: String,
    #[serde(skip)]
    outcome: Option<Outcome>,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradedRow {
    /// The log, where several are graded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The row's number in its log, from 0.
    pub row: usize,
    /// The task by whose rule it was graded.
    pub task: String,
    /// The document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc_id: Option<Value>,
    /// The filter of the logged line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The gold answer.
    pub gold: Value,
    /// The verdicts on the first response.
    #[serde(flatten)]
    pub first: ResponseVerdicts,
    /// The verdict in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logged: Option<f64>,
    /// The judge's verdict, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<Option<u8>>,
    /// The verdicts on all responses, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub responses: Vec<ResponseVerdicts>,
}

/// Grades rows. Made once, shared by all threads.
pub struct Regrader {
    flexible: FilterPipeline,
    number: ExactMatch,
}

impl Regrader {
    /// Compiles what the rules need.
    ///
    /// # Errors
    /// Never for the patterns that are built in; the type is that of the constructors.
    pub fn new() -> Result<Self, EvalError> {
        let task = || FLEXIBLE_EXTRACT.to_owned();
        let build = |source| EvalError::Grade {
            task: task(),
            source,
        };
        let regex = FilterSpec::Regex {
            regex_pattern: FLEXIBLE_PATTERN.to_owned(),
            group_select: -1,
            fallback: DEFAULT_FALLBACK.to_owned(),
        };
        let ignored = [",", r"\$", "(?s).*#### ", r"\.$"].map(str::to_owned);
        let options = ExactMatchOptions {
            regexes_to_ignore: Some(ignored.to_vec()),
            ignore_case: true,
            ..ExactMatchOptions::default()
        };
        Ok(Self {
            flexible: FilterPipeline::new(&[regex, FilterSpec::TakeFirst]).map_err(build)?,
            number: ExactMatch::new(&options).map_err(build)?,
        })
    }

    /// Grades a sample; the row's place is filled in by the caller.
    pub fn grade(&self, sample: &LoggedSample, task: &str, rule: Rule) -> GradedRow {
        let gold_text = python::text(&sample.gold);
        // The number after `####` is the answer of a worked solution.
        let symbolic_gold = gold_text.rsplit("#### ").next().unwrap_or(&gold_text);
        let gold = symbolic::Gold::new(symbolic_gold);
        let mut responses: Vec<ResponseVerdicts> = sample
            .responses
            .iter()
            .enumerate()
            .map(|(index, response)| {
                let filtered = sample.filtered.as_deref().filter(|_| index == 0);
                self.grade_response(response, filtered, sample, &gold, rule)
            })
            .collect();
        let first = match responses.first() {
            Some(first) => first.clone(),
            None => ResponseVerdicts::unreadable("no response".to_owned()),
        };
        if responses.len() == 1 {
            responses.clear();
        }
        GradedRow {
            file: None,
            row: 0,
            task: task.to_owned(),
            doc_id: sample.doc_id.clone(),
            filter: sample.filter.clone(),
            gold: sample.gold.clone(),
            first,
            logged: sample.logged,
            judge: None,
            responses,
        }
    }

    fn grade_response(
        &self,
        response: &str,
        filtered: Option<&str>,
        sample: &LoggedSample,
        gold: &symbolic::Gold,
        rule: Rule,
    ) -> ResponseVerdicts {
        let symbolic = symbolic::grade_with(response, gold, rule.style());
        let (legacy, legacy_extracted, legacy_error) = match rule {
            Rule::Boxed(variant) => {
                let verdict = boxed::grade(response, &sample.legacy_gold, variant);
                let error = verdict.error.map(|error| error.python_name());
                (verdict.correct, verdict.extracted.map(str::to_owned), error)
            }
            Rule::Number => {
                let extracted = self.number_of(response, filtered, sample.filter.as_deref());
                let correct = self.number.score(&extracted, &sample.legacy_gold);
                let error = correct.err().map(|error| error.python_name());
                let found = (extracted != DEFAULT_FALLBACK).then_some(extracted);
                (correct.unwrap_or(false), found, error)
            }
        };
        ResponseVerdicts {
            legacy: u8::from(legacy),
            legacy_extracted,
            legacy_error,
            symbolic: u8::from(symbolic.outcome.is_correct()),
            symbolic_extracted: symbolic.extracted.map(std::borrow::Cow::into_owned),
            reason: symbolic.outcome.to_string(),
            outcome: Some(symbolic.outcome),
        }
    }

    /// What the line's filter leaves. Only the log knows what filters other than the last number do.
    fn number_of(&self, response: &str, filtered: Option<&str>, filter: Option<&str>) -> String {
        if let (Some(filtered), Some(filter)) = (filtered, filter)
            && filter != FLEXIBLE_EXTRACT
        {
            return filtered.to_owned();
        }
        match self.flexible.apply(&[response]) {
            Ok(filtered) => filtered.first().unwrap_or_default().to_owned(),
            Err(_) => DEFAULT_FALLBACK.to_owned(),
        }
    }
}

impl ResponseVerdicts {
    fn unreadable(reason: String) -> Self {
        Self {
            legacy: 0,
            legacy_extracted: None,
            legacy_error: None,
            symbolic: 0,
            symbolic_extracted: None,
            reason,
            outcome: None,
        }
    }
}

impl GradedRow {
    /// A row that could not be read: it stands in the output with its reason, and scores 0.
    pub fn unreadable(task: &str, problem: String) -> Self {
        Self {
            file: None,
            row: 0,
            task: task.to_owned(),
            doc_id: None,
            filter: None,
            gold: Value::Null,
            first: ResponseVerdicts::unreadable(format!("unreadable row: {problem}")),
            logged: None,
            judge: None,
            responses: Vec::new(),
        }
    }

    fn all(&self) -> &[ResponseVerdicts] {
        if self.responses.is_empty() {
            std::slice::from_ref(&self.first)
        } else {
            &self.responses
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graded(row: Value, task: &str) -> GradedRow {
        let row = row.as_object().unwrap().clone();
        let sample = LoggedSample::from_row(&row, &FieldNames::default(), task).unwrap();
        let rule = Rule::of_task(task).unwrap();
        Regrader::new().unwrap().grade(&sample, task, rule)
    }

    #[test]
    fn a_row_of_lm_eval_carries_both_verdicts() {
        let row = json!({
            "doc_id": 3, "doc": {"problem": "p", "answer": 27.0}, "target": "27.0",
            "resps": [["so \\boxed {27}"]], "filter": "none", "exact_match": 0,
        });
        let graded = graded(row, "AMC");
        assert_eq!((graded.first.legacy, graded.first.symbolic), (0, 1));
        assert_eq!(graded.first.legacy_extracted.as_deref(), Some("{27}"));
        assert_eq!(graded.first.symbolic_extracted.as_deref(), Some("27"));
        assert_eq!(graded.doc_id, Some(json!(3)));
    }

    #[test]
    fn repeated_samples_vote_by_what_they_mean() {
        let row = json!({
            "doc_id": 0, "doc": {"problem": "p", "answer": "1/2"}, "target": "",
            "resps": [["\\boxed{3}", "\\boxed{0.5}", "\\boxed{\\frac{2}{4}}", "none"]],
        });
        let graded = graded(row, "AIME");
        let mut tally = Tally::default();
        tally.add(&graded, Some(0));
        let votes = votes(&tally.documents[&0], true);
        let answers: Vec<_> = votes.iter().map(|vote| vote.answer).collect();
        assert_eq!(answers, [Some(0), Some(1), Some(1), None]);
        assert_eq!(
            (tally.responses, tally.symbolic, tally.no_answer),
            (4, 2, 1)
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        let row = json!({"reply": "x"});
        let names = FieldNames::default();
        let error = LoggedSample::from_row(row.as_object().unwrap(), &names, "AIME").unwrap_err();
        assert_eq!(error, "no field `gold`; there are reply");
    }
}
