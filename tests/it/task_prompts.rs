//! Documents, prompts, targets and few-shot draws against the reference harness.

use micota::eval::hashes::{doc_hash, text_hash};
use micota::task::{
    ChatOptions, ChatTemplate, DataSources, FewshotSampler, Message, PromptOptions, Registry,
    Selection, TaskConfig, prompts,
};
use serde_json::Value;

use crate::shared::shared;

/// Qwen2.5's template, as far as one user message reaches: the golden hashes were made with the
/// text that it gives.
const CHATML: &str = "{%- if messages[0]['role'] == 'system' %}\n\
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n\
    {%- else %}\n\
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}\n\
    {%- endif %}\n\
    {%- for message in messages %}\n\
    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n\
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n\
    {%- endif %}\n\
    {%- endfor %}\n\
    {%- if add_generation_prompt %}\n\
    {{- '<|im_start|>assistant\\n' }}\n\
    {%- endif %}\n";

const FIVE: [&str; 5] = [
    "AIME",
    "AMC",
    "Olympiad",
    "gsm8k_cot_zeroshot",
    "hendrycks_math_500",
];

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn select(patterns: &[&str]) -> Selection {
    let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
    Registry::load(&[]).unwrap().resolve(&patterns).unwrap()
}

fn one(name: &str) -> TaskConfig {
    select(&[name]).tasks.pop().unwrap()
}

#[test]
fn every_document_prompt_and_target_hashes_as_in_the_reference() {
    let Some(shared) = shared() else { return };
    let template = ChatTemplate::new(CHATML, &[("eos_token", "<|im_end|>")]).unwrap();
    let sources = DataSources::new(Some(shared.join("data")), None);
    let mut num_documents = 0;
    for name in FIVE {
        let task = one(name);
        let data = sources.load(&task).unwrap();
        let golden = lines(&shared.join(format!("golden/hashes/{name}.jsonl")));
        assert_eq!(data.documents.len(), golden.len(), "{name}");
        let doc_ids: Vec<usize> = (0..golden.len()).collect();
        let plain = prompts(&task, &data, &doc_ids, &PromptOptions::default()).unwrap();
        let options = PromptOptions {
            chat_template: Some(&template),
            ..PromptOptions::default()
        };
        let chat = prompts(&task, &data, &doc_ids, &options).unwrap();
        for (doc_id, row) in golden.iter().enumerate() {
            let fields = &data.documents[doc_id].fields;
            assert_eq!(row["doc_index"], doc_id, "{name}");
            assert_eq!(row["doc_hash"], doc_hash(fields), "{name} {doc_id}: doc");
            let prompt = text_hash(&plain[doc_id].text);
            assert_eq!(row["prompt_hash"], prompt, "{name} {doc_id}: prompt");
            let target = text_hash(&plain[doc_id].target_text());
            assert_eq!(row["target_hash"], target, "{name} {doc_id}: target");
            let prompt = text_hash(&chat[doc_id].text);
            assert_eq!(
                row["prompt_hash_chatml"], prompt,
                "{name} {doc_id}: chat prompt"
            );
        }
        num_documents += golden.len();
    }
    assert_eq!(num_documents, 2564);
}

#[test]
fn logged_samples_have_our_documents_targets_and_arguments() {
    let Some(shared) = shared() else { return };
    let template = ChatTemplate::new(CHATML, &[]).unwrap();
    let options = PromptOptions {
        chat_template: Some(&template),
        ..PromptOptions::default()
    };
    let sources = DataSources::new(Some(shared.join("data")), None);
    let overrides = micota::task::Overrides {
        gen_kwargs: micota::task::parse_kwargs("do_sample=false,temperature=0,max_gen_toks=16000")
            .unwrap(),
        ..micota::task::Overrides::default()
    };
    let folder = shared.join("golden/lmeval/saves__model");
    for mut task in select(&FIVE).tasks {
        task.apply(&overrides);
        let data = sources.load(&task).unwrap();
        let samples = format!("samples_{}_2025-07-01T12-00-00.000000.jsonl", task.name);
        for sample in lines(&folder.join(samples)) {
            let doc_id = sample["doc_id"].as_u64().unwrap() as usize;
            let prompt = prompts(&task, &data, &[doc_id], &options)
                .unwrap()
                .remove(0);
            let arguments = &sample["arguments"]["gen_args_0"];
            assert_eq!(
                sample["doc"].to_string(),
                Value::from(data.documents[doc_id].fields.clone()).to_string()
            );
            assert_eq!(sample["target"], prompt.target_text());
            assert_eq!(arguments["arg_0"], prompt.text);
            let kwargs = Value::from(task.generation_kwargs.clone());
            assert_eq!(arguments["arg_1"].to_string(), kwargs.to_string());
        }
    }
}

#[test]
fn effective_configurations_look_as_in_the_reference() {
    let Some(shared) = shared() else { return };
    let path = "golden/lmeval/saves__model/results_2025-07-01T12-00-00.000000.json";
    let results = std::fs::read_to_string(shared.join(path)).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    // Where our files differ on purpose: hooks by name, data by set, no dead options.
    let ours = [
        "dataset_path",
        "dataset_kwargs",
        "process_docs",
        "process_results",
        "training_split",
        "fewshot_split",
        "metric_list",
        "metadata",
    ];
    for mut task in select(&FIVE).tasks {
        task.apply(&micota::task::Overrides {
            gen_kwargs: micota::task::parse_kwargs(
                "do_sample=false,temperature=0,max_gen_toks=16000",
            )
            .unwrap(),
            ..micota::task::Overrides::default()
        });
        let golden = results["configs"][&task.name].as_object().unwrap();
        let keys = |map: &serde_json::Map<String, Value>| -> Vec<String> {
            map.keys()
                .filter(|key| !ours.contains(&key.as_str()))
                .cloned()
                .collect()
        };
        assert_eq!(keys(&task.effective), keys(golden), "{}", task.name);
        for key in keys(golden) {
            let (ours, theirs) = (task.effective[&key].to_string(), golden[&key].to_string());
            assert_eq!(ours, theirs, "{}: {key}", task.name);
        }
        assert_eq!(
            task.version().to_string(),
            results["versions"][&task.name].to_string()
        );
    }
}

#[test]
fn few_shot_draws_are_python_s() {
    let Some(shared) = shared() else { return };
    for case in lines(&shared.join("golden/components/fewshot_sample.jsonl")) {
        let number = |key: &str| case[key].as_u64().unwrap();
        let mut sampler = FewshotSampler::new(number("seed"));
        for draw in case["draws"].as_array().unwrap() {
            let expected: Vec<usize> = draw
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i.as_u64().unwrap() as usize)
                .collect();
            let drawn = sampler.draw(number("population") as usize, number("k") as usize);
            assert_eq!(drawn, Some(expected), "{case}");
        }
    }
}

#[test]
fn chat_templates_of_the_tiny_models_render_as_in_transformers() {
    let Some(shared) = shared() else { return };
    let mut num_models = 0;
    for entry in std::fs::read_dir(shared.join("golden/engine")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(reference) = std::fs::read_to_string(folder.join("reference.json")) else {
            continue;
        };
        let reference: Value = serde_json::from_str(&reference).unwrap();
        let model = shared.join("golden/tiny").join(folder.file_name().unwrap());
        let config = std::fs::read_to_string(model.join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let tokens: Vec<(&str, &str)> = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .filter_map(|name| Some((name, config[name].as_str()?)))
            .collect();
        let template = ChatTemplate::new(config["chat_template"].as_str().unwrap(), &tokens);
        let messages: Vec<Message> =
            serde_json::from_value(reference["chat"]["messages"].clone()).unwrap();
        let text = template
            .unwrap()
            .render(&messages, &ChatOptions::default())
            .unwrap();
        assert_eq!(reference["chat"]["rendered"], text, "{}", model.display());
        num_models += 1;
    }
    assert!(num_models >= 9, "{num_models} models");
}
