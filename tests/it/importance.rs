//! `micota imatrix` as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

use micota::convert::ImportanceMatrix;

use crate::shared::shared;

fn command(model: &Path, folder: &Path, out: &str, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_micota"))
        .args([
            "imatrix",
            "--ctx-size",
            "32",
            "--dtype",
            "f32",
            "--threads",
            "1",
        ])
        .args(["--output-frequency", "2", "--file", "text.txt", "-o", out])
        .arg("--model")
        .arg(model)
        .args(flags)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write_text(folder: &Path) {
    let text: String = (0..80)
        .map(|i| format!("Add {i} and {}: {}.\n", i + 7, 2 * i + 7))
        .collect();
    std::fs::write(folder.join("text.txt"), text).unwrap();
}

/// What every matrix is multiplied with is what llama.cpp multiplies it with.
#[cfg(feature = "ggml")]
#[test]
fn sums_are_those_of_llama_cpps_activations() {
    use micota::convert::{GgufOptions, OutType, to_gguf};
    use micota::formats::{Checkpoint, Tokenizer};

    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_text(folder.path());
    // llama.cpp looks GELU up in a table of half precision.
    for (name, bound) in [
        ("q2t-base", 2e-5),
        ("ll3-base", 2e-5),
        ("gemma3", 1e-2),
        ("phi3", 2e-5),
        ("q3", 2e-5),
    ] {
        let source = Checkpoint::open(shared.join("golden/tiny").join(name)).unwrap();
        let file = folder.path().join(format!("{name}.gguf"));
        let options = GgufOptions {
            outfile: Some(file.clone()),
            out_type: OutType::F32,
            ..GgufOptions::default()
        };
        to_gguf(&source, &options, &|_| {}).unwrap();
        let output = command(&file, folder.path(), "one.gguf", &["--chunks", "1"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let matrix = ImportanceMatrix::read(&folder.path().join("one.gguf")).unwrap();
        assert_eq!((matrix.num_chunks, matrix.chunk_size), (1, 32));

        let text = std::fs::read_to_string(folder.path().join("text.txt")).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&source).unwrap();
        let ids = tokenizer.encode(&text, true).unwrap();
        let expected = crate::llama_cpp::squares(&file, &ids[..32]);
        assert!(
            matrix.tensors().eq(expected.keys().map(String::as_str)),
            "{name}"
        );
        for (tensor, expected) in &expected {
            let (sums, count) = matrix.sums(tensor).unwrap();
            // llama.cpp drops rows before the last layer's MLP whose logits nobody wants.
            if count != 32 || is_after_last_attention(tensor, &matrix) {
                continue;
            }
            assert_eq!(sums.len(), expected.len(), "{name} {tensor}");
            for (sum, expected) in sums.iter().zip(expected) {
                let difference = (f64::from(*sum) - expected).abs();
                assert!(
                    difference <= bound * (expected + 0.1),
                    "{name} {tensor}: {sum} {expected}"
                );
            }
        }
    }
}

/// Whether a tensor of the last layer comes after its attention.
#[cfg(feature = "ggml")]
fn is_after_last_attention(tensor: &str, matrix: &ImportanceMatrix) -> bool {
    let layer = |name: &str| name.split('.').nth(1).unwrap().parse::<usize>().unwrap();
    let last = matrix.tensors().map(layer).max().unwrap();
    layer(tensor) == last && (tensor.contains("ffn") || tensor.contains("attn_output"))
}

#[test]
fn a_run_that_ended_goes_on_to_the_same_bytes() {
    let Some(shared) = shared() else { return };
    let model = shared.join("golden/tiny/q2t-base");
    let folder = tempfile::tempdir().unwrap();
    write_text(folder.path());
    let whole = command(&model, folder.path(), "whole.gguf", &["--process-output"]);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let matrix = ImportanceMatrix::read(&folder.path().join("whole.gguf")).unwrap();
    assert!(matrix.num_chunks > 4, "{}", matrix.num_chunks);
    assert!(matrix.tensors().any(|name| name == "output.weight"));
    assert_eq!(matrix.datasets, ["text.txt"]);

    // What is left of a run that ended after its first two chunks.
    let mut begun = command(&model, folder.path(), "part.gguf", &["--process-output"]);
    assert!(begun.status.success());
    let mut left = matrix.clone();
    begun = command(
        &model,
        folder.path(),
        "begun.gguf",
        &["--process-output", "--chunks", "2"],
    );
    assert!(begun.status.success());
    let first = ImportanceMatrix::read(&folder.path().join("begun.gguf")).unwrap();
    for name in matrix.tensors() {
        let (sums, count) = first.sums(name).unwrap();
        left.set(name, sums.to_vec(), count);
    }
    left.num_chunks = 2;
    left.write_gguf(&folder.path().join("part.gguf")).unwrap();
    let resumed = command(&model, folder.path(), "part.gguf", &["--process-output"]);
    assert!(
        stderr(&resumed).contains("2 chunks are there already"),
        "{}",
        stderr(&resumed)
    );
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("part.gguf") == bytes("whole.gguf"));
}

/// Two halves of a text, collected apart, are what the whole text gives.
#[test]
fn matrices_are_added_up() {
    let Some(shared) = shared() else { return };
    let model = shared.join("golden/tiny/q2t-base");
    let folder = tempfile::tempdir().unwrap();
    write_text(folder.path());
    let runs: [(&str, &[&str]); 4] = [
        ("whole.gguf", &["--chunks", "4"]),
        ("first.gguf", &["--chunks", "2"]),
        ("second.gguf", &["--chunk", "2", "--chunks", "2"]),
        (
            "both.gguf",
            &["--chunk", "2", "--chunks", "2", "--in-file", "first.gguf"],
        ),
    ];
    for (out, flags) in runs {
        let output = command(&model, folder.path(), out, flags);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_micota"))
        .args([
            "imatrix",
            "--in-file",
            "first.gguf",
            "--in-file",
            "second.gguf",
        ])
        .args(["-o", "sum.gguf"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| ImportanceMatrix::read(&folder.path().join(name)).unwrap();
    let whole = read("whole.gguf");
    for name in ["both.gguf", "sum.gguf"] {
        let sum = read(name);
        assert_eq!((sum.num_chunks, sum.chunk_size), (4, 32), "{name}");
        assert!(sum.tensors().eq(whole.tensors()));
        for tensor in whole.tensors() {
            let ((found, rows), (expected, all)) =
                (sum.sums(tensor).unwrap(), whole.sums(tensor).unwrap());
            assert_eq!(rows, all, "{name} {tensor}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-5 * expected,
                    "{name} {tensor}"
                );
            }
        }
    }
}

/// The prompts of a task are the text.
#[test]
fn a_tasks_prompts_are_the_text() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let row = |i| {
        format!(
            "{{\"question\": \"What is {i} plus {i}?\", \"answer\": \"{}\"}}\n",
            2 * i
        )
    };
    let rows: String = (0..40).map(row).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let task = "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
                test_split: test\ndoc_to_text: \"{{question}}\"\ndoc_to_target: \"{{answer}}\"\n";
    std::fs::write(folder.path().join("sums.yaml"), task).unwrap();
    let run = |out: &str, limit: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_micota"))
            .args([
                "imatrix",
                "--ctx-size",
                "32",
                "--dtype",
                "f32",
                "--threads",
                "1",
            ])
            .args([
                "--tasks",
                "./sums.yaml",
                "--limit",
                limit,
                "-o",
                out,
                "--model",
            ])
            .arg(shared.join("golden/tiny/q2t-base"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        ImportanceMatrix::read(&folder.path().join(out)).unwrap()
    };
    let (few, many) = (run("few.gguf", "10"), run("many.gguf", "40"));
    assert_eq!(many.datasets, ["tasks: ./sums.yaml"]);
    assert!(few.num_chunks > 0 && many.num_chunks >= 3 * few.num_chunks);
}

#[test]
fn too_little_text_and_no_text_are_refused() {
    let Some(shared) = shared() else { return };
    let model = shared.join("golden/tiny/q2t-base");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "too short").unwrap();
    let output = command(&model, folder.path(), "out.gguf", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("smaller --ctx-size"),
        "{}",
        stderr(&output)
    );
    assert!(!folder.path().join("out.gguf").exists());
}
