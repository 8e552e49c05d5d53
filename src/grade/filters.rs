//! Filters: from the responses to one document to the text that a metric scores.
//!
//! A pipeline is a task's `filter_list` entry. Pinned by `golden/components/filters.jsonl`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::pattern::{Pattern, TooManySteps};
use super::python;
use super::{AnswerError, GradeError};

/// What a regex filter yields where nothing matches.
pub const DEFAULT_FALLBACK: &str = "[invalid]";
/// The reference's default expression of the regex filter.
pub const DEFAULT_REGEX: &str = r"#### (\-?[0-9\.\,]+)";

/// One step of a chain, as a task's YAML or a JSON object spells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "snake_case", deny_unknown_fields)]
pub enum FilterSpec {
    /// Replaces each response by one of its matches.
    Regex {
        /// Python regular expression.
        #[serde(default = "default_regex")]
        regex_pattern: String,
        /// Which match to take; negative numbers count from the end.
        #[serde(default)]
        group_select: i64,
        /// The text where nothing matches.
        #[serde(default = "default_fallback")]
        fallback: String,
    },
    /// Keeps the first response as a single text.
    TakeFirst,
    /// Keeps the first k responses.
    TakeFirstK {
        /// How many.
        k: usize,
    },
    /// Keeps the most frequent response, as a list of one.
    MajorityVote,
    /// Lower-cases each response.
    Lowercase,
    /// Upper-cases each response.
    Uppercase,
    /// Replaces each response by its entry in a dictionary.
    Map {
        /// The dictionary.
        mapping_dict: HashMap<String, String>,
        /// The text for a response without an entry.
        #[serde(default)]
        default_value: Option<String>,
    },
    /// Removes leading blanks.
    RemoveWhitespace,
    /// Python code in the reference; refused here by name.
    Custom {
        /// Whatever the task gave it.
        #[serde(default)]
        filter_fn: Option<String>,
    },
}

impl FilterSpec {
    fn name(&self) -> &'static str {
        match self {
            Self::Regex { .. } => "regex",
            Self::TakeFirst => "take_first",
            Self::TakeFirstK { .. } => "take_first_k",
            Self::MajorityVote => "majority_vote",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
            Self::Map { .. } => "map",
            Self::RemoveWhitespace => "remove_whitespace",
            Self::Custom { .. } => "custom",
        }
    }
}

fn default_regex() -> String {
    DEFAULT_REGEX.to_owned()
}

fn default_fallback() -> String {
    DEFAULT_FALLBACK.to_owned()
}

/// What a pipeline leaves of the responses to one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Filtered {
    /// A single text (the chain ends in `take_first`).
    One(String),
    /// A list, one text per response left.
    Many(Vec<String>),
}

impl Filtered {
    /// The text that a metric scores: the only one, or the first of a list (the reference compares
    /// the whole list with the target, which never fits; a list of one is meant as its element).
    pub fn first(&self) -> Option<&str> {
        match self {
            Self::One(text) => Some(text),
            Self::Many(texts) => texts.first().map(String::as_str),
        }
    }
}

/// A compiled chain of filters.
#[derive(Clone, Debug)]
pub struct FilterPipeline {
    steps: Vec<Step>,
    takes_first: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Regex {
        pattern: Pattern,
        select: i64,
        fallback: String,
    },
    TakeFirstK(usize),
    MajorityVote,
    Lowercase,
    Uppercase,
    Map {
        entries: HashMap<String, String>,
        default: Option<String>,
    },
    RemoveWhitespace,
}

impl FilterPipeline {
    /// Compiles a chain. An empty chain leaves the list of responses as it is.
    ///
    /// # Errors
    /// An expression that does not compile, a filter after `take_first`, or `custom`.
    pub fn new(chain: &[FilterSpec]) -> Result<Self, GradeError> {
        let mut steps = Vec::with_capacity(chain.len());
        let mut takes_first = false;
        for (index, spec) in chain.iter().enumerate() {
            if takes_first {
                return Err(GradeError::AfterTakeFirst {
                    filter: spec.name(),
                    position: index + 1,
                });
            }
            match Step::new(spec)? {
                Some(step) => steps.push(step),
                None => takes_first = true,
            }
        }
        Ok(Self { steps, takes_first })
    }

    /// The pipeline of a task without a `filter_list`: the first response.
    pub fn take_first() -> Self {
        Self {
            steps: Vec::new(),
            takes_first: true,
        }
    }

    /// Applies the chain to the responses to one document.
    ///
    /// # Errors
    /// Where the reference would raise: too few responses or matches, a text without an entry.
    pub fn apply<T: AsRef<str>>(&self, responses: &[T]) -> Result<Filtered, AnswerError> {
        // A chain that only takes the first response need not look at the others.
        let used = match self.steps.first() {
            None if self.takes_first => responses.len().min(1),
            Some(Step::TakeFirstK(k)) => responses.len().min(*k),
            _ => responses.len(),
        };
        let mut texts: Vec<String> = responses[..used]
            .iter()
            .map(|r| r.as_ref().to_owned())
            .collect();
        for step in &self.steps {
            texts = step.apply(texts)?;
        }
        if !self.takes_first {
            return Ok(Filtered::Many(texts));
        }
        let found = texts.len();
        let first = texts.into_iter().next();
        first
            .map(Filtered::One)
            .ok_or(AnswerError::TooFewResponses { wanted: 1, found })
    }
}

impl Step {
    /// `None` for `take_first`, which ends a chain.
    fn new(spec: &FilterSpec) -> Result<Option<Self>, GradeError> {
        Ok(Some(match spec {
            FilterSpec::TakeFirst => return Ok(None),
            FilterSpec::Regex {
                regex_pattern,
                group_select,
                fallback,
            } => Self::Regex {
                pattern: Pattern::new(regex_pattern)?,
                select: *group_select,
                fallback: fallback.clone(),
            },
            FilterSpec::TakeFirstK { k: 0 } => return Err(GradeError::Zero { option: "k" }),
            FilterSpec::TakeFirstK { k } => Self::TakeFirstK(*k),
            FilterSpec::MajorityVote => Self::MajorityVote,
            FilterSpec::Lowercase => Self::Lowercase,
            FilterSpec::Uppercase => Self::Uppercase,
            FilterSpec::Map {
                mapping_dict,
                default_value,
            } => Self::Map {
                entries: mapping_dict.clone(),
                default: default_value.clone(),
            },
            FilterSpec::RemoveWhitespace => Self::RemoveWhitespace,
            FilterSpec::Custom { .. } => return Err(GradeError::CustomFilter),
        }))
    }

    fn apply(&self, mut texts: Vec<String>) -> Result<Vec<String>, AnswerError> {
        match self {
            Self::Regex {
                pattern,
                select,
                fallback,
            } => texts
                .iter()
                .map(|text| select_match(pattern, *select, fallback, text))
                .collect(),
            Self::TakeFirstK(k) if texts.len() < *k => Err(AnswerError::TooFewResponses {
                wanted: *k,
                found: texts.len(),
            }),
            Self::TakeFirstK(k) => {
                texts.truncate(*k);
                Ok(texts)
            }
            Self::MajorityVote => Ok(most_common(&texts).into_iter().cloned().collect()),
            Self::Lowercase => Ok(texts.iter().map(|text| text.to_lowercase()).collect()),
            Self::Uppercase => Ok(texts.iter().map(|text| text.to_uppercase()).collect()),
            Self::Map { entries, default } => texts
                .iter()
                .map(|text| entries.get(text).or(default.as_ref()).cloned())
                .collect::<Option<_>>()
                .ok_or(AnswerError::Unmapped),
            Self::RemoveWhitespace => Ok(texts
                .iter()
                .map(|text| text.trim_start_matches(python::is_blank).to_owned())
                .collect()),
        }
    }
}

/// Match number `select` of `text`: of several groups the first that is not empty, trimmed.
fn select_match(
    pattern: &Pattern,
    select: i64,
    fallback: &str,
    text: &str,
) -> Result<String, AnswerError> {
    let matches = pattern
        .find_all(text)
        .map_err(|TooManySteps| AnswerError::Backtracking)?;
    if matches.is_empty() {
        return Ok(fallback.to_owned());
    }
    let found = matches.len();
    let index = if select < 0 {
        found as i64 + select
    } else {
        select
    };
    let chosen = usize::try_from(index)
        .ok()
        .and_then(|index| matches.get(index))
        .ok_or(AnswerError::NoSuchMatch {
            wanted: select,
            found,
        })?;
    let group = match chosen.as_slice() {
        [only] => only,
        groups => groups
            .iter()
            .copied()
            .find(|group| !group.is_empty())
            .unwrap_or(fallback),
    };
    Ok(python::strip(group).to_owned())
}

/// The most frequent text; ties go to the one seen first.
fn most_common(texts: &[String]) -> Option<&String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let most = texts.iter().map(|text| counts[text.as_str()]).max()?;
    texts.iter().find(|text| counts[text.as_str()] == most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(chain: &str) -> Result<FilterPipeline, GradeError> {
        FilterPipeline::new(&serde_json::from_str::<Vec<FilterSpec>>(chain).unwrap())
    }

    #[test]
    fn a_chain_reads_as_its_yaml() {
        let chain = r#"[{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
            {"function": "take_first"}]"#;
        let filtered = pipeline(chain).unwrap().apply(&["5 or $1,800. ", "2"]);
        assert_eq!(filtered, Ok(Filtered::One("$1,800.".into())));
    }

    #[test]
    fn what_would_raise_in_the_reference_is_a_value() {
        let second = pipeline(r#"[{"function": "regex", "group_select": 1}]"#).unwrap();
        let error = second.apply(&["#### 5"]).unwrap_err();
        assert_eq!(error.python_name(), "IndexError");
        let four = pipeline(r#"[{"function": "take_first_k", "k": 4}]"#).unwrap();
        assert_eq!(
            four.apply(&["a"]).unwrap_err().python_name(),
            "AssertionError"
        );
    }

    #[test]
    fn nothing_may_follow_take_first() {
        let chain = r#"[{"function": "take_first"}, {"function": "lowercase"}]"#;
        let error = pipeline(chain).unwrap_err().to_string();
        assert!(error.contains("filter 2 (`lowercase`)"), "{error}");
    }

    #[test]
    fn a_tie_goes_to_the_text_seen_first() {
        let vote = pipeline(r#"[{"function": "majority_vote"}]"#).unwrap();
        let voted = vote.apply(&["b", "a", "a", "b"]);
        assert_eq!(voted, Ok(Filtered::Many(vec!["b".into()])));
    }
}
