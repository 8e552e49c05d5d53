//! `micota generate` as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::shared::shared;

fn model() -> Option<PathBuf> {
    Some(shared()?.join("golden/tiny/q2t-base"))
}

fn command(model: &Path, folder: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.arg("generate").arg("--model").arg(model);
    command.arg("--prompts").arg(folder.join("in.jsonl"));
    command.arg("--out").arg(folder.join(out));
    command.args(["--max_gen_toks", "24", "--dtype", "f32", "--threads", "1"]);
    command.args(["--kv-memory", "16MiB"]);
    command
}

fn write_prompts(folder: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join("in.jsonl"), text).unwrap();
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The output's lines without times.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let parse = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["prefill_seconds", "decode_seconds"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    text.lines().map(parse).collect()
}

#[test]
fn every_kind_of_prompt_gets_a_line_in_order() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_prompts(
        folder.path(),
        &[
            json!({"prompt": "one and one", "id": "a"}),
            json!({"messages": [{"role": "user", "content": "hello"}]}),
            json!({"prompt_token_ids": [65, 66, 67], "id": 3}),
        ],
    );
    let output = command(&model, folder.path(), "out.jsonl")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = lines(&folder.path().join("out.jsonl"));
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["id"], "a");
    assert_eq!(lines[2]["id"], 3);
    assert_eq!(lines[2]["prompt_tokens"], 3);
    for line in lines {
        let generated = line["token_ids"].as_array().unwrap().len();
        assert_eq!(line["generated_tokens"], generated);
        let reason = line["finish_reason"].as_str().unwrap();
        assert!(["eos", "length"].contains(&reason), "{reason}");
    }
}

#[test]
fn killed_and_rerun_it_ends_with_the_same_lines() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let prompt = |i: usize| json!({"prompt_token_ids": vec![60 + i; 5 + i % 7]});
    write_prompts(folder.path(), &(0..60).map(prompt).collect::<Vec<_>>());
    let flags = ["--max_num_seqs", "4", "--temperature", "0.8"];
    let whole = command(&model, folder.path(), "whole.jsonl")
        .args(flags)
        .output()
        .unwrap();
    assert!(whole.status.success(), "{}", stderr(&whole));
    for kill_after_ms in [30, 60, 90, 120] {
        let mut child = command(&model, folder.path(), "parts.jsonl")
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(kill_after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = command(&model, folder.path(), "parts.jsonl")
        .args(flags)
        .output()
        .unwrap();
    assert!(last.status.success(), "{}", stderr(&last));
    let path = |name: &str| folder.path().join(name);
    assert_eq!(lines(&path("parts.jsonl")), lines(&path("whole.jsonl")));
}

#[test]
fn bad_input_is_named_and_touches_nothing() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_prompts(
        folder.path(),
        &[json!({"prompt": "a"}), json!({"text": "b"})],
    );
    let output = command(&model, folder.path(), "out.jsonl")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(
        message.contains("in.jsonl:2: no `prompt`, `messages` or `prompt_token_ids`"),
        "{message}"
    );
    write_prompts(folder.path(), &[json!({"prompt_token_ids": [4_000_000]})]);
    let output = command(&model, folder.path(), "out.jsonl")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("in.jsonl:1: token id 4000000"));
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "only the input is there");
}
