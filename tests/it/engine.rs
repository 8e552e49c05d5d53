//! The engine over real (tiny) checkpoints: the reference's greedy text, and the same bits however
//! the work is batched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use micota::engine::{
    Completion, ComputeType, EngineOptions, Request, SamplingParams, Speculation, load,
};
use serde_json::Value;

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

fn run(model: &Path, options: &EngineOptions, requests: Vec<Request>) -> Vec<Completion> {
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

#[test]
fn greedy_text_is_that_of_the_reference() {
    let Some(shared) = shared() else { return };
    for name in ["q2t-base", "q3", "ll3-base", "mistral", "gemma3", "phi3"] {
        let path = shared
            .join("golden/engine")
            .join(name)
            .join("reference.json");
        let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let greedy = &reference["greedy"];
        let ids = |key: &str| -> Vec<u32> { serde_json::from_value(greedy[key].clone()).unwrap() };
        let margins: Vec<f64> = serde_json::from_value(greedy["top1_minus_top2"].clone()).unwrap();
        let expected = ids("new_ids");
        let request = Request {
            id: 0,
            prompt_token_ids: ids("prompt_ids"),
            params: SamplingParams {
                max_gen_toks: expected.len(),
                ..SamplingParams::default()
            },
        };
        let model = shared.join("golden/tiny").join(name);
        let found = run(&model, &options(), vec![request]).remove(0).token_ids;
        let sure = margins.iter().take_while(|&&margin| margin > SAFE_MARGIN);
        let sure = sure.count();
        assert!(sure > 0, "{name}: the first token is a toss-up");
        assert_eq!(found[..sure], expected[..sure], "{name}");
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
fn the_same_bits_at_any_concurrency_threads_block_and_chunk_size() {
    let Some(model) = tiny("q2t-base") else {
        return;
    };
    for compute_type in [ComputeType::F32, ComputeType::Bf16] {
        let base = EngineOptions {
            compute_type,
            ..options()
        };
        let alone = EngineOptions {
            max_num_seqs: Some(1),
            prefix_caching: false,
            ..base.clone()
        };
        let expected = bits(&run(&model, &alone, requests()));
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
                threads,
                block_size,
                speculation: drafts.map(|max_draft_tokens| Speculation {
                    max_draft_tokens,
                    max_running: 64,
                }),
                ..base.clone()
            };
            let found = bits(&run(&model, &options, requests()));
            assert_eq!(found, expected, "{options:?}");
        }
    }
}

#[test]
fn the_same_bits_after_preemption() {
    let Some(model) = tiny("q2t-base") else {
        return;
    };
    let roomy = bits(&run(&model, &options(), requests()));
    let mut loaded = load(&model, &options()).unwrap();
    let block_bytes = loaded.info.kv_bytes / loaded.info.num_blocks as u64;
    let tight = EngineOptions {
        // The longest sequence has fewer than 128 positions: four blocks of 32.
        kv_bytes: Some(5 * block_bytes),
        ..options()
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
    assert_eq!(bits(&completions), roomy);
}
