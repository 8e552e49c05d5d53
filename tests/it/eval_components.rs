//! The parts of evaluation output that lm-evaluation-harness pins byte for byte.

use std::path::Path;

use micota::engine::cut_at_stop_strings;
use micota::eval::{hashes, stops, table};
use serde_json::{Map, Value};

use crate::shared::shared;

fn rows(path: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn tables_are_printed_as_the_reference_prints_them() {
    let Some(shared) = shared() else { return };
    let cases = rows(&shared.join("golden/components/tables.jsonl"));
    assert!(!cases.is_empty());
    for case in cases {
        let results = case["input"].as_object().unwrap();
        let expected = case["markdown"].as_str().unwrap();
        assert_eq!(table::render(results, table::Block::Tasks), expected);
    }
}

#[test]
fn texts_are_cut_at_stops_as_the_reference_cuts_them() {
    let Some(shared) = shared() else { return };
    let strings = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    for case in rows(&shared.join("golden/components/stops.jsonl")) {
        let until = match &case["until"] {
            Value::String(one) => vec![one.clone()],
            Value::Null => Vec::new(),
            list => strings(list),
        };
        let found = stops::stop_strings(&until, case["eos"].as_str());
        assert_eq!(found, strings(&case["stops"]));
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            cut_at_stop_strings(text, &found),
            case["expected"].as_str().unwrap(),
            "{text:?}"
        );
    }
}

/// The documents whose fields the tasks leave as they are.
#[test]
fn documents_hash_as_in_the_reference() {
    let Some(shared) = shared() else { return };
    for (task, data) in [
        ("AIME", "aime24"),
        ("AMC", "amc23"),
        ("hendrycks_math_500", "math500"),
        ("gsm8k_cot_zeroshot", "gsm8k"),
    ] {
        let docs = rows(&shared.join(format!("data/{data}/test.jsonl")));
        let expected = rows(&shared.join(format!("golden/hashes/{task}.jsonl")));
        assert_eq!(docs.len(), expected.len());
        for (doc, expected) in docs.iter().zip(&expected) {
            assert_eq!(
                hashes::doc_hash(doc),
                expected["doc_hash"].as_str().unwrap(),
                "{task} {}",
                expected["doc_index"]
            );
        }
    }
}
