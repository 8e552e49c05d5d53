//! The legacy graders against the reference programs' own verdicts (`golden/grading`,
//! `golden/components`): every row.

use std::path::Path;

use micota::grade::boxed::{self, Variant};
use micota::grade::exact_match::{ExactMatch, ExactMatchOptions};
use micota::grade::filters::{FilterPipeline, FilterSpec, Filtered};
use micota::grade::stats;
use serde::Deserialize;
use serde_json::Value;

use crate::shared::shared;

fn rows<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[derive(Deserialize)]
struct BoxedRow {
    id: String,
    gold: String,
    response: String,
    seed_extracted: Option<String>,
    seed_correct: u8,
    error: Option<String>,
}

#[test]
fn boxed_verdicts_agree_on_every_row() {
    let Some(shared) = shared() else { return };
    for (task, variant) in [
        ("AIME", Variant::Trimmed),
        ("AMC", Variant::Trimmed),
        ("Olympiad", Variant::Trimmed),
        ("hendrycks_math_500", Variant::Plain),
        ("rejection_filter", Variant::Plain),
    ] {
        let path = shared.join(format!("golden/grading/{task}.jsonl"));
        for row in rows::<BoxedRow>(&path) {
            let verdict = boxed::grade(&row.response, &row.gold, variant);
            assert_eq!(
                verdict.extracted,
                row.seed_extracted.as_deref(),
                "{}",
                row.id
            );
            assert_eq!(verdict.correct, row.seed_correct == 1, "{}", row.id);
            let error = verdict.error.map(|error| error.python_name().to_owned());
            assert_eq!(error, row.error, "{}", row.id);
        }
    }
}

#[derive(Deserialize)]
struct NumberRow {
    id: String,
    gold: String,
    response: String,
    seed_extracted: std::collections::BTreeMap<String, String>,
    seed_correct: std::collections::BTreeMap<String, u8>,
}

#[test]
fn gsm8k_verdicts_agree_on_every_row() {
    let Some(shared) = shared() else { return };
    let strict = r"Final Answer: \\boxed\{(\-?[0-9\.\,]*[0-9]+)\}";
    let filters = [
        ("strict", strict, 0),
        ("flexible", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
        ("strict_upstream", r"The answer is (\-?[0-9\.\,]+).", 0),
        ("strict_hash", r"#### (\-?[0-9\.\,]+)", 0),
    ];
    let metric = ExactMatch::new(&ExactMatchOptions {
        regexes_to_ignore: Some(
            [",", r"\$", "(?s).*#### ", r"\.$"]
                .map(String::from)
                .to_vec(),
        ),
        ignore_case: true,
        ..ExactMatchOptions::default()
    })
    .unwrap();
    let path = shared.join("golden/grading/gsm8k_cot_zeroshot.jsonl");
    for row in rows::<NumberRow>(&path) {
        for (name, pattern, group_select) in filters {
            let regex = FilterSpec::Regex {
                regex_pattern: pattern.to_owned(),
                group_select,
                fallback: "[invalid]".to_owned(),
            };
            let pipeline = FilterPipeline::new(&[regex, FilterSpec::TakeFirst]).unwrap();
            let filtered = pipeline.apply(&[&row.response]).unwrap();
            let text = filtered.first().unwrap();
            assert_eq!(text, row.seed_extracted[name], "{} {name}", row.id);
            let correct = metric.score(text, &format!("#### {}", row.gold)).unwrap();
            assert_eq!(correct, row.seed_correct[name] == 1, "{} {name}", row.id);
        }
    }
}

#[derive(Deserialize)]
struct FilterRow {
    filter: String,
    chain: Vec<FilterSpec>,
    resps: Vec<String>,
    filtered: Value,
    error: Option<String>,
}

#[test]
fn filter_chains_agree_on_every_row() {
    let Some(shared) = shared() else { return };
    for row in rows::<FilterRow>(&shared.join("golden/components/filters.jsonl")) {
        let outcome = FilterPipeline::new(&row.chain).unwrap().apply(&row.resps);
        match (&outcome, row.error.as_deref()) {
            (Ok(filtered), None) => {
                let filtered = match filtered {
                    Filtered::One(text) => Value::from(text.as_str()),
                    Filtered::Many(texts) => Value::from(texts.clone()),
                };
                assert_eq!(filtered, row.filtered, "{} {:?}", row.filter, row.resps);
            }
            (Err(error), Some(expected)) => assert_eq!(error.python_name(), expected),
            _ => panic!("{}: {outcome:?}, expected {:?}", row.filter, row.error),
        }
    }
}

#[derive(Deserialize)]
struct MatchRow {
    options: ExactMatchOptions,
    prediction: String,
    reference: String,
    exact_match: f64,
}

#[test]
fn exact_match_agrees_on_every_row() {
    let Some(shared) = shared() else { return };
    for row in rows::<MatchRow>(&shared.join("golden/components/exact_match.jsonl")) {
        let metric = ExactMatch::new(&row.options).unwrap();
        let equal = metric.score(&row.prediction, &row.reference).unwrap();
        let case = (&row.options, &row.prediction, &row.reference);
        assert_eq!(equal, row.exact_match == 1.0, "{case:?}");
    }
}

#[derive(Deserialize)]
struct AggregateRow {
    n: usize,
    ones: usize,
    mean: f64,
    stderr: Value,
}

#[test]
fn aggregation_agrees_on_every_row() {
    let Some(shared) = shared() else { return };
    for row in rows::<AggregateRow>(&shared.join("golden/components/aggregate.jsonl")) {
        let values: Vec<f64> = (0..row.n).map(|i| f64::from(i < row.ones)).collect();
        assert!((stats::mean(&values).unwrap() - row.mean).abs() < 1e-12);
        match (stats::mean_stderr(&values), row.stderr.as_f64()) {
            (Some(ours), Some(theirs)) => assert!((ours - theirs).abs() < 1e-12),
            (None, None) => assert_eq!(row.stderr, "N/A"),
            pair => panic!("{pair:?}"),
        }
    }
}
