//! What `micota eval` refuses: each with one clear error, the documented exit code, and no output
//! touched. What makes a file wrong in detail is tested where it is read; here is what a user sees.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;

use crate::eval_runs::{micota_eval, stderr};
use crate::hostile_models::{behind, gguf, patched};

const TASK: &str = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
                    test_split: test\ndoc_to_text: \"{{question}}\"\ndoc_to_target: answer\n";

/// A temporary folder in which an output folder must not appear.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A copy of the demo model, to be damaged.
    fn model(&self) -> PathBuf {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
        let to = self.path("model");
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    fn run(&self, model: &Path, task: &str) -> Output {
        let mut command = micota_eval(&["--tasks", task, "--limit", "2", "--log_samples"]);
        command.arg("--model").arg(model);
        command.arg("--output_path").arg(self.path("out"));
        command.output().unwrap()
    }

    /// Runs, and expects this exit code, these words on stderr, nothing else, and no output.
    fn refuses(&self, model: &Path, task: &str, code: i32, words: &[&str]) {
        let output = self.run(model, task);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        for word in words {
            assert!(message.contains(word), "`{word}` not in: {message}");
        }
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(output.stdout.is_empty());
        assert!(!self.path("out").exists(), "an output folder was made");
    }
}

#[test]
fn model_folders_that_are_not_whole() {
    let place = Place::new();
    let model = place.model();
    let weights = model.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let words = ["model.safetensors", "bytes of data", "download it again"];
    place.refuses(&model, "demo-arith", 1, &words);

    std::fs::write(&weights, &whole[..100]).unwrap();
    place.refuses(&model, "demo-arith", 1, &["model.safetensors", "header"]);

    std::fs::rename(&weights, model.join("model-00001-of-00002.safetensors")).unwrap();
    let index = json!({"metadata": {}, "weight_map": {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
    }});
    std::fs::write(model.join("model-00001-of-00002.safetensors"), &whole).unwrap();
    std::fs::write(
        model.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    let words = [
        "model-00002-of-00002.safetensors is missing",
        "model.safetensors.index.json",
    ];
    place.refuses(&model, "demo-arith", 1, &words);
}

#[test]
fn a_model_of_an_unknown_architecture_or_without_a_tokenizer() {
    let place = Place::new();
    let model = place.model();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let other = config
        .replace("Qwen2ForCausalLM", "FooForCausalLM")
        .replace("\"qwen2\"", "\"foo\"");
    std::fs::write(model.join("config.json"), other).unwrap();
    let shown = model.display().to_string();
    let words = [
        "unknown architecture foo",
        "qwen2 (Qwen2ForCausalLM)",
        &shown,
    ];
    place.refuses(&model, "demo-arith", 1, &words);

    std::fs::write(model.join("config.json"), config).unwrap();
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let words = ["no tokenizer.json", "from the original model", &shown];
    place.refuses(&model, "demo-arith", 1, &words);
}

#[test]
fn gguf_files_that_lie() {
    let place = Place::new();
    let far = (u64::MAX - 31).to_le_bytes();
    for (name, bytes, word) in [
        ("magic.gguf", patched(0, b"PK"), "not a GGUF file"),
        ("count.gguf", patched(8, &u64::MAX.to_le_bytes()), "count"),
        ("keys.gguf", patched(16, &u64::MAX.to_le_bytes()), "count"),
        ("far.gguf", patched(behind("first") + 24, &far), "first"),
        ("cut.gguf", gguf()[..60].to_vec(), "download it again"),
        ("empty.gguf", Vec::new(), "empty.gguf"),
    ] {
        let path = place.put(name, &bytes);
        place.refuses(&path, "demo-arith", 1, &[name, word]);
    }
}

#[test]
fn models_that_are_not_there() {
    let place = Place::new();
    let nowhere = place.path("nowhere");
    place.refuses(
        &nowhere,
        "demo-arith",
        2,
        &["--model", "no such file or folder"],
    );
    let id = Path::new("nobody/nothing");
    place.refuses(id, "demo-arith", 1, &["nobody/nothing", "HF_HUB_OFFLINE"]);
}

#[test]
fn task_files_are_refused_by_line_and_column_with_the_nearest_name() {
    let place = Place::new();
    place.put("rows.jsonl", b"{\"question\": \"q\", \"answer\": \"1\"}\n");
    let demo = Path::new("demo/model");
    for (extra, words) in [
        (
            "doc_to_txt: x\n",
            &[
                "t.yaml:7:1",
                "unknown key `doc_to_txt`",
                "did you mean `doc_to_text`",
            ][..],
        ),
        (
            "process_results: builtin:boxed-trimed\n",
            &["t.yaml:7:18", "did you mean `builtin:boxed-trimmed`"],
        ),
    ] {
        let path = place.put("t.yaml", format!("{TASK}{extra}").as_bytes());
        place.refuses(demo, path.to_str().unwrap(), 2, words);
    }
    place.refuses(demo, "AIMEE", 2, &["AIMEE", "did you mean `AIME`"]);
    place.refuses(demo, "AIME", 2, &["aime24/test.jsonl", "--data-dir", "hub"]);
}

#[test]
fn a_row_without_the_field_is_named() {
    let place = Place::new();
    let path = place.put("t.yaml", TASK.as_bytes());
    let task = path.to_str().unwrap();
    let demo = Path::new("demo/model");
    place.put(
        "rows.jsonl",
        b"{\"question\": \"q\", \"answer\": \"1\"}\n{\"problem\": \"p\", \"answer\": \"2\"}\n",
    );
    place.refuses(demo, task, 2, &["rows.jsonl:2", "question", "`problem`"]);
    place.put(
        "rows.jsonl",
        b"{\"question\": \"q\", \"answer\": \"1\"}\n{\"question\": \n",
    );
    place.refuses(demo, task, 2, &["rows.jsonl:2", "not JSON"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_found_before_the_model_is_loaded() {
    let place = Place::new();
    let file = place.put("file", b"mine");
    for out in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/nothing/here"),
    ] {
        // The model is not there either: the output is asked first.
        let output = micota_eval(&["--model", "nobody/nothing", "--tasks", "demo-arith"])
            .arg("--output_path")
            .arg(&out)
            .output()
            .unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let shown = out.display().to_string();
        for word in [
            "--output_path",
            &shown,
            "cannot be written",
            "another folder",
        ] {
            assert!(message.contains(word), "`{word}` not in: {message}");
        }
        assert_eq!(message.matches("os error").count(), 1, "{message}");
    }
    assert_eq!(std::fs::read(file).unwrap(), b"mine");
    // A folder that can be written is not left behind by a run that fails later.
    let out = place.path("a/b");
    let output = micota_eval(&["--model", "nobody/nothing", "--tasks", "demo-arith"])
        .arg("--output_path")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!place.path("a").exists());
}

#[test]
fn a_full_disk_keeps_what_is_finished() {
    let place = Place::new();
    let out = place.path("out");
    let run = |limit: &str| {
        // Sizes of files are limited in blocks of 512 bytes; the signal is ignored, so that
        // writing fails as it does on a full disk.
        let script = format!("trap '' XFSZ; {limit} exec \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_micota"), "eval"]);
        command.args(["--model", "demo/model", "--tasks", "demo-arith"]);
        command.args(["--limit", "50", "--log_samples", "--output_path"]);
        command.arg(&out).output().unwrap()
    };
    let output = run("ulimit -f 8 &&");
    let message = stderr(&output);
    if message.contains("ulimit") {
        eprintln!("SKIPPED: this shell cannot limit the size of files: {message}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in [
        "journal.jsonl",
        "cannot write record",
        "records are safe and the same command continues",
    ] {
        assert!(message.contains(word), "`{word}` not in: {message}");
    }
    let files = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    let folder = out.join("demo__model");
    assert_eq!(files(&folder), 1, "only the journal is there");
    let journal = std::fs::read_to_string(folder.join("journal.jsonl")).unwrap();
    let kept = journal.lines().count() - 1;
    assert!(journal.ends_with('\n') && (1..50).contains(&kept), "{kept}");

    let output = run("");
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains(&format!("{kept} answers are there")),
        "{message}"
    );
    assert_eq!(files(&folder), 3);
}
