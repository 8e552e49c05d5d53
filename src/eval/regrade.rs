//! Grading answers that were logged before, without a model: the legacy verdict, the symbolic one,
//! and where they part. Rows are graded one by one; what is kept of them is a tally.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde_json::{Map, Value};

use super::EvalError;
use crate::grade::boxed::{self, Variant};
use crate::grade::exact_match::{ExactMatch, ExactMatchOptions};
use crate::grade::filters::{DEFAULT_FALLBACK, FilterPipeline, FilterSpec};
use crate::grade::stats::Vote;
use crate::grade::symbolic::{self, AnswerStyle, Outcome};
use crate::task::python;

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

/// What a row of a log says, whatever its format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoggedSample {
    /// Number or name of the document, where the log has one.
    pub doc_id: Option<Value>,
    /// The problem's text, where the log has one.
    pub problem: Option<String>,
    /// The gold answer as logged: the judge's prompt and the seed's files keep its type.
    pub gold: Value,
    /// The text that the legacy rule compares with.
    pub legacy_gold: String,
    /// The responses: one, or one per repeat.
    pub responses: Vec<String>,
    /// The filter that made this line of an lm-evaluation-harness log.
    pub filter: Option<String>,
    /// What that filter left of the first response.
    pub filtered: Option<String>,
    /// The verdict in the log.
    pub logged: Option<f64>,
}

/// Names of the fields of a log that is neither lm-evaluation-harness's nor the seed's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldNames {
    /// The field that holds the response.
    pub response: Option<String>,
    /// The field that holds the gold answer.
    pub gold: Option<String>,
    /// The field that holds the problem.
    pub problem: Option<String>,
    /// The field that tells documents apart.
    pub id: Option<String>,
}

impl LoggedSample {
    /// Reads a row: lm-evaluation-harness's (`resps`), the seed's training data (`instruction`,
    /// `output`), or the named fields.
    ///
    /// # Errors
    /// A field is missing; the message names it and the ones that are there.
    pub fn from_row(
        row: &Map<String, Value>,
        names: &FieldNames,
        task: &str,
    ) -> Result<Self, String> {
        let is_named = names.response.is_some() || names.gold.is_some();
        if !is_named && row.contains_key("resps") && row.contains_key("doc") {
            return Self::from_lm_eval(row, task);
        }
        if !is_named && row.contains_key("output") && row.contains_key("answer") {
            let gold = field(row, "answer")?;
            return Ok(Self {
                problem: row.get("instruction").map(python::text),
                legacy_gold: python::text(gold),
                gold: gold.clone(),
                responses: responses(field(row, "output")?),
                ..Self::default()
            });
        }
        let response = names.response.as_deref().unwrap_or("response");
        let gold = field(row, names.gold.as_deref().unwrap_or("gold"))?;
        Ok(Self {
            doc_id: match &names.id {
                Some(id) => Some(field(row, id)?.clone()),
                None => None,
            },
            problem: row
                .get(names.problem.as_deref().unwrap_or("problem"))
                .map(python::text),
            legacy_gold: python::text(gold),
            gold: gold.clone(),
            responses: responses(field(row, response)?),
            ..Self::default()
        })
    }

    fn from_lm_eval(row: &Map<String, Value>, task: &str) -> Result<Self, String> {
        let doc = field(row, "doc")?
            .as_object()
            .ok_or("`doc` is not an object")?;
        let target = row.get("target").map(python::text).unwrap_or_default();
        let resps = field(row, "resps")?
            .as_array()
            .ok_or("`resps` is not a list")?;
        let name = task.to_ascii_lowercase();
        let number = Rule::of_task(task) == Some(Rule::Number);
        // What the reference's own graders and judge take the gold from.
        let gold = if number {
            Value::from(target.as_str())
        } else if let Some(answer) = doc.get("final_answer").and_then(|list| list.get(0)) {
            answer.clone()
        } else if let Some(answer) = doc.get("answer") {
            answer.clone()
        } else {
            Value::from(boxed_part(&target).unwrap_or(&target))
        };
        let in_solution = name.contains("math") && !number;
        let boxed = doc
            .get("solution")
            .and_then(Value::as_str)
            .and_then(boxed_part);
        let legacy_gold = match boxed.filter(|_| in_solution) {
            Some(boxed) => boxed.to_owned(),
            None => python::text(&gold),
        };
        let filtered = row.get("filtered_resps").and_then(|list| list.get(0));
        Ok(Self {
            doc_id: row.get("doc_id").cloned(),
            problem: ["problem", "question"]
                .iter()
                .find_map(|key| doc.get(*key))
                .map(python::text),
            gold,
            legacy_gold,
            responses: resps.iter().flat_map(responses).collect(),
            filter: row.get("filter").and_then(Value::as_str).map(str::to_owned),
            filtered: filtered.and_then(Value::as_str).map(str::to_owned),
            logged: row.get("exact_match").and_then(Value::as_f64),
        })
    }
}

fn field<'r>(row: &'r Map<String, Value>, name: &str) -> Result<&'r Value, String> {
    row.get(name).ok_or_else(|| {
        let present: Vec<&str> = row.keys().map(String::as_str).collect();
        format!("no field `{name}`; there are {}", present.join(", "))
    })
}

/// One text, or a list of them.
fn responses(value: &Value) -> Vec<String> {
    match value {
        Value::Array(texts) => texts.iter().map(python::text).collect(),
        Value::Null => Vec::new(),
        text => vec![python::text(text)],
    }
}

fn boxed_part(solution: &str) -> Option<&str> {
    boxed::extract(solution).ok().flatten()
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

/// Counts of one task and filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Responses graded.
    pub responses: usize,
    /// Correct by the reference's rule.
    pub legacy: usize,
    /// Correct by mathematical equality.
    pub symbolic: usize,
    /// Correct by both.
    pub both: usize,
    /// Correct by the rule alone.
    pub legacy_only: usize,
    /// Correct by mathematics alone.
    pub symbolic_only: usize,
    /// Correct by neither.
    pub neither: usize,
    /// Rows with a verdict in the log.
    pub logged: usize,
    /// Those whose logged verdict is "correct".
    pub logged_correct: usize,
    /// Those whose logged verdict is not the legacy one.
    pub logged_differently: usize,
    /// Rows that the judge was asked about.
    pub judged: usize,
    /// Those that it called correct.
    pub judged_correct: usize,
    /// Those that it gave no verdict on.
    pub judged_nothing: usize,
    /// Answers that the reference would have died of.
    pub legacy_errors: usize,
    /// Responses without an answer.
    pub no_answer: usize,
    /// Answers that cannot be read as mathematics.
    pub unparsable: usize,
    /// Answers over a limit.
    pub over_limit: usize,
    /// Rows that could not be read.
    pub unreadable_rows: usize,
    /// Per document, in the order of the log: verdicts and votes of its samples.
    #[serde(skip)]
    pub documents: BTreeMap<u64, Vec<SampleMark>>,
}

/// What is kept of a sample for pass@k and maj@k: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleMark {
    /// The rule's verdict.
    pub legacy: bool,
    /// Mathematics' verdict.
    pub symbolic: bool,
    legacy_vote: u64,
    symbolic_vote: u64,
}

/// The vote of a response without an answer.
const NO_VOTE: u64 = 0;

impl Tally {
    /// Adds a row. `document` tells documents apart where the log does.
    pub fn add(&mut self, row: &GradedRow, document: Option<u64>) {
        if row.first.outcome.is_none() && row.responses.is_empty() {
            self.unreadable_rows += 1;
        }
        for verdicts in row.all() {
            self.add_response(verdicts);
            if let Some(document) = document {
                self.documents
                    .entry(document)
                    .or_default()
                    .push(mark(verdicts));
            }
        }
        if let Some(logged) = row.logged {
            self.logged += 1;
            self.logged_correct += usize::from(logged == 1.0);
            self.logged_differently += usize::from(logged != f64::from(row.first.legacy));
        }
        if let Some(verdict) = row.judge {
            self.judged += 1;
            self.judged_correct += usize::from(verdict == Some(1));
            self.judged_nothing += usize::from(verdict.is_none());
        }
    }

    fn add_response(&mut self, verdicts: &ResponseVerdicts) {
        self.responses += 1;
        let (legacy, symbolic) = (verdicts.legacy == 1, verdicts.symbolic == 1);
        self.legacy += usize::from(legacy);
        self.symbolic += usize::from(symbolic);
        match (legacy, symbolic) {
            (true, true) => self.both += 1,
            (true, false) => self.legacy_only += 1,
            (false, true) => self.symbolic_only += 1,
            (false, false) => self.neither += 1,
        }
        self.legacy_errors += usize::from(verdicts.legacy_error.is_some());
        match verdicts.outcome {
            Some(Outcome::NoAnswer) => self.no_answer += 1,
            Some(Outcome::Unparsable(_) | Outcome::UnparsableGold(_)) => self.unparsable += 1,
            Some(Outcome::OverLimit(_)) => self.over_limit += 1,
            Some(Outcome::Equal(_) | Outcome::Different(_)) | None => {}
        }
    }
}

fn mark(verdicts: &ResponseVerdicts) -> SampleMark {
    let vote = |correct: u8, answer: Option<String>| match answer {
        // All correct answers are one answer, however they are spelled.
        _ if correct == 1 => 1,
        Some(answer) => hash(&answer).max(2),
        None => NO_VOTE,
    };
    SampleMark {
        legacy: verdicts.legacy == 1,
        symbolic: verdicts.symbolic == 1,
        legacy_vote: vote(verdicts.legacy, verdicts.legacy_extracted.clone()),
        symbolic_vote: vote(
            verdicts.symbolic,
            verdicts
                .symbolic_extracted
                .as_deref()
                .map(symbolic::vote_key),
        ),
    }
}

/// A number for a document, from whatever tells documents apart.
pub fn document_key(sample: &LoggedSample) -> Option<u64> {
    match (&sample.doc_id, &sample.problem) {
        (Some(id), _) => Some(match id.as_u64() {
            Some(number) => number,
            None => hash(&id.to_string()),
        }),
        (None, Some(problem)) => Some(hash(problem)),
        (None, None) => None,
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The votes of a document's samples by one of the two graders.
pub fn votes(samples: &[SampleMark], symbolic: bool) -> Vec<Vote> {
    let mut answers: Vec<u64> = Vec::new();
    let marks = samples.iter();
    marks
        .map(|mark| {
            let (vote, correct) = match symbolic {
                true => (mark.symbolic_vote, mark.symbolic),
                false => (mark.legacy_vote, mark.legacy),
            };
            let answer = (vote != NO_VOTE).then(|| {
                answers
                    .iter()
                    .position(|&known| known == vote)
                    .unwrap_or_else(|| {
                        answers.push(vote);
                        answers.len() - 1
                    })
            });
            Vote { answer, correct }
        })
        .collect()
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
