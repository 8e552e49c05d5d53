//! Every executor against transformers' logits (golden models) and against the reference decoder
//! (random models of every configuration), in mixed batches of prompt chunks and single tokens.

use std::path::Path;
use std::sync::Arc;

use micota::convert::{GgufOptions, OutType, to_gguf};
#[cfg(feature = "ggml")]
use micota::convert::{QuantisedType, quantise};
use micota::engine::{ComputeType, StepInput, StepSequence};
use micota::formats::Checkpoint;
#[cfg(feature = "ggml")]
use micota::formats::DType;
use micota::model::{Model, reference_forward};
use micota::random::CounterRng;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::devices::{TestDevice, quick_devices, test_devices};
#[cfg(feature = "ggml")]
use crate::quantising::options;
use crate::random_model::{RandomModel, small_config};
use crate::shared::shared;
#[cfg(feature = "ggml")]
use crate::synthetic_gguf::Sizes;

const BLOCK_SIZE: usize = 16;

/// Runs whole sequences through the executor, several at a time, each in random chunks of rows,
/// over blocks in a scattered order. Returns every position's logits of every sequence.
fn run_mixed(
    model: &Arc<Model>,
    compute_type: ComputeType,
    device: &TestDevice,
    sequences: &[Vec<u32>],
) -> Vec<Vec<f32>> {
    let blocks_of = |sequence: &Vec<u32>| sequence.len().div_ceil(BLOCK_SIZE);
    let num_blocks: usize = sequences.iter().map(blocks_of).sum();
    let mut runner = device.runner(model, compute_type, BLOCK_SIZE, num_blocks);
    // Every third block after the other, so that no table is consecutive.
    let mut scattered = (0..3).flat_map(|start| (start..num_blocks as u32).step_by(3));
    let tables: Vec<Vec<u32>> = sequences
        .iter()
        .map(|sequence| scattered.by_ref().take(blocks_of(sequence)).collect())
        .collect();
    let rng = CounterRng::new(11);
    let mut draw = 0;
    let mut done = vec![0; sequences.len()];
    let mut logits = vec![Vec::new(); sequences.len()];
    while (0..sequences.len()).any(|i| done[i] < sequences[i].len()) {
        let mut input = StepInput::default();
        let mut owners = Vec::new();
        for (i, sequence) in sequences.iter().enumerate() {
            let left = sequence.len() - done[i];
            // Some sequences pause, some decode one token, some bring a chunk.
            let wanted = [0, 1, 1, 7, 20][rng.block(draw)[0] as usize % 5];
            draw += 1;
            let num_rows = left.min(wanted);
            if num_rows == 0 {
                continue;
            }
            owners.push(i);
            input.sequences.push(StepSequence {
                first_row: input.token_ids.len(),
                num_rows,
                num_computed_tokens: done[i],
                block_table: tables[i][..(done[i] + num_rows).div_ceil(BLOCK_SIZE)].to_vec(),
                num_logits: num_rows,
            });
            input
                .token_ids
                .extend(&sequence[done[i]..done[i] + num_rows]);
            done[i] += num_rows;
        }
        if owners.is_empty() {
            continue;
        }
        let mut step = Vec::new();
        runner.forward(&input, &mut step).unwrap();
        let mut rows = step.chunks_exact(model.spec.vocab_size);
        for (owner, sequence) in owners.into_iter().zip(&input.sequences) {
            let of_sequence = rows.by_ref().take(sequence.num_logits);
            logits[owner].extend(of_sequence.flatten());
        }
    }
    logits
}

/// Largest and root-mean-square difference.
fn differences(found: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let squares: f32 = pairs.clone().map(|(f, e)| (f - e).powi(2)).sum();
    let largest = pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
    (largest, (squares / found.len() as f32).sqrt())
}

struct Golden {
    name: String,
    model: Arc<Model>,
    sequences: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

fn golden_models(shared: &Path) -> Vec<Golden> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let folder = entry.unwrap().path();
        folder.is_dir().then(|| {
            let text = std::fs::read(folder.join("reference.json")).unwrap();
            let reference: Value = serde_json::from_slice(&text).unwrap();
            let name = reference["model"].as_str().unwrap().to_owned();
            let checkpoint = Checkpoint::open(shared.join("golden").join(&name)).unwrap();
            let file = std::fs::read(folder.join("logits.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&file).unwrap();
            let entries = reference["sequences"].as_object().unwrap();
            let logits = entries.keys().map(|sequence| {
                let tensor = tensors.tensor(sequence).unwrap();
                let values = tensor.data().as_chunks::<4>().0.iter();
                values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
            });
            let ids = |entry: &Value| serde_json::from_value(entry["ids"].clone()).unwrap();
            Golden {
                name,
                model: Arc::new(Model::from_checkpoint(Arc::new(checkpoint)).unwrap()),
                logits: logits.collect(),
                sequences: entries.values().map(ids).collect(),
            }
        })
    };
    let folders = std::fs::read_dir(shared.join("golden/engine")).unwrap();
    let models: Vec<Golden> = folders.filter_map(read).collect();
    assert_eq!(models.len(), 10);
    models
}

#[test]
fn single_precision_agrees_with_transformers_on_every_executor() {
    let Some(shared) = shared() else { return };
    for golden in golden_models(&shared) {
        for device in test_devices() {
            let found = run_mixed(&golden.model, ComputeType::F32, &device, &golden.sequences);
            for (i, (found, expected)) in found.iter().zip(&golden.logits).enumerate() {
                let (largest, _) = differences(found, expected);
                assert!(
                    largest <= 1e-4 * device.slack(),
                    "{} {device} sequence {i}: {largest}",
                    golden.name
                );
            }
        }
    }
}

/// bfloat16 keeps 8 bits, so a logit of these models moves by a tenth at most (llama.cpp's BF16:
/// golden/gguf/README.md); a wrong mask, scale or norm moves it by several units.
#[test]
fn bfloat16_stays_close_to_transformers() {
    let Some(shared) = shared() else { return };
    for golden in golden_models(&shared) {
        for device in test_devices() {
            let found = run_mixed(&golden.model, ComputeType::Bf16, &device, &golden.sequences);
            let (largest, rms) = differences(&found.concat(), &golden.logits.concat());
            let what = format!("{} {device}: {largest}, rms {rms}", golden.name);
            assert!(largest <= 0.25 && rms <= 0.03, "{what}");
        }
    }
}

/// Whether the executor and the reference decoder agree on a random model, in single precision
/// closely and in bfloat16 coarsely.
fn check(model_type: &str, changes: &Value) {
    let random = RandomModel::new(small_config(model_type, changes), 5);
    let model = Arc::new(random.load().unwrap());
    let (vocab, context) = (
        model.spec.vocab_size as u32,
        model.spec.max_position_embeddings,
    );
    let sequence = |len: u32, step: u32| (0..len).map(|i| i * step % vocab).collect();
    let sequences: Vec<Vec<u32>> = vec![sequence(1, 1), sequence(75, 37), sequence(33, 11)];
    let expected: Vec<f32> = sequences
        .iter()
        .flat_map(|sequence| reference_forward(&model, sequence, context).logits)
        .collect();
    let spread = differences(&expected, &vec![0.0; expected.len()]).1;
    // The largest difference is bounded in single precision only: in a random model, one bfloat16
    // rounding can tip a nearly tied softmax, and a few logits with it.
    for device in quick_devices() {
        for (compute_type, worst, mean) in [
            (
                ComputeType::F32,
                4e-4 * device.slack(),
                1e-4 * device.slack(),
            ),
            (ComputeType::Bf16, f32::INFINITY, 0.06),
        ] {
            let found = run_mixed(&model, compute_type, &device, &sequences).concat();
            let (largest, rms) = differences(&found, &expected);
            assert!(
                largest <= worst * spread.max(1.0) && rms <= mean * spread,
                "{model_type} {changes} in {compute_type} on {device}: {largest}, rms {rms} of {spread}"
            );
        }
    }
}

#[test]
fn every_family_agrees_with_the_reference_decoder() {
    for (model_type, _) in crate::random_model::FAMILIES {
        check(model_type, &json!({}));
        check(
            model_type,
            &json!({"sliding_window": 5, "tie_word_embeddings": true}),
        );
    }
}

#[test]
fn shapes_that_fill_no_panel_agree() {
    check(
        "llama",
        &json!({
            "vocab_size": 101, "hidden_size": 30, "intermediate_size": 50, "head_dim": 10,
            "num_attention_heads": 3, "num_key_value_heads": 1
        }),
    );
    check("qwen3", &json!({"head_dim": 34, "num_key_value_heads": 4}));
    check(
        "qwen2",
        &json!({"num_hidden_layers": 1, "num_attention_heads": 14, "num_key_value_heads": 2}),
    );
}

#[test]
fn scaled_rotary_embeddings_agree() {
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64
    });
    let longrope = json!({
        "type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7],
        "long_factor": [1.5, 2.0, 2.5, 3.0, 4.0, 5.0]
    });
    check("qwen2", &json!({"rope_scaling": yarn}));
    check(
        "llama",
        &json!({"rope_scaling": {"type": "linear", "factor": 4.0}}),
    );
    check(
        "llama",
        &json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    );
    check(
        "llama",
        &json!({"rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32
        }}),
    );
    for original in [64, 256] {
        check(
            "phi3",
            &json!({
                "rope_scaling": longrope, "original_max_position_embeddings": original,
                "partial_rotary_factor": 0.75
            }),
        );
    }
    check(
        "gemma3_text",
        &json!({
            "num_hidden_layers": 7, "sliding_window": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}
        }),
    );
}

#[test]
fn caps_windows_and_scales_agree() {
    check(
        "gemma3_text",
        &json!({
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 9,
            "sliding_window_pattern": 2, "query_pre_attn_scalar": 5
        }),
    );
    check(
        "qwen2",
        &json!({
            "use_sliding_window": true, "sliding_window": 20, "max_window_layers": 1
        }),
    );
    check("mistral", &json!({"sliding_window": 1}));
    check("mistral", &json!({"sliding_window": 16}));
    check("mistral", &json!({"sliding_window": 17}));
}

/// Weights of GGUF files, which ggml takes as they are stored, interleaved heads included.
#[test]
fn stored_types_agree_with_the_reference_decoder() {
    let Some(shared) = shared() else { return };
    for (name, out_type) in [
        ("ll3-base", OutType::F16),
        ("ll3-base", OutType::Q8_0),
        ("q2t-base", OutType::Q8_0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let options = GgufOptions {
            outfile: Some(folder.path().join("model.gguf")),
            out_type,
            ..GgufOptions::default()
        };
        let source = Checkpoint::open(shared.join("golden/tiny").join(name)).unwrap();
        let file = to_gguf(&source, &options, &|_| {}).unwrap();
        let checkpoint = Checkpoint::open(&file.files[0]).unwrap();
        let model = Arc::new(Model::from_checkpoint(Arc::new(checkpoint)).unwrap());
        let sequence: Vec<u32> = (0..40).map(|i| i * 37 % 250 + 1).collect();
        let expected = reference_forward(&model, &sequence, 40).logits;
        let spread = differences(&expected, &vec![0.0; expected.len()]).1;
        for device in quick_devices() {
            let sequences = [sequence.clone()];
            let found = run_mixed(&model, ComputeType::Bf16, &device, &sequences).concat();
            let (largest, rms) = differences(&found, &expected);
            assert!(
                rms <= 0.03 * spread,
                "{name} {out_type:?} on {device}: {largest}, rms {rms} of {spread}"
            );
        }
    }
}

/// A random model in every type of GGUF's that we read, made by the quantiser that the files'
/// makers use.
#[cfg(feature = "ggml")]
#[test]
fn every_stored_type_agrees_with_the_reference_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("f32.gguf");
    Sizes::small("llama").write_random(&source, DType::F32, 7);
    let source = Checkpoint::open(&source).unwrap();
    // The smallest sizes of the k-quants, pure: one type for all matrices.
    let types = [
        QuantisedType::F32,
        QuantisedType::F16,
        QuantisedType::BF16,
        QuantisedType::Q4_0,
        QuantisedType::Q4_1,
        QuantisedType::Q5_0,
        QuantisedType::Q5_1,
        QuantisedType::Q8_0,
        QuantisedType::Q2_K,
        QuantisedType::Q3_K_S,
        QuantisedType::Q4_K_S,
        QuantisedType::Q5_K_S,
        QuantisedType::Q6_K,
    ];
    for file_type in types {
        let mut options = options(folder.path().join("out.gguf"), file_type);
        options.types.pure = true;
        let out = quantise(&source, &options, &|_| {}).unwrap();
        assert!(out.tensors.len() > 10, "{file_type}");
        let checkpoint = Checkpoint::open(&options.out).unwrap();
        let model = Arc::new(Model::from_checkpoint(Arc::new(checkpoint)).unwrap());
        let stored = model.stored_bytes();
        assert!(stored.len() <= 2, "vectors and {file_type}: {stored:?}");
        let sequences: Vec<Vec<u32>> = [70u32, 33]
            .map(|len| (0..len).map(|i| i * 11 % 40).collect())
            .to_vec();
        let expected: Vec<f32> = sequences
            .iter()
            .flat_map(|sequence| reference_forward(&model, sequence, 256).logits)
            .collect();
        let spread = differences(&expected, &vec![0.0; expected.len()]).1;
        for device in quick_devices() {
            // Blocks are multiplied with activations in 8 bits, and floats with their own kind.
            for (compute_type, tolerance) in [
                (ComputeType::F32, 1e-5 * device.slack()),
                (ComputeType::Bf16, 0.03),
            ] {
                let found = run_mixed(&model, compute_type, &device, &sequences).concat();
                let (largest, rms) = differences(&found, &expected);
                assert!(
                    rms <= tolerance * spread,
                    "{file_type} in {compute_type} on {device}: {largest}, rms {rms} of {spread}"
                );
            }
        }
        std::fs::remove_file(&options.out).unwrap();
    }
}
