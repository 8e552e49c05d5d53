//! Token rows, labels, packs and batches, array for array, against LLaMA-Factory.

use std::collections::BTreeMap;
use std::path::Path;

use micota::formats::Tokenizer;
use micota::task::{ChatOptions, ChatTemplate, Message};
use micota::train::corpus::{Corpus, Encoder};
use micota::train::dataset;
use micota::train::decoder::Batch;
use micota::train::order::numpy_permutation;
use micota::train::recipe::Recipe;
use micota::train::template::{Special, TEMPLATES};
use micota::train::visit::{Grouping, Visit};
use serde_json::{Value, json};

use crate::shared::shared;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The masked label of the reference.
const MASKED: i64 = -100;

fn labels(labels: &[Option<u32>]) -> Value {
    let labels = labels.iter();
    json!(
        labels
            .map(|label| label.map_or(MASKED, i64::from))
            .collect::<Vec<_>>()
    )
}

#[test]
fn rows_and_packs_are_those_of_the_reference() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/train");
    let index = std::fs::read_to_string(golden.join("tokenize/index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_str(&index).unwrap();
    let mut rows: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for row in lines(&golden.join("tokenize/rows.jsonl")) {
        rows.entry(row["case"].as_u64().unwrap())
            .or_default()
            .push(row);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.yaml");
    for case in &index {
        let number = case["case"].as_u64().unwrap();
        let model = golden.join("models").join(case["model"].as_str().unwrap());
        let mut recipe = json!({
            "model_name_or_path": model,
            "dataset": case["dataset"],
            "dataset_dir": golden.join("data"),
            "template": case["template"],
            "output_dir": "unused",
        });
        let options = case["options"].as_object().unwrap().clone();
        recipe.as_object_mut().unwrap().extend(options);
        // JSON is YAML.
        std::fs::write(&path, recipe.to_string()).unwrap();
        let (recipe, _) = Recipe::load(&path, &[]).unwrap();
        let tokenizer = Tokenizer::from_folder(&model).unwrap();
        let encoder = Encoder::new(&recipe, &tokenizer).unwrap();
        assert_eq!(json!(encoder.eos), case["eos_token"], "case {number}");
        assert_eq!(json!(encoder.pad_token_id), case["pad_id"], "case {number}");
        let data = dataset::load(&recipe.dataset.0, &recipe.dataset_dir, recipe.max_samples);
        let corpus = Corpus::new(&data.unwrap(), &encoder).unwrap();
        let expected = &rows[&number];
        assert_eq!(corpus.len(), expected.len(), "case {number}: rows");
        for (i, expected) in expected.iter().enumerate() {
            let batch = corpus.batch(&[i]);
            let place = format!("case {number} row {i}");
            let length = expected["input_ids"].as_array().unwrap().len();
            assert_eq!(
                json!(batch.input_ids[0][..length]),
                expected["input_ids"],
                "{place}"
            );
            assert_eq!(
                labels(&batch.labels[0][..length]),
                expected["labels"],
                "{place}"
            );
            if corpus.is_packed() {
                assert_eq!(batch.input_ids[0].len(), length, "{place}");
                assert_eq!(
                    json!(batch.segments[0]),
                    expected["attention_mask"],
                    "{place}"
                );
                assert_eq!(
                    json!(batch.position_ids[0]),
                    expected["position_ids"],
                    "{place}"
                );
            }
        }
    }
    assert_eq!(index.len(), rows.len());
}

fn check_batch(place: &str, batch: &Batch, expected: &Value) {
    assert_eq!(json!(batch.input_ids), expected["input_ids"], "{place}");
    let found: Vec<Value> = batch.labels.iter().map(|row| labels(row)).collect();
    assert_eq!(json!(found), expected["labels"], "{place}");
    let segments = expected
        .get("segment_ids")
        .unwrap_or(&expected["attention_mask"]);
    assert_eq!(&json!(batch.segments), segments, "{place}");
    if let Some(positions) = expected.get("position_ids") {
        assert_eq!(&json!(batch.position_ids), positions, "{place}");
    }
}

#[test]
fn batches_come_in_the_order_of_the_reference() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/train");
    let mut count = 0;
    for entry in std::fs::read_dir(&golden).unwrap() {
        let case = entry.unwrap().path();
        if !case.join("batches.jsonl").exists() {
            continue;
        }
        let overrides = ["output_dir=unused".to_owned()];
        let (recipe, _) = Recipe::load(&case.join("config.yaml"), &overrides).unwrap();
        let tokenizer = Tokenizer::from_folder(case.join(&recipe.model_name_or_path)).unwrap();
        let encoder = Encoder::new(&recipe, &tokenizer).unwrap();
        let folder = case.join(&recipe.dataset_dir);
        let mut rows = dataset::load(&recipe.dataset.0, &folder, recipe.max_samples).unwrap();
        if recipe.val_size > 0.0 {
            let held_out = (recipe.val_size * rows.len() as f64).ceil() as usize;
            let order = numpy_permutation(rows.len(), recipe.seed);
            rows = order[held_out..].iter().map(|i| rows[*i].clone()).collect();
        }
        let corpus = Corpus::new(&rows, &encoder).unwrap();
        let mut visit = Visit::after(Grouping::new(&recipe, corpus.len()), 0);
        let mut expected = lines(&case.join("batches.jsonl")).into_iter().peekable();
        let mut step = 0;
        while expected.peek().is_some() {
            step += 1;
            for (i, indices) in visit.next_step().micro_batches.iter().enumerate() {
                let place = format!("{} step {step} micro-batch {i}", case.display());
                let expected = expected.next().expect(&place);
                assert_eq!(expected["step"], json!(step), "{place}");
                check_batch(&place, &corpus.batch(indices), &expected);
            }
        }
        count += 1;
    }
    assert!(count > 0, "no golden run found");
}

#[test]
fn chat_templates_made_from_layouts_write_what_the_layouts_write() {
    let special = Special {
        bos: "<s>",
        eos: "</s>",
    };
    for template in TEMPLATES {
        let jinja = template.to_jinja(special.bos, special.eos);
        let chat = ChatTemplate::new(&jinja, &[]).unwrap();
        for system in ["", "Be 'brief'.\n{{ no }}"] {
            let mut messages = vec![
                Message::new("user", "a {% b %}"),
                Message::new("assistant", "c\\d"),
                Message::new("user", "e"),
            ];
            let mut own = system;
            if system.is_empty() {
                own = template.default_system;
            } else {
                messages.insert(0, Message::new("system", system));
            }
            let expected = [
                template.source(Some(own), "a {% b %}", &special),
                template.answer("c\\d", &special),
                template.source(None, "e", &special),
            ];
            let found = chat.render(&messages, &ChatOptions::default()).unwrap();
            assert_eq!(found, expected.concat(), "{}: {jinja}", template.name);
        }
    }
}
