//! Random workloads on a small pool, checked after every step and against one-at-a-time runs.
//!
//! Each seed draws requests (shared prompts, several samples, stop strings, all sampling modes), an
//! engine (block and pool size, rows per step, slots, caching, speculation) and arrival times. What
//! comes out must be, bit for bit, what each request gives alone in a roomy engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::random::CounterRng;

use super::*;

const VOCAB_SIZE: usize = 40;
const MAX_MODEL_LEN: usize = 96;
const EOS: u32 = 0;

/// Letters, and the two bytes of `é` as tokens of their own.
struct Letters;

impl Detokenizer for Letters {
    fn append_token_bytes(&self, token_id: u32, bytes: &mut Vec<u8>) {
        match token_id {
            0..26 => bytes.push(b'a' + token_id as u8),
            26..30 => bytes.extend_from_slice(&"é".as_bytes()[..1]),
            30..34 => bytes.extend_from_slice(&"é".as_bytes()[1..]),
            34..37 => bytes.extend_from_slice("é!".as_bytes()),
            _ => bytes.extend_from_slice(b"xyz"),
        }
    }
}

/// Random choices in a row.
struct Dice {
    rng: CounterRng,
    rolls: u128,
}

impl Dice {
    fn new(seed: u64) -> Self {
        let rng = CounterRng::from_parts(&[seed, 0x51d]);
        Self { rng, rolls: 0 }
    }

    /// A number in `range`.
    fn roll(&mut self, range: std::ops::Range<usize>) -> usize {
        self.rolls += 1;
        range.start + (self.rng.uniform(self.rolls) * range.len() as f64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(0..100) < percent
    }

    fn tokens(&mut self, len: usize) -> Vec<u32> {
        (0..len).map(|_| self.roll(0..VOCAB_SIZE) as u32).collect()
    }
}

fn workload(dice: &mut Dice) -> Vec<Request> {
    let shared: Vec<Vec<u32>> = (0..3)
        .map(|_| {
            let len = dice.roll(1..40);
            dice.tokens(len)
        })
        .collect();
    (0..dice.roll(1..12) as u64)
        .map(|id| {
            let mut prompt_token_ids = Vec::new();
            if dice.chance(70) {
                prompt_token_ids.clone_from(&shared[dice.roll(0..3)]);
            }
            let len = dice.roll(1..12);
            prompt_token_ids.extend(dice.tokens(len));
            Request {
                id,
                prompt_token_ids,
                params: params(dice),
            }
        })
        .collect()
}

fn params(dice: &mut Dice) -> SamplingParams {
    let mut params = SamplingParams {
        max_gen_toks: dice.roll(1..80),
        seed: 9,
        ..SamplingParams::default()
    };
    if dice.chance(60) {
        params.stop_token_ids = vec![EOS];
    }
    if dice.chance(50) {
        params.stop = ["fé", "q", "é!x"].map(String::from).to_vec();
    }
    if dice.chance(50) {
        params.temperature = 0.7;
        params.n = dice.roll(1..5);
    }
    if dice.chance(30) {
        params.top_k = dice.roll(1..10);
    }
    if dice.chance(30) {
        params.top_p = 0.8;
    }
    if dice.chance(20) {
        params.min_p = 0.1;
    }
    if dice.chance(20) {
        params.repetition_penalty = 1.3;
    }
    if dice.chance(30) {
        params.logprobs = Some(dice.roll(0..4));
    }
    params
}

fn engine(block_size: usize, num_blocks: usize, seed: u64, config: EngineConfig) -> Engine {
    let mut runner = ScriptedRunner::new(VOCAB_SIZE, block_size, num_blocks, seed);
    if seed.is_multiple_of(3) {
        runner = runner.with_memory(2);
    }
    Engine::new(Box::new(runner), Arc::new(Letters), config).unwrap()
}

/// What must not depend on the rest of the batch, with floats as bits.
#[derive(Debug, PartialEq)]
struct Output {
    text: String,
    token_ids: Vec<u32>,
    finish_reason: FinishReason,
    max_gen_toks_effective: usize,
    cumulative_logprob: u64,
    logprobs: Option<Vec<TokenLogprob>>,
}

type Outputs = BTreeMap<(u64, usize), Output>;

fn record(outputs: &mut Outputs, completion: Completion) {
    let key = (completion.request_id, completion.sample_index);
    let output = Output {
        text: completion.text,
        token_ids: completion.token_ids,
        finish_reason: completion.finish_reason,
        max_gen_toks_effective: completion.max_gen_toks_effective,
        cumulative_logprob: completion.cumulative_logprob.to_bits(),
        logprobs: completion.logprobs,
    };
    assert!(outputs.insert(key, output).is_none(), "{key:?} came twice");
}

/// Each request alone, with room for everything.
fn one_at_a_time(requests: &[Request], seed: u64) -> Outputs {
    let mut outputs = Outputs::new();
    for request in requests {
        for sample_index in 0..request.params.n {
            let mut engine = engine(
                16,
                64,
                seed,
                EngineConfig {
                    max_model_len: MAX_MODEL_LEN,
                    max_num_seqs: 64,
                    max_num_batched_tokens: 1024,
                    prefix_caching: false,
                    speculation: None,
                },
            );
            engine.submit(request.clone()).unwrap();
            while engine.has_unfinished() {
                for completion in engine.step().unwrap() {
                    if completion.sample_index == sample_index {
                        record(&mut outputs, completion);
                    }
                }
            }
        }
    }
    outputs
}

/// The smallest pool that every request fits into alone, and a bit.
fn pool(requests: &[Request], block_size: usize, extra: usize) -> usize {
    let positions = |request: &Request| {
        let prompt = request.prompt_token_ids.len();
        (prompt + request.params.max_gen_toks).min(MAX_MODEL_LEN) - 1
    };
    let largest = requests.iter().map(positions).max().unwrap();
    largest.div_ceil(block_size) + extra
}

#[test]
fn any_batching_gives_what_each_request_gives_alone() {
    let mut preemptions = 0;
    let mut hits = 0;
    let mut copies = 0;
    let mut accepted = 0;
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let requests = workload(&mut dice);
        let expected = one_at_a_time(&requests, seed);
        let block_size = [1, 2, 4, 7, 16][dice.roll(0..5)];
        let extra = [0, 1, 4, 20, 100][dice.roll(0..5)];
        let config = EngineConfig {
            max_model_len: MAX_MODEL_LEN,
            max_num_seqs: dice.roll(1..10),
            max_num_batched_tokens: [1, 2, 5, 16, 64, 512][dice.roll(0..6)],
            prefix_caching: dice.chance(70),
            speculation: dice.chance(50).then(|| Speculation {
                max_draft_tokens: dice.roll(1..6),
                max_running: dice.roll(1..10),
                row_cost: [0.0, 0.05, 0.3][dice.roll(0..3)],
            }),
        };
        let num_blocks = pool(&requests, block_size, extra);
        let mut engine = engine(block_size, num_blocks, seed, config);
        let mut arriving = requests.clone();
        let mut outputs = Outputs::new();
        let mut steps = 0;
        while engine.has_unfinished() || !arriving.is_empty() {
            while !arriving.is_empty() && (dice.chance(40) || !engine.has_unfinished()) {
                let request = arriving.swap_remove(dice.roll(0..arriving.len()));
                engine.submit(request).unwrap();
            }
            for completion in engine.step().unwrap() {
                record(&mut outputs, completion);
            }
            engine.check_invariants();
            steps += 1;
            assert!(steps < 100_000, "seed {seed} does not end");
        }
        assert_eq!(outputs, expected, "seed {seed}");
        assert_eq!(
            engine.occupancy().kv_blocks_used,
            0,
            "seed {seed} leaks blocks"
        );
        let statistics = engine.statistics();
        preemptions += statistics.preemptions;
        hits += statistics.prefix_hit_tokens;
        copies += statistics.copied_blocks;
        accepted += statistics.accepted_draft_tokens;
    }
    let seen = [preemptions, hits, copies, accepted];
    assert!(seen.iter().all(|&count| count > 100), "too tame: {seen:?}");
}
