//! What the engine costs beside the model: planning a step, filling its input, choosing tokens.
//!
//! A runner that computes nothing stands in for the model; times are the engine's own statistics.

#![allow(
    missing_docs,
    reason = "criterion's macros write functions without docs"
)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap ends the benchmark")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use micota::engine::{
    Detokenizer, Engine, EngineConfig, ModelRunner, Request, RunnerError, SamplingParams,
    Statistics, StepInput,
};

/// Returns the same row of logits for every row asked for.
struct NoModel {
    row: Vec<f32>,
    num_blocks: usize,
}

impl ModelRunner for NoModel {
    fn vocab_size(&self) -> usize {
        self.row.len()
    }
    fn block_size(&self) -> usize {
        16
    }
    fn num_blocks(&self) -> usize {
        self.num_blocks
    }
    fn is_batch_invariant(&self) -> bool {
        true
    }
    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        logits.clear();
        for _ in 0..input.num_logits() {
            logits.extend_from_slice(&self.row);
        }
        Ok(())
    }
    fn copy_block(&mut self, _source: u32, _target: u32) -> Result<(), RunnerError> {
        Ok(())
    }
}

struct OneLetter;

impl Detokenizer for OneLetter {
    fn append_token_bytes(&self, _token_id: u32, bytes: &mut Vec<u8>) {
        bytes.push(b'x');
    }
}

const PROMPT_TOKENS: usize = 128;
const MAX_GEN_TOKS: usize = 2048;

/// An engine in which `num_seqs` sequences decode.
fn decoding(num_seqs: usize, vocab_size: usize, params: &SamplingParams) -> Engine {
    let max_model_len = PROMPT_TOKENS + MAX_GEN_TOKS;
    let runner = NoModel {
        row: (0..vocab_size).map(|i| (i % 977) as f32 * 0.01).collect(),
        num_blocks: num_seqs * max_model_len.div_ceil(16),
    };
    let config = EngineConfig {
        max_model_len,
        max_num_seqs: num_seqs,
        max_num_batched_tokens: 4096,
        prefix_caching: true,
        speculation: None,
    };
    let mut engine = Engine::new(Box::new(runner), Arc::new(OneLetter), config).unwrap();
    for id in 0..num_seqs as u64 {
        let request = Request {
            id,
            prompt_token_ids: vec![(id % vocab_size as u64) as u32; PROMPT_TOKENS],
            params: SamplingParams {
                max_gen_toks: MAX_GEN_TOKS,
                stop: vec!["Problem:".to_owned()],
                ..params.clone()
            },
        };
        engine.submit(request).unwrap();
    }
    while engine.occupancy().waiting > 0 {
        engine.step().unwrap();
    }
    engine
}

/// Time that `steps` steps of `engine` spent in one of its phases, per step.
fn time_steps(
    make: impl Fn() -> Engine,
    steps: u64,
    phase: impl Fn(&Statistics) -> Duration,
) -> Duration {
    let mut spent = Duration::ZERO;
    let mut engine = make();
    for _ in 0..steps {
        if !engine.has_unfinished() {
            engine = make();
        }
        let before = phase(&engine.statistics());
        engine.step().unwrap();
        spent += phase(&engine.statistics()) - before;
    }
    spent
}

fn scheduling(c: &mut Criterion) {
    for num_seqs in [64, 1000] {
        c.bench_function(&format!("schedule {num_seqs} decoding sequences"), |b| {
            let make = || decoding(num_seqs, 16, &SamplingParams::default());
            b.iter_custom(|steps| time_steps(make, steps, |s| s.scheduling_time));
        });
    }
}

fn sampling(c: &mut Criterion) {
    let greedy = SamplingParams::default();
    let nucleus = SamplingParams {
        temperature: 0.7,
        top_p: 0.95,
        ..SamplingParams::default()
    };
    for (name, params) in [("greedy", greedy), ("top-p 0.95", nucleus)] {
        c.bench_function(&format!("sample 64 x 151,936 logits, {name}"), |b| {
            let make = || decoding(64, 151_936, &params);
            b.iter_custom(|steps| time_steps(make, steps, |s| s.sampling_time));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = scheduling, sampling
}
criterion_main!(benches);
