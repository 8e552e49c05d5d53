//! `micota tasks --render` shows exactly what a model reads; data comes from files of every kind.

use std::path::{Path, PathBuf};
use std::process::Command;

use micota::formats::{Checkpoint, Tokenizer};
use micota::task::{
    ChatOptions, ChatTemplate, DataSources, Message, PromptOptions, Registry, prompts,
};
use serde_json::{Value, json};

const AIME: [&str; 3] = [
    "{\"id\":60,\"problem\":\"Find $\\\\frac{1}{2}$.\",\"solution\":\"It is 7.\",\"answer\":\"007\",\"url\":\"u\"}",
    "{\"id\":61,\"problem\":\"Two\\nlines\",\"solution\":\"s\",\"answer\":\"025\",\"url\":\"u\"}",
    "{\"id\":62,\"problem\":\"Third\",\"solution\":\"s\",\"answer\":\"1\",\"url\":\"u\"}",
];

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model")
}

/// A data folder with three problems as AIME's.
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("aime24")).unwrap();
    let path = folder.path().join("aime24/test.jsonl");
    std::fs::write(path, AIME.join("\n")).unwrap();
    folder
}

fn render(folder: &Path, flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.args(["tasks", "--render", "AIME", "--limit", "2", "--data-dir"]);
    command.arg(folder).arg("--model").arg(demo()).args(flags);
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prompts_and_token_ids_are_those_that_a_run_uses() {
    let folder = data();
    let rows: Vec<Value> = serde_json::from_str(&render(folder.path(), &["--json"])).unwrap();
    assert_eq!(rows.len(), 2);
    let expected = "Solve the following math problem. Present the final answer in the format: \
        Final Answer: \\boxed{your_answer}.\nProblem: Find $\\frac{1}{2}$.\nAnswer:";
    assert_eq!(rows[0]["prompt"], expected);
    assert_eq!(rows[0]["target"], "It is 7.");
    let checkpoint = Checkpoint::open(demo()).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    for row in &rows {
        let ids = tokenizer
            .encode(row["prompt"].as_str().unwrap(), false)
            .unwrap();
        assert_eq!(row["prompt_token_ids"], json!(ids));
    }
    let flags = ["--json", "--apply_chat_template"];
    let chat: Vec<Value> = serde_json::from_str(&render(folder.path(), &flags)).unwrap();
    let text = chat[0]["prompt"].as_str().unwrap();
    assert!(
        text.contains(expected) && text.ends_with("<|im_start|>assistant\n"),
        "{text}"
    );

    // The same two documents as a run logs them.
    let out = folder.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_micota-eval"))
        .args([
            "--tasks",
            "AIME",
            "--limit",
            "2",
            "--apply_chat_template",
            "--log_samples",
        ])
        .args(["--gen_kwargs", "max_gen_toks=2", "--data-dir"])
        .arg(folder.path())
        .arg("--model")
        .arg(demo())
        .arg("--output_path")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let logs = micota::eval::log_reader::sample_logs(&out, false).unwrap();
    let text = std::fs::read_to_string(&logs[0]).unwrap();
    for (line, row) in text.lines().zip(&chat) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["arguments"]["gen_args_0"]["arg_0"], row["prompt"]);
        assert_eq!(
            line["prompt_tokens"],
            row["prompt_token_ids"].as_array().unwrap().len()
        );
    }
}

#[test]
fn what_is_rendered_can_be_read() {
    let folder = data();
    let text = render(folder.path(), &[]);
    for part in [
        "== AIME doc 0 (",
        "aime24/test.jsonl:1)",
        "-- prompt (",
        "\nProblem: Two\nlines\nAnswer:\n-- end of prompt\n",
        "-- token ids (",
        "-- target\nIt is 7.\n",
        "-- generation_kwargs\n{\"until\":[\"Problem:\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("doc 2"));
}

/// Writes rows of a problem and an answer as Parquet.
fn write_parquet(path: &Path, rows: &[(&str, i64)]) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = "message rows { required binary question (UTF8); required int64 answer; }";
    let mut writer = SerializedFileWriter::new(
        std::fs::File::create(path).unwrap(),
        parse_message_type(schema).unwrap().into(),
        WriterProperties::default().into(),
    )
    .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts: Vec<ByteArray> = rows
        .iter()
        .map(|(text, _)| ByteArray::from(*text))
        .collect();
    let typed = column.typed::<ByteArrayType>();
    typed.write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let numbers: Vec<i64> = rows.iter().map(|(_, number)| *number).collect();
    let typed = column.typed::<Int64Type>();
    typed.write_batch(&numbers, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// The prompts and targets of the task in `folder/t.yaml`.
fn rendered(folder: &Path, data_dir: Option<&Path>) -> Vec<(String, String)> {
    let registry = Registry::load(&[folder.to_owned()]).unwrap();
    let selection = registry.resolve(&["mine".to_owned()]).unwrap();
    let task = &selection.tasks[0];
    let sources = DataSources::new(data_dir.map(Path::to_owned), None);
    let data = sources.load(task).unwrap();
    let all: Vec<usize> = (0..data.documents.len()).collect();
    let prompts = prompts(task, &data, &all, &PromptOptions::default()).unwrap();
    let pairs = prompts.into_iter();
    pairs
        .map(|prompt| (prompt.text.clone(), prompt.target_text()))
        .collect()
}

#[test]
fn parquet_files_and_lists_of_files_are_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_parquet(&path.join("a.parquet"), &[("one", 1), ("two", 2)]);
    write_parquet(&path.join("b.parquet"), &[("three", 3)]);
    let task = "task: mine\ndataset_path: parquet\ndataset_kwargs:\n  data_files:\n    \
        test: [a.parquet, b.parquet]\ntest_split: test\ndoc_to_text: \"Q: {{question}}\"\n\
        doc_to_target: \"{{answer}}\"\n";
    std::fs::write(path.join("t.yaml"), task).unwrap();
    let expected = [("Q: one", "1"), ("Q: two", "2"), ("Q: three", "3")];
    let expected = expected.map(|(text, target)| (text.to_owned(), target.to_owned()));
    assert_eq!(rendered(path, None), expected);
}

#[test]
fn a_data_folder_holds_sets_by_name_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let task = "task: mine\ndataset_path: someone/sums.v1\ntest_split: test\n\
        doc_to_text: \"Q: {{question}}\"\ndoc_to_target: \"{{answer}}\"\n";
    std::fs::write(folder.path().join("t.yaml"), task).unwrap();
    let expected = [("Q: one".to_owned(), "1".to_owned())];
    let row = "{\"question\": \"one\", \"answer\": 1}";
    for extension in ["parquet", "json", "jsonl"] {
        let data = tempfile::tempdir().unwrap();
        let set = data.path().join("someone/sums.v1");
        std::fs::create_dir_all(&set).unwrap();
        let file = set.join(format!("test.{extension}"));
        match extension {
            "parquet" => write_parquet(&file, &[("one", 1)]),
            "json" => std::fs::write(file, format!("[{row}]")).unwrap(),
            _ => std::fs::write(file, row).unwrap(),
        }
        assert_eq!(
            rendered(folder.path(), Some(data.path())),
            expected,
            "{extension}"
        );
    }
    // A single file is the data of whatever is asked.
    let file = folder.path().join("rows.parquet");
    write_parquet(&file, &[("one", 1)]);
    assert_eq!(rendered(folder.path(), Some(&file)), expected);
}

#[test]
fn few_shot_examples_are_drawn_as_the_reference_draws_them() {
    // Python: r = random.Random(1234); [r.sample(range(12), 5) for _ in range(2)], see
    // golden/components/fewshot_sample.jsonl; here through a task with its own pool.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let rows = |prefix: &str, count: usize| -> String {
        let row = |i| format!("{{\"question\": \"{prefix}{i}\", \"answer\": \"{i}\"}}\n");
        (0..count).map(row).collect()
    };
    std::fs::write(path.join("train.jsonl"), rows("t", 12)).unwrap();
    std::fs::write(path.join("test.jsonl"), rows("q", 2)).unwrap();
    let task = "task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    \
        train: train.jsonl\n    test: test.jsonl\ntraining_split: train\ntest_split: test\n\
        doc_to_text: \"Q: {{question}}\"\ndoc_to_target: \"{{answer}}\"\nnum_fewshot: 5\n";
    std::fs::write(path.join("t.yaml"), task).unwrap();
    let rendered = rendered(path, None);
    let expected = "Q: t7 7\n\nQ: t1 1\n\nQ: t0 0\n\nQ: t10 10\n\nQ: t9 9\n\nQ: q0";
    assert_eq!(rendered[0].0, expected);
    // The generator goes on: the second document has other examples.
    assert_ne!(
        rendered[1].0.replace("q1", "q0"),
        expected,
        "one draw for all documents"
    );
}

#[test]
fn groups_may_hold_groups_and_tags() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let task = |name: &str, tag: &str| {
        format!(
            "task: {name}\ntag: {tag}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: r.jsonl}}}}\n\
             test_split: test\ndoc_to_text: q\ndoc_to_target: a\n"
        )
    };
    put("a.yaml", &task("a", "odd"));
    put("b.yaml", &task("b", "even"));
    put("c.yaml", &task("c", "odd"));
    put("inner.yaml", "group: inner\ntask: [b]\n");
    put(
        "outer.yaml",
        "group: outer\ntask: [inner, odd]\naggregate_metric_list:\n  - metric: exact_match\n    \
         aggregation: mean\n    weight_by_size: true\n",
    );
    put("loop.yaml", "group: loop\ntask: [knot]\n");
    put("knot.yaml", "group: knot\ntask: [loop]\n");
    let registry = Registry::load(&[folder.path().to_owned()]).unwrap();
    let selection = registry.resolve(&["outer".to_owned()]).unwrap();
    let tasks: Vec<&str> = selection
        .tasks
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    assert_eq!(tasks, ["a", "b", "c"]);
    let groups: Vec<(&str, &[String])> = selection
        .groups
        .iter()
        .map(|group| (group.name.as_str(), group.members.as_slice()))
        .collect();
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        groups,
        [
            ("inner", names(&["b"]).as_slice()),
            ("outer", names(&["inner", "a", "c"]).as_slice()),
        ]
    );
    let message = registry
        .resolve(&["loop".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(message.contains("loop"), "{message}");
}

#[test]
fn a_group_of_groups_is_scored_over_all_its_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let demo = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/demo-arith/task.yaml"),
    )
    .unwrap();
    put("a.yaml", &demo.replace("task: demo-arith", "task: first"));
    put("b.yaml", &demo.replace("task: demo-arith", "task: second"));
    put("inner.yaml", "group: inner\ntask: [second]\n");
    put(
        "outer.yaml",
        "group: outer\ntask: [first, inner]\naggregate_metric_list:\n  - metric: exact_match\n    \
         aggregation: mean\n    weight_by_size: true\n",
    );
    let output = Command::new(env!("CARGO_BIN_EXE_micota-eval"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "--model",
            "demo/model",
            "--tasks",
            "outer",
            "--limit",
            "8",
            "--json",
        ])
        .args(["--apply_chat_template", "--include_path"])
        .arg(folder.path())
        .env("XDG_STATE_HOME", folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let score = |place: &str, name: &str| results[place][name]["exact_match,none"].as_f64();
    let first = score("results", "first").unwrap();
    assert_eq!(score("results", "second"), Some(first));
    assert_eq!(
        score("groups", "outer"),
        Some(first),
        "{}",
        results["groups"]
    );
}

#[test]
fn templates_that_would_eat_the_memory_are_refused() {
    let messages = [Message::new("user", "x".repeat(100_000))];
    for growing in [
        "{% set a = namespace(t=text) %}{% for i in range(60) %}{% set a.t = a.t ~ a.t %}{% endfor %}",
        "{% set a = namespace(t=text) %}{% for i in range(60) %}{% set a.t = a.t + a.t %}{% endfor %}",
        "{% macro f(t) %}{{ f(t ~ t) }}{% endmacro %}{{ f(text) }}",
        "{{ text * 99999999 }}",
        "{{ text.replace('x', text) }}",
        "{{ text|replace('x', text) }}",
        "{{ text.join(['x'] * 99999) }}",
        "{{ ''.join([text] * 9999) }}",
        "{{ ('{0}' * 9999).format(text) }}",
        "{{ '{:>99999999999999999999999}'.format(text) }}",
        "{% set t %}{% for i in range(99999) %}{{ text }}{% endfor %}{% endset %}",
    ] {
        let source = format!("{{% set text = messages[0].content %}}{growing}");
        let template = ChatTemplate::new(&source, &[]).unwrap();
        let error = template.render(&messages, &ChatOptions::default());
        let message = error.unwrap_err().to_string();
        let words = ["ran out of fuel", "too large", "more than"];
        assert!(
            words.iter().any(|word| message.contains(word)),
            "{growing}: {message}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"question": "x".repeat(100_000), "answer": "1"});
    std::fs::write(folder.path().join("rows.jsonl"), row.to_string()).unwrap();
    let task = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
        test_split: test\ndoc_to_text: \"{{question|regex_replace('x', question)}}\"\n\
        doc_to_target: answer\n";
    std::fs::write(folder.path().join("t.yaml"), task).unwrap();
    let registry = Registry::load(&[folder.path().to_owned()]).unwrap();
    let task = registry
        .resolve(&["mine".to_owned()])
        .unwrap()
        .tasks
        .remove(0);
    let data = DataSources::default().load(&task).unwrap();
    let refused = prompts(&task, &data, &[0], &PromptOptions::default());
    let message = refused.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("bytes would be put in"), "{message}");
}
