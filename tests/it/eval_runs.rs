//! `micota eval` as a user runs it, on the demo model: the same bytes when killed and started
//! again, at any number of sequences and threads, and whatever lm_eval's flags ask for besides.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use micota::random::CounterRng;
use serde_json::{Map, Value, json};

use crate::devices::engine_devices;

/// `micota eval` in the repository's root, where the demo model and its task lie.
pub(crate) fn micota_eval(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env_remove("MICOTA_DATA").env("HF_HUB_OFFLINE", "1");
    command.arg("eval").args(flags);
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A sampled run over the whole demo task into `folder`.
fn demo(folder: &Path) -> Command {
    let mut command = micota_eval(&["--model", "demo/model", "--tasks", "demo-arith"]);
    command.args(["--apply_chat_template", "--log_samples", "--threads", "1"]);
    command.args(["--gen_kwargs", "do_sample=true,temperature=0.7"]);
    command.arg("--output_path").arg(folder);
    command
}

/// The one file of a run whose name begins with `stem`.
fn file(folder: &Path, stem: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder.join("demo__model")).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(stem)
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.swap_remove(0)
}

/// The samples file's bytes, each line up to `seconds`, its last key and the only timing.
fn samples(folder: &Path) -> String {
    let text = std::fs::read_to_string(file(folder, "samples_")).unwrap();
    let lines = text.lines().map(|line| {
        let (kept, _) = line.rsplit_once(", \"seconds\": [").unwrap();
        kept.to_owned() + "\n"
    });
    lines.collect()
}

/// The results file without what tells one run's clock from another's: the five keys of time, and
/// `micota.manifest.run`, which says how this process ran.
fn results(folder: &Path) -> String {
    let text = std::fs::read_to_string(file(folder, "results_")).unwrap();
    let mut results: Map<String, Value> = serde_json::from_str(&text).unwrap();
    for key in ["date", "start_time", "end_time"] {
        assert!(results.remove(key).unwrap().is_f64(), "{key}");
    }
    let total = results.remove("total_evaluation_time_seconds").unwrap();
    assert!(total.is_string());
    let manifest = results["micota"]["manifest"].as_object_mut().unwrap();
    assert!(manifest.remove("run").unwrap().is_object());
    serde_json::to_string_pretty(&results).unwrap()
}

fn finish(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Answers in the journal of an unfinished run.
fn answers_in_journal(folder: &Path) -> usize {
    let text = std::fs::read(folder.join("demo__model/journal.jsonl")).unwrap_or_default();
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    lines.saturating_sub(1)
}

/// SIGKILL once the journal has grown by `answers`, and a moment later.
fn kill_after(mut child: Child, folder: &Path, answers: usize, moment: Duration) {
    let before = answers_in_journal(folder);
    while answers_in_journal(folder) < before + answers {
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_ten_times_it_ends_with_the_files_of_an_undisturbed_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    finish(&mut demo(&whole));
    let random = CounterRng::new(2026);
    for kill in 0..10 {
        // Up to twelve answers further and up to 8 ms later: 200 answers last for ten of these.
        let answers = (random.uniform(2 * kill) * 13.0) as usize;
        let moment = Duration::from_micros((random.uniform(2 * kill + 1) * 8000.0) as u64);
        let mut command = demo(&parts);
        command.args(["--max_num_seqs", "4"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        kill_after(command.spawn().unwrap(), &parts, answers, moment);
    }
    assert!(answers_in_journal(&parts) > 0);
    let output = demo(&parts).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("answers are there from an earlier run"),
        "{message}"
    );
    assert_eq!(samples(&parts), samples(&whole));
    assert_eq!(results(&parts), results(&whole));
    assert!(!parts.join("demo__model/journal.jsonl").exists());
    // The finished journal lies beside the results, under their date.
    file(&parts, "journal_");
}

#[test]
fn samples_are_the_same_bytes_at_1_8_and_64_sequences_and_1_and_2_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = None;
    for (sequences, threads) in [("64", "2"), ("64", "1"), ("8", "2"), ("8", "1"), ("1", "1")] {
        let out = folder.path().join(format!("{sequences}-{threads}"));
        let mut command = demo(&out);
        command.args(["--max_num_seqs", sequences, "--limit", "64"]);
        command.args(["--threads", threads]);
        finish(&mut command);
        let found = (samples(&out), results(&out));
        let expected = first.get_or_insert_with(|| found.clone());
        assert_eq!(found, *expected, "{sequences} sequences, {threads} threads");
    }
}

#[test]
fn other_settings_do_not_take_up_an_unfinished_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = demo(folder.path());
    command.args(["--max_num_seqs", "2"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    kill_after(
        command.spawn().unwrap(),
        folder.path(),
        3,
        Duration::from_millis(1),
    );
    let answers = answers_in_journal(folder.path());
    let output = demo(folder.path())
        .args(["--gen_kwargs", "do_sample=true,temperature=0.9"])
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for part in ["temperature", "0.7", "0.9", "choose another output folder"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(answers_in_journal(folder.path()), answers);
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn verbosity_hides_notices_or_adds_diagnostics() {
    let run = |level: &str| {
        let flags = ["--model", "demo/model", "--tasks", "demo-arith"];
        let mut command = micota_eval(&flags);
        command.args(["--limit", "2", "--verbosity", level]);
        command.env("XDG_STATE_HOME", std::env::temp_dir());
        command.env_remove("RUST_LOG").output().unwrap()
    };
    let quiet = run("ERROR");
    assert!(stdout(&quiet).contains("|demo-arith|"));
    assert_eq!(stderr(&quiet), "");
    let usual = stderr(&run("INFO"));
    assert!(usual.contains("model of 854 K parameters"), "{usual}");
    assert!(!usual.contains("DEBUG"), "{usual}");
    let full = stderr(&run("debug"));
    assert!(full.contains("DEBUG demo-arith: data from"), "{full}");
    let wrong = run("LOUD");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("--verbosity LOUD: expected one of CRITICAL"));
}

/// A task file whose documents are these lines, with `question` and `answer`.
fn task_of(folder: &Path, rows: &str) -> PathBuf {
    let path = folder.join("t.yaml");
    let task = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
                test_split: test\ndoc_to_text: \"{{question}}\"\ndoc_to_target: \"{{answer}}\"\n\
                process_results: builtin:boxed-plain\n";
    std::fs::write(&path, task).unwrap();
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
    path
}

#[test]
fn integrity_is_checked_before_a_model_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let rows =
        "{\"question\": \"q\", \"answer\": \"1\"}\n{\"question\": \"q\", \"answer\": \"\"}\n";
    let path = task_of(folder.path(), rows);
    let run = |task: &str| {
        let flags = [
            "--model",
            "nobody/nothing",
            "--check_integrity",
            "--limit",
            "1",
        ];
        micota_eval(&flags)
            .args(["--tasks", task])
            .output()
            .unwrap()
    };
    let output = run(path.to_str().unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("no gold answer in document 1"),
        "{message}"
    );
    let output = run("demo-arith");
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains("demo-arith: 200 documents, fine"),
        "{message}"
    );
}

#[test]
fn a_row_that_cannot_be_asked_is_found_before_a_model_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let rows =
        "{\"question\": \"q\", \"answer\": \"1\"}\n{\"problem\": \"q\", \"answer\": \"2\"}\n";
    let path = task_of(folder.path(), rows);
    let run = |flags: &[&str]| {
        let mut command = micota_eval(&["--model", "nobody/nothing"]);
        command
            .args(["--tasks", path.to_str().unwrap()])
            .args(flags);
        command.output().unwrap()
    };
    let output = run(&[]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("rows.jsonl:2") && message.contains("`question` is undefined"),
        "{message}"
    );
    // A document that is not asked is not looked at.
    assert!(!stderr(&run(&["--limit", "1"])).contains("rows.jsonl"));
}

#[test]
fn tasks_are_listed_as_lm_eval_lists_them() {
    let listed = |name: &str| stdout(&micota_eval(&["--tasks", name]).output().unwrap());
    assert!(listed("list").contains("AIME\n"));
    assert!(listed("list_groups").contains("micota"));
    assert!(!listed("list_groups").contains("AIME"));
    assert!(listed("list_tags").contains("math_word_problems"));
}

#[test]
fn what_is_accepted_without_effect_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = demo(folder.path());
    command.args(["--limit", "2", "--cache_requests", "true"]);
    command.args(["--trust_remote_code", "--confirm_run_unsafe_code"]);
    command.args(["--wandb_args", "project=x", "--hf_hub_log_args", "y=z"]);
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    for flag in [
        "--cache_requests",
        "--trust_remote_code",
        "--confirm_run_unsafe_code",
        "--wandb_args: not uploaded",
        "--hf_hub_log_args: not uploaded",
    ] {
        assert!(message.contains(flag), "{flag}: {message}");
    }
    file(folder.path(), "upload_wandb_args");
}

#[test]
fn a_cache_answers_the_same_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("answers.jsonl");
    let run = || {
        let flags = ["--model", "demo/model", "--tasks", "demo-arith"];
        let mut command = micota_eval(&flags);
        command.args(["--limit", "5", "--use_cache"]).arg(&cache);
        command.output().unwrap()
    };
    let first = stdout(&run());
    let again = run();
    assert!(stderr(&again).contains("5 answers are there"));
    assert_eq!(stdout(&again), first);
}

#[test]
fn too_many_truncated_answers_fail_the_gate() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = demo(folder.path());
    command.args(["--limit", "4", "--max-truncated", "0.5"]);
    command.args(["--gen_kwargs", "max_gen_toks=2"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("were cut off at max_gen_toks 2"));
}

#[test]
fn a_results_folder_is_graded_again_as_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    finish(&mut demo(folder.path()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    let output = command
        .arg("grade")
        .arg(folder.path())
        .arg("--json")
        .output();
    let summary: Value = serde_json::from_str(&stdout(&output.unwrap())).unwrap();
    let task = &summary["tasks"][0];
    assert_eq!(
        (&task["task"], &task["counts"]["responses"]),
        (&"demo-arith".into(), &200.into())
    );
    assert_eq!(task["legacy"]["value"], task["logged"]);
    let grade = |by: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
        command.arg("grade").arg(folder.path());
        command.args(["--json", "--by", by]).output().unwrap()
    };
    let summary: Value = serde_json::from_str(&stdout(&grade("level"))).unwrap();
    let tasks = summary["tasks"].as_array().unwrap();
    let parts: Vec<&Value> = tasks.iter().map(|task| &task["part"]).collect();
    assert_eq!(json!(parts), json!([null, "level=1", "level=2", "level=3"]));
    for key in ["responses", "symbolic"] {
        let counts: Vec<u64> = tasks
            .iter()
            .map(|task| task["counts"][key].as_u64().unwrap())
            .collect();
        assert_eq!(counts[0], counts[1..].iter().sum::<u64>(), "{key}");
    }
    let unknown = grade("colour");
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("no row has it"));
}

#[test]
fn two_runs_are_compared_document_by_document() {
    let folder = tempfile::tempdir().unwrap();
    let (full, cut) = (folder.path().join("full"), folder.path().join("cut"));
    finish(&mut demo(&full));
    let mut command = demo(&cut);
    finish(command.args(["--gen_kwargs", "max_gen_toks=2", "--limit", "150"]));
    let compare = |a: &Path, b: &Path, flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
        command.arg("compare").arg(a).arg(b).args(flags);
        command.output().unwrap()
    };
    let worse = compare(&full, &cut, &["--json"]);
    assert_eq!(worse.status.code(), Some(3), "{}", stderr(&worse));
    let value: Value = serde_json::from_slice(&worse.stdout).unwrap();
    let row = &value["comparisons"][0];
    assert_eq!(row["task"], "demo-arith");
    assert_eq!(
        (&row["documents"], &row["only_in_first"]),
        (&150.into(), &50.into())
    );
    assert_eq!(
        (&row["second"], &row["second_higher"]),
        (&0.0.into(), &0.into())
    );
    assert_eq!(row["outcome"], "worse");
    assert!(row["mcnemar_p"].as_f64().unwrap() < 0.01);
    assert!(stderr(&worse).contains("50 documents are in one run only"));
    let better = stdout(&compare(&cut, &full, &[]));
    assert!(better.contains("| better"), "{better}");
    let same = stdout(&compare(&full, &full, &[]));
    assert!(same.contains("| undecided"), "{same}");
    let nothing = compare(&full, folder.path().join("nowhere").as_path(), &[]);
    assert_eq!(nothing.status.code(), Some(2));
    let several = compare(folder.path(), &full, &[]);
    assert_eq!(several.status.code(), Some(2), "{}", stderr(&several));
}

/// In single precision, executors part only where two tokens are tied.
#[test]
fn every_device_gives_the_same_answers_and_says_what_it_promises() {
    let answers = |device: &str| -> Vec<Value> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let flags = ["--model", "demo/model", "--tasks", "demo-arith"];
        let mut command = micota_eval(&flags);
        command.args(["--apply_chat_template", "--log_samples", "--limit", "60"]);
        command.args(["--threads", "1", "--dtype", "f32", "--device", device]);
        finish(command.arg("--output_path").arg(&out));
        let results: Value = serde_json::from_str(&results(&out)).unwrap();
        let manifest = &results["micota"]["manifest"];
        assert_eq!(manifest["batch_invariant"], device == "cpu", "{device}");
        let text = std::fs::read_to_string(file(&out, "samples_")).unwrap();
        let samples = text.lines().map(|line| -> Value {
            let sample: Value = serde_json::from_str(line).unwrap();
            sample["resps"].clone()
        });
        samples.collect()
    };
    let expected = answers("cpu");
    assert_eq!(expected.len(), 60);
    for device in engine_devices() {
        let found = answers(&device.to_string());
        let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
        assert!(found.len() == 60 && same >= 58, "{device}: {same} of 60");
    }
}
