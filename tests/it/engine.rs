//! The engine over real (tiny) checkpoints: the reference's greedy text, and the same answers
//! however the work is batched, to the bit on executors that promise it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use micota::engine::{
    Completion, ComputeType, Device, EngineOptions, Request, SamplingParams, Speculate,
    Speculation, load,
};
use serde_json::Value;

use crate::devices::{engine_devices, rounds_to_half};
use crate::shared::shared;

/// A margin between first and second token below this may be decided by rounding.
const SAFE_MARGIN: f64 = 0.01;

fn tiny(name: &str) -> Option<PathBuf> {
    Some(shared()?.join("golden/tiny").join(name))
}

fn options() -> EngineOptions {
    EngineOptions {
        compute_type: ComputeType::F32,
        threads: Some(1),
        kv_bytes: Some(16 << 20),
        ..EngineOptions::default()
    }
}

/// [`options`] on every device.
fn all_options() -> Vec<EngineOptions> {
    let on = |device| EngineOptions {
        device,
        ..options()
    };
    engine_devices().into_iter().map(on).collect()
}

/// The completions of all requests, in their order.
pub(crate) fn run(
    model: &Path,
    options: &EngineOptions,
    requests: Vec<Request>,
) -> Vec<Completion> {
    let mut engine = load(model, options).unwrap().engine;
    for request in requests {
        engine.submit(request).unwrap();
    }
    let mut completions = Vec::new();
    while engine.has_unfinished() {
        completions.extend(engine.step().unwrap());
    }
    completions.sort_by_key(|completion| (completion.request_id, completion.sample_index));
    completions
}

/// The greedy text that the reference gave for a model.
pub(crate) struct GreedyReference {
    pub(crate) prompt: Vec<u32>,
    pub(crate) expected: Vec<u32>,
    /// Tokens of `expected` before the first that rounding may decide.
    pub(crate) sure: usize,
}

impl GreedyReference {
    /// Reads it; a token whose margin to the second best is below `safe_margin` is a toss-up.
    pub(crate) fn read(shared: &Path, name: &str, safe_margin: f64) -> Self {
        let path = shared
            .join("golden/engine")
            .join(name)
            .join("reference.json");
        let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let greedy = &reference["greedy"];
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(greedy[key].clone()).unwrap() };
        let margins: Vec<f64> = serde_json::from_value(greedy["top1_minus_top2"].clone()).unwrap();
        let sure = margins.iter().take_while(|&&margin| margin > safe_margin);
        let sure = sure.count();
        assert!(sure > 0, "{name}: the first token is a toss-up");
        Self {
            prompt: ids("prompt_ids"),
            expected: ids("new_ids"),
            sure,
        }
    }
}

#[test]
fn greedy_text_is_that_of_the_reference() {
    let Some(shared) = shared() else { return };
    for name in ["q2t-base", "q3", "ll3-base", "mistral", "gemma3", "phi3"] {
        let GreedyReference {
            prompt,
            expected,
            sure,
        } = GreedyReference::read(&shared, name, SAFE_MARGIN);
        let request = Request {
            id: 0,
            prompt_token_ids: prompt,
            params: SamplingParams {
                max_gen_toks: expected.len(),
                ..SamplingParams::default()
            },
        };
        let model = shared.join("golden/tiny").join(name);
        for options in all_options() {
            let found = run(&model, &options, vec![request.clone()]).remove(0);
            let found = found.token_ids;
            assert_eq!(
                found[..sure],
                expected[..sure],
                "{name} on {}",
                options.device
            );
        }
    }
}

/// Prompts that share beginnings, of many lengths, some sampled several times.
fn requests() -> Vec<Request> {
    (0..24u32)
        .map(|id| {
            let shared = (0..id % 3 * 20).map(|i| 40 + i % 50);
            let own = (0..3 + id * 2).map(|i| 30 + (i * 7 + id * 11) % 200);
            Request {
                id: u64::from(id),
                prompt_token_ids: shared.chain(own).collect(),
                params: SamplingParams {
                    max_gen_toks: 8 + id as usize % 20,
                    temperature: if id % 4 == 3 { 0.9 } else { 0.0 },
                    n: if id % 8 == 3 { 3 } else { 1 },
                    logprobs: Some(2),
                    ..SamplingParams::default()
                },
            }
        })
        .collect()
}

/// Whether answers are the same: to the bit where the executor promises it, else the same tokens
/// with log-probabilities that rounding explains. Greedy choices that hang on it may differ, and
/// what follows them.
fn assert_same(
    device: &Device,
    found: &[Completion],
    expected: &[Completion],
    context: &dyn std::fmt::Debug,
) {
    if *device == Device::Cpu {
        assert_eq!(bits(found), bits(expected), "{context:?}");
        return;
    }
    let tolerance = match device {
        Device::Ggml(ids) if ids.iter().any(|id| rounds_to_half(id.backend)) => 2e-2,
        _ => 1e-3,
    };
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let id = (found.request_id, found.sample_index);
        assert_eq!(id, (expected.request_id, expected.sample_index));
        let pairs = found
            .logprobs
            .iter()
            .flatten()
            .zip(expected.logprobs.iter().flatten());
        let mut parted = false;
        for (position, (found, expected)) in pairs.enumerate() {
            let difference = (found.logprob - expected.logprob).abs();
            assert!(
                difference <= tolerance,
                "{device} {id:?} at {position}: {difference} with {context:?}"
            );
            if found.token_id != expected.token_id {
                let tied = expected.top.iter().any(|(id, _)| *id == found.token_id);
                assert!(tied, "{device} {id:?} at {position}: {context:?}");
                parted = true;
                break;
            }
        }
        assert!(
            parted || found.token_ids == expected.token_ids,
            "{device} {id:?}"
        );
    }
}

/// Everything that must not depend on batching, floats as bits.
fn bits(completions: &[Completion]) -> BTreeMap<(u64, usize), String> {
    let entry = |c: &Completion| {
        let logprob = c.cumulative_logprob.to_bits();
        let logprobs = c.logprobs.as_deref().unwrap_or_default();
        let logprobs: Vec<u32> = logprobs.iter().map(|l| l.logprob.to_bits()).collect();
        let text = format!("{:?} {:?} {logprob:x} {logprobs:?}", c.text, c.token_ids);
        ((c.request_id, c.sample_index), text)
    };
    completions.iter().map(entry).collect()
}

#[test]
fn the_same_answers_at_any_concurrency_threads_block_and_chunk_size() {
    let Some(model) = tiny("q2t-base") else {
        return;
    };
    for on_device in all_options() {
        for compute_type in compute_types(&on_device.device) {
            let base = EngineOptions {
                compute_type,
                ..on_device.clone()
            };
            let alone = EngineOptions {
                max_num_seqs: Some(1),
                prefix_caching: false,
                ..base.clone()
            };
            let expected = run(&model, &alone, requests());
            assert_eq!(expected.len(), 24 + 2 * 3);
            let variants = [
                (Some(8), None, Some(1), Some(16), None),
                (Some(64), Some(7), Some(2), Some(32), None),
                (Some(64), Some(512), Some(2), Some(16), Some(4)),
                (Some(3), Some(33), Some(1), Some(48), Some(8)),
            ];
            for (max_num_seqs, max_num_batched_tokens, threads, block_size, drafts) in variants {
                let options = EngineOptions {
                    max_num_seqs,
                    max_num_batched_tokens,
                    // ggml's threads wait for each other without sleeping.
                    threads: threads.filter(|_| base.device == Device::Cpu).or(Some(1)),
                    block_size,
                    speculation: drafts.map_or(Speculate::Never, |max_draft_tokens| {
                        Speculate::As(Speculation {
                            max_draft_tokens,
                            max_running: 64,
                            row_cost: 0.0,
                        })
                    }),
                    ..base.clone()
                };
                let found = run(&model, &options, requests());
                assert_same(&options.device, &found, &expected, &options);
            }
        }
    }
}

/// Coarse types move near ties by more than a comparison of different batches can allow, so they
/// are for executors whose bits do not move.
fn compute_types(device: &Device) -> Vec<ComputeType> {
    match device {
        Device::Cpu => vec![ComputeType::F32, ComputeType::Bf16],
        _ => vec![ComputeType::F32],
    }
}

#[test]
fn the_same_answers_after_preemption() {
    let Some(model) = tiny("q2t-base") else {
        return;
    };
    for options in all_options() {
        let roomy = run(&model, &options, requests());
        let mut loaded = load(&model, &options).unwrap();
        let block_bytes = loaded.info.kv_bytes / loaded.info.num_blocks as u64;
        let tight = EngineOptions {
            // The longest sequence has fewer than 128 positions: four blocks of 32.
            kv_bytes: Some(5 * block_bytes),
            ..options
        };
        loaded = load(&model, &tight).unwrap();
        for request in requests() {
            loaded.engine.submit(request).unwrap();
        }
        let mut completions = Vec::new();
        while loaded.engine.has_unfinished() {
            completions.extend(loaded.engine.step().unwrap());
        }
        assert!(loaded.engine.statistics().preemptions > 0);
        completions.sort_by_key(|completion| (completion.request_id, completion.sample_index));
        assert_same(&tight.device, &completions, &roomy, &tight);
    }
}
