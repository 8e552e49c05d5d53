//! The CPU executor: transformers' logits in `f32` on every kernel path, and the same bits in any
//! chunking, batch, block size and number of threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use micota::convert::{GgufOptions, OutType, to_gguf};
use micota::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
use micota::engine::{MemoryDemand, ModelRunner, StepInput, StepSequence};
use micota::formats::Checkpoint;
use micota::kernels::cpu::Isa;
use micota::model::Model;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::shared::shared;

/// Largest difference of a logit that float32 arithmetic in another order explains.
const TOLERANCE: f32 = 1e-4;

fn options() -> CpuOptions {
    CpuOptions {
        compute_type: ComputeType::F32,
        quantize: Quantize::None,
        kv_type: KvType::Auto,
        threads: 1,
        isa: Isa::detect(),
        block_size: 16,
        num_blocks: 64,
        max_model_len: 512,
    }
}

fn open(folder: &Path) -> Arc<Model> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    Arc::new(Model::from_checkpoint(Arc::new(checkpoint)).unwrap())
}

/// The tiny models of every family.
fn tiny_models() -> Vec<PathBuf> {
    let Some(shared) = shared() else {
        return Vec::new();
    };
    ["q2t-base", "q3", "ll3-base", "mistral", "gemma3", "phi3"]
        .map(|name| shared.join("golden/tiny").join(name))
        .to_vec()
}

/// A part of one sequence: positions `range` of `tokens`, logits of all of them.
fn part(tokens: &[u32], range: std::ops::Range<usize>, table: &[u32]) -> (Vec<u32>, StepSequence) {
    let sequence = StepSequence {
        first_row: 0,
        num_rows: range.len(),
        num_computed_tokens: range.start,
        block_table: table.to_vec(),
        num_logits: range.len(),
    };
    (tokens[range].to_vec(), sequence)
}

fn step(runner: &mut CpuRunner, parts: Vec<(Vec<u32>, StepSequence)>) -> Vec<Vec<f32>> {
    let mut input = StepInput::default();
    for (tokens, mut sequence) in parts {
        sequence.first_row = input.token_ids.len();
        input.token_ids.extend(tokens);
        input.sequences.push(sequence);
    }
    let mut logits = Vec::new();
    runner.forward(&input, &mut logits).unwrap();
    logits
        .chunks(runner.vocab_size())
        .map(<[f32]>::to_vec)
        .collect()
}

fn check_golden(folder: &Path, golden: &Path) {
    let text = std::fs::read(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&text).unwrap();
    let name = reference["model"].as_str().unwrap();
    let model = open(&golden.join(name));
    let file = std::fs::read(folder.join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for isa in Isa::available() {
        let options = CpuOptions { isa, ..options() };
        let mut runner = CpuRunner::load(&model, &options).unwrap();
        for (sequence, entry) in reference["sequences"].as_object().unwrap() {
            let tokens: Vec<u32> = serde_json::from_value(entry["ids"].clone()).unwrap();
            let table: Vec<u32> = (0..64).collect();
            let logits = step(&mut runner, vec![part(&tokens, 0..tokens.len(), &table)]).concat();
            let expected = tensors.tensor(sequence).unwrap();
            let expected = expected.data().as_chunks::<4>().0;
            assert_eq!(logits.len(), expected.len());
            for (i, (found, expected)) in logits.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                assert!(
                    (found - expected).abs() <= TOLERANCE,
                    "{name} {sequence} on {isa}, logit {i}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn every_golden_model_agrees_with_transformers_on_every_path() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden");
    let mut checked = 0;
    for entry in std::fs::read_dir(golden.join("engine")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            check_golden(&folder, &golden);
            checked += 1;
        }
    }
    assert_eq!(checked, 10);
}

/// Some tokens of a tiny vocabulary.
fn tokens(count: usize, step: usize) -> Vec<u32> {
    (0..count).map(|i| (i * step % 250) as u32 + 1).collect()
}

#[test]
fn a_rows_bits_depend_on_its_sequence_alone() {
    const POSITIONS: usize = 150;
    for folder in tiny_models() {
        let model = open(&folder);
        let (mine, other) = (tokens(POSITIONS, 37), tokens(POSITIONS, 11));
        for (compute_type, quantize, kv_type) in [
            (ComputeType::F32, Quantize::None, KvType::Auto),
            (ComputeType::F32, Quantize::None, KvType::Int8),
            (ComputeType::Bf16, Quantize::None, KvType::Bf16),
            (ComputeType::Bf16, Quantize::None, KvType::Int8),
            (ComputeType::Bf16, Quantize::Int8, KvType::Auto),
            (ComputeType::Bf16, Quantize::Int8By32, KvType::Auto),
            (ComputeType::Bf16, Quantize::Int8PerRow, KvType::Auto),
        ] {
            let plain = CpuOptions {
                compute_type,
                quantize,
                kv_type,
                ..options()
            };
            let mut runner = CpuRunner::load(&model, &plain).unwrap();
            let table: Vec<u32> = (0..10).collect();
            let expected = step(&mut runner, vec![part(&mine, 0..POSITIONS, &table)]);
            for (threads, block_size) in [(1, 32), (2, 16), (2, 128)] {
                let options = CpuOptions {
                    threads,
                    block_size,
                    ..plain
                };
                let mut runner = CpuRunner::load(&model, &options).unwrap();
                let (odd, even): (Vec<u32>, Vec<u32>) = (0..20).partition(|block| block % 2 == 1);
                let mut found = Vec::new();
                // Chunks of prefill, then decoding, another sequence always in the same step.
                let chunks = [0..45, 45..46, 46..140].into_iter();
                for range in chunks.chain((140..POSITIONS).map(|row| row..row + 1)) {
                    let beside = part(&other, range.clone(), &even);
                    let rows = step(&mut runner, vec![beside, part(&mine, range.clone(), &odd)]);
                    found.extend_from_slice(&rows[range.len()..]);
                }
                for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert!(
                        found
                            .iter()
                            .map(|x| x.to_bits())
                            .eq(expected.iter().map(|x| x.to_bits())),
                        "{} {compute_type} {quantize}, KV {kv_type}, {threads} threads, blocks of {block_size}, position {position}",
                        folder.display()
                    );
                }
            }
        }
    }
}

#[test]
fn rounded_types_stay_near_single_precision() {
    for folder in tiny_models() {
        let model = open(&folder);
        let mine = tokens(40, 37);
        let run = |compute_type, quantize, kv_type, isa| {
            let options = CpuOptions {
                compute_type,
                quantize,
                kv_type,
                isa,
                ..options()
            };
            let mut runner = CpuRunner::load(&model, &options).unwrap();
            step(&mut runner, vec![part(&mine, 0..40, &[0, 1, 2])]).concat()
        };
        let exact = run(
            ComputeType::F32,
            Quantize::None,
            KvType::Auto,
            Isa::detect(),
        );
        let square = |sum: f32| (sum / exact.len() as f32).sqrt();
        let size = square(exact.iter().map(|x| x * x).sum());
        for isa in Isa::available() {
            // Rounding alone gives these random models, drawn twenty times over, at most 0.0093,
            // 0.041 and 0.047.
            for (quantize, kv_type, tolerance) in [
                (Quantize::None, KvType::Auto, 0.013),
                (Quantize::None, KvType::Int8, 0.02),
                (Quantize::Int8By32, KvType::Auto, 0.055),
                (Quantize::Int8, KvType::Auto, 0.06),
                (Quantize::Int8PerRow, KvType::Auto, 0.065),
            ] {
                let rounded = run(ComputeType::Bf16, quantize, kv_type, isa);
                let error = exact.iter().zip(&rounded).map(|(a, b)| (a - b).powi(2));
                let error = square(error.sum());
                assert!(
                    error < tolerance * size,
                    "{} on {isa}, {quantize}, KV {kv_type}: logits of {size} are off by {error}",
                    folder.display()
                );
            }
        }
    }
}

#[test]
fn memory_is_what_was_announced() {
    for folder in tiny_models() {
        let model = open(&folder);
        for (compute_type, quantize, kv_type) in [
            (ComputeType::F32, Quantize::None, KvType::Auto),
            (ComputeType::Bf16, Quantize::Auto, KvType::Bf16),
            (ComputeType::Bf16, Quantize::Int8, KvType::Int8),
            (ComputeType::F32, Quantize::Int8PerRow, KvType::Int8),
        ] {
            let options = CpuOptions {
                compute_type,
                quantize,
                kv_type,
                block_size: 32,
                ..options()
            };
            let runner = CpuRunner::load(&model, &options).unwrap();
            let demand = MemoryDemand::on_cpu(&model, compute_type, quantize, kv_type, 32);
            assert_eq!(runner.weight_bytes(), demand.weight_bytes);
            assert_eq!(runner.kv_bytes(), 64 * demand.block_bytes);
            let held: u64 = runner.storage().held.values().sum();
            assert_eq!(held, demand.weight_bytes);
        }
    }
}

#[test]
fn a_copied_block_serves_a_second_sequence() {
    let Some(folder) = tiny_models().into_iter().next() else {
        return;
    };
    let model = open(&folder);
    let mine = tokens(24, 7);
    let mut runner = CpuRunner::load(&model, &options()).unwrap();
    let expected = step(&mut runner, vec![part(&mine, 0..24, &[0, 1])]);
    runner.copy_block(1, 5).unwrap();
    let found = step(&mut runner, vec![part(&mine, 20..24, &[0, 5])]);
    assert_eq!(found, expected[20..]);
}

#[test]
fn a_step_that_cannot_be_run_is_an_error() {
    let Some(folder) = tiny_models().into_iter().next() else {
        return;
    };
    let model = open(&folder);
    let odd = CpuOptions {
        block_size: 20,
        ..options()
    };
    let error = CpuRunner::load(&model, &odd).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cpu: a block size of 20 is no multiple of 16"
    );
    let mut runner = CpuRunner::load(&model, &options()).unwrap();
    let mut refuse = |token: u32, sequence: StepSequence| {
        let input = StepInput {
            token_ids: vec![token],
            sequences: vec![sequence],
        };
        let error = runner.forward(&input, &mut Vec::new()).unwrap_err();
        error.to_string()
    };
    let good = part(&[1], 0..1, &[0]).1;
    assert_eq!(
        refuse(9999, good.clone()),
        "cpu: token 9999 is not in the vocabulary of 288"
    );
    let beyond = StepSequence {
        block_table: vec![64],
        ..good.clone()
    };
    assert_eq!(
        refuse(1, beyond),
        "cpu: block 64 is not in the pool of 64 blocks"
    );
    let missing = StepSequence {
        num_computed_tokens: 16,
        ..good
    };
    assert_eq!(
        refuse(1, missing),
        "cpu: a block table of 1 blocks of 16 positions ends before position 16"
    );
    assert!(runner.copy_block(0, 64).is_err());
}

#[test]
fn blocks_of_a_gguf_file_are_multiplied_as_they_are() {
    let Some(folder) = tiny_models().into_iter().next() else {
        return;
    };
    let target = tempfile::tempdir().unwrap();
    let conversion = GgufOptions {
        outfile: Some(target.path().join("model.gguf")),
        out_type: OutType::Q8_0,
        ..GgufOptions::default()
    };
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let converted = to_gguf(&checkpoint, &conversion, &|_| {}).unwrap();
    let model = open(&converted.files[0]);
    let mine = tokens(40, 37);
    let run = |compute_type, quantize| {
        let options = CpuOptions {
            compute_type,
            quantize,
            ..options()
        };
        let mut runner = CpuRunner::load(&model, &options).unwrap();
        let logits = step(&mut runner, vec![part(&mine, 0..40, &[0, 1, 2])]).concat();
        (logits, runner.storage().clone())
    };
    let (exact, storage) = run(ComputeType::F32, Quantize::Auto);
    assert_eq!(storage.held.keys().collect::<Vec<_>>(), [&"f32"]);
    let (kept, storage) = run(ComputeType::Bf16, Quantize::Auto);
    let held: Vec<_> = storage.held.keys().copied().collect();
    assert_eq!(held, ["int8 in blocks of 32"]);
    assert!(storage.requantised.is_empty());
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
    let error = squares(&mut exact.iter().zip(&kept).map(|(a, b)| a - b));
    let size = squares(&mut exact.iter().copied());
    assert!(error < 0.03_f32.powi(2) * size, "{error} of {size}");
}
