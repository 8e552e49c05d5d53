//! What this machine can do at most, and what a step of decoding will therefore take.

use std::time::Instant;

use crate::engine::sizing::StepCosts;
use crate::engine::{MemoryDemand, RunnerError};
use crate::kernels::cpu::{
    Bf16, Cpu, F32, IntFormat, Rows, fill_rows, peak_flops, peak_int_ops, read_bandwidth,
};
use crate::model::Model;

use super::measure::{Workload, step_flops};
use super::storage::Storage;
use super::{ComputeType, CpuOptions, failure};

/// Shares of the peak, in vector registers and in matrix tiles.
const FLOAT_SHARE: f64 = 0.85;
const INT_SHARE: f64 = 0.55;
const TILE_SHARE: f64 = 0.5;
const TILE_INT_SHARE: f64 = 0.15;
/// Bytes of weights that a processor's caches may hold: reading them costs nothing to speak of, so
/// that there is nothing to weigh.
const CACHED_WEIGHT_BYTES: u64 = 64 << 20;
/// Phases of a layer that all threads start and end together.
const PHASES_PER_LAYER: f64 = 8.0;

/// What the machine can do at most with some threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineLimit {
    /// Floating point operations per second in the compute type.
    pub flops: f64,
    /// Bytes read per second.
    pub bytes_per_s: f64,
}

impl MachineLimit {
    /// Measures both in less than a second, longer where other programs disturb it:
    /// multiplications of integers where `model` will hold most of its weights so, otherwise of the
    /// compute type.
    ///
    /// # Errors
    /// The system refused threads.
    pub fn measure(options: &CpuOptions, model: Option<&Model>) -> Result<Self, RunnerError> {
        let ints = model.and_then(|model| ints(options, model));
        Ok(Self::of(&mut cpu(options)?, options.compute_type, ints))
    }

    fn of(cpu: &mut Cpu, compute_type: ComputeType, ints: Option<IntFormat>) -> Self {
        let [flops, bytes_per_s] = settled(|| {
            let flops = match (ints, compute_type) {
                (Some(format), _) => peak_int_ops(cpu, format),
                (None, ComputeType::F32) => peak_flops::<F32>(cpu),
                (None, ComputeType::Bf16) => peak_flops::<Bf16>(cpu),
            };
            [flops, read_bandwidth(cpu)]
        });
        Self { flops, bytes_per_s }
    }
}

fn cpu(options: &CpuOptions) -> Result<Cpu, RunnerError> {
    Cpu::new(options.isa, options.threads)
        .map_err(|error| failure(format!("{} threads: {error}", options.threads)))
}

/// The format of the integers that most of the model's weights are held in; `None` for floats.
fn ints(options: &CpuOptions, model: &Model) -> Option<IntFormat> {
    let storage = Storage::new(options.compute_type, options.quantize);
    storage.is_mostly_ints(model).then(|| storage.int_format())
}

/// The share of the peak that products of 64 rows reach (benches/records).
fn product_share(options: &CpuOptions, ints: Option<IntFormat>) -> f64 {
    let has_tiles = options.isa.has_matrix_tiles();
    match (ints, options.compute_type) {
        (Some(format), _) if has_tiles && format.is_multiplied_in_tiles() => TILE_INT_SHARE,
        (Some(_), _) => INT_SHARE,
        (None, ComputeType::Bf16) if has_tiles => TILE_SHARE,
        (None, _) => FLOAT_SHARE,
    }
}

/// The best of two rates, measured by turns until each was nearly reached twice, four times at
/// least: a machine that is disturbed for a moment is asked again.
fn settled(mut round: impl FnMut() -> [f64; 2]) -> [f64; 2] {
    const LEAST_ROUNDS: usize = 4;
    const MOST_ROUNDS: usize = 10;
    const NEARLY: f64 = 0.97;
    let mut seen: [Vec<f64>; 2] = Default::default();
    loop {
        for (rates, rate) in seen.iter_mut().zip(round()) {
            rates.push(rate);
            rates.sort_by(|a, b| b.total_cmp(a));
        }
        let rounds = seen[0].len();
        let agreed =
            rounds >= LEAST_ROUNDS && seen.iter().all(|rates| rates[1] >= NEARLY * rates[0]);
        if agreed || rounds == MOST_ROUNDS {
            return seen.map(|rates| rates[0]);
        }
    }
}

/// What decoding `model` with sequences of `context` positions will take, from what the machine
/// can do at most, and that limit; `None` for a model so small that no choice depends on it.
///
/// # Errors
/// The system refused threads.
pub(in crate::engine) fn step_costs(
    options: &CpuOptions,
    model: &Model,
    context: usize,
) -> Result<Option<(MachineLimit, StepCosts)>, RunnerError> {
    let compute_type = options.compute_type;
    let (quantize, kv_type) = (options.quantize, options.kv_type);
    let demand = MemoryDemand::on_cpu(model, compute_type, quantize, kv_type, options.block_size);
    if demand.weight_bytes < CACHED_WEIGHT_BYTES {
        return Ok(None);
    }
    let mut cpu = cpu(options)?;
    let ints = ints(options, model);
    let limit = MachineLimit::of(&mut cpu, compute_type, ints);
    let position_bytes = demand.block_bytes as f64 / options.block_size as f64;
    let one_row = Workload {
        num_sequences: 1,
        rows_per_sequence: 1,
        context,
    };
    let share = product_share(options, ints);
    let multiplying = step_flops(&model.spec, one_row) / (share * limit.flops);
    let phases = PHASES_PER_LAYER * model.spec.num_hidden_layers as f64;
    let costs = StepCosts {
        fixed: demand.weight_bytes as f64 / limit.bytes_per_s + phases * phase_time(&mut cpu),
        row: multiplying + context as f64 * position_bytes / limit.bytes_per_s,
    };
    Ok(Some((limit, costs)))
}

/// Seconds that all threads take to start and end together.
fn phase_time(cpu: &mut Cpu) -> f64 {
    const PHASES: usize = 101;
    let threads = cpu.threads();
    let mut rows = Rows::<F32>::zeros(threads, 1);
    let mut times: Vec<_> = (0..PHASES)
        .map(|_| {
            let start = Instant::now();
            fill_rows(cpu, &mut rows, threads, |_, values| values.fill(0.0));
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[PHASES / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::CounterRng;

    #[test]
    fn a_disturbed_machine_is_measured_until_it_agrees_with_itself() {
        let flops = [5.0, 9.9, 10.0, 4.0, 3.0, 99.0];
        let bytes = [1.0, 2.0, 2.0, 3.0, 2.98, 99.0];
        let mut rounds = flops.into_iter().zip(bytes).map(<[f64; 2]>::from);
        assert_eq!(settled(|| rounds.next().unwrap()), [10.0, 3.0]);
        let mut rounds = 0;
        let rates = settled(|| {
            rounds += 1;
            [f64::from(rounds) * 2.0, 1.0]
        });
        assert_eq!((rounds, rates), (10, [20.0, 1.0]));
    }

    /// Qwen2.5-0.5B in bf16 on two cores of a Zen 4, with other programs taking a core for a part
    /// of most rounds.
    #[test]
    fn the_batch_is_the_same_on_every_run_of_a_busy_machine() {
        const FLOPS: f64 = 473e9;
        for seed in 0..500 {
            let rng = CounterRng::from_parts(&[seed, 0xb5]);
            let mut draws = 0..;
            let mut uniform = || rng.uniform(draws.next().unwrap());
            let mut noisy = |rate: f64| {
                let disturbed = uniform() < 0.35;
                let jitter = 1.0 - 0.02 * uniform();
                rate * jitter
                    * if disturbed {
                        0.5 + 0.5 * uniform()
                    } else {
                        1.0
                    }
            };
            // Neighbours on the same memory: what this machine was seen to read.
            let bandwidth = [34e9, 42e9, 51e9][seed as usize % 3];
            let [flops, bytes_per_s] = settled(|| [noisy(FLOPS), noisy(bandwidth)]);
            let costs = StepCosts {
                fixed: 1e9 / bytes_per_s,
                row: 1.08e9 / (FLOAT_SHARE * flops) + 12.6e6 / bytes_per_s,
            };
            assert_eq!(
                costs.batch(),
                (64, 512),
                "seed {seed}: {flops} {bytes_per_s}"
            );
        }
    }
}
