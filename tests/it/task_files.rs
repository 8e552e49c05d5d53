//! Task files: what is found by which name, what is merged, and how wrong files are refused.

use std::path::{Path, PathBuf};

use micota::task::{
    DataSources, Overrides, ProcessResults, PromptOptions, Registry, Sampler, TaskConfig, prompts,
};
use proptest::prelude::*;

const TASK: &str = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
                    test_split: test\ndoc_to_text: \"Q: {{question}}\\nA:\"\ndoc_to_target: answer\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn registry(&self) -> Registry {
        Registry::load(&[self.path().to_owned()]).unwrap()
    }

    fn task(&self, name: &str) -> TaskConfig {
        let selection = self.registry().resolve(&[name.to_owned()]).unwrap();
        selection.tasks.into_iter().next().unwrap()
    }
}

fn names(registry: &Registry, patterns: &[&str]) -> Vec<String> {
    let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
    let selection = registry.resolve(&patterns).unwrap();
    selection.tasks.into_iter().map(|task| task.name).collect()
}

fn refusal(text: &str) -> String {
    let folder = Folder::new(&[("t.yaml", text)]);
    let path = folder.path().join("t.yaml").to_str().unwrap().to_owned();
    let registry = Registry::load(&[]).unwrap();
    let message = registry
        .resolve(std::slice::from_ref(&path))
        .unwrap_err()
        .to_string();
    message.replace(&path, "t.yaml")
}

#[test]
fn names_wildcards_tags_groups_and_aliases_select_tasks() {
    let shipped = Registry::load(&[]).unwrap();
    let five = [
        "AIME",
        "AMC",
        "Olympiad",
        "gsm8k_cot_zeroshot",
        "hendrycks_math_500",
    ];
    assert_eq!(
        names(
            &shipped,
            &["gsm8k_zero,AMC,AIME,Olympiad,hendrycks_math_500"]
        ),
        five
    );
    assert_eq!(names(&shipped, &["micota"]), five);
    assert_eq!(names(&shipped, &["aime", "AMC", "amc"]), ["AIME", "AMC"]);
    assert_eq!(names(&shipped, &["a*c"]), ["AMC"]);
    assert_eq!(names(&shipped, &["aime2[45]"]), ["aime24", "aime25"]);
    assert_eq!(
        names(&shipped, &["self_consistency"]),
        ["gsm8k_cot_self_consistency"]
    );
    assert_eq!(names(&shipped, &["gsm8k_cot*", "GSM8K"]).len(), 5);
    let every: Vec<String> = shipped
        .entries()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let selection = shipped.resolve(&every).unwrap();
    assert_eq!(selection.tasks.len(), 15);
    assert_eq!(selection.groups.len(), 1);
    let message = shipped
        .resolve(&["hendricks_math_500".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("did you mean `hendrycks_math_500`"),
        "{message}"
    );
    assert!(shipped.resolve(&["zzz*".to_owned()]).is_err());
}

#[test]
fn files_take_the_place_of_shipped_tasks() {
    let folder = Folder::new(&[
        ("a/t.yaml", &TASK.replace("mine", "AIME")),
        ("broken.yaml", "task: [unclosed"),
        ("fragment_yaml", "x"),
        ("python.yaml", "task: other\nclass: !function task.Other"),
    ]);
    let task = folder.task("AIME");
    assert!(task.source.ends_with("t.yaml"), "{}", task.source);
    assert_eq!(task.process_results, None);
    let message = folder
        .registry()
        .resolve(&["nosuch".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(message.contains("broken.yaml:1:"), "{message}");
    let message = folder
        .registry()
        .resolve(&["other".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(message.contains("Python"), "{message}");
    let by_path = folder.path().join("a").to_str().unwrap().to_owned();
    assert_eq!(names(&Registry::load(&[]).unwrap(), &[&by_path]), ["AIME"]);
    assert!(Registry::load(&[PathBuf::from("/nonexistent/x")]).is_err());
}

#[test]
fn includes_merge_in_the_reference_s_order() {
    let folder = Folder::new(&[
        ("base.yaml", TASK),
        ("one_yaml", "num_fewshot: 1\nrepeats: 3\ndescription: one"),
        (
            "two_yaml",
            "num_fewshot: 2\nrepeats: 4\ntarget_delimiter: two",
        ),
        (
            "t.yaml",
            "include: [one_yaml, two_yaml, base.yaml]\ntask: child\nrepeats: 5",
        ),
        ("self.yaml", "include: self.yaml\ntask: loop"),
        (
            "b.yaml",
            "include: builtin:gsm8k_cot\ntask: cot2\nnum_fewshot: 2",
        ),
    ]);
    let task = folder.task("child");
    assert_eq!((task.num_fewshot, task.repeats), (1, 5));
    assert_eq!(task.target_delimiter, "two");
    assert_eq!(task.description.unwrap().source(), "one");
    let cot = folder.task("cot2");
    assert_eq!((cot.num_fewshot, cot.fewshot.sampler), (2, Sampler::FirstN));
    let path = folder.path().join("self.yaml").to_str().unwrap().to_owned();
    let message = Registry::load(&[])
        .unwrap()
        .resolve(&[path])
        .unwrap_err()
        .to_string();
    assert!(message.contains("include itself"), "{message}");
}

#[test]
fn a_seed_file_reads_as_it_is() {
    let yaml = "tag:\n  - math_word_problems\ntask: AMC\ndataset_path: json\ndataset_kwargs:\n  \
        trust_remote_code: true\n  data_files:\n    train: math_eval_data/amc23/test.jsonl\n    \
        test: math_eval_data/amc23/test.jsonl\nprocess_docs: !function utils.process_docs\n\
        output_type: generate_until\ntraining_split: train\nfewshot_split: train\ntest_split: test\n\
        doc_to_text: \"Problem: {{problem}}\\nAnswer:\"\nprocess_results: !function utils.process_results\n\
        doc_to_target: \"{{answer}}\"\ngeneration_kwargs:\n  until:\n    - \"Problem:\"\n  \
        do_sample: false\n  temperature: 0\nmetric_list:\n\nmetric_list:\n  - metric: exact_match\n    \
        aggregation: mean\n    higher_is_better: true\n    ignore_case: true\n    regexes_to_ignore:\n      - \",\"\n      - \"\\\\$\"\n\
        metadata:\n  version: 1.0\n";
    let folder = Folder::new(&[
        ("AMC.yaml", yaml),
        (
            "math_eval_data/amc23/test.jsonl",
            "{\"problem\": \"p\", \"answer\": 27.0}\n",
        ),
    ]);
    let task = folder.task("AMC");
    assert_eq!(task.process_results, Some(ProcessResults::BoxedTrimmed));
    assert_eq!(task.metric_list.len(), 1);
    assert_eq!(task.metric_list[0].options["regexes_to_ignore"][1], "\\$");
    assert_eq!(task.generation_kwargs["temperature"].to_string(), "0.0");
    assert_eq!(task.notes.len(), 2, "{:?}", task.notes);
    // `data_files` are looked for beside the task's file as well.
    let data = DataSources::default().load(&task).unwrap();
    let prompt = prompts(&task, &data, &[0], &PromptOptions::default())
        .unwrap()
        .remove(0);
    assert_eq!(prompt.text, "Problem: p\nAnswer:");
    assert_eq!(prompt.target_text(), "27.0");
}

#[test]
fn wrong_files_are_refused_with_place_and_hint() {
    for (extra, parts) in [
        (
            "doc_to_txt: x",
            &["t.yaml:7:1", "unknown key `doc_to_txt`", "`doc_to_text`"][..],
        ),
        (
            "process_results: builtin:boxed-trimed",
            &["t.yaml:7:18", "`builtin:boxed-trimmed`"],
        ),
        (
            "process_results: !function utils.process_results",
            &["t.yaml:7:", "builtin:boxed-plain", "utils.process_results"],
        ),
        ("process_docs: !function utils.load", &["builtin:olympiad"]),
        (
            "num_fewshot: many",
            &[
                "t.yaml:7:14",
                "`num_fewshot` expects a whole number",
                "'many'",
            ],
        ),
        ("num_fewshot: 1000000", &["num_fewshot"]),
        ("repeats: 0", &["repeats"]),
        ("output_type: loglikelihood", &["generate_until"]),
        (
            "output_type: generate_untill",
            &["did you mean `generate_until`"],
        ),
        (
            "filter_list: [{name: a, filter: [{function: regx}]}]",
            &["unknown filter `regx`", "`regex`"],
        ),
        (
            "filter_list: [{name: a, filter: [{function: regex, pattern: x}]}]",
            &["unknown key `pattern`"],
        ),
        (
            "filter_list: [{name: a, filter: [{function: take_first_k, k: 0}]}]",
            &["`k` expects"],
        ),
        ("filter_list: {name: a}", &["`filter_list` expects a list"]),
        (
            "metric_list: [{metric: exakt_match}]",
            &["unknown metric `exakt_match`", "`exact_match`"],
        ),
        (
            "metric_list: [{metric: exact_match, aggregation: median}]",
            &["unknown aggregation"],
        ),
        (
            "metric_list: [{metric: exact_match, ignore_caze: true}]",
            &["`ignore_case`"],
        ),
        ("doc_to_choice: [a]", &["multiple-choice"]),
        ("gen_prefix: '{{ a'", &["`gen_prefix`", "line 1"]),
        ("fewshot_config: {sampler: random}", &["unknown sampler"]),
        (
            "fewshot_config: {samples: !function utils.list_fewshot_samples}",
            &["a list of documents"],
        ),
        ("dataset_kwargs: {data_fils: x}", &["`data_files`"]),
        ("include: nosuch.yaml", &["t.yaml:7:10", "nosuch.yaml"]),
        ("include: builtin:nosuch", &["no shipped task"]),
        (
            "generation_kwargs: [1]",
            &["`generation_kwargs` expects a mapping"],
        ),
        ("metadata: 1", &["metadata"]),
        ("tag: {a: 1}", &["tag"]),
        (
            "doc_to_text: !function utils.doc_to_text",
            &["write a template"],
        ),
        ("x: [1, 2", &["t.yaml:"]),
    ] {
        let message = refusal(&format!("{TASK}{extra}\n"));
        for part in parts {
            assert!(
                message.contains(part),
                "{extra}: `{part}` not in: {message}"
            );
        }
    }
    for (missing, key) in [
        ("doc_to_target: answer\n", "doc_to_target"),
        ("test_split: test\n", "test_split"),
    ] {
        let message = refusal(&TASK.replace(missing, ""));
        assert!(message.contains(key), "{message}");
    }
    for text in [
        "[1, 2]",
        "just text",
        "",
        "task: [a, b]",
        "group: g\ntask: [g]",
        "group: g\ntask: [{task: x}]",
        "group: g\ntask: [nosuch]",
    ] {
        refusal(text);
    }
}

#[test]
fn rows_without_the_field_are_named() {
    let folder = Folder::new(&[
        ("t.yaml", TASK),
        (
            "rows.jsonl",
            "{\"question\": \"q\", \"answer\": \"a\"}\n{\"answer\": \"b\"}\n",
        ),
        (
            "olympiad.yaml",
            &(TASK.replace("mine", "o") + "process_docs: builtin:olympiad\n"),
        ),
    ]);
    let task = folder.task("mine");
    let data = DataSources::default().load(&task).unwrap();
    let message = prompts(&task, &data, &[0, 1], &PromptOptions::default())
        .unwrap_err()
        .to_string();
    for part in ["rows.jsonl:2", "`doc_to_text`", "question", "`answer`"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let message = DataSources::default()
        .load(&folder.task("o"))
        .unwrap_err()
        .to_string();
    for part in ["rows.jsonl:1", "`solution`", "builtin:olympiad"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn few_shot_text_is_laid_out_as_in_the_reference() {
    let folder = Folder::new(&[
        (
            "t.yaml",
            &format!(
                "{TASK}num_fewshot: 2\ndescription: \"Solve.\\n\\n\"\nfewshot_config:\n  sampler: first_n\n  \
          samples:\n    - {{question: one, answer: '1'}}\n    - {{question: two, answer: '2'}}\n"
            ),
        ),
        ("rows.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n"),
        (
            "zero.yaml",
            &format!("{}num_fewshot: 0\n", TASK.replace("mine", "zero")),
        ),
    ]);
    let mut task = folder.task("mine");
    let data = DataSources::default().load(&task).unwrap();
    let prompt = prompts(&task, &data, &[0], &PromptOptions::default())
        .unwrap()
        .remove(0);
    assert_eq!(
        prompt.text,
        "Solve.\n\nQ: one\nA: 1\n\nQ: two\nA: 2\n\nQ: q\nA:"
    );
    let overrides = Overrides {
        num_fewshot: Some(3),
        ..Overrides::default()
    };
    task.apply(&overrides);
    assert_eq!(task.effective["num_fewshot"], 3);
    let message = prompts(&task, &data, &[0], &PromptOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("3 few-shot examples wanted, 2 available"),
        "{message}"
    );
    let mut zero = folder.task("zero");
    zero.apply(&overrides);
    assert_eq!((zero.num_fewshot, zero.notes.len()), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_task_file_panics(key in "[a-z_]{3,12}|metric_list|filter_list|fewshot_config|generation_kwargs|dataset_kwargs|include|tag|repeats",
                           value in "[\\[\\]{}:, \n\"'!&*a-z0-9_.-]{0,40}") {
        let folder = Folder::new(&[("t.yaml", &format!("{TASK}{key}: {value}\n"))]);
        let path = folder.path().join("t.yaml").to_str().unwrap().to_owned();
        let _ = Registry::load(&[]).unwrap().resolve(&[path]);
    }
}
