//! `micota grade` from its command line: every kind of log, repeated samples, judges.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::eval_servers::Server;
use crate::shared::shared;

/// Problem, gold, response, and both verdicts.
const ROWS: [(&str, &str, &str, u8, u8); 6] = [
    ("one", "5", r"so \boxed{5}", 1, 1),
    ("two", "5", r"so \boxed{ 10/2 }", 0, 1),
    ("three", "1/2", r#"\boxed{0.5}, "half""#, 1, 1),
    ("four", "7", r"\boxed{8}", 0, 0),
    ("five", "7", "no idea,\nreally", 0, 0),
    ("six", "12", r"\boxed{12.5}", 0, 0),
];

fn grade(words: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.arg("grade").args(words).args(paths);
    command.env_remove("OPENAI_API_KEY").output().unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn summary(output: &Output) -> Value {
    assert!(output.status.success(), "{}", message(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn row((problem, gold, response, ..): &(&str, &str, &str, u8, u8)) -> Value {
    json!({"problem": problem, "gold": gold, "response": response})
}

fn write_jsonl(path: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn write_parquet(path: &Path) {
    let columns = "required binary problem (UTF8); required binary gold (UTF8); \
                   required binary response (UTF8);";
    let schema = parse_message_type(&format!("message rows {{ {columns} }}")).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for name in ["problem", "gold", "response"] {
        let cells = ROWS.iter().map(|cells| {
            let cell = row(cells)[name].as_str().unwrap().to_owned();
            ByteArray::from(cell.into_bytes())
        });
        let cells: Vec<ByteArray> = cells.collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&cells, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn the_same_verdicts_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows: Vec<Value> = ROWS.iter().map(row).collect();
    write_jsonl(&path("a.jsonl"), &rows);
    std::fs::write(path("a.json"), json!(rows).to_string()).unwrap();
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let csv: String = ROWS
        .iter()
        .map(|(p, g, r, ..)| format!("{},{},{}\n", quoted(p), quoted(g), quoted(r)))
        .collect();
    std::fs::write(path("a.csv"), format!("problem,gold,response\n{csv}")).unwrap();
    write_parquet(&path("a.parquet"));
    let expected: Vec<(u8, u8)> = ROWS.iter().map(|row| (row.3, row.4)).collect();
    let mut all = Vec::new();
    for name in ["a.jsonl", "a.json", "a.csv", "a.parquet"] {
        let out = path("out.jsonl");
        let words = [
            "--task",
            "hendrycks_math",
            "--response-field",
            "response",
            "--gold-field",
            "gold",
            "--json",
            "--out",
            out.to_str().unwrap(),
        ];
        let summary = summary(&grade(&words, &[&path(name)]));
        assert_eq!(summary["tasks"][0]["counts"]["symbolic"], 3, "{name}");
        let graded = lines(&out);
        let verdict = |row: &Value, key: &str| row[key].as_u64().unwrap() as u8;
        let verdicts: Vec<(u8, u8)> = graded
            .iter()
            .map(|row| (verdict(row, "legacy"), verdict(row, "symbolic")))
            .collect();
        assert_eq!(verdicts, expected, "{name}");
        for key in ["legacy_extracted", "symbolic_extracted", "reason"] {
            assert!(
                graded.iter().all(|row| row.get(key).is_some()),
                "{name} {key}"
            );
        }
        assert_eq!(graded[4]["reason"], "no answer");
        all.push(graded);
    }
    assert!(all.iter().all(|graded| *graded == all[0]));
}

#[test]
fn the_seeds_training_data_needs_no_flags() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.json");
    let row = |output: &str| json!({"instruction": "p", "output": output, "answer": "10,080"});
    let rows = json!([row(r"\boxed{10080}"), row(r"\boxed{10,080}")]);
    std::fs::write(&path, rows.to_string()).unwrap();
    let summary = summary(&grade(&["--json"], &[&path]));
    let counts = &summary["tasks"][0]["counts"];
    assert_eq!(
        (&counts["legacy"], &counts["symbolic"]),
        (&json!(1), &json!(2))
    );
}

#[test]
fn repeated_samples_give_pass_maj_and_avg() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    // Right answers of 4: 4, 2 and 1. The majority is right, undecided in favour of the first, wrong.
    let answers = [
        ["3", "3", "6/2", "3.0"],
        ["3", "4", "4", "3"],
        ["8", "9", "8", "3"],
    ];
    let rows: Vec<Value> = answers
        .iter()
        .zip(0..)
        .flat_map(|(answers, id)| {
            answers.iter().map(move |answer| {
                json!({"id": id, "gold": "3", "response": format!("\\boxed{{{answer}}}")})
            })
        })
        .collect();
    write_jsonl(&path, &rows);
    let words = ["--task", "hendrycks_math", "--id-field", "id", "--json"];
    let summary = summary(&grade(&words, &[&path]));
    let repeats = &summary["tasks"][0]["repeated_samples"];
    let mean = |name: &str| {
        repeats[&format!("{name},symbolic")]["value"]
            .as_f64()
            .unwrap()
    };
    let stderr = |name: &str| {
        repeats[&format!("{name},symbolic")]["stderr"]
            .as_f64()
            .unwrap()
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    // 1 - C(wrong, k) / C(4, k): 1, 1, 1 for k = 4 and 1, 5/6, 1/2 for k = 2.
    close(mean("pass@4"), 1.0);
    close(mean("pass@2"), (1.0 + 5.0 / 6.0 + 0.5) / 3.0);
    close(mean("pass@1"), (1.0 + 0.5 + 0.25) / 3.0);
    close(mean("avg@4"), (1.0 + 0.5 + 0.25) / 3.0);
    close(mean("maj@4"), 2.0 / 3.0);
    let spread = |values: [f64; 3]| {
        let mean = values.iter().sum::<f64>() / 3.0;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / 2.0).sqrt() / 3.0_f64.sqrt()
    };
    close(stderr("avg@4"), spread([1.0, 0.5, 0.25]));
    close(stderr("maj@4"), spread([1.0, 1.0, 0.0]));
    // The rule takes 6/2 and 3.0 for other answers than 3.
    let legacy = repeats["avg@4,legacy"]["value"].as_f64().unwrap();
    close(legacy, (0.5 + 0.5 + 0.25) / 3.0);
}

#[test]
fn the_references_folder_gives_its_scores() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/lmeval/saves__model");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let words = ["--json", "--out", out.to_str().unwrap()];
    let summary = summary(&grade(&words, &[&golden]));
    let results = std::fs::read_dir(&golden).unwrap().flatten();
    let results = results.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("results_")
    });
    let results: Value = serde_json::from_slice(&std::fs::read(results.unwrap()).unwrap()).unwrap();
    let tasks = summary["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 6, "gsm8k has two filters");
    for task in tasks {
        let (name, filter) = (
            task["task"].as_str().unwrap(),
            task["filter"].as_str().unwrap(),
        );
        let expected = &results["results"][name][format!("exact_match,{filter}")];
        assert_eq!(
            task["legacy"]["value"].as_f64(),
            expected.as_f64(),
            "{name} {filter}"
        );
        assert_eq!(
            task["logged"].as_f64(),
            expected.as_f64(),
            "{name} {filter}"
        );
    }
}

fn judged_log(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("log.jsonl");
    write_jsonl(&path, &ROWS.iter().map(row).collect::<Vec<_>>());
    path
}

/// The rows that the plain rule calls wrong although they have an answer.
const ASKED: [usize; 3] = [1, 3, 5];

#[test]
fn a_local_model_judges_what_the_rule_calls_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let log = judged_log(folder.path());
    let words = [
        "--task",
        "hendrycks_math",
        "--judge_model",
        "demo/model",
        "--json",
    ];
    let summary = summary(&grade(&words, &[&log]));
    assert_eq!(summary["tasks"][0]["counts"]["judged"], 3);
    let graded = lines(&folder.path().join("grades.jsonl"));
    let asked = (0..graded.len()).filter(|&row| graded[row].get("judge").is_some());
    assert_eq!(asked.collect::<Vec<_>>(), ASKED);
    let headline = &summary["tasks"][0]["symbolic"]["value"];
    assert_eq!(headline.as_f64(), Some(0.5), "the judge is no part of it");
    for stem in [
        "summary_results",
        "problematic_instances",
        "llm_answer_check_result",
    ] {
        assert!(
            folder
                .path()
                .join(format!("{stem}_hendrycks_math.json"))
                .exists()
        );
    }
    let left = std::fs::read_dir(folder.path()).unwrap().flatten();
    let journals = left.filter(|entry| entry.file_name().to_string_lossy().contains("journal"));
    assert_eq!(journals.count(), 0);
}

#[test]
fn a_judge_that_fails_costs_only_its_own_column_and_is_asked_the_rest_later() {
    let folder = tempfile::tempdir().unwrap();
    let log = judged_log(folder.path());
    let allowed = Arc::new(AtomicUsize::new(1));
    let limit = allowed.clone();
    let server = Server::start(
        move |number, _| match number < limit.load(Ordering::SeqCst) {
            true => (200, json!({"choices": [{"message": {"content": "True"}}]})),
            false => (400, json!({"error": "no more"})),
        },
    );
    let words = [
        "--task",
        "hendrycks_math",
        "--judge-url",
        &server.url,
        "--judge-model",
        "m",
        "--threads",
        "1",
        "--json",
    ];
    let failed = grade(&words, &[&log]);
    assert_eq!(failed.status.code(), Some(3), "{}", message(&failed));
    assert!(
        message(&failed).contains("status 400"),
        "{}",
        message(&failed)
    );
    let out = folder.path().join("grades.jsonl");
    let judged = |rows: &[Value]| rows.iter().filter(|row| row["judge"] == 1).count();
    let graded = lines(&out);
    assert_eq!((graded.len(), judged(&graded)), (ROWS.len(), 1));
    assert_eq!(graded[1]["symbolic"], 1);
    assert!(
        !folder
            .path()
            .join("summary_results_hendrycks_math.json")
            .exists()
    );

    let before = server.asked().len();
    allowed.store(usize::MAX, Ordering::SeqCst);
    let done = grade(&words, &[&log]);
    assert_eq!(done.status.code(), Some(0), "{}", message(&done));
    assert_eq!(judged(&lines(&out)), 3);
    assert_eq!(
        server.asked().len() - before,
        2,
        "what was answered is not asked again"
    );
    let summary =
        std::fs::read_to_string(folder.path().join("summary_results_hendrycks_math.json"));
    let summary: Value = serde_json::from_str(&summary.unwrap()).unwrap();
    assert_eq!(
        summary["llm_check_result_accuracy"].as_f64(),
        Some(5.0 / 6.0)
    );
}

#[test]
fn a_judge_that_is_not_there_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let log = judged_log(folder.path());
    let words = ["--task", "AIME", "--judge-model", "no/such/model"];
    let output = grade(&words, &[&log]);
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    assert!(
        message(&output).contains("--judge-url"),
        "{}",
        message(&output)
    );
}
