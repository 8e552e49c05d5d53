//! A runner without weights: its logits are a fixed function of the tokens that it finds in its
//! paged cache. Tests of batching and of everything above the engine need no more.

use super::{ModelRunner, RunnerError, StepInput};

/// Deterministic logits from whatever the block table leads to.
///
/// Each cache slot remembers which token at which position was written to it. A row's logits mix
/// the slots of all positions up to its own, in order, so a wrong block, a missing copy, a stale
/// slot or a row too early changes the output of that sequence and shows in any comparison.
#[derive(Debug)]
pub struct ScriptedRunner {
    vocab_size: usize,
    block_size: usize,
    slots: Vec<u64>,
    seed: u64,
    /// Latest positions that the logits depend on.
    memory: usize,
}

/// What an unwritten slot holds.
const UNWRITTEN: u64 = u64::MAX;

impl ScriptedRunner {
    /// A runner with `num_blocks` blocks; `seed` chooses the function.
    pub fn new(vocab_size: usize, block_size: usize, num_blocks: usize, seed: u64) -> Self {
        Self {
            vocab_size,
            block_size,
            slots: vec![UNWRITTEN; num_blocks * block_size],
            seed,
            memory: usize::MAX,
        }
    }

    /// Makes the logits depend on the latest `memory` positions only: greedy text soon repeats.
    #[must_use]
    pub fn with_memory(self, memory: usize) -> Self {
        Self { memory, ..self }
    }

    fn slot(&self, block_table: &[u32], position: usize) -> usize {
        let block = block_table[position / self.block_size] as usize;
        block * self.block_size + position % self.block_size
    }

    /// What a slot remembers. A short memory forgets where a token stood, or nothing would repeat.
    fn entry(&self, position: usize, token: u32) -> u64 {
        let position = if self.memory == usize::MAX {
            position as u64
        } else {
            0
        };
        mix(position << 32 | u64::from(token))
    }

    /// *Shapes* appends `[vocab_size]`: values in -4 to 4.
    fn append_logits(&self, block_table: &[u32], position: usize, logits: &mut Vec<f32>) {
        let mut state = mix(self.seed);
        for earlier in (position + 1).saturating_sub(self.memory)..=position {
            let slot = self.slots[self.slot(block_table, earlier)];
            assert_ne!(slot, UNWRITTEN, "position {earlier} was never computed");
            state = mix(state ^ slot);
        }
        logits.extend((0..self.vocab_size as u64).map(|token| {
            let bits = mix(state.wrapping_add(token)) >> 40;
            bits as f32 * (8.0 / (1u64 << 24) as f32) - 4.0
        }));
    }
}

impl ModelRunner for ScriptedRunner {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn block_size(&self) -> usize {
        self.block_size
    }

    fn num_blocks(&self) -> usize {
        self.slots.len() / self.block_size
    }

    fn is_batch_invariant(&self) -> bool {
        true
    }

    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        logits.clear();
        for sequence in &input.sequences {
            for row in 0..sequence.num_rows {
                let position = sequence.num_computed_tokens + row;
                let token = input.token_ids[sequence.first_row + row];
                let slot = self.slot(&sequence.block_table, position);
                self.slots[slot] = self.entry(position, token);
            }
            for row in sequence.num_rows - sequence.num_logits..sequence.num_rows {
                let position = sequence.num_computed_tokens + row;
                self.append_logits(&sequence.block_table, position, logits);
            }
        }
        Ok(())
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        let begin = source as usize * self.block_size;
        self.slots.copy_within(
            begin..begin + self.block_size,
            target as usize * self.block_size,
        );
        Ok(())
    }
}

/// splitmix64's output function (Steele et al. 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
