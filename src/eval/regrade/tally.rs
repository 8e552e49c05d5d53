//! What is kept of graded rows: counts, and the votes of repeated samples.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use super::{GradedRow, LoggedSample, ResponseVerdicts};
use crate::grade::stats::Vote;
use crate::grade::symbolic::{self, Outcome};

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
