//! What a run did and is doing, in numbers. Nothing here decides anything.

use std::time::Duration;

/// Totals since the engine was made. All but the times are the same in every run of the same work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Steps of the model.
    pub steps: u64,
    /// Rows computed for prompts, and again after preemptions.
    pub prefill_tokens: u64,
    /// Rows computed to generate.
    pub decode_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens of all prompts, once per sample.
    pub prompt_tokens: u64,
    /// Those among them that were not computed: found in the prefix cache, or shared with another
    /// sample of the same prompt.
    pub prefix_hit_tokens: u64,
    /// Sequences that gave up their blocks to older ones.
    pub preemptions: u64,
    /// Tokens computed again after that.
    pub recomputed_tokens: u64,
    /// Blocks copied because a shared one was about to be written.
    pub copied_blocks: u64,
    /// Requests whose `max_gen_toks` was lowered to fit the context.
    pub clamped_requests: u64,
    /// Requests that could not run at all.
    pub refused_requests: u64,
    /// Guessed tokens given to the model to verify.
    pub draft_tokens: u64,
    /// Guesses that were right: tokens that cost no step of their own.
    pub accepted_draft_tokens: u64,
    /// The most blocks in use after any step.
    pub peak_kv_blocks: u64,
    /// Time spent planning steps and filling their inputs.
    pub scheduling_time: Duration,
    /// Time spent in the executor.
    pub runner_time: Duration,
    /// Time spent choosing tokens and looking for stop strings.
    pub sampling_time: Duration,
}

/// Who is where between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that have KV blocks.
    pub running: usize,
    /// Sequences that wait, those preempted included. A request counts once until it is admitted.
    pub waiting: usize,
    /// Blocks of the KV pool in use.
    pub kv_blocks_used: usize,
    /// Blocks of the KV pool.
    pub kv_blocks_total: usize,
}

impl Occupancy {
    /// The share of the KV pool in use, 0 to 1.
    pub fn kv_use(&self) -> f64 {
        self.kv_blocks_used as f64 / self.kv_blocks_total.max(1) as f64
    }
}
