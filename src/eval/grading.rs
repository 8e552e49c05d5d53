//! From the responses to one document to its metrics: filters, then the task's grader.
//!
//! The verdicts of a task's metrics are the legacy ones, which published numbers rest on. What the
//! reference program would die of is a score of 0 with the error's name beside it. The symbolic
//! verdict on the unfiltered response stands beside them, never in their place.

use serde::Serialize;
use serde_json::Value;

use crate::grade::boxed::{self, Variant};
use crate::grade::exact_match::ExactMatch;
use crate::grade::filters::{DEFAULT_FALLBACK, FilterPipeline, Filtered};
use crate::grade::stats::Vote;
use crate::grade::symbolic::{self, AnswerStyle};

/// How the responses of a task are graded.
#[derive(Clone, Debug)]
pub struct Grading {
    /// One `metric,filter` column each; never empty.
    pub filters: Vec<NamedFilter>,
    /// What scores a filtered response.
    pub scorer: Scorer,
    /// Where the symbolic grader looks for the answer in a response; `None` where the task's
    /// targets are no mathematics.
    pub symbolic: Option<AnswerStyle>,
}

/// A filter pipeline and its name in results.
#[derive(Clone, Debug)]
pub struct NamedFilter {
    /// `none` for a task without a `filter_list`.
    pub name: String,
    /// What it does.
    pub pipeline: FilterPipeline,
    /// The texts that its regex steps leave where nothing matches: no answer.
    pub fallbacks: Vec<String>,
}

impl NamedFilter {
    /// The one of a task without a `filter_list`: the first response.
    pub fn take_first() -> Self {
        Self {
            name: "none".to_owned(),
            pipeline: FilterPipeline::take_first(),
            fallbacks: Vec::new(),
        }
    }
}

/// What scores a filtered response.
#[derive(Clone, Debug)]
pub enum Scorer {
    /// The last box against the gold answer; one metric, `exact_match`, written as an integer.
    Boxed(Variant),
    /// Metrics by name, each over the whole text against the target, written as floats.
    Metrics(Vec<(String, TextMetric)>),
    /// The answer as mathematics against the gold answer, under these metric names, written as
    /// integers.
    Symbolic(AnswerStyle, Vec<String>),
}

/// A metric over a filtered text.
#[derive(Clone, Debug)]
pub enum TextMetric {
    /// Equal texts, after what the options ignore.
    Exact(ExactMatch),
    /// Equal numbers or formulas.
    Math,
}

/// What a document's responses are compared with.
#[derive(Clone, Copy, Debug)]
pub struct References<'d> {
    /// The gold answer, for graders of answers.
    pub gold: &'d str,
    /// The targets, for metrics of texts; any of them will do.
    pub targets: &'d [String],
    /// The gold answer, read as mathematics.
    pub symbolic: &'d symbolic::Gold,
}

/// One filter's verdict on a document.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterGrade {
    /// What the pipeline left.
    pub filtered: Filtered,
    /// Metrics in the task's order, as a samples file writes them.
    pub metrics: Vec<(String, Value)>,
    /// Each response on its own, in the order of `sample_index`.
    pub responses: Vec<ResponseGrade>,
}

/// A verdict on one response, seen alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResponseGrade {
    /// The answer that was found; null without one.
    pub extracted: Option<String>,
    /// Whether the first metric counts it as correct.
    pub correct: bool,
    /// The exception that the reference program would have died of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
}

/// The name of the metric of the boxed graders.
pub const EXACT_MATCH: &str = "exact_match";

impl Grading {
    /// Metric names, in the order of results.
    pub fn metric_names(&self) -> Vec<&str> {
        match &self.scorer {
            Scorer::Boxed(_) => vec![EXACT_MATCH],
            Scorer::Metrics(metrics) => metrics.iter().map(|(name, _)| name.as_str()).collect(),
            Scorer::Symbolic(_, names) => names.iter().map(String::as_str).collect(),
        }
    }

    /// Grades a document: one entry per filter, in the order of results.
    pub fn grade(&self, responses: &[&str], references: References<'_>) -> Vec<FilterGrade> {
        let filters = self.filters.iter();
        filters
            .map(|filter| self.grade_with(filter, responses, references))
            .collect()
    }

    /// The symbolic verdicts on a document's responses, unfiltered; empty where there are none.
    pub fn grade_symbolically(
        &self,
        responses: &[&str],
        gold: &symbolic::Gold,
    ) -> Vec<SymbolicGrade> {
        let Some(style) = self.symbolic else {
            return Vec::new();
        };
        let responses = responses.iter();
        responses
            .map(|response| symbolic_grade(response, gold, style))
            .collect()
    }

    fn grade_with(
        &self,
        filter: &NamedFilter,
        responses: &[&str],
        references: References<'_>,
    ) -> FilterGrade {
        let alone = responses.iter();
        let alone: Vec<ResponseGrade> = alone
            .map(|response| self.grade_alone(filter, response, references))
            .collect();
        let (filtered, metrics) = match filter.pipeline.apply(responses) {
            Ok(filtered) => {
                let text = filtered.first().unwrap_or_default();
                let metrics = self.score(text, references).0;
                (filtered, metrics)
            }
            Err(_) => {
                let metrics = self.scores(|_| false);
                (Filtered::One(DEFAULT_FALLBACK.to_owned()), metrics)
            }
        };
        FilterGrade {
            filtered,
            metrics,
            responses: alone,
        }
    }

    fn grade_alone(
        &self,
        filter: &NamedFilter,
        response: &str,
        references: References<'_>,
    ) -> ResponseGrade {
        let filtered = match filter.pipeline.apply(&[response]) {
            Ok(filtered) => filtered,
            Err(error) => {
                return ResponseGrade {
                    extracted: None,
                    correct: false,
                    error: Some(error.python_name()),
                };
            }
        };
        let text = filtered.first().unwrap_or_default();
        let (_, grade) = self.score(text, references);
        let is_fallback = filter.fallbacks.iter().any(|fallback| fallback == text);
        ResponseGrade {
            extracted: grade.extracted.filter(|_| !is_fallback),
            ..grade
        }
    }

    /// The metrics of one filtered text, and the verdict that they rest on.
    fn score(
        &self,
        text: &str,
        references: References<'_>,
    ) -> (Vec<(String, Value)>, ResponseGrade) {
        match &self.scorer {
            Scorer::Boxed(variant) => {
                let verdict = boxed::grade(text, references.gold, *variant);
                let metrics = self.scores(|_| verdict.correct);
                let grade = ResponseGrade {
                    extracted: verdict.extracted.map(str::to_owned),
                    correct: verdict.correct,
                    error: verdict.error.map(|error| error.python_name()),
                };
                (metrics, grade)
            }
            Scorer::Symbolic(style, _) => {
                let grade = symbolic_grade(text, references.symbolic, *style).response();
                (self.scores(|_| grade.correct), grade)
            }
            Scorer::Metrics(metrics) => {
                let mut error = None;
                let mut fits = |metric: &TextMetric| match metric {
                    TextMetric::Math => {
                        let gold = references.symbolic;
                        symbolic::grade_with(text, gold, AnswerStyle::Number)
                            .outcome
                            .is_correct()
                    }
                    TextMetric::Exact(metric) => references.targets.iter().any(|target| {
                        metric.score(text, target).unwrap_or_else(|raised| {
                            error = Some(raised.python_name());
                            false
                        })
                    }),
                };
                let verdicts: Vec<bool> = metrics.iter().map(|(_, metric)| fits(metric)).collect();
                let correct = verdicts.first() == Some(&true);
                let grade = ResponseGrade {
                    extracted: Some(text.to_owned()),
                    correct,
                    error,
                };
                (self.scores(|index| verdicts[index]), grade)
            }
        }
    }

    /// Metrics by name, in the number type that the reference writes.
    fn scores(&self, is_correct: impl Fn(usize) -> bool) -> Vec<(String, Value)> {
        let names = self.metric_names().into_iter().enumerate();
        let is_integer = !matches!(self.scorer, Scorer::Metrics(_));
        names
            .map(|(index, name)| {
                let score = i32::from(is_correct(index));
                let value = if is_integer {
                    Value::from(score)
                } else {
                    Value::from(f64::from(score))
                };
                (name.to_owned(), value)
            })
            .collect()
    }
}

/// The symbolic verdict on one response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SymbolicGrade {
    /// The answer that counted; null without one.
    pub extracted: Option<String>,
    /// Whether it means the same as the gold.
    pub correct: bool,
    /// Why, in a few words.
    pub verdict: String,
}

impl SymbolicGrade {
    fn response(self) -> ResponseGrade {
        ResponseGrade {
            extracted: self.extracted,
            correct: self.correct,
            error: None,
        }
    }
}

fn symbolic_grade(response: &str, gold: &symbolic::Gold, style: AnswerStyle) -> SymbolicGrade {
    let verdict = symbolic::grade_with(response, gold, style);
    SymbolicGrade {
        correct: verdict.outcome.is_correct(),
        verdict: verdict.outcome.to_string(),
        extracted: verdict.extracted.map(std::borrow::Cow::into_owned),
    }
}

impl FilterGrade {
    /// The responses as votes: equal texts are one answer.
    pub fn votes(&self) -> Vec<Vote> {
        let mut answers: Vec<&str> = Vec::new();
        let votes = self.responses.iter().map(|response| {
            let answer = response.extracted.as_deref().map(|text| {
                let known = answers.iter().position(|answer| *answer == text);
                known.unwrap_or_else(|| {
                    answers.push(text);
                    answers.len() - 1
                })
            });
            Vote {
                answer,
                correct: response.correct,
            }
        });
        votes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grade::exact_match::ExactMatchOptions;
    use crate::grade::filters::FilterSpec;

    fn boxed() -> Grading {
        Grading {
            filters: vec![NamedFilter::take_first()],
            scorer: Scorer::Boxed(Variant::Trimmed),
            symbolic: Some(AnswerStyle::Boxed),
        }
    }

    fn grade(responses: &[&str]) -> Vec<FilterGrade> {
        let references = References {
            gold: "27.0",
            targets: &[],
            symbolic: &symbolic::Gold::new("27.0"),
        };
        boxed().grade(responses, references)
    }

    #[test]
    fn boxed_scores_are_integers_of_the_first_response() {
        let responses = ["\\boxed{27}", "none", "\\boxed{\\fbox{5}}"];
        let grades = grade(&responses);
        assert_eq!(grades.len(), 1);
        assert_eq!(
            grades[0].metrics,
            [("exact_match".to_owned(), Value::from(1))]
        );
        let alone: Vec<_> = grades[0]
            .responses
            .iter()
            .map(|r| (r.extracted.as_deref(), r.correct, r.error))
            .collect();
        assert_eq!(
            alone,
            [
                (Some("27"), true, None),
                (None, false, None),
                (None, false, Some("AssertionError"))
            ]
        );
    }

    #[test]
    fn a_regex_that_finds_nothing_is_no_answer() {
        let regex: FilterSpec =
            serde_json::from_str(r#"{"function": "regex", "regex_pattern": "[0-9]+"}"#).unwrap();
        let grading = Grading {
            filters: vec![NamedFilter {
                name: "number".to_owned(),
                pipeline: FilterPipeline::new(&[regex, FilterSpec::TakeFirst]).unwrap(),
                fallbacks: vec![DEFAULT_FALLBACK.to_owned()],
            }],
            scorer: Scorer::Metrics(vec![(
                "exact_match".to_owned(),
                TextMetric::Exact(ExactMatch::new(&ExactMatchOptions::default()).unwrap()),
            )]),
            symbolic: None,
        };
        let targets = ["8".to_owned(), "7".to_owned()];
        let references = References {
            gold: "7",
            targets: &targets,
            symbolic: &symbolic::Gold::new("7"),
        };
        let grades = grading.grade(&["is 7", "none"], references);
        assert_eq!(
            grades[0].metrics,
            [("exact_match".to_owned(), Value::from(1.0))]
        );
        assert_eq!(grades[0].responses[0].extracted.as_deref(), Some("7"));
        assert_eq!(grades[0].responses[1].extracted, None);
    }

    #[test]
    fn the_symbolic_verdict_reads_the_whole_response() {
        let gold = symbolic::Gold::new("27.0");
        let grades = boxed().grade_symbolically(&["\\boxed{ 54/2 }", "no idea"], &gold);
        assert!(grades[0].correct && !grades[1].correct, "{grades:?}");
        assert_eq!(grades[1].extracted, None);
    }

    #[test]
    fn equal_answers_vote_together() {
        let responses = ["\\boxed{1}", "\\boxed{27}", "\\boxed{1}", "x"];
        let grades = grade(&responses);
        let votes = grades[0].votes();
        let answers: Vec<_> = votes.iter().map(|vote| vote.answer).collect();
        assert_eq!(answers, [Some(0), Some(1), Some(0), None]);
    }
}
