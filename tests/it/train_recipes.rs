//! `micota train` as a user runs it: golden runs of LLaMA-Factory from their own recipes, resuming
//! bit for bit, adapters in and out, refusals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::shared::shared;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.arg("train").args(arguments).current_dir(folder);
    command
}

/// Runs a recipe in `folder`; it must succeed.
fn train(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder, arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    output
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

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
