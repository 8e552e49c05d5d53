//! How fast a loaded model runs, beside how fast this machine could run it at most.
//!
//! The limit of a step is the longer of two times: its multiplications at the peak rate, and its
//! weights and KV blocks at the read bandwidth, both measured on the same threads just before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{MemoryDemand, ModelRunner, RunnerError, StepInput, StepSequence};
use crate::model::{DecoderSpec, Model};

use super::{CpuOptions, CpuRunner, MachineLimit, failure};

/// A step to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Sequences in the step.
    pub num_sequences: usize,
    /// Rows of each: 1 for decoding, the prompt's length for prefill.
    pub rows_per_sequence: usize,
    /// Positions in the cache before the step, per sequence.
    pub context: usize,
}

impl Workload {
    fn rows(&self) -> usize {
        self.num_sequences * self.rows_per_sequence
    }

    /// Positions that a sequence has after the step.
    fn positions(&self) -> usize {
        self.context + self.rows_per_sequence
    }
}

/// One timed step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// What was timed.
    pub workload: Workload,
    /// The median step.
    pub step_time: Duration,
    /// Rows per second at that time.
    pub tokens_per_s: f64,
    /// Floating point operations of the step.
    pub flops: f64,
    /// Bytes that the step must read: weights once, the KV blocks of each sequence.
    pub bytes: f64,
    /// The least time that the machine's limit allows, as a share of the step's.
    pub share_of_limit: f64,
}

/// Times a workload on an executor of `model` loaded with `options`; overwrites its KV cache.
///
/// # Errors
/// The pool has fewer than [`blocks_of`] the workload, or the executor failed.
pub fn measure(
    runner: &mut CpuRunner,
    model: &Arc<Model>,
    options: &CpuOptions,
    limit: &MachineLimit,
    workload: Workload,
) -> Result<Measurement, RunnerError> {
    let input = step_input(runner, workload)?;
    let step_time = step_time(runner, &input)?;
    let demand = MemoryDemand::on_cpu(
        model,
        options.compute_type,
        options.quantize,
        options.kv_type,
        runner.block_size(),
    );
    let position_bytes = demand.block_bytes as f64 / runner.block_size() as f64;
    let positions = workload.num_sequences * workload.positions();
    let bytes = demand.weight_bytes as f64 + positions as f64 * position_bytes;
    let flops = step_flops(&model.spec, workload);
    let least = (flops / limit.flops).max(bytes / limit.bytes_per_s);
    Ok(Measurement {
        workload,
        step_time,
        tokens_per_s: workload.rows() as f64 / step_time.as_secs_f64(),
        flops,
        bytes,
        share_of_limit: least / step_time.as_secs_f64(),
    })
}

/// The median time of a step, of as many as fit a moment; overwrites the KV cache.
///
/// # Errors
/// The executor failed.
pub fn step_time(runner: &mut dyn ModelRunner, input: &StepInput) -> Result<Duration, RunnerError> {
    const BURST: Duration = Duration::from_millis(1500);
    const LEAST_STEPS: usize = 3;
    let mut logits = Vec::new();
    runner.forward(input, &mut logits)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < LEAST_STEPS || start.elapsed() < BURST {
        let step = Instant::now();
        runner.forward(input, &mut logits)?;
        times.push(step.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// Blocks that a workload needs.
pub fn blocks_of(workload: Workload, block_size: usize) -> usize {
    workload.num_sequences * workload.positions().div_ceil(block_size)
}

/// The step's input, after its blocks were filled: memory that was never written is not memory.
///
/// # Errors
/// The pool has fewer than [`blocks_of`] the workload, or the executor failed.
pub fn step_input(
    runner: &mut dyn ModelRunner,
    workload: Workload,
) -> Result<StepInput, RunnerError> {
    let block_size = runner.block_size();
    let blocks = workload.positions().div_ceil(block_size);
    if blocks_of(workload, block_size) > runner.num_blocks() {
        return Err(failure("the pool is too small for this workload"));
    }
    let vocab_size = runner.vocab_size();
    let token = |index: usize| (index * 7919 % vocab_size) as u32;
    let filler = StepInput {
        token_ids: (0..block_size).map(token).collect(),
        sequences: vec![StepSequence {
            num_rows: block_size,
            block_table: vec![0],
            ..StepSequence::default()
        }],
    };
    runner.forward(&filler, &mut Vec::new())?;
    for block in 1..blocks_of(workload, block_size) {
        runner.copy_block(0, block as u32)?;
    }
    let sequence = |index: usize| StepSequence {
        first_row: index * workload.rows_per_sequence,
        num_rows: workload.rows_per_sequence,
        num_computed_tokens: workload.context,
        block_table: (index * blocks..(index + 1) * blocks)
            .map(|block| block as u32)
            .collect(),
        num_logits: 1,
    };
    Ok(StepInput {
        token_ids: (0..workload.rows()).map(token).collect(),
        sequences: (0..workload.num_sequences).map(sequence).collect(),
    })
}

/// Multiplications and additions of a step: matrices for every row, the head for the last row of
/// each sequence, scores and weighted sums for every key that a row sees.
pub(in crate::engine) fn step_flops(spec: &DecoderSpec, workload: Workload) -> f64 {
    let layer = spec.hidden_size * (2 * spec.q_size() + 2 * spec.kv_size())
        + 3 * spec.hidden_size * spec.intermediate_size;
    let matrices = workload.rows() * spec.num_hidden_layers * layer;
    let head = workload.num_sequences * spec.hidden_size * spec.vocab_size;
    let keys: usize = spec
        .sliding_window
        .iter()
        .map(|window| {
            let seen = workload.context + 1..=workload.positions();
            seen.map(|keys| window.map_or(keys, |window| keys.min(window)))
                .sum::<usize>()
        })
        .sum();
    let attention = workload.num_sequences * keys * 2 * spec.q_size();
    2.0 * (matrices + head + attention) as f64
}
