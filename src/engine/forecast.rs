//! How much of a model fits on a device, and how fast it could run there, from arithmetic alone:
//! the device need not be here.
//!
//! A step takes at least the longer of two times: its multiplications at the peak rate, and its
//! weights and KV blocks at the memory's bandwidth. What an executor reaches of that is a share,
//! which the caller brings; `micota bench` measures it on this machine.

use super::backends::cpu::{ComputeType, KvType, Quantize, Workload, step_flops};
use super::demand::MemoryDemand;
use super::device::DeviceKind;
use crate::model::Model;

/// The share of a device's memory that weights, activations and KV pool may take.
const MEMORY_SHARE: f64 = 0.85;
/// Positions of a block, the engine's own default.
const BLOCK_SIZE: usize = 32;

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceLimit {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Floating point operations per second in the compute type.
    pub flops: f64,
    /// Bytes read per second.
    pub bytes_per_s: f64,
    /// `None` for our own kernels on a processor, else what kind of device of ggml's it is.
    pub kind: Option<DeviceKind>,
}

/// What is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to compute in.
    pub compute_type: ComputeType,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Sequences that are wanted in flight.
    pub concurrency: usize,
    /// Rows of a step of prefill.
    pub max_num_batched_tokens: usize,
}

/// Rates in tokens per second, all sequences together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Of prompts.
    pub prefill_tokens_per_s: f64,
    /// Of answers, half of each being there on average.
    pub decode_tokens_per_s: f64,
    /// Whether decoding waits for the memory rather than for multiplications.
    pub is_memory_bound: bool,
}

/// What a model takes and gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Weights.
    pub weight_bytes: u64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
    /// Activations of the largest step.
    pub activation_bytes: u64,
    /// What is left for the KV pool.
    pub kv_bytes: u64,
    /// Sequences of full length that the pool holds.
    pub fitting_sequences: u64,
    /// Sequences in flight: what was asked for, or what fits.
    pub concurrency: usize,
    /// At the device's limit; `None` where nothing fits.
    pub at_limit: Option<Expected>,
}

impl Forecast {
    /// Seconds for `num_answers` answers at `share` of the limit; `None` where nothing fits.
    pub fn seconds(&self, plan: &Plan, num_answers: u64, share: f64) -> Option<f64> {
        let rates = self.at_limit?;
        let prompts = (plan.prompt_tokens as u64 * num_answers) as f64;
        let answers = (plan.answer_tokens as u64 * num_answers) as f64;
        let limit = prompts / rates.prefill_tokens_per_s + answers / rates.decode_tokens_per_s;
        Some(limit / share)
    }
}

/// Computes it.
pub fn forecast(model: &Model, device: &DeviceLimit, plan: &Plan) -> Forecast {
    let len = plan.prompt_tokens + plan.answer_tokens;
    let compute_type = plan.compute_type;
    let MemoryDemand {
        weight_bytes,
        row_bytes,
        block_bytes,
    } = match device.kind {
        None => MemoryDemand::on_cpu(
            model,
            compute_type,
            Quantize::Auto,
            KvType::Auto,
            BLOCK_SIZE,
        ),
        Some(kind) => MemoryDemand::on_device(model, kind, compute_type, BLOCK_SIZE, len),
    };
    let usable = (device.memory_bytes as f64 * MEMORY_SHARE) as u64;
    let activation_bytes = row_bytes * plan.max_num_batched_tokens as u64;
    let kv_bytes = usable.saturating_sub(weight_bytes + activation_bytes);
    let sequence_bytes = len.div_ceil(BLOCK_SIZE) as u64 * block_bytes;
    let fitting_sequences = kv_bytes / sequence_bytes.max(1);
    let concurrency = plan
        .concurrency
        .min(usize::try_from(fitting_sequences).unwrap_or(usize::MAX));
    let kv_bytes_per_token = block_bytes / BLOCK_SIZE as u64;
    let time = |workload: Workload| {
        let rows = (workload.num_sequences * workload.rows_per_sequence) as f64;
        let positions = workload.num_sequences * (workload.context + workload.rows_per_sequence);
        let bytes = weight_bytes as f64 + positions as f64 * kv_bytes_per_token as f64;
        let compute = step_flops(&model.spec, workload) / device.flops;
        let memory = bytes / device.bytes_per_s;
        (rows / compute.max(memory), memory > compute)
    };
    let at_limit = (concurrency > 0).then(|| {
        let rows = plan.max_num_batched_tokens.max(1);
        let rows_per_sequence = plan.prompt_tokens.clamp(1, rows);
        let (prefill_tokens_per_s, _) = time(Workload {
            num_sequences: (rows / rows_per_sequence).min(concurrency),
            rows_per_sequence,
            context: 0,
        });
        let (decode_tokens_per_s, is_memory_bound) = time(Workload {
            num_sequences: concurrency,
            rows_per_sequence: 1,
            context: plan.prompt_tokens + plan.answer_tokens / 2,
        });
        Expected {
            prefill_tokens_per_s,
            decode_tokens_per_s,
            is_memory_bound,
        }
    });
    Forecast {
        weight_bytes,
        kv_bytes_per_token,
        activation_bytes,
        kv_bytes,
        fitting_sequences,
        concurrency,
        at_limit,
    }
}
