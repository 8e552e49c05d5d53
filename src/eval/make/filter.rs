//! Which solutions are kept: finished, right, of a fitting length, and no two the same.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use crate::grade::boxed::{self, Variant};
use crate::grade::symbolic::{self, AnswerStyle, Gold};

use super::super::record::Finish;
use super::{MakeJob, Problem, Sample};

/// Whose verdict makes a solution right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// The original's string rules on the last box.
    Boxed,
    /// Mathematical equality.
    Symbolic,
    /// One of the two.
    #[default]
    Either,
    /// Both.
    Both,
    /// Wrong ones are kept as well.
    Any,
}

/// What a solution must be to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    /// Whose verdict counts.
    pub accept: Accept,
    /// Solutions that used up their budget are kept as well.
    pub keep_unfinished: bool,
    /// Fewest tokens.
    pub min_tokens: usize,
    /// Most tokens.
    pub max_tokens: usize,
    /// The same text for the same problem is kept twice.
    pub keep_duplicates: bool,
    /// Solutions of a problem, at most: the first ones.
    pub per_problem: Option<usize>,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            accept: Accept::default(),
            keep_unfinished: false,
            min_tokens: 0,
            max_tokens: usize::MAX,
            keep_duplicates: false,
            per_problem: None,
        }
    }
}

/// A sample with its verdicts.
pub(super) struct Graded<'a> {
    pub(super) sample: &'a Sample,
    /// The answer that it states, as the boxed rule reads it, else as the symbolic grader does.
    pub(super) extracted: Option<Cow<'a, str>>,
    pub(super) boxed: bool,
    pub(super) symbolic: bool,
}

/// Grades every sample by both graders.
pub(super) fn grade_all<'a>(problems: &[Problem], samples: &[&'a Sample]) -> Vec<Graded<'a>> {
    let golds: Vec<Gold> = problems
        .iter()
        .map(|problem| Gold::new(&problem.answer))
        .collect();
    samples
        .iter()
        .map(|sample| {
            let gold = &golds[sample.problem];
            let answer = &problems[sample.problem].answer;
            let boxed = boxed::grade(&sample.text, answer, Variant::Plain);
            let symbolic = symbolic::grade_with(&sample.text, gold, AnswerStyle::Boxed);
            Graded {
                sample,
                boxed: boxed.correct,
                symbolic: symbolic.outcome.is_correct(),
                extracted: boxed.extracted.map(Cow::from).or(symbolic.extracted),
            }
        })
        .collect()
}

/// How many samples went where, and how long the kept ones are. A sample counts under the first
/// reason that applies, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Problems asked.
    pub problems: usize,
    /// Solutions sampled.
    pub samples: usize,
    /// Prompts without room in the context.
    pub refused: usize,
    /// Used up their budget.
    pub unfinished: usize,
    /// State no answer.
    pub no_answer: usize,
    /// State another answer.
    pub wrong: usize,
    /// Have too few tokens.
    pub too_short: usize,
    /// Have too many tokens.
    pub too_long: usize,
    /// Repeat a kept solution of the same problem.
    pub duplicates: usize,
    /// Come after enough others of the same problem.
    pub surplus: usize,
    /// Are written.
    pub kept: usize,
    /// Problems with at least one kept solution.
    pub problems_solved: usize,
    /// Tokens of kept solutions.
    pub tokens: Lengths,
    /// Kept solutions by model.
    pub kept_by_model: BTreeMap<String, usize>,
    /// Right by the boxed rule, of all samples.
    pub boxed_correct: usize,
    /// Right by mathematical equality, of all samples.
    pub symbolic_correct: usize,
}

/// The spread of lengths, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Half are not longer.
    pub median: usize,
    /// Nine in ten are not longer.
    pub p90: usize,
    /// The longest.
    pub longest: usize,
}

impl Lengths {
    fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let Some(last) = lengths.len().checked_sub(1) else {
            return Self::default();
        };
        let at = |share: f64| lengths[(share * last as f64).round() as usize];
        Self {
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            median: at(0.5),
            p90: at(0.9),
            longest: lengths[last],
        }
    }
}

/// The indices of the samples that are kept, and the count of everything.
pub(super) fn select(job: &MakeJob, graded: &[Graded<'_>]) -> (Vec<usize>, Statistics) {
    let filters = &job.filters;
    let mut statistics = Statistics {
        problems: job.problems.len(),
        samples: graded.len(),
        ..Statistics::default()
    };
    let mut kept = Vec::new();
    let mut texts: HashSet<(usize, &str)> = HashSet::new();
    let mut solved = BTreeSet::new();
    let mut per_problem: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, graded) in graded.iter().enumerate() {
        let sample = graded.sample;
        let is_right = match filters.accept {
            Accept::Boxed => graded.boxed,
            Accept::Symbolic => graded.symbolic,
            Accept::Either => graded.boxed || graded.symbolic,
            Accept::Both => graded.boxed && graded.symbolic,
            Accept::Any => true,
        };
        statistics.boxed_correct += usize::from(graded.boxed);
        statistics.symbolic_correct += usize::from(graded.symbolic);
        let of_problem = per_problem.entry(sample.problem).or_default();
        let counter = if matches!(sample.finish, Finish::Refused(_)) {
            &mut statistics.refused
        } else if sample.finish.is_truncated() && !filters.keep_unfinished {
            &mut statistics.unfinished
        } else if !is_right && graded.extracted.is_none() {
            &mut statistics.no_answer
        } else if !is_right {
            &mut statistics.wrong
        } else if sample.gen_tokens < filters.min_tokens {
            &mut statistics.too_short
        } else if sample.gen_tokens > filters.max_tokens {
            &mut statistics.too_long
        } else if !filters.keep_duplicates && !texts.insert((sample.problem, sample.text.trim())) {
            &mut statistics.duplicates
        } else if filters.per_problem.is_some_and(|most| *of_problem >= most) {
            &mut statistics.surplus
        } else {
            *of_problem += 1;
            kept.push(index);
            solved.insert(sample.problem);
            let model = job.teachers[sample.teacher].0.clone();
            *statistics.kept_by_model.entry(model).or_default() += 1;
            &mut statistics.kept
        };
        *counter += 1;
    }
    statistics.problems_solved = solved.len();
    let lengths = kept.iter().map(|index| graded[*index].sample.gen_tokens);
    statistics.tokens = Lengths::of(lengths.collect());
    (kept, statistics)
}
