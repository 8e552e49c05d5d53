//! Tokenised rows that are kept between runs, and rows written by the model's own chat template.

use std::path::PathBuf;

use serde_json::json;

use crate::train_workshop::{Workshop, read_json, train};

/// Runs two steps and returns what was said.
fn run(workshop: &Workshop, output: &str, more: &[&str]) -> String {
    let output_dir = format!("output_dir={output}");
    let settings = [
        "full.yaml",
        "max_steps=2",
        &output_dir,
        "tokenized_path=kept",
    ];
    let output = train(workshop.path(), &[&settings[..], more].concat());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn kept(workshop: &Workshop) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(workshop.path().join("kept")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn tokenised_rows_are_kept_and_taken_while_they_are_the_same() {
    let workshop = Workshop::new();
    let said = run(&workshop, "first", &[]);
    assert!(!said.contains("taken from"), "{said}");
    assert_eq!(kept(&workshop).len(), 1);
    let said = run(&workshop, "second", &[]);
    assert!(
        said.contains("tokenised rows are taken from kept/"),
        "{said}"
    );
    let weights = |run: &str| workshop.bytes(&format!("{run}/model.safetensors"));
    assert!(weights("first") == weights("second"));
    // Cutting, masking and packing come after.
    for (index, setting) in ["cutoff_len=90", "train_on_prompt=true", "neat_packing=true"]
        .iter()
        .enumerate()
    {
        let said = run(&workshop, &format!("cut-{index}"), &[setting]);
        assert!(said.contains("taken from"), "{setting}: {said}");
    }
    assert_eq!(kept(&workshop).len(), 1);
    // Other rows, another layout.
    for (index, setting) in ["max_samples=10", "template=qwen", "default_system=Count."]
        .iter()
        .enumerate()
    {
        let said = run(&workshop, &format!("other-{index}"), &[setting]);
        assert!(!said.contains("taken from"), "{setting}: {said}");
        assert_eq!(kept(&workshop).len(), 2 + index);
    }
    let said = run(&workshop, "anew", &["overwrite_cache=true"]);
    assert!(!said.contains("taken from"), "{said}");
    assert!(weights("anew") == weights("first"));
    // Without a folder for them, they lie with the results.
    train(workshop.path(), &["full.yaml", "max_steps=1"]);
    let own = std::fs::read_dir(workshop.path().join("full/tokenized")).unwrap();
    assert_eq!(own.count(), 1);
}

#[test]
fn damaged_token_rows_are_noticed_and_made_again() {
    let workshop = Workshop::new();
    run(&workshop, "whole", &[]);
    let path = kept(&workshop).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages = [
        (whole[..50].to_vec(), "too short"),
        (whole[..whole.len() - 4].to_vec(), "checksum"),
        (flipped(3), "does not begin"),
        (flipped(20), "something else"),
        (flipped(whole.len() - 9), "checksum"),
    ];
    for (index, (bytes, reason)) in damages.into_iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let output = format!("again-{index}");
        let said = run(&workshop, &output, &[]);
        assert!(
            said.contains(reason) && said.contains("tokenised again"),
            "{reason}: {said}"
        );
        assert!(std::fs::read(&path).unwrap() == whole, "{reason}");
        let weights = |run: &str| workshop.bytes(&format!("{run}/model.safetensors"));
        assert!(weights(&output) == weights("whole"), "{reason}");
    }
}

#[test]
fn without_a_template_the_model_s_own_chat_template_writes_the_rows() {
    let workshop = Workshop::new();
    let weights = |run: &str| workshop.bytes(&format!("{run}/model.safetensors"));
    run(&workshop, "named", &[]);
    // The tokenizer's own template writes what the named layout does.
    for (index, template) in ["template=", "template=model"].iter().enumerate() {
        let output = format!("own-{index}");
        run(&workshop, &output, &[template]);
        assert!(weights(&output) == weights("named"), "{template}");
        let config = read_json(&workshop.path().join(&output).join("tokenizer_config.json"));
        let before = read_json(&workshop.path().join("model/tokenizer_config.json"));
        assert_eq!(config["chat_template"], before["chat_template"]);
    }
    let path = workshop.path().join("model/tokenizer_config.json");
    let mut config = read_json(&path);
    let mut refused = |chat_template: serde_json::Value| {
        config["chat_template"] = chat_template;
        std::fs::write(&path, config.to_string()).unwrap();
        workshop.refused(&["full.yaml", "output_dir=refused", "template="])
    };
    let thinks = "{% for m in messages %}{{ m.content }}{% endfor %}\
                  {% if add_generation_prompt %}<think>{% endif %}";
    let message = refused(json!(thinks));
    assert!(
        message.contains("does not begin an answer") && message.contains("row 0"),
        "{message}"
    );
    let message = refused(json!("{{ raise_exception('no') }}"));
    assert!(message.contains("refuses a row"), "{message}");
    let message = refused(serde_json::Value::Null);
    assert!(message.contains("no chat template"), "{message}");
}
