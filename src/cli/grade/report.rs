//! What a grading says in the end: the summary as JSON, and tables.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde_json::{Map, Value, json};

use super::Column;
use crate::eval::regrade::{Tally, votes};
use crate::grade::stats;

/// Confidence of the printed intervals.
const CONFIDENCE: f64 = 0.95;

/// The values of k for which every document has enough samples: 1, 2, 4, ... and the least count.
fn sample_counts(tally: &Tally) -> Vec<usize> {
    let least = tally.documents.values().map(Vec::len).min().unwrap_or(0);
    let most = tally.documents.values().map(Vec::len).max().unwrap_or(0);
    if most < 2 {
        return Vec::new();
    }
    let mut counts: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2))
        .take_while(|&k| k < least)
        .collect();
    counts.push(least);
    counts
}

/// pass@k, maj@k and avg@k of one grader, each a mean over documents with its standard error.
fn repeated(tally: &Tally, k: usize, symbolic: bool) -> [(String, Option<f64>, Option<f64>); 3] {
    let documents: Vec<_> = tally
        .documents
        .values()
        .map(|marks| votes(marks, symbolic))
        .collect();
    let estimate = |name: &str, of: &dyn Fn(&[stats::Vote]) -> Option<f64>| {
        let values: Vec<f64> = documents.iter().filter_map(|votes| of(votes)).collect();
        (
            format!("{name}@{k}"),
            stats::mean(&values),
            stats::mean_stderr(&values),
        )
    };
    let correct = |votes: &[stats::Vote]| votes.iter().map(|v| v.correct).collect::<Vec<bool>>();
    [
        estimate("pass", &|votes| {
            let right = votes.iter().filter(|vote| vote.correct).count();
            stats::pass_at_k(votes.len(), right, k)
        }),
        estimate("maj", &|votes| {
            stats::maj_at_k(votes, k).map(|right| f64::from(u8::from(right)))
        }),
        estimate("avg", &|votes| stats::avg_at_k(&correct(votes), k)),
    ]
}

fn accuracy(correct: usize, responses: usize) -> Value {
    if responses == 0 {
        return Value::Null;
    }
    let interval = stats::wilson(correct, responses, CONFIDENCE);
    json!({
        "value": correct as f64 / responses as f64,
        "wilson_95": [interval.low, interval.high],
    })
}

/// The summary file.
pub(super) fn summary(tallies: &BTreeMap<Column, Tally>) -> Value {
    let mut tasks = Vec::new();
    for (column, tally) in tallies {
        let mut repeats = Map::new();
        for k in sample_counts(tally) {
            for (grader, symbolic) in [("legacy", false), ("symbolic", true)] {
                for (name, value, stderr) in repeated(tally, k, symbolic) {
                    repeats.insert(
                        format!("{name},{grader}"),
                        json!({"value": value, "stderr": stderr}),
                    );
                }
            }
        }
        let logged = match tally.logged {
            0 => Value::Null,
            n => json!(tally.logged_correct as f64 / n as f64),
        };
        tasks.push(json!({
            "task": column.task,
            "filter": column.filter,
            "part": column.part,
            "legacy": accuracy(tally.legacy, tally.responses),
            "symbolic": accuracy(tally.symbolic, tally.responses),
            "logged": logged,
            "counts": tally,
            "repeated_samples": repeats,
        }));
    }
    json!({ "schema": 1, "tasks": tasks })
}

/// Scores, differences between graders, and repeated samples, for people.
pub(super) fn tables(tallies: &BTreeMap<Column, Tally>) -> String {
    let mut scores = Table::new();
    scores.load_style(comfy_table::presets::ASCII_MARKDOWN);
    scores.set_header([
        "task",
        "filter",
        "responses",
        "logged",
        "legacy",
        "symbolic",
        "95% (symbolic)",
        "judge",
    ]);
    let mut differences = Table::new();
    differences.load_style(comfy_table::presets::ASCII_MARKDOWN);
    differences.set_header([
        "task",
        "filter",
        "both right",
        "only legacy",
        "only symbolic",
        "both wrong",
        "log differs",
        "no answer",
        "unparsable",
        "over limit",
        "legacy errors",
        "unreadable rows",
    ]);
    let mut repeats = Table::new();
    repeats.load_style(comfy_table::presets::ASCII_MARKDOWN);
    repeats.set_header(["task", "metric", "legacy", "stderr", "symbolic", "stderr"]);
    let share = |count: usize, of: usize| match of {
        0 => "-".to_owned(),
        of => format!("{:.4}", count as f64 / of as f64),
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
    for (column, tally) in tallies {
        let task = column.name();
        let filter = column.filter.as_deref().unwrap_or("-");
        let interval = stats::wilson(tally.symbolic, tally.responses, CONFIDENCE);
        scores.add_row([
            task.clone(),
            filter.to_owned(),
            tally.responses.to_string(),
            share(tally.logged_correct, tally.logged),
            share(tally.legacy, tally.responses),
            share(tally.symbolic, tally.responses),
            format!("{:.4} to {:.4}", interval.low, interval.high),
            match tally.judged {
                0 => "-".to_owned(),
                n => format!("{} of {n} asked", tally.judged_correct),
            },
        ]);
        let counts = [
            tally.both,
            tally.legacy_only,
            tally.symbolic_only,
            tally.neither,
            tally.logged_differently,
            tally.no_answer,
            tally.unparsable,
            tally.over_limit,
            tally.legacy_errors,
            tally.unreadable_rows,
        ];
        let cells = [task.clone(), filter.to_owned()].into_iter();
        differences.add_row(cells.chain(counts.iter().map(usize::to_string)));
        for k in sample_counts(tally) {
            let (legacy, symbolic) = (repeated(tally, k, false), repeated(tally, k, true));
            for ((name, value, stderr), (_, other, other_stderr)) in
                legacy.into_iter().zip(symbolic)
            {
                repeats.add_row([
                    task.clone(),
                    name,
                    number(value),
                    number(stderr),
                    number(other),
                    number(other_stderr),
                ]);
            }
        }
    }
    let mut text = format!("{scores}\n\n{differences}\n");
    if repeats.row_count() > 0 {
        text.push_str(&format!("\n{repeats}\n"));
    }
    text
}
