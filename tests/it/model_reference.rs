//! The reference decoder against transformers in float32: logits of every position, hidden states
//! of every layer, greedy continuations, for every golden model.

use std::path::Path;
use std::sync::Arc;

use micota::formats::Checkpoint;
use micota::model::{Model, ReferenceOutput, reference_forward};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::shared::shared;

/// Largest difference of a logit or hidden state that float32 arithmetic in another order explains.
const TOLERANCE: f32 = 1e-4;
/// Greedy tokens are compared while the reference's first and second logit are this far apart.
const CLEAR_MARGIN: f64 = 0.01;

fn f32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    let chunks = tensor.data().as_chunks::<4>().0;
    chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= TOLERANCE,
            "{what}, element {i}: {found} for {expected}"
        );
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.unwrap() as u32
}

fn check_sequences(model: &Model, reference: &Value, tensors: &SafeTensors<'_>, name: &str) {
    for (sequence, entry) in reference["sequences"].as_object().unwrap() {
        let token_ids = ids(&entry["ids"]);
        let output = reference_forward(model, &token_ids, token_ids.len());
        let what = format!("{name} {sequence}");
        assert_close(&output.logits, &f32s(tensors, sequence), &what);
        if sequence == "rand24" {
            check_hidden_states(&output, tensors, &what);
        }
    }
}

fn check_hidden_states(output: &ReferenceOutput, tensors: &SafeTensors<'_>, what: &str) {
    let stored = tensors.names();
    let count = stored
        .iter()
        .filter(|name| name.contains(".hidden."))
        .count();
    assert_eq!(output.hidden_states.len(), count, "{what}");
    for (i, states) in output.hidden_states.iter().enumerate() {
        let expected = f32s(tensors, &format!("rand24.hidden.{i}"));
        assert_close(states, &expected, &format!("{what} hidden {i}"));
    }
}

fn check_greedy(model: &Model, greedy: &Value, name: &str) {
    let mut sequence = ids(&greedy["prompt_ids"]);
    let margins = greedy["top1_minus_top2"].as_array().unwrap();
    for (i, expected) in ids(&greedy["new_ids"]).into_iter().enumerate() {
        if margins[i].as_f64().unwrap() < CLEAR_MARGIN {
            return;
        }
        let logits = reference_forward(model, &sequence, sequence.len()).logits;
        let last = &logits[logits.len() - model.spec.vocab_size..];
        assert_eq!(argmax(last), expected, "{name}, new token {i}");
        sequence.push(expected);
    }
}

#[test]
fn every_golden_model_agrees_with_transformers() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/engine");
    let mut checked = 0;
    for entry in std::fs::read_dir(&golden).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            check_model(&folder, &shared.join("golden"));
            checked += 1;
        }
    }
    assert_eq!(checked, 10);
}

fn check_model(folder: &Path, golden: &Path) {
    let text = std::fs::read(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&text).unwrap();
    let name = reference["model"].as_str().unwrap();
    let checkpoint = Checkpoint::open(golden.join(name)).unwrap();
    let model = Model::from_checkpoint(Arc::new(checkpoint)).unwrap();
    let file = std::fs::read(folder.join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    check_sequences(&model, &reference, &tensors, name);
    check_greedy(&model, &reference["greedy"], name);
}
