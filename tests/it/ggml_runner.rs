//! The ggml executor's own promises: announced memory, graphs that are used again, copied blocks,
//! and refusals instead of a process that ends.

use std::path::PathBuf;
use std::sync::Arc;

use micota::engine::backends::ggml::{DeviceInfo, GgmlOptions, GgmlRunner};
use micota::engine::{ComputeType, MemoryDemand, ModelRunner, StepInput, StepSequence};
use micota::formats::Checkpoint;
use micota::model::Model;

use crate::devices::ggml_device as device;
use crate::shared::shared;

const MAX_MODEL_LEN: usize = 512;

fn tiny(name: &str) -> Option<Arc<Model>> {
    let folder: PathBuf = shared()?.join("golden/tiny").join(name);
    let checkpoint = Checkpoint::open(folder).unwrap();
    Some(Arc::new(
        Model::from_checkpoint(Arc::new(checkpoint)).unwrap(),
    ))
}

fn options(device: &DeviceInfo) -> GgmlOptions {
    GgmlOptions {
        devices: vec![device.clone()],
        compute_type: ComputeType::F32,
        threads: 1,
        block_size: 16,
        num_blocks: 64,
        max_model_len: MAX_MODEL_LEN,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        attention: None,
    }
}

/// Positions `range` of a sequence of multiples of seven, with logits of all.
fn step(range: std::ops::Range<usize>, table: &[u32]) -> StepInput {
    StepInput {
        token_ids: range.clone().map(|i| (i * 7 % 250) as u32 + 1).collect(),
        sequences: vec![StepSequence {
            first_row: 0,
            num_rows: range.len(),
            num_computed_tokens: range.start,
            block_table: table.to_vec(),
            num_logits: range.len(),
        }],
    }
}

fn run(runner: &mut GgmlRunner, input: &StepInput) -> Vec<f32> {
    let mut logits = Vec::new();
    runner.forward(input, &mut logits).unwrap();
    logits
}

#[test]
fn memory_is_what_was_announced() {
    let Some(device) = device() else { return };
    for name in ["q2t-base", "ll3-base", "gemma3"] {
        let Some(model) = tiny(name) else { return };
        for compute_type in [ComputeType::F32, ComputeType::Bf16] {
            let options = GgmlOptions {
                compute_type,
                ..options(&device)
            };
            let runner = GgmlRunner::load(&model, &options).unwrap();
            let demand =
                MemoryDemand::on_device(&model, device.kind, compute_type, 16, MAX_MODEL_LEN);
            // Norms, biases and rotary tables are not worth announcing.
            let weights = demand.weight_bytes as f64;
            let found = runner.weight_bytes() as f64;
            assert!(
                (found / weights - 1.0).abs() < 0.01,
                "{name}: {found} of {weights}"
            );
            assert_eq!(runner.kv_bytes(), 64 * demand.block_bytes, "{name}");
            assert!(runner.activation_bytes() > 0, "{name}");
        }
    }
}

#[test]
fn a_graph_serves_every_step_of_its_shape() {
    let (Some(device), Some(model)) = (device(), tiny("q2t-base")) else {
        return;
    };
    let mut runner = GgmlRunner::load(&model, &options(&device)).unwrap();
    run(&mut runner, &step(0..20, &[3, 1]));
    assert_eq!(runner.num_graphs(), 1);
    for position in 20..40 {
        run(&mut runner, &step(position..position + 1, &[3, 1, 2]));
    }
    assert_eq!(runner.num_graphs(), 2);
    let before = runner.activation_bytes();
    run(&mut runner, &step(40..60, &[3, 1, 2, 7]));
    assert_eq!(
        (runner.num_graphs(), runner.activation_bytes()),
        (2, before)
    );
}

#[test]
fn a_copied_block_serves_a_second_sequence() {
    let (Some(device), Some(model)) = (device(), tiny("q2t-base")) else {
        return;
    };
    let mut runner = GgmlRunner::load(&model, &options(&device)).unwrap();
    run(&mut runner, &step(0..24, &[0, 1]));
    let expected = run(&mut runner, &step(20..24, &[0, 1]));
    runner.copy_block(1, 5).unwrap();
    assert_eq!(run(&mut runner, &step(20..24, &[0, 5])), expected);
}

#[test]
fn a_step_that_cannot_be_run_is_an_error() {
    let (Some(device), Some(model)) = (device(), tiny("q2t-base")) else {
        return;
    };
    let odd = GgmlOptions {
        block_size: 20,
        ..options(&device)
    };
    let error = GgmlRunner::load(&model, &odd).err().unwrap();
    assert_eq!(
        error.to_string(),
        "ggml: a block size of 20 is no multiple of 16"
    );
    let mut runner = GgmlRunner::load(&model, &options(&device)).unwrap();
    let mut refuse = |input: &StepInput| {
        let error = runner.forward(input, &mut Vec::new()).unwrap_err();
        error.to_string()
    };
    let mut input = step(0..1, &[64]);
    assert_eq!(
        refuse(&input),
        "ggml: block 64 is not in the pool of 64 blocks"
    );
    input = step(0..1, &[0]);
    input.token_ids[0] = 9999;
    assert_eq!(
        refuse(&input),
        "ggml: token 9999 is not in the vocabulary of 288"
    );
    assert!(runner.copy_block(0, 64).is_err());
}

#[test]
fn a_pool_beyond_the_memory_is_refused() {
    let (Some(device), Some(model)) = (device(), tiny("q2t-base")) else {
        return;
    };
    let huge = GgmlOptions {
        num_blocks: 1 << 30,
        ..options(&device)
    };
    let message = GgmlRunner::load(&model, &huge).err().unwrap().to_string();
    assert!(
        message.ends_with("has no memory for the KV cache"),
        "{message}"
    );
}
