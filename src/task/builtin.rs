//! Named built-ins in place of the reference's Python hooks.
//!
//! A task file writes `process_docs: builtin:aime`. A reference file's `!function utils.f` is bound
//! to a built-in only for the task families listed here, because only their code is known; any
//! other function is refused.

use std::fmt;

use serde_json::{Map, Value};

use super::python;

/// What turns a row of data into a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessDocs {
    /// AIME: rows as they are; needs `problem` and `answer`.
    Aime,
    /// AMC: rows as they are; needs `problem` and `answer`.
    Amc,
    /// OlympiadBench: `solution` becomes its first element in place; `problem` (a copy of
    /// `question`) and `answer` (the first of `final_answer`) go to the end.
    Olympiad,
    /// MATH: rows as they are; needs `problem` and `solution`, whose last box is the gold.
    Math,
}

/// What turns a document and its responses into metrics, in place of filters and metrics.
///
/// The graders themselves live in the `grade` room; this is only their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessResults {
    /// The last box, zeros trimmed on both sides, compared as normalised text.
    BoxedTrimmed,
    /// The last box compared as normalised text.
    BoxedPlain,
    /// The final answer compared as mathematics.
    MathEqual,
    /// The last number of the response compared as a number.
    NumberLast,
}

/// Where a document's gold answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gold {
    /// The rendered `doc_to_target`.
    Target,
    /// The text of a field.
    Field(&'static str),
    /// The inside of the last box in the text of a field.
    LastBoxOf(&'static str),
}

impl ProcessDocs {
    /// All of them, with the names that task files use.
    pub const ALL: [(&'static str, Self); 4] = [
        ("builtin:aime", Self::Aime),
        ("builtin:amc", Self::Amc),
        ("builtin:olympiad", Self::Olympiad),
        ("builtin:math", Self::Math),
    ];

    /// The name that task files use.
    pub fn name(self) -> &'static str {
        name_in(&Self::ALL, self)
    }

    /// Where the gold answer of a processed document stands.
    pub fn gold(self) -> Gold {
        match self {
            Self::Aime | Self::Amc | Self::Olympiad => Gold::Field("answer"),
            Self::Math => Gold::LastBoxOf("solution"),
        }
    }

    /// The fields that a row must have.
    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Aime | Self::Amc => &["problem", "answer"],
            Self::Olympiad => &["question", "solution", "final_answer"],
            Self::Math => &["problem", "solution"],
        }
    }

    /// Turns a row that has all [`Self::fields`] into a document, or says which field is not as
    /// expected.
    pub(super) fn apply(self, row: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
        if self != Self::Olympiad {
            return Ok(());
        }
        let answer = first_of(row, "final_answer")?;
        let solution = first_of(row, "solution")?;
        row["solution"] = solution;
        let question = row["question"].clone();
        row.insert("problem".to_owned(), question);
        row.insert("answer".to_owned(), answer);
        Ok(())
    }
}

fn first_of(
    row: &Map<String, Value>,
    field: &'static str,
) -> Result<Value, (&'static str, String)> {
    match &row[field] {
        Value::Array(items) if !items.is_empty() => Ok(items[0].clone()),
        other => Err((
            field,
            format!(
                "expected a list that is not empty, found {}",
                python::repr(other)
            ),
        )),
    }
}

impl ProcessResults {
    /// All of them, with the names that task files use.
    pub const ALL: [(&'static str, Self); 4] = [
        ("builtin:boxed-trimmed", Self::BoxedTrimmed),
        ("builtin:boxed-plain", Self::BoxedPlain),
        ("builtin:math-equal", Self::MathEqual),
        ("builtin:number-last", Self::NumberLast),
    ];

    /// The name that task files use.
    pub fn name(self) -> &'static str {
        name_in(&Self::ALL, self)
    }
}

impl fmt::Display for ProcessDocs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ProcessResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn name_in<T: PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    let found = all.iter().find(|(_, other)| *other == value);
    found
        .map(|(name, _)| *name)
        .expect("ALL lists every variant")
}

/// A built-in hook, findable by name and by the Python function that it replaces.
pub(super) trait Hook: Copy + PartialEq + 'static {
    /// The YAML key.
    const KEY: &'static str;
    /// What an error calls it.
    const KIND: &'static str;
    /// Names and values.
    fn all() -> &'static [(&'static str, Self)];
    /// The built-in of a task family.
    fn of(family: &Family) -> Self;
}

impl Hook for ProcessDocs {
    const KEY: &'static str = "process_docs";
    const KIND: &'static str = "built-in for process_docs";
    fn all() -> &'static [(&'static str, Self)] {
        &Self::ALL
    }
    fn of(family: &Family) -> Self {
        family.docs
    }
}

impl Hook for ProcessResults {
    const KEY: &'static str = "process_results";
    const KIND: &'static str = "built-in for process_results";
    fn all() -> &'static [(&'static str, Self)] {
        &Self::ALL
    }
    fn of(family: &Family) -> Self {
        family.results
    }
}

/// Tasks of the reference whose Python hooks are known.
pub(super) struct Family {
    /// Task or folder name in lower case; a trailing `*` stands for any ending.
    pattern: &'static str,
    docs: ProcessDocs,
    results: ProcessResults,
}

const FAMILIES: [Family; 5] = [
    family("aime*", ProcessDocs::Aime, ProcessResults::BoxedTrimmed),
    family("amc", ProcessDocs::Amc, ProcessResults::BoxedTrimmed),
    family(
        "olympiad",
        ProcessDocs::Olympiad,
        ProcessResults::BoxedTrimmed,
    ),
    family(
        "hendrycks_math*",
        ProcessDocs::Math,
        ProcessResults::BoxedPlain,
    ),
    family(
        "minerva_math*",
        ProcessDocs::Math,
        ProcessResults::MathEqual,
    ),
];

const fn family(pattern: &'static str, docs: ProcessDocs, results: ProcessResults) -> Family {
    Family {
        pattern,
        docs,
        results,
    }
}

/// The built-in that replaces the Python function `module.name` in a task with one of `names`
/// (its `task:` name first, then its folder's), if it is known.
pub(super) fn replacement<H: Hook>(function: &str, names: &[&str]) -> Option<H> {
    let (_, name) = function.rsplit_once('.')?;
    if name != H::KEY {
        return None;
    }
    names.iter().find_map(|name| {
        let name = name.to_lowercase();
        let fits = |family: &&Family| match family.pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == family.pattern,
        };
        FAMILIES.iter().find(fits).map(H::of)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_python_functions_are_replaced() {
        let of = |function: &str, name: &str| replacement::<ProcessResults>(function, &[name]);
        assert_eq!(
            of("utils.process_results", "AMC"),
            Some(ProcessResults::BoxedTrimmed)
        );
        assert_eq!(
            of("utils.process_results", "aime25"),
            Some(ProcessResults::BoxedTrimmed)
        );
        assert_eq!(
            of("utils.process_results", "hendrycks_math_500"),
            Some(ProcessResults::BoxedPlain)
        );
        assert_eq!(
            of("utils.process_results", "minerva_math_algebra"),
            Some(ProcessResults::MathEqual)
        );
        assert_eq!(of("utils.process_results", "drop"), None);
        assert_eq!(of("utils.process_results_gen", "AMC"), None);
        assert_eq!(of("utils.process_docs", "AMC"), None);
        assert_eq!(
            replacement::<ProcessDocs>("utils.process_docs", &["mine", "Olympiad"]),
            Some(ProcessDocs::Olympiad)
        );
    }
}
