//! The ggml executor over random models of every family: the same logits however layers lie on
//! devices and blocks lie in the pool.

use std::sync::Arc;

use micota::engine::backends::ggml::{
    AttentionPath, DeviceInfo, GgmlOptions, GgmlRunner, split_layers,
};
use micota::engine::{ComputeType, Device, DeviceKind, ModelRunner, StepInput, StepSequence};
use micota::model::Model;
use serde_json::json;

use crate::devices::ggml_device as device;
use crate::random_model::{FAMILIES, RandomModel, small_config};

const BLOCK_SIZE: usize = 16;
/// Twice what one sequence is compared with, so that sequences can be read in place.
const NUM_BLOCKS: usize = 48;

fn load(model: &Arc<Model>, devices: Vec<DeviceInfo>, compute_type: ComputeType) -> GgmlRunner {
    load_with(model, devices, compute_type, None)
}

fn load_with(
    model: &Arc<Model>,
    devices: Vec<DeviceInfo>,
    compute_type: ComputeType,
    attention: Option<AttentionPath>,
) -> GgmlRunner {
    let options = GgmlOptions {
        devices,
        compute_type,
        threads: 1,
        block_size: BLOCK_SIZE,
        num_blocks: NUM_BLOCKS,
        max_model_len: model.spec.max_position_embeddings,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        attention,
    };
    GgmlRunner::load(model, &options).unwrap()
}

/// Every family with full attention and with a window, each with other weights.
fn models() -> impl Iterator<Item = (String, Arc<Model>)> {
    let windows = [json!(null), json!(7)];
    let kinds = FAMILIES
        .iter()
        .flat_map(move |(family, _)| windows.clone().map(|window| (*family, window)));
    kinds.zip(1..).map(|((family, window), seed)| {
        let config = small_config(family, &json!({"sliding_window": window}));
        let model = RandomModel::new(config, seed).load().unwrap();
        (format!("{family}, window {window}"), Arc::new(model))
    })
}

/// Rows `range` of every sequence, sequence `i` over `tables[i]`, with logits of all, or of none at
/// the beginning of the prompt.
fn step(range: std::ops::Range<usize>, tables: &[&[u32]]) -> StepInput {
    let mut input = StepInput::default();
    for (index, table) in tables.iter().enumerate() {
        input.sequences.push(StepSequence {
            first_row: input.token_ids.len(),
            num_rows: range.len(),
            num_computed_tokens: range.start,
            block_table: table.to_vec(),
            num_logits: if range.start == 0 { 0 } else { range.len() },
        });
        let token = |position: usize| ((position * 7 + index * 31) % 96) as u32;
        input.token_ids.extend(range.clone().map(token));
    }
    input
}

/// The logits of a prompt in two chunks and of three tokens after it, of several sequences.
fn run(runner: &mut GgmlRunner, tables: &[&[u32]]) -> Vec<f32> {
    let mut all = Vec::new();
    for range in [0..5, 5..20, 20..21, 21..22, 22..23] {
        let mut logits = Vec::new();
        runner.forward(&step(range, tables), &mut logits).unwrap();
        all.extend(logits);
    }
    all
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
}

#[test]
fn layers_on_several_devices_give_the_bits_of_one() {
    let Some(device) = device() else { return };
    let tables: [&[u32]; 3] = [&[4, 1], &[0, 9], &[7, 3]];
    for (name, model) in models() {
        for compute_type in [ComputeType::F32, ComputeType::Bf16] {
            let mut alone = load(&model, vec![device.clone()], compute_type);
            let expected = run(&mut alone, &tables);
            for count in [2, 3] {
                let mut split = load(&model, vec![device.clone(); count], compute_type);
                let found = run(&mut split, &tables);
                assert!(found == expected, "{name} in {compute_type} on {count}");
                assert_eq!(split.weight_bytes(), alone.weight_bytes(), "{name}");
                assert_eq!(split.kv_bytes(), alone.kv_bytes(), "{name}");
            }
        }
    }
}

/// The processor beside another kind of device: memories, cache types and kernels differ.
#[test]
fn layers_on_devices_of_two_kinds_agree_with_one() {
    let Some(device) = device().filter(|device| device.kind != DeviceKind::Cpu) else {
        return;
    };
    let processor = "ggml-cpu".parse::<Device>().unwrap().find().unwrap();
    for (name, model) in models() {
        let mut alone = load(&model, processor.clone(), ComputeType::F32);
        let expected = run(&mut alone, &[&[4, 1], &[0, 9]]);
        let pair = vec![device.clone(), processor[0].clone()];
        for devices in [pair.clone(), pair.into_iter().rev().collect()] {
            let mut split = load(&model, devices, ComputeType::F32);
            let found = run(&mut split, &[&[4, 1], &[0, 9]]);
            let largest = largest_difference(&found, &expected);
            // GPUs multiply in half precision; a wrong key moves a logit by several units.
            assert!(largest <= 0.25, "{name}: {largest}");
        }
    }
}

#[test]
fn a_copied_block_is_copied_on_every_device() {
    let Some(device) = device() else { return };
    for (name, model) in models() {
        let mut runner = load(&model, vec![device.clone(); 3], ComputeType::F32);
        let expected = run(&mut runner, &[&[4, 1]]);
        runner.copy_block(1, 8).unwrap();
        runner.copy_block(4, 2).unwrap();
        let mut found = Vec::new();
        let last = step(22..23, &[&[2, 8]]);
        runner.forward(&last, &mut found).unwrap();
        let largest = largest_difference(&found, &expected[expected.len() - found.len()..]);
        assert!(largest <= 1e-3, "{name}: {largest}");
    }
}

#[test]
fn keys_that_lie_in_one_piece_are_read_in_place() {
    let Some(device) = device() else { return };
    // What rounding can move where kernels choose by how memory lies.
    let slack = match device.kind {
        DeviceKind::Cpu => 0.0,
        _ => 1e-2,
    };
    let apart: [&[u32]; 4] = [&[9, 1], &[5, 0], &[20, 14], &[31, 30]];
    let in_one_piece: [&[u32]; 4] = [&[2, 3], &[12, 13], &[22, 23], &[32, 33]];
    let unevenly: [&[u32]; 4] = [&[2, 3], &[12, 13], &[22, 23], &[31, 32]];
    for (name, model) in models() {
        let plain = Some(AttentionPath::Plain);
        for (compute_type, attention) in [
            (ComputeType::F32, None),
            (ComputeType::F32, plain),
            (ComputeType::Bf16, None),
        ] {
            let mut runner = load_with(&model, vec![device.clone()], compute_type, attention);
            // Blocks of others hold what others wrote, none of which may be seen.
            run(&mut runner, &[&[3, 2], &[13, 12], &[33, 34], &[24, 4]]);
            for sequences in [1, 4] {
                let expected = run(&mut runner, &apart[..sequences]);
                let before = runner.times();
                let found = run(&mut runner, &in_one_piece[..sequences]);
                let after = runner.times();
                let groups = after.num_groups - before.num_groups;
                let in_place = after.num_groups_in_place - before.num_groups_in_place;
                assert_eq!(in_place, groups, "{name}");
                let largest = largest_difference(&found, &expected);
                assert!(largest <= slack, "{name} in {compute_type}: {largest}");
            }
            let expected = run(&mut runner, &apart);
            let before = runner.times().num_groups_in_place;
            let found = run(&mut runner, &unevenly);
            assert_eq!(runner.times().num_groups_in_place, before, "{name}");
            assert!(largest_difference(&found, &expected) <= slack, "{name}");
        }
    }
}

#[test]
fn a_step_laid_out_ahead_gives_the_same_logits() {
    let Some(device) = device() else { return };
    let tables: [&[u32]; 2] = [&[4, 1], &[0, 9]];
    for (name, model) in models() {
        let mut runner = load(&model, vec![device.clone()], ComputeType::F32);
        let found = run(&mut runner, &tables);
        // The first of three tokens comes after a prompt.
        assert_eq!(runner.times().num_laid_out_ahead, 2, "{name}");

        // Another prompt between any two steps: none is what was expected.
        let mut runner = load(&model, vec![device.clone()], ComputeType::F32);
        let mut expected = Vec::new();
        for range in [0..5, 5..20, 20..21, 21..22, 22..23] {
            let mut logits = Vec::new();
            runner.forward(&step(range, &tables), &mut logits).unwrap();
            expected.extend(logits);
            let other = step(0..3, &[&[30]]);
            runner.forward(&other, &mut Vec::new()).unwrap();
        }
        assert_eq!(runner.times().num_laid_out_ahead, 0, "{name}");
        assert!(found == expected, "{name}");
    }
}

#[test]
fn more_devices_than_layers_are_refused() {
    let Some(device) = device() else { return };
    let config = small_config("qwen2", &json!({"num_hidden_layers": 2}));
    let model = RandomModel::new(config, 3).load().unwrap();
    let message = split_layers(&vec![device; 3], &model).unwrap_err();
    assert_eq!(
        message,
        "3 devices for a model of 2 layers; each needs at least one"
    );
}
