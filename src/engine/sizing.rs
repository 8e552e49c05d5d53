//! How large the KV pool, the batch and a step are: what the user chose, the rest from the model
//! and the machine's memory. Pure arithmetic; every value is reported before a run starts.

use super::demand::MemoryDemand;

/// Sequences in flight when nobody says or measures: the matrix products of a CPU stand at nine tenths of their
/// peak with this many rows, and twice as many double the memory for the rest.
const DEFAULT_MAX_NUM_SEQS: usize = 64;
/// Rows of a step when nobody says or measures: enough for the peak of the matrix products, few enough that
/// sequences being decoded wait a fraction of a second for a prompt.
const DEFAULT_MAX_NUM_BATCHED_TOKENS: usize = 512;
/// The share of available memory that weights, buffers and KV pool may take when nobody says.
const MEMORY_SHARE: f64 = 0.85;
/// KV pool where the system does not say how much memory there is.
const UNKNOWN_MEMORY_KV_BYTES: u64 = 1 << 30;

/// Sequences in flight to choose from. Fewer than the first save memory only where contexts are so
/// long that the pool is the limit anyway; more than the last cut the pool into too small shares.
const CHOSEN_SEQUENCES: [usize; 3] = [64, 128, 256];
/// The share of the rate of the most sequences at which fewer are as good: twice the sequences are
/// twice the memory. On the machines that we know the choice stays the same when a rate is measured
/// a fifth too high or too low.
const GOOD_RATE: f64 = 0.87;
/// Rows of a step for each sequence in flight, so that prompts do not wait for many steps, where
/// that is more than [`DEFAULT_MAX_NUM_BATCHED_TOKENS`].
const ROWS_PER_SEQUENCE: usize = 4;

/// What a step of decoding takes on a machine, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepCosts {
    /// However many rows it has: reading the weights, starting the threads.
    pub(super) fixed: f64,
    /// For each row: multiplying, reading its keys and values.
    pub(super) row: f64,
}

impl StepCosts {
    fn tokens_per_second(&self, sequences: usize) -> f64 {
        let rows = sequences as f64;
        rows / (self.fixed + rows * self.row)
    }

    /// What a further row adds to a step of one.
    pub(super) fn row_cost(&self) -> f64 {
        self.row / (self.fixed + self.row)
    }

    /// The share of the rate of the most sequences that this many reach.
    pub(super) fn share_of_rate(&self, sequences: usize) -> f64 {
        let [.., most] = CHOSEN_SEQUENCES;
        self.tokens_per_second(sequences) / self.tokens_per_second(most)
    }

    /// Sequences in flight and rows of a step: the fewest that are as good as the most.
    pub(super) fn batch(&self) -> (usize, usize) {
        let [.., most] = CHOSEN_SEQUENCES;
        let good = |sequences: &usize| self.share_of_rate(*sequences) >= GOOD_RATE;
        let sequences = CHOSEN_SEQUENCES.into_iter().find(good).unwrap_or(most);
        let rows = (ROWS_PER_SEQUENCE * sequences).max(DEFAULT_MAX_NUM_BATCHED_TOKENS);
        (sequences, rows)
    }
}

/// Why a batch was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchChoice {
    /// Operations per second that the machine was measured at.
    pub flops: f64,
    /// Bytes read per second, likewise.
    pub bytes_per_s: f64,
    /// Positions of a sequence for which it was chosen.
    pub context: usize,
    /// The share of the largest batch's rate that it is expected to reach.
    pub share_of_rate: f64,
}

/// What the model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// The longest sequence that the checkpoint was made for.
    pub(super) model_max_len: usize,
    /// Positions per KV block.
    pub(super) block_size: usize,
    /// KV blocks that the device can address, at most.
    pub(super) max_blocks: usize,
    pub(super) memory: MemoryDemand,
}

impl Demand {
    /// What all devices hold together.
    ///
    /// # Panics
    /// There is no device.
    pub(super) fn total(devices: &[(Self, Option<u64>)]) -> Self {
        let add = |a: Self, b: Self| Self {
            memory: a.memory + b.memory,
            max_blocks: a.max_blocks.min(b.max_blocks),
            ..a
        };
        let demands = devices.iter().map(|(demand, _)| *demand);
        demands.reduce(add).expect("a model runs somewhere")
    }
}

/// What the user chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choices {
    pub(super) kv_bytes: Option<u64>,
    pub(super) max_model_len: Option<usize>,
    pub(super) max_num_seqs: Option<usize>,
    pub(super) max_num_batched_tokens: Option<usize>,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) num_blocks: usize,
    pub(super) max_model_len: usize,
    pub(super) max_num_seqs: usize,
    pub(super) max_num_batched_tokens: usize,
}

/// Why no sizes work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizingError {
    /// A length beyond the model's positions.
    #[error(
        "max_model_len is {max_model_len}, and the model was made for sequences of at most \
         {model_max_len} tokens"
    )]
    BeyondModel {
        /// What was asked for.
        max_model_len: usize,
        /// What the checkpoint states.
        model_max_len: usize,
    },
    /// One sequence of the length asked for does not fit.
    #[error(
        "a sequence of {max_model_len} tokens needs {needed_mib} MiB of KV memory and there are \
         {kv_mib} MiB; lower max_model_len to {fitting_len} or raise the KV memory"
    )]
    PoolTooSmall {
        /// What was asked for.
        max_model_len: usize,
        /// Its KV blocks.
        needed_mib: u64,
        /// The pool.
        kv_mib: u64,
        /// The longest sequence that the pool holds.
        fitting_len: usize,
    },
    /// Not even one block.
    #[error(
        "{available_mib} MiB of memory are available and the model takes {fixed_mib} MiB, which \
         leaves no room for its KV cache; free memory or choose a smaller model"
    )]
    NoMemory {
        /// What the system offers.
        available_mib: u64,
        /// Weights and buffers.
        fixed_mib: u64,
    },
    /// A KV memory beyond what the device reaches.
    #[error(
        "a KV memory of {kv_mib} MiB was asked for, and this device can address {most_mib} MiB of \
         it for this model; lower the KV memory, or leave it out"
    )]
    BeyondDevice {
        /// What was asked for.
        kv_mib: u64,
        /// What the device can address.
        most_mib: u64,
    },
    /// A KV memory below one block.
    #[error(
        "the KV memory of {kv_bytes} bytes is below one block, which takes {block_bytes} bytes"
    )]
    BelowOneBlock {
        /// What was asked for.
        kv_bytes: u64,
        /// One block over all layers.
        block_bytes: u64,
    },
}

/// Sizes for a model whose layers are on several devices, each with what its layers demand and what
/// it has left: the device with room for the fewest blocks decides.
///
/// # Panics
/// There is no device.
pub(super) fn choose_for_all(
    devices: &[(Demand, Option<u64>)],
    choices: &Choices,
) -> Result<Sizes, SizingError> {
    let block_bytes = devices
        .iter()
        .map(|(demand, _)| demand.memory.block_bytes)
        .sum();
    let mut tightest: Option<Sizes> = None;
    for (demand, available_bytes) in devices {
        // Every device holds its layers' part of every block.
        let kv_bytes = match choices.kv_bytes {
            Some(kv_bytes) if kv_bytes < block_bytes => {
                return Err(SizingError::BelowOneBlock {
                    kv_bytes,
                    block_bytes,
                });
            }
            kv_bytes => kv_bytes.map(|bytes| bytes / block_bytes * demand.memory.block_bytes),
        };
        let of_device = Choices {
            kv_bytes,
            ..*choices
        };
        let sizes = choose(demand, &of_device, *available_bytes)?;
        if tightest.is_none_or(|tightest| sizes.num_blocks < tightest.num_blocks) {
            tightest = Some(sizes);
        }
    }
    Ok(tightest.expect("a model runs somewhere"))
}

/// Sizes for a model on a machine with `available_bytes` of memory.
fn choose(
    demand: &Demand,
    choices: &Choices,
    available_bytes: Option<u64>,
) -> Result<Sizes, SizingError> {
    let asked_len = choices.max_model_len;
    if let Some(max_model_len) = asked_len.filter(|&len| len > demand.model_max_len) {
        return Err(SizingError::BeyondModel {
            max_model_len,
            model_max_len: demand.model_max_len,
        });
    }
    let max_num_seqs = choices.max_num_seqs.unwrap_or(DEFAULT_MAX_NUM_SEQS);
    let max_num_batched_tokens = choices
        .max_num_batched_tokens
        .unwrap_or(DEFAULT_MAX_NUM_BATCHED_TOKENS.max(max_num_seqs));
    let longest = asked_len.unwrap_or(demand.model_max_len);
    let num_blocks = match choices.kv_bytes {
        Some(kv_bytes) => {
            let num_blocks = kv_bytes / demand.memory.block_bytes;
            if num_blocks == 0 {
                return Err(SizingError::BelowOneBlock {
                    kv_bytes,
                    block_bytes: demand.memory.block_bytes,
                });
            }
            if num_blocks > demand.max_blocks as u64 {
                return Err(SizingError::BeyondDevice {
                    kv_mib: mib(kv_bytes),
                    most_mib: (demand.max_blocks as u64 * demand.memory.block_bytes) >> 20,
                });
            }
            num_blocks
        }
        None => {
            let buffers = demand
                .memory
                .row_bytes
                .saturating_mul(max_num_batched_tokens as u64);
            let fixed = demand.memory.weight_bytes.saturating_add(buffers);
            let kv_bytes = affordable_kv_bytes(demand.memory.block_bytes, fixed, available_bytes)?;
            let affordable = kv_bytes / demand.memory.block_bytes;
            // More blocks than full slots can ever hold would only be memory for old prefixes.
            let useful = longest
                .div_ceil(demand.block_size)
                .saturating_mul(max_num_seqs);
            affordable.min(useful as u64)
        }
    };
    let num_blocks = usize::try_from(num_blocks)
        .unwrap_or(usize::MAX)
        .min(demand.max_blocks)
        .min(u32::MAX as usize);
    let fitting_len = num_blocks.saturating_mul(demand.block_size);
    if let Some(max_model_len) = asked_len.filter(|&len| len > fitting_len) {
        let needed_blocks = max_model_len.div_ceil(demand.block_size) as u64;
        return Err(SizingError::PoolTooSmall {
            max_model_len,
            needed_mib: mib(needed_blocks * demand.memory.block_bytes),
            kv_mib: mib(num_blocks as u64 * demand.memory.block_bytes),
            fitting_len,
        });
    }
    Ok(Sizes {
        num_blocks,
        max_model_len: longest.min(fitting_len),
        max_num_seqs,
        max_num_batched_tokens,
    })
}

/// What is left for the KV pool beside `fixed` bytes: at least one block's bytes.
fn affordable_kv_bytes(
    block_bytes: u64,
    fixed: u64,
    available: Option<u64>,
) -> Result<u64, SizingError> {
    let Some(available) = available else {
        return Ok(UNKNOWN_MEMORY_KV_BYTES.max(block_bytes));
    };
    let share = (available as f64 * MEMORY_SHARE) as u64;
    let left = share.saturating_sub(fixed);
    if left < block_bytes {
        return Err(SizingError::NoMemory {
            available_mib: mib(available),
            fixed_mib: mib(fixed),
        });
    }
    Ok(left)
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        model_max_len: 4096,
        block_size: 16,
        max_blocks: usize::MAX,
        memory: MemoryDemand {
            block_bytes: 1 << 20,
            weight_bytes: 1 << 29,
            row_bytes: 1 << 20,
        },
    };

    fn choose_with(choices: Choices, available: u64) -> Result<Sizes, SizingError> {
        choose(&DEMAND, &choices, Some(available))
    }

    #[test]
    fn the_pool_takes_what_is_left_but_no_more_than_the_slots_can_fill() {
        let sizes = choose_with(Choices::default(), 4 << 30).unwrap();
        assert_eq!(sizes.num_blocks, 2457); // (0.85 * 4 - 1) GiB in MiB
        assert_eq!(sizes.max_model_len, 4096);
        let sizes = choose_with(Choices::default(), 400 << 30).unwrap();
        assert_eq!(sizes.num_blocks, 64 * 4096 / 16);
        let one = Choices {
            max_num_seqs: Some(1),
            ..Choices::default()
        };
        assert_eq!(choose_with(one, 400 << 30).unwrap().num_blocks, 256);
    }

    #[test]
    fn a_small_pool_shortens_the_context_unless_its_length_was_asked_for() {
        let small = Choices {
            kv_bytes: Some(100 << 20),
            ..Choices::default()
        };
        let sizes = choose_with(small, 4 << 30).unwrap();
        assert_eq!((sizes.num_blocks, sizes.max_model_len), (100, 1600));
        let long = Choices {
            max_model_len: Some(2000),
            ..small
        };
        assert_eq!(
            choose_with(long, 4 << 30).unwrap_err().to_string(),
            "a sequence of 2000 tokens needs 125 MiB of KV memory and there are 100 MiB; lower \
             max_model_len to 1600 or raise the KV memory"
        );
    }

    #[test]
    fn the_pool_is_no_larger_than_the_device_can_address() {
        let demand = Demand {
            max_blocks: 10,
            ..DEMAND
        };
        let sizes = choose(&demand, &Choices::default(), Some(4 << 30)).unwrap();
        assert_eq!((sizes.num_blocks, sizes.max_model_len), (10, 160));
        let asked = |kv_bytes| Choices {
            kv_bytes: Some(kv_bytes),
            ..Choices::default()
        };
        let error = choose(&demand, &asked(11 << 20), Some(4 << 30)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a KV memory of 11 MiB was asked for, and this device can address 10 MiB of it for this \
             model; lower the KV memory, or leave it out"
        );
        let sizes = choose(&demand, &asked(10 << 20), Some(4 << 30)).unwrap();
        assert_eq!(sizes.num_blocks, 10);
    }

    #[test]
    fn the_device_with_the_least_room_decides() {
        let small = (DEMAND, Some(2 << 30));
        let large = (DEMAND, Some(4 << 30));
        let alone = choose_with(Choices::default(), 2 << 30).unwrap();
        for devices in [[small, large], [large, small]] {
            assert_eq!(
                choose_for_all(&devices, &Choices::default()).unwrap(),
                alone
            );
        }
        // A block takes one MiB on each of the two.
        let asked = Choices {
            kv_bytes: Some(21 << 20),
            ..Choices::default()
        };
        let sizes = choose_for_all(&[small, large], &asked).unwrap();
        assert_eq!(sizes.num_blocks, 10);
        let tiny = Choices {
            kv_bytes: Some(2_000_000),
            ..Choices::default()
        };
        assert!(matches!(
            choose_for_all(&[small, large], &tiny),
            Err(SizingError::BelowOneBlock { .. })
        ));
    }

    #[test]
    fn a_machine_that_multiplies_faster_than_it_reads_gets_larger_batches() {
        let batch = |fixed, row| StepCosts { fixed, row }.batch();
        assert_eq!(batch(20e-3, 10e-3), (64, 512));
        assert_eq!(batch(20e-3, 3e-3), (64, 512));
        assert_eq!(batch(20e-3, 1e-3), (128, 512));
        assert_eq!(batch(20e-3, 0.1e-3), (256, 1024));
        assert_eq!(batch(0.0, 1.0), (64, 512));
        // Not a measurement at all.
        assert_eq!(batch(f64::NAN, 0.0), (256, 1024));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_numbers() {
        let too_long = Choices {
            max_model_len: Some(5000),
            ..Choices::default()
        };
        assert!(matches!(
            choose_with(too_long, 4 << 30),
            Err(SizingError::BeyondModel { .. })
        ));
        assert_eq!(
            choose_with(Choices::default(), 1 << 30),
            Err(SizingError::NoMemory {
                available_mib: 1024,
                fixed_mib: 1024
            })
        );
        let tiny = Choices {
            kv_bytes: Some(1000),
            ..Choices::default()
        };
        assert!(matches!(
            choose_with(tiny, 4 << 30),
            Err(SizingError::BelowOneBlock { .. })
        ));
    }
}
