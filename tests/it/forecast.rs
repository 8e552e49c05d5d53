//! What `micota plan` computes: memory that adds up, and rates that follow from the limits.

use std::process::Command;

use micota::engine::{ComputeType, DeviceKind, DeviceLimit, Forecast, Plan, forecast};
use micota::model::Model;
use serde_json::{Value, json};

use crate::random_model::{FAMILIES, RandomModel, small_config};

const PLAN: Plan = Plan {
    compute_type: ComputeType::Bf16,
    prompt_tokens: 32,
    answer_tokens: 64,
    concurrency: 4,
    max_num_batched_tokens: 64,
};

const DEVICE: DeviceLimit = DeviceLimit {
    memory_bytes: 1 << 30,
    flops: 1e12,
    bytes_per_s: 1e9,
    kind: Some(DeviceKind::Gpu),
};

fn model() -> Model {
    RandomModel::new(small_config("qwen2", &json!({})), 5)
        .load()
        .unwrap()
}

fn of(device: DeviceLimit, plan: Plan) -> Forecast {
    forecast(&model(), &device, &plan)
}

#[test]
fn memory_adds_up_to_the_share_that_may_be_used() {
    let found = of(DEVICE, PLAN);
    let used = found.weight_bytes + found.activation_bytes + found.kv_bytes;
    let share = used as f64 / DEVICE.memory_bytes as f64;
    assert!((share - 0.85).abs() < 1e-6, "{share}");
    // Three blocks of 32 positions hold a sequence of 96.
    let sequence = 96 * found.kv_bytes_per_token;
    assert_eq!(found.fitting_sequences, found.kv_bytes / sequence);
    assert_eq!(found.concurrency, 4);
}

#[test]
fn decoding_where_memory_is_slow_reads_weights_and_keys_once_a_step() {
    let found = of(DEVICE, PLAN);
    let rates = found.at_limit.unwrap();
    assert!(rates.is_memory_bound);
    // Half of an answer is there on average, and the new token.
    let positions = 4 * (32 + 32 + 1);
    let bytes = found.weight_bytes + positions * found.kv_bytes_per_token;
    let expected = 4.0 * DEVICE.bytes_per_s / bytes as f64;
    assert!((rates.decode_tokens_per_s / expected - 1.0).abs() < 1e-9);
    let slow = DeviceLimit {
        flops: 1e6,
        ..DEVICE
    };
    let rates = of(slow, PLAN).at_limit.unwrap();
    assert!(!rates.is_memory_bound);
    assert!(rates.decode_tokens_per_s < expected);
}

#[test]
fn a_device_that_holds_fewer_sequences_runs_fewer() {
    let roomy = of(DEVICE, PLAN);
    let sequence = 96 * roomy.kv_bytes_per_token;
    let fixed = roomy.weight_bytes + roomy.activation_bytes;
    let holding = |sequences: u64| DeviceLimit {
        memory_bytes: ((fixed + sequences * sequence + 1000) as f64 / 0.85) as u64,
        ..DEVICE
    };
    assert_eq!(of(holding(2), PLAN).concurrency, 2);
    let none = of(holding(0), PLAN);
    assert_eq!((none.concurrency, none.at_limit), (0, None));
    assert_eq!(none.seconds(&PLAN, 10, 0.5), None);
    let (full, half) = (
        roomy.seconds(&PLAN, 10, 1.0).unwrap(),
        roomy.seconds(&PLAN, 10, 0.5).unwrap(),
    );
    assert!((half / full - 2.0).abs() < 1e-9);
}

/// `micota plan` of a folder for a device by name, without what names the folder.
fn planned(folder: &std::path::Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    let output = command.arg("plan").arg(folder);
    let output = output.args(["--gpu", "h100", "--json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let mut plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    plan.as_object_mut().unwrap().remove("model");
    plan
}

#[test]
fn a_configuration_without_weights_is_planned_like_the_whole_model() {
    for (family, _) in FAMILIES {
        for tied in [true, false] {
            let config = small_config(family, &json!({"tie_word_embeddings": tied}));
            let folder = tempfile::tempdir().unwrap();
            RandomModel::new(config, 3).write(folder.path());
            let whole = planned(folder.path());
            assert!(whole["weight_bytes"].as_u64().unwrap() > 0, "{family}");
            std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
            assert_eq!(planned(folder.path()), whole, "{family}, tied: {tied}");
        }
    }
}
