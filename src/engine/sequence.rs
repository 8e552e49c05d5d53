//! One generation in progress: its tokens, how many of them the KV cache holds, and its blocks.

use super::block_manager::BlockTable;

/// Names a sequence within its scheduler; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SequenceId(pub(super) usize);

/// The scheduling half of a generation: tokens and blocks, no text and no sampling.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Prompt, then what was generated.
    pub(super) token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) num_prompt_tokens: usize,
    /// Leading tokens whose keys and values are in the cache.
    pub(super) num_computed_tokens: usize,
    /// Prompt tokens that were in the prefix cache when it was first admitted.
    pub(super) num_cached_tokens: usize,
    /// Computed tokens that it lost with its blocks, and must compute again where not cached.
    pub(super) num_dropped_tokens: usize,
    /// Tokens guessed to follow, to be verified by the next step; empty without speculation.
    pub(super) draft_token_ids: Vec<u32>,
    /// Prompt tokens plus the budget of new ones: it never grows beyond.
    pub(super) max_len: usize,
    /// Samples that start from this one's prompt once it is computed.
    pub(super) num_pending_samples: usize,
    /// Its KV blocks.
    pub(super) blocks: BlockTable,
}

impl Sequence {
    /// A prompt that waits, with a budget of `max_new_tokens` and `n` samples in all.
    pub(super) fn new(prompt_token_ids: Vec<u32>, max_new_tokens: usize, n: usize) -> Self {
        assert!(
            !prompt_token_ids.is_empty() && max_new_tokens > 0 && n > 0,
            "a sequence has something to compute and something to generate"
        );
        Self {
            num_prompt_tokens: prompt_token_ids.len(),
            max_len: prompt_token_ids.len() + max_new_tokens,
            token_ids: prompt_token_ids,
            num_computed_tokens: 0,
            num_cached_tokens: 0,
            num_dropped_tokens: 0,
            draft_token_ids: Vec::new(),
            num_pending_samples: n - 1,
            blocks: BlockTable::default(),
        }
    }

    /// Tokens whose keys and values are missing: 1 when decoding, more in prefill.
    pub(super) fn num_uncomputed_tokens(&self) -> usize {
        self.token_ids.len() - self.num_computed_tokens
    }

    /// Whether only its newest token is left to compute.
    pub(super) fn is_decoding(&self) -> bool {
        self.num_uncomputed_tokens() == 1
    }

    /// New tokens it may still generate.
    pub(super) fn num_tokens_left(&self) -> usize {
        self.max_len - self.token_ids.len()
    }

    /// Generated tokens.
    pub(super) fn generated_token_ids(&self) -> &[u32] {
        &self.token_ids[self.num_prompt_tokens..]
    }
}
