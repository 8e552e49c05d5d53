//! What can be wrong with a grader's configuration, and what can be wrong with one answer.

/// A grader that cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum GradeError {
    /// A regular expression that does not compile.
    #[error("regular expression `{pattern}` does not compile: {reason}")]
    Pattern {
        /// The expression as written in the configuration.
        pattern: String,
        /// What the compiler said.
        reason: String,
    },
    /// A filter that follows `take_first`, which leaves a single text.
    #[error(
        "filter {position} (`{filter}`) follows `take_first`, which leaves a single text; \
         put `take_first` last"
    )]
    AfterTakeFirst {
        /// The filter that has nothing to work on.
        filter: &'static str,
        /// Its position in the chain, from 1.
        position: usize,
    },
    /// A filter that would have to run Python.
    #[error("filter `custom` runs Python code, which is not supported; use `regex` or `map`")]
    CustomFilter,
    /// A count that must be at least one.
    #[error("`{option}` must be at least 1")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
}

/// What the reference program would die of on one answer. We count it and score 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// `\fbox{` inside a box that does not begin with it.
    #[error("the last box has `\\fbox{{` inside, which the reference's unwrapping asserts against")]
    FboxInside,
    /// `group_select` beyond the matches of one response.
    #[error("match number {wanted} was asked for, {found} found")]
    NoSuchMatch {
        /// The number asked for; negative ones count from the end.
        wanted: i64,
        /// How many matches there are.
        found: usize,
    },
    /// `take_first_k` with fewer than k responses, or `take_first` with none.
    #[error("{wanted} responses are needed, there are {found}")]
    TooFewResponses {
        /// How many the filter takes.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A text that is not in `map`'s dictionary, which has no default.
    #[error("the text has no entry in the filter's `mapping_dict`, which has no `default_value`")]
    Unmapped,
    /// A look-around expression that exceeded its backtracking limit.
    #[error("the regular expression exceeded its backtracking limit")]
    Backtracking,
}

impl AnswerError {
    /// The exception by which the reference program would end.
    pub fn python_name(self) -> &'static str {
        match self {
            Self::FboxInside => "AssertionError",
            Self::NoSuchMatch { .. } => "IndexError",
            Self::TooFewResponses { wanted: 1, .. } => "IndexError",
            Self::TooFewResponses { .. } => "AssertionError",
            Self::Unmapped => "TypeError",
            Self::Backtracking => "TimeoutError",
        }
    }
}
