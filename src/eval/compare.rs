//! Two runs over the same documents, document by document: which is better, and by how much more
//! than chance.
//!
//! Documents are paired by task, filter and number; a pair whose documents are not the same is an
//! error, because then the runs had different data. Every metric of the samples files is compared,
//! and both verdicts where a log has them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::grade::stats::{self, Interval};

use super::EvalError;
use super::log_reader::LogReader;
use super::naming::task_of_samples_file;

/// Confidence of the intervals.
pub const CONFIDENCE: f64 = 0.95;
/// Draws of the paired bootstrap.
pub const RESAMPLES: usize = 10_000;
/// Their seed: a comparison repeated is the same comparison.
const SEED: u64 = 1234;

/// Task, metric and filter.
type Column = (String, String, String);

/// The scores of one run.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    columns: BTreeMap<Column, BTreeMap<u64, Score>>,
}

/// A document's score and what tells the document from others.
#[derive(Clone, Debug)]
struct Score {
    value: f64,
    doc_hash: String,
}

impl Scores {
    /// Reads samples files, one of each task.
    ///
    /// # Errors
    /// A file cannot be read, has a name that is none of a samples file, or a row without
    /// document number, hash or metrics.
    pub fn read<'p>(logs: impl IntoIterator<Item = &'p Path>) -> Result<Self, EvalError> {
        let mut scores = Self::default();
        for log in logs {
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            let Some(task) = task_of_samples_file(&name) else {
                let problem = "expected a samples file, samples_TASK_DATE.jsonl".to_owned();
                return Err(bad(log, problem));
            };
            scores.read_log(task, log)?;
        }
        Ok(scores)
    }

    fn read_log(&mut self, task: &str, log: &Path) -> Result<(), EvalError> {
        let mut reader = LogReader::open(log)?;
        let mut number = 0;
        loop {
            let batch = reader.next_batch()?;
            if batch.is_empty() {
                return Ok(());
            }
            for row in batch {
                number += 1;
                let added = row.into_fields().and_then(|row| self.add(task, &row));
                added.map_err(|problem| bad(log, format!("row {number}: {problem}")))?;
            }
        }
    }

    fn add(&mut self, task: &str, row: &Map<String, Value>) -> Result<(), String> {
        let doc_id = row.get("doc_id").and_then(Value::as_u64);
        let doc_id = doc_id.ok_or("no `doc_id`")?;
        let doc_hash = row.get("doc_hash").and_then(Value::as_str);
        let doc_hash = doc_hash.ok_or("no `doc_hash`")?;
        let filter = row.get("filter").and_then(Value::as_str).unwrap_or("none");
        let names = row.get("metrics").and_then(Value::as_array);
        let names = names
            .ok_or("no `metrics`")?
            .iter()
            .filter_map(Value::as_str);
        let mut values: BTreeMap<&str, f64> = BTreeMap::new();
        for name in names {
            let value = row.get(name).and_then(number);
            let value = value.ok_or_else(|| format!("metric `{name}` is no number"))?;
            values.insert(name, value);
        }
        for (name, verdicts) in row
            .get("grades")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            // A metric of the row is what the run reports; verdicts add the ones it does not.
            if let (false, Some(share)) = (values.contains_key(name.as_str()), share(verdicts)) {
                values.insert(name, share);
            }
        }
        for (name, value) in values {
            let column = (task.to_owned(), name.to_owned(), filter.to_owned());
            let doc_hash = doc_hash.to_owned();
            let score = Score { value, doc_hash };
            let known = self
                .columns
                .entry(column)
                .or_default()
                .insert(doc_id, score);
            if known.is_some() {
                return Err(format!("document {doc_id} occurs twice"));
            }
        }
        Ok(())
    }
}

/// 1 and 0, also as true and false.
fn number(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .or_else(|| value.as_bool().map(|is| f64::from(u8::from(is))))
}

/// The share of correct responses.
fn share(verdicts: &Value) -> Option<f64> {
    let verdicts = verdicts.as_array()?.iter();
    let correct: Option<Vec<f64>> = verdicts
        .map(|verdict| number(&verdict["correct"]))
        .collect();
    stats::mean(&correct?)
}

fn bad(path: &Path, problem: String) -> EvalError {
    EvalError::Log {
        path: path.to_owned(),
        problem,
    }
}

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The second run is better, beyond chance.
    Better,
    /// The second run is worse, beyond chance.
    Worse,
    /// The documents do not tell them apart.
    Undecided,
}

impl Outcome {
    /// The word of a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Undecided => "undecided",
        }
    }
}

/// One metric of one task in both runs; the keys of `micota compare --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// The filter.
    pub filter: String,
    /// Documents that both runs answered.
    pub documents: usize,
    /// Documents of the first run alone, which are left out.
    pub only_in_first: usize,
    /// Documents of the second run alone, which are left out.
    pub only_in_second: usize,
    /// Mean of the first run over the common documents.
    pub first: f64,
    /// Mean of the second.
    pub second: f64,
    /// Second minus first.
    pub difference: f64,
    /// Paired bootstrap interval of the difference, 95%.
    pub interval: [f64; 2],
    /// Documents on which the first run scores higher.
    pub first_higher: usize,
    /// Documents on which the second run scores higher.
    pub second_higher: usize,
    /// Exact McNemar test, where every score is right or wrong.
    pub mcnemar_p: Option<f64>,
    /// Whether the second is better or worse: by McNemar's test at 5%, else by the interval.
    pub outcome: Outcome,
}

/// Compares every metric that both runs have.
///
/// # Errors
/// The runs have no task in common, or a document of one is not the other's.
pub fn compare(first: &Scores, second: &Scores) -> Result<Vec<Comparison>, CompareError> {
    let mut comparisons = Vec::new();
    for (column, of_first) in &first.columns {
        let Some(of_second) = second.columns.get(column) else {
            continue;
        };
        let mut pairs = Vec::new();
        for (doc_id, a) in of_first {
            let Some(b) = of_second.get(doc_id) else {
                continue;
            };
            if a.doc_hash != b.doc_hash {
                return Err(CompareError::OtherDocument {
                    task: column.0.clone(),
                    doc_id: *doc_id,
                });
            }
            pairs.push((a.value, b.value));
        }
        if !pairs.is_empty() {
            let alone = [of_first.len() - pairs.len(), of_second.len() - pairs.len()];
            comparisons.push(comparison(column, &pairs, alone));
        }
    }
    if comparisons.is_empty() {
        let names = |scores: &Scores| {
            let mut tasks: Vec<&str> = scores.columns.keys().map(|(task, ..)| &**task).collect();
            tasks.dedup();
            tasks.join(", ")
        };
        return Err(CompareError::NothingInCommon {
            first: names(first),
            second: names(second),
        });
    }
    Ok(comparisons)
}

fn comparison(
    (task, metric, filter): &Column,
    pairs: &[(f64, f64)],
    [only_in_first, only_in_second]: [usize; 2],
) -> Comparison {
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let values: Vec<f64> = pairs.iter().map(of).collect();
        stats::mean(&values).unwrap_or_default()
    };
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let (first, second) = (mean(&|pair| pair.0), mean(&|pair| pair.1));
    let first_higher = differences
        .iter()
        .filter(|difference| **difference < 0.0)
        .count();
    let second_higher = differences
        .iter()
        .filter(|difference| **difference > 0.0)
        .count();
    let interval = stats::paired_bootstrap(&differences, CONFIDENCE, RESAMPLES, SEED);
    let interval = interval.unwrap_or(Interval {
        low: 0.0,
        high: 0.0,
    });
    let is_verdict = |value: f64| value == 0.0 || value == 1.0;
    let verdicts = pairs.iter().all(|(a, b)| is_verdict(*a) && is_verdict(*b));
    let mcnemar_p = verdicts.then(|| stats::mcnemar(first_higher, second_higher));
    let is_decided = match mcnemar_p {
        Some(p) => p < 1.0 - CONFIDENCE,
        None => interval.low > 0.0 || interval.high < 0.0,
    };
    let difference = second - first;
    Comparison {
        task: task.clone(),
        metric: metric.clone(),
        filter: filter.clone(),
        documents: pairs.len(),
        only_in_first,
        only_in_second,
        first,
        second,
        difference,
        interval: [interval.low, interval.high],
        first_higher,
        second_higher,
        mcnemar_p,
        outcome: match is_decided {
            false => Outcome::Undecided,
            true if difference > 0.0 => Outcome::Better,
            true => Outcome::Worse,
        },
    }
}

/// Why two runs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// A document number stands for two documents.
    #[error(
        "task {task}, document {doc_id} is not the same document in both runs: they were made \
         from different data, and only runs over the same documents can be paired"
    )]
    OtherDocument {
        /// The task.
        task: String,
        /// The document.
        doc_id: u64,
    },
    /// No task, metric and filter with common documents.
    #[error("the runs share no document of any task; the first has {first}, the second {second}")]
    NothingInCommon {
        /// Tasks of the first run.
        first: String,
        /// Tasks of the second.
        second: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scores(values: &[f64]) -> Scores {
        let mut scores = Scores::default();
        for (doc_id, value) in values.iter().enumerate() {
            let row = json!({"doc_id": doc_id, "doc_hash": format!("h{doc_id}"), "filter": "none",
                "metrics": ["exact_match"], "exact_match": value,
                "grades": {"math_equal": [{"correct": true}, {"correct": false}]}});
            scores.add("t", row.as_object().unwrap()).unwrap();
        }
        scores
    }

    #[test]
    fn verdicts_are_paired_by_document() {
        let mut a = vec![0.0; 40];
        let mut b = a.clone();
        a[0] = 1.0;
        b[1..12].fill(1.0);
        let found = compare(&scores(&a), &scores(&b)).unwrap();
        assert_eq!(found.len(), 2);
        let exact = &found[0];
        assert_eq!(
            (exact.documents, exact.first_higher, exact.second_higher),
            (40, 1, 11)
        );
        assert!((exact.difference - 0.25).abs() < 1e-12);
        let p = exact.mcnemar_p.unwrap();
        assert!((p - 26.0 / 4096.0).abs() < 1e-12, "{p}");
        assert_eq!(exact.outcome, Outcome::Better);
        assert!(0.0 < exact.interval[0] && exact.interval[1] < 0.5);
        // Half of the repeated samples each time: no verdicts, no difference.
        let math = &found[1];
        assert_eq!((math.metric.as_str(), math.first), ("math_equal", 0.5));
        assert_eq!((math.mcnemar_p, math.outcome), (None, Outcome::Undecided));
        let back = compare(&scores(&b), &scores(&a)).unwrap();
        assert_eq!(back[0].outcome, Outcome::Worse);
    }

    #[test]
    fn documents_of_one_run_are_left_out_and_counted() {
        let found = compare(&scores(&[1.0; 5]), &scores(&[1.0; 3])).unwrap();
        assert_eq!((found[0].documents, found[0].only_in_first), (3, 2));
        assert_eq!(found[0].mcnemar_p, Some(1.0));
    }

    #[test]
    fn other_documents_and_other_tasks_are_refused() {
        let mut other = scores(&[1.0; 3]);
        let column = other.columns.values_mut().next().unwrap();
        column.get_mut(&1).unwrap().doc_hash = "x".to_owned();
        let error = compare(&scores(&[1.0; 3]), &other).unwrap_err();
        assert!(error.to_string().contains("document 1"), "{error}");
        let error = compare(&scores(&[1.0]), &Scores::default()).unwrap_err();
        assert!(matches!(error, CompareError::NothingInCommon { .. }));
    }

    #[test]
    fn rows_that_are_no_samples_are_named() {
        let row = |row: Value| {
            Scores::default()
                .add("t", row.as_object().unwrap())
                .unwrap_err()
        };
        assert!(row(json!({})).contains("doc_id"));
        assert!(row(json!({"doc_id": 1, "doc_hash": "h"})).contains("metrics"));
        let text = json!({"doc_id": 1, "doc_hash": "h", "metrics": ["m"], "m": "x"});
        assert!(row(text).contains("`m` is no number"));
    }
}
