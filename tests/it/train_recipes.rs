//! `micota train` as a user runs it: golden runs of LLaMA-Factory from their own recipes, resuming
//! bit for bit, adapters in and out, refusals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::shared::shared;
use crate::train_workshop::{Workshop, command, lines, read_json, train};

fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors.into_iter().collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
    tensor.to_vec1().unwrap()
}

/// L2 norm of the difference of all tensors over that of the expected ones.
fn relative_difference(found: &Path, expected: &Path) -> f64 {
    let (found, expected) = (tensors(found), tensors(expected));
    let names = |tensors: &BTreeMap<String, Tensor>| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    let (mut error, mut norm) = (0.0, 0.0);
    for (name, expected) in &expected {
        let (found, expected) = (values(&found[name]), values(expected));
        assert_eq!(found.len(), expected.len(), "{name}");
        for (f, e) in found.iter().zip(&expected) {
            error += f64::from(f - e).powi(2);
            norm += f64::from(*e).powi(2);
        }
    }
    (error / norm).sqrt()
}

fn close(found: &Value, expected: &Value, tolerance: f64) -> bool {
    (found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() <= tolerance
}

/// Compares a run's history with golden steps from `first` on.
fn check_history(case: &Path, output: &Path, first: u64, loss: f64, norm: f64) {
    let state = read_json(&output.join("trainer_state.json"));
    let history = state["log_history"].as_array().unwrap();
    for expected in lines(&case.join("steps.jsonl")) {
        let step = &expected["step"];
        if step.as_u64().unwrap() < first {
            continue;
        }
        let entry = |key: &str| {
            let has = |entry: &&Value| entry["step"] == *step && entry.get(key).is_some();
            history
                .iter()
                .find(has)
                .unwrap_or_else(|| panic!("{case:?} step {step}: no {key}"))
        };
        let own = entry("loss");
        let place = format!("{} step {step}: {own} for {expected}", case.display());
        assert!(close(&own["loss"], &expected["loss"], loss), "{place}");
        let golden_norm = expected["grad_norm"].as_f64().unwrap();
        assert!(
            close(
                &own["grad_norm"],
                &expected["grad_norm"],
                norm * golden_norm
            ),
            "{place}"
        );
        assert!(
            close(&own["learning_rate"], &expected["lr"], 1e-12),
            "{place}"
        );
        assert!(close(&own["epoch"], &expected["epoch"], 1e-12), "{place}");
        if let Some(eval_loss) = expected.get("eval_loss") {
            assert!(
                close(&entry("eval_loss")["eval_loss"], eval_loss, loss),
                "{place}"
            );
        }
    }
}

#[test]
fn golden_recipes_give_the_golden_runs() {
    let Some(shared) = shared() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(shared.join("golden/train")).unwrap() {
        let case = entry.unwrap().path();
        if !case.join("steps.jsonl").exists() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let output_dir = format!("output_dir={}", output.display());
        let mut arguments = vec!["config.yaml", &output_dir];
        let is_lora = case.join("adapter_init.safetensors").exists();
        if is_lora {
            arguments.push("adapter_init=adapter_init.safetensors");
        }
        train(&case, &arguments);
        let is_bf16 = case.ends_with("qwen2_full_bf16");
        let (loss, norm) = if is_bf16 { (5e-3, 2e-2) } else { (2e-5, 1e-4) };
        check_history(&case, &output, 1, loss, norm);
        let (own, golden) = if is_lora {
            (
                "adapter_model.safetensors",
                "final_adapter_model.safetensors",
            )
        } else {
            ("model.safetensors", "final_model.safetensors")
        };
        let difference = relative_difference(&output.join(own), &case.join(golden));
        let limit = if is_bf16 { 2e-2 } else { 2e-5 };
        assert!(difference < limit, "{case:?}: weights off by {difference}");
        count += 1;
    }
    assert!(count > 0, "no golden run found");
}

#[test]
fn a_checkpoint_of_the_reference_is_gone_on_from() {
    let Some(shared) = shared() else { return };
    let case = shared.join("golden/train/qwen2_full_cosine");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let output_dir = format!("output_dir={}", output.display());
    let run = train(
        &case,
        &[
            "config.yaml",
            &output_dir,
            "resume_from_checkpoint=checkpoint-10",
        ],
    );
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(stderr.contains("after step 10"), "{stderr}");
    check_history(&case, &output, 11, 2e-5, 1e-4);
    let own = output.join("model.safetensors");
    let difference = relative_difference(&own, &case.join("final_model.safetensors"));
    assert!(difference < 2e-5, "weights off by {difference}");
}

#[test]
fn result_files_are_those_of_the_reference() {
    let Some(shared) = shared() else { return };
    let case = shared.join("golden/train/qwen2_full_cosine");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    train(
        &case,
        &["config.yaml", &format!("output_dir={}", output.display())],
    );
    let golden = |name: &str| read_json(&case.join(format!("example_{name}")));
    let own = read_json(&output.join("all_results.json"));
    let expected = golden("all_results.json");
    assert_eq!(
        (&own["epoch"], &own["total_flos"]),
        (&expected["epoch"], &expected["total_flos"])
    );
    assert!(
        close(&own["train_loss"], &expected["train_loss"], 2e-5),
        "{own}"
    );
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&own), keys(&expected));
    let own = lines(&output.join("trainer_log.jsonl"));
    let expected = lines(&case.join("example_trainer_log.jsonl"));
    assert_eq!(own.len(), expected.len());
    for (own, expected) in own.iter().zip(&expected) {
        assert_eq!(keys(own), keys(expected));
        for key in ["current_steps", "total_steps", "epoch", "percentage"] {
            assert_eq!(own[key].as_f64(), expected[key].as_f64(), "{own}");
        }
    }
    let own = read_json(&output.join("config.json"));
    let expected = golden("config.json");
    for key in [
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "rope_parameters",
        "vocab_size",
    ] {
        assert_eq!(own[key], expected[key], "{key}");
    }
    let generation = read_json(&output.join("generation_config.json"));
    assert_eq!(generation["eos_token_id"], json!([319]));
    let svg = std::fs::read_to_string(output.join("training_loss.svg")).unwrap();
    assert!(svg.ends_with("</svg>\n"));
    assert!(output.join("checkpoint-10").is_dir() && output.join("checkpoint-20").is_dir());
}

#[test]
fn resuming_at_any_step_gives_the_same_bits() {
    let workshop = Workshop::new();
    train(workshop.path(), &["full.yaml"]);
    workshop.resumes_everywhere("full.yaml", "full", "model.safetensors");
    train(workshop.path(), &["lora.yaml"]);
    workshop.resumes_everywhere("lora.yaml", "lora", "adapter_model.safetensors");
}

#[test]
fn a_killed_run_goes_on_by_itself_and_ends_the_same() {
    let workshop = Workshop::new();
    train(workshop.path(), &["full.yaml", "max_steps=12"]);
    let killed = [
        "full.yaml",
        "max_steps=12",
        "output_dir=killed",
        "save_total_limit=2",
    ];
    let mut running = command(workshop.path(), &killed)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reached = workshop.path().join("killed/checkpoint-3");
    let deadline = Instant::now() + Duration::from_secs(300);
    while !reached.exists() && running.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "no third checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    // SIGKILL: nothing can be tidied up.
    running.kill().unwrap();
    running.wait().unwrap();
    train(workshop.path(), &killed);
    let weights = "model.safetensors";
    let [whole, parts] = ["full", "killed"].map(|run| workshop.bytes(&format!("{run}/{weights}")));
    assert!(whole == parts, "other weights after a kill");
    assert_eq!(workshop.history("killed"), workshop.history("full"));
    let steps = |run: &str| {
        let log = lines(&workshop.path().join(run).join("trainer_log.jsonl"));
        log.iter()
            .map(|line| line["current_steps"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps("killed"), steps("full"));
    let entries = std::fs::read_dir(workshop.path().join("killed")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut checkpoints: Vec<String> = names.filter(|name| name.contains("checkpoint")).collect();
    checkpoints.sort();
    assert_eq!(checkpoints, ["checkpoint-11", "checkpoint-12"]);
}

#[test]
fn another_run_s_checkpoint_and_result_are_refused_by_name() {
    let workshop = Workshop::new();
    train(workshop.path(), &["full.yaml", "max_steps=2"]);
    let message = workshop.refused(&["full.yaml", "max_steps=2", "learning_rate=1e-3"]);
    assert!(
        message.contains("learning_rate was 0.01, now 0.001"),
        "{message}"
    );
    let message = workshop.refused(&["full.yaml", "max_steps=3"]);
    assert!(message.contains("total_steps was 2, now 3"), "{message}");
    let message = workshop.refused(&["full.yaml", "max_steps=2", "max_samples=10"]);
    assert!(message.contains("data was"), "{message}");
    let fresh = ["full.yaml", "max_steps=2", "resume_from_checkpoint=false"];
    let message = workshop.refused(&fresh);
    assert!(message.contains("overwrite_output_dir"), "{message}");
    let before = workshop.bytes("full/model.safetensors");
    train(
        workshop.path(),
        &["full.yaml", "max_steps=2", "overwrite_output_dir=true"],
    );
    assert!(workshop.bytes("full/model.safetensors") == before);
    let message = workshop.refused(&["full.yaml", "output_dir=new", "resume_from_checkpoint=true"]);
    assert!(message.contains("no checkpoint"), "{message}");
    // A rate at which the weights leave the range of floats.
    let message = workshop.refused(&[
        "full.yaml",
        "output_dir=diverged",
        "learning_rate=1e38",
        "lr_scheduler_type=constant",
    ]);
    assert!(
        message.contains("last good checkpoint is diverged/checkpoint-"),
        "{message}"
    );
}

#[test]
fn recomputation_changes_no_step_beyond_rounding() {
    let workshop = Workshop::new();
    train(workshop.path(), &["full.yaml"]);
    let kept = [
        "full.yaml",
        "output_dir=kept",
        "disable_gradient_checkpointing=true",
    ];
    train(workshop.path(), &kept);
    let model = |run: &str| workshop.path().join(run).join("model.safetensors");
    let difference = relative_difference(&model("kept"), &model("full"));
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn adapters_go_in_and_out_and_merge() {
    let workshop = Workshop::new();
    train(workshop.path(), &["full.yaml"]);
    train(workshop.path(), &["lora.yaml"]);
    let config = read_json(&workshop.path().join("lora/adapter_config.json"));
    assert_eq!(config["target_modules"], json!(["down_proj", "q_proj"]));
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(8))
    );
    assert!(!workshop.path().join("lora/model.safetensors").exists());
    // The adapter goes on training: its first loss is the last one's neighbour, not the base's.
    let on = [
        "lora.yaml",
        "output_dir=on",
        "adapter_name_or_path=lora",
        "lora_dropout=0",
    ];
    train(workshop.path(), &on);
    // Merged into the base by export, the model gives the loss that base and adapter give.
    workshop.micota(&[
        "export",
        "--model",
        "full",
        "--adapter",
        "lora",
        "--out",
        "merged",
    ]);
    let merged = ["full.yaml", "output_dir=again", "model_name_or_path=merged"];
    let anew = ["train_from_scratch=false", "max_steps=1", "learning_rate=0"];
    train(workshop.path(), &[&merged[..], &anew[..]].concat());
    let adapted = [
        "lora.yaml",
        "output_dir=adapted",
        "model_name_or_path=full",
        "max_steps=1",
    ];
    let new = [
        "adapter_name_or_path=lora",
        "create_new_adapter=true",
        "lora_dropout=0",
    ];
    train(workshop.path(), &[&adapted[..], &new[..]].concat());
    let first = |run: &str| workshop.history(run)[0]["loss"].as_f64().unwrap();
    let difference = (first("again") - first("adapted")).abs();
    assert!(
        difference < 1e-5,
        "{} and {}",
        first("again"),
        first("adapted")
    );
    let message = workshop.refused(&["lora.yaml", "output_dir=x", "lora_target=c_attn"]);
    assert!(message.contains("c_attn"), "{message}");
    let message = workshop.refused(&["lora.yaml", "output_dir=x", "additional_target=lm_head"]);
    assert!(message.contains("tied"), "{message}");
    train(
        workshop.path(),
        &["lora.yaml", "output_dir=norms", "additional_target=norm"],
    );
    let saved = tensors(&workshop.path().join("norms/adapter_model.safetensors"));
    assert!(saved.contains_key("base_model.model.model.norm.weight"));
}

#[test]
fn an_exported_adapter_is_the_reference_s_merge() {
    let Some(shared) = shared() else { return };
    for (case, model) in [
        ("qwen2_lora", "tiny-qwen2"),
        ("llama_lora_default_tpl", "tiny-llama"),
    ] {
        let case = shared.join("golden/train").join(case);
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("adapter");
        std::fs::create_dir(&adapter).unwrap();
        let copy = |from: &str, to: &str| {
            std::fs::copy(case.join(from), adapter.join(to)).unwrap();
        };
        copy("adapter_config.json", "adapter_config.json");
        copy(
            "final_adapter_model.safetensors",
            "adapter_model.safetensors",
        );
        // The form of LLaMA-Factory's own export recipes.
        let recipe = format!(
            "model_name_or_path: {}\nadapter_name_or_path: {}\ntemplate: qwen\n\
             finetuning_type: lora\nexport_dir: merged\nexport_size: 5\nexport_device: cpu\n\
             export_legacy_format: false\n",
            shared.join("golden/train/models").join(model).display(),
            adapter.display()
        );
        let path: PathBuf = folder.path().join("export.yaml");
        std::fs::write(&path, recipe).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
        let output = command
            .args(["export", "export.yaml"])
            .current_dir(folder.path())
            .output();
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("merged model"), "{stderr}");
        let own = folder.path().join("merged/model.safetensors");
        let difference = relative_difference(&own, &case.join("merged_float32.safetensors"));
        assert!(difference < 1e-6, "{difference}");
    }
}

#[test]
fn a_dry_run_shows_rows_steps_memory_and_an_example() {
    let workshop = Workshop::new();
    let output = train(workshop.path(), &["full.yaml", "--dry-run", "max_steps=40"]);
    let shown = String::from_utf8_lossy(&output.stdout);
    for wanted in [
        "20 rows",
        "40 steps",
        "memory",
        "time",
        "stops at <|im_end|>",
        "boxed",
    ] {
        assert!(shown.contains(wanted), "no {wanted} in: {shown}");
    }
    assert!(!workshop.path().join("full").exists());
    let message = workshop.refused(&["full.yaml", "--dry-run", "cutoff_len=40"]);
    assert!(
        message.contains("lose the end of their answer"),
        "{message}"
    );
    // The tokenizer's chat template puts no system text where the qwen layout puts one.
    let other = ["full.yaml", "--dry-run", "template=qwen"];
    let output = train(workshop.path(), &other);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("evaluation would ask"), "{stderr}");
}

#[test]
fn data_of_a_kind_that_is_not_read_is_refused_by_name() {
    let workshop = Workshop::new();
    std::fs::write(workshop.path().join("notes.txt"), "2 + 2 = 4\n").unwrap();
    for name in ["notes.txt", "nobody/nothing"] {
        let message = workshop.refused(&["full.yaml", &format!("dataset={name}")]);
        assert!(
            message.contains(name) && message.contains("parquet"),
            "{message}"
        );
    }
}

#[test]
fn data_make_writes_right_solutions_and_samples_nothing_twice() {
    let workshop = Workshop::new();
    train(
        workshop.path(),
        &["full.yaml", "max_steps=40", "save_strategy=no"],
    );
    let make = |extra: &[&str]| {
        let arguments = [
            "data",
            "make",
            "--problems",
            "data.jsonl",
            "--problem-column",
            "instruction",
            "--suffix",
            "",
            "--model",
            "full",
            "--out",
            "made.json",
            "--max_gen_toks",
            "60",
            "--dtype",
            "f32",
            "--kv-memory",
            "16MiB",
        ];
        workshop.micota(&[&arguments[..], extra].concat())
    };
    let first = make(&["--accept", "any", "--keep-unfinished"]);
    let records = read_json(&workshop.path().join("made.json"));
    assert_eq!(records.as_array().unwrap().len(), 20, "{first:?}");
    for key in [
        "instruction",
        "output",
        "answer",
        "resp_answer",
        "model",
        "grades",
    ] {
        assert!(records[0].get(key).is_some(), "{key}");
    }
    let right =
        |record: &&Value| record["grades"]["symbolic"] == true && record["finish_reason"] == "eos";
    let num_right = records.as_array().unwrap().iter().filter(right).count();
    // The journal is there: other filters load no model.
    let second = make(&["--accept", "symbolic"]);
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(!stderr.contains("loaded in"), "{stderr}");
    let records = read_json(&workshop.path().join("made.json"));
    assert_eq!(records.as_array().unwrap().len(), num_right);
    let statistics = read_json(&workshop.path().join("made.json.stats.json"));
    assert_eq!(statistics["kept"], json!(num_right));
}
