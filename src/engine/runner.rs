//! The seam between scheduling and arithmetic: one step of the model over a mixed batch.

/// One sequence's share of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepSequence {
    /// Index of its first row in [`StepInput::token_ids`].
    pub first_row: usize,
    /// Its rows: 1 when decoding, more for a chunk of prefill.
    pub num_rows: usize,
    /// Tokens whose keys and values are in the cache already; row `i` has this position plus `i`.
    pub num_computed_tokens: usize,
    /// Physical block of each `block_size` positions, long enough for every row of this step.
    pub block_table: Vec<u32>,
    /// How many of its last rows need logits: 0 for a chunk that does not end the prompt.
    pub num_logits: usize,
}

/// A step: all rows, back to back, and the sequences they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepInput {
    /// The token of every row.
    pub token_ids: Vec<u32>,
    /// Who owns which rows, in row order.
    pub sequences: Vec<StepSequence>,
}

impl StepInput {
    /// Rows of logits that a step returns: the sum of [`StepSequence::num_logits`].
    pub fn num_logits(&self) -> usize {
        self.sequences
            .iter()
            .map(|sequence| sequence.num_logits)
            .sum()
    }

    /// Whether every token is one of `vocab_size` and the sequences lie back to back over all
    /// rows. Block tables are the executor's to check.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_rows(&self, vocab_size: usize) -> Result<(), String> {
        let unknown = |id: &&u32| **id as usize >= vocab_size;
        if let Some(token) = self.token_ids.iter().find(unknown) {
            return Err(format!(
                "token {token} is not in the vocabulary of {vocab_size}"
            ));
        }
        let mut rows = 0;
        for sequence in &self.sequences {
            if sequence.first_row != rows || sequence.num_logits > sequence.num_rows {
                return Err("a step's sequences do not follow one another".to_owned());
            }
            rows += sequence.num_rows;
        }
        if rows != self.token_ids.len() {
            return Err("a step has rows that belong to no sequence".to_owned());
        }
        Ok(())
    }
}

/// A failure of the executor. It ends the run: no single request is to blame.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The backend reported this.
    #[error("{backend}: {message}")]
    Backend {
        /// Which executor.
        backend: &'static str,
        /// What it said.
        message: String,
    },
}

impl RunnerError {
    /// What `backend` said.
    pub fn backend(backend: &'static str, message: impl Into<String>) -> Self {
        Self::Backend {
            backend,
            message: message.into(),
        }
    }
}

/// An executor of a model over a paged KV cache that it owns.
///
/// A row's logits depend only on that row's sequence, never on the rest of the batch, wherever
/// [`ModelRunner::is_batch_invariant`] says so.
pub trait ModelRunner {
    /// Entries of one row of logits.
    fn vocab_size(&self) -> usize;

    /// Positions per KV block.
    fn block_size(&self) -> usize;

    /// Blocks of the pool. Block ids are below it.
    fn num_blocks(&self) -> usize;

    /// Whether a row's bits are independent of the rest of the batch.
    fn is_batch_invariant(&self) -> bool;

    /// Runs one step: writes keys and values of every row, fills `logits` with
    /// `num_logits * vocab_size` values in row order.
    ///
    /// # Errors
    /// The backend failed; the contents of the cache are undefined afterwards.
    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError>;

    /// Copies block `source` to block `target` in every layer (copy-on-write).
    ///
    /// # Errors
    /// The backend failed.
    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError>;
}
