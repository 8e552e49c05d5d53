//! A complete run of lm-evaluation-harness, replayed: its responses go in, its files come out.

use std::collections::HashMap;
use std::path::Path;

use micota::engine::{Request, RequestError};
use micota::eval::execute::{Unobserved, execute};
use micota::eval::naming::{OutputFiles, model_name_of_args};
use micota::eval::output::{self, Report};
use micota::eval::plan::PlannedTask;
use micota::eval::prepare::{DocChoice, PlanOptions, PromptEncoder, plan};
use micota::eval::record::request_id;
use micota::eval::results::{RunInfo, headline};
use micota::eval::{ScriptedGenerator, execute::Outcome, table};
use micota::task::{ChatTemplate, DataSources, Overrides, PromptOptions, Registry, parse_kwargs};
use serde_json::{Map, Value};

use crate::shared::shared;

/// What Qwen2.5's template gives for one user message.
const CHATML: &str = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful \
    assistant.<|im_end|>\n{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ '' }}";
const MODEL_ARGS: &str = "pretrained=saves/model,tensor_parallel_size=4,\
    gpu_memory_utilization=0.85,max_model_len=16000,enforce_eager=True";
const GEN_KWARGS: &str = "do_sample=false,temperature=0,max_gen_toks=16000";
const TASKS: &str = "gsm8k_zero,AMC,AIME,Olympiad,hendrycks_math_500";
const DATE: &str = "2025-07-01T12-00-00.000000";

/// One token a byte.
struct Bytes;

impl PromptEncoder for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn bos_token_id(&self) -> Option<u32> {
        None
    }
    fn eos_text(&self) -> Option<&str> {
        Some("<|im_end|>")
    }
    fn stop_token_ids(&self) -> &[u32] {
        &[]
    }
}

fn planned(shared: &Path) -> Vec<PlannedTask> {
    let registry = Registry::load(&[]).unwrap();
    let selection = registry.resolve(&[TASKS.to_owned()]).unwrap();
    let template = ChatTemplate::new(CHATML, &[]).unwrap();
    let sources = DataSources {
        data_dir: Some(shared.join("data")),
        ..DataSources::default()
    };
    let overrides = Overrides {
        num_fewshot: None,
        gen_kwargs: parse_kwargs(GEN_KWARGS).unwrap(),
        metadata: parse_kwargs(MODEL_ARGS).unwrap(),
    };
    let options = PlanOptions {
        prompt: PromptOptions {
            chat_template: Some(&template),
            ..PromptOptions::default()
        },
        choice: DocChoice::Limit(10.0),
        ..PlanOptions::default()
    };
    let fits =
        |request: &Request| -> Result<usize, RequestError> { Ok(request.params.max_gen_toks) };
    let tasks = selection.tasks.into_iter().map(|mut task| {
        task.apply(&overrides);
        let data = sources.load(&task).unwrap();
        plan(&task, &data, &options, &Bytes, &fits).unwrap().0
    });
    tasks.collect()
}

fn lines(path: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_reference_run_comes_out_the_same() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/lmeval");
    let expected =
        std::fs::read_to_string(golden.join(format!("saves__model/results_{DATE}.json")));
    let expected: Map<String, Value> = serde_json::from_str(&expected.unwrap()).unwrap();
    let tasks = planned(&shared);
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let expected_names: Vec<&String> = expected["results"].as_object().unwrap().keys().collect();
    assert_eq!(names, expected_names);

    let mut responses = HashMap::new();
    let mut samples = HashMap::new();
    for name in &names {
        let rows = lines(&golden.join(format!("saves__model/samples_{name}_{DATE}.jsonl")));
        for row in &rows {
            let doc_id = row["doc_id"].as_u64().unwrap() as usize;
            let response = row["resps"][0][0].as_str().unwrap().to_owned();
            responses.insert(request_id(name, doc_id), response);
        }
        samples.insert((*name).to_owned(), rows);
    }
    let mut generator =
        ScriptedGenerator::new(3, |request: &Request, _| responses[&request.id].clone());
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let (mut journal, finished) = micota::durable::Journal::open(&journal, &Map::new()).unwrap();
    let jobs = tasks.iter().flat_map(PlannedTask::jobs).collect();
    let outcome = execute(
        jobs,
        finished,
        &mut journal,
        &mut generator,
        &mut Unobserved,
    )
    .unwrap();
    let Outcome::Finished(answers) = outcome else {
        panic!("nobody interrupted it");
    };
    let info = RunInfo {
        model: "canned".to_owned(),
        model_args: MODEL_ARGS.to_owned(),
        model_name: model_name_of_args(MODEL_ARGS).to_owned(),
        batch_size: "auto".into(),
        limit: Some(10.0),
        gen_kwargs: parse_kwargs(GEN_KWARGS).unwrap(),
        gen_kwargs_text: Some(GEN_KWARGS.to_owned()),
        seeds: [Some(0), Some(1234), Some(1234), Some(1234)],
        chat_template: Some(CHATML.to_owned()),
        ..RunInfo::default()
    };
    let report = Report {
        tasks: &tasks,
        groups: &[],
        info: &info,
        answers: &answers,
        eos_text: Some("<|im_end|>"),
        log_samples: true,
        predict_only: false,
        manifest: Map::new(),
        started: std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_751_371_200),
    };
    let files = OutputFiles::new(folder.path(), &info.model_name, DATE);
    let written = output::write(report, Some(&files)).unwrap();

    for name in &names {
        let path = folder
            .path()
            .join(format!("saves__model/samples_{name}_{DATE}.jsonl"));
        assert_same_samples(&lines(&path), &samples[*name]);
    }
    assert_same_results(&written.results, &expected);
    let printed = std::fs::read_to_string(golden.join("stdout.txt")).unwrap();
    let ours =
        headline(&info) + "\n" + &table::render(&written.results, table::Block::Tasks) + "\n";
    assert_eq!(ours, printed);
}

/// Every key of the reference, in its order, before every key of ours.
fn assert_same_samples(found: &[Map<String, Value>], expected: &[Map<String, Value>]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        for ((key, value), (expected_key, expected_value)) in found.iter().zip(expected) {
            assert_eq!(key, expected_key);
            assert_eq!(value.to_string(), expected_value.to_string(), "{key}");
        }
        assert!(found.len() > expected.len());
    }
}

fn assert_same_results(found: &Map<String, Value>, expected: &Map<String, Value>) {
    let keys: Vec<&String> = found.keys().filter(|key| *key != "micota").collect();
    assert_eq!(keys, expected.keys().collect::<Vec<_>>());
    // What the reference's goldens left out, and what names the program that ran.
    let machine = [
        "pretty_env_info",
        "transformers_version",
        "chat_template",
        "chat_template_sha",
        "start_time",
        "end_time",
        "total_evaluation_time_seconds",
        "configs",
    ];
    for key in keys {
        if !machine.contains(&key.as_str()) {
            assert_eq!(found[key].to_string(), expected[key].to_string(), "{key}");
        }
    }
    for (name, config) in expected["configs"].as_object().unwrap() {
        let ours = found["configs"][name].as_object().unwrap();
        let theirs = config.as_object().unwrap();
        // Functions appear by the name of their built-in; the data lies elsewhere.
        let own = [
            "process_docs",
            "process_results",
            "dataset_path",
            "dataset_name",
            "dataset_kwargs",
            "training_split",
            "test_split",
            "fewshot_split",
        ];
        let common = |config: &Map<String, Value>| -> Vec<String> {
            let keys = config.keys().filter(|key| !own.contains(&key.as_str()));
            keys.cloned().collect()
        };
        assert_eq!(common(ours), common(theirs), "{name}");
        for (key, value) in theirs {
            if !own.contains(&key.as_str()) {
                assert_eq!(ours[key].to_string(), value.to_string(), "{name}.{key}");
            }
        }
    }
}
