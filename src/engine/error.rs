//! What can go wrong: with one request (a value, the run goes on) or with the engine (the run ends).

use super::{RunnerError, SamplerError};

/// Why a request cannot run. Its caller knows its name and puts it before the message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Another unfinished request has this id; both would draw the same random numbers.
    #[error("its id is in use by another unfinished request")]
    DuplicateId,
    /// No tokens to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token that the model lacks.
    #[error(
        "token id {token_id} at position {position} is outside the model's vocabulary of {vocab_size}"
    )]
    UnknownToken {
        /// The token.
        token_id: u32,
        /// Where in the prompt.
        position: usize,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// The prompt leaves no room for a single new token.
    #[error(
        "the prompt has {prompt_tokens} tokens and the context holds {max_model_len}, one of them \
         new; raise max_model_len or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The context length.
        max_model_len: usize,
    },
    /// The whole KV pool is too small for it.
    #[error(
        "{prompt_tokens} prompt tokens and {max_new_tokens} new ones need {needed_blocks} KV blocks \
         of {block_size} tokens and the pool has {num_blocks}; raise the KV memory or lower \
         max_gen_toks"
    )]
    NeverFits {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Its budget of new tokens.
        max_new_tokens: usize,
        /// Blocks that it may grow to.
        needed_blocks: usize,
        /// Positions per block.
        block_size: usize,
        /// Blocks of the pool.
        num_blocks: usize,
    },
    /// A sampling parameter outside its range.
    #[error("{name} is {value}, expected {expected}")]
    InvalidParameter {
        /// Which parameter.
        name: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

/// Why an engine cannot be made or a run ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A configuration value outside its range.
    #[error("{name} is {value}, expected {expected}")]
    InvalidConfig {
        /// Which value.
        name: &'static str,
        /// What it was.
        value: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// The executor failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The executor broke its contract.
    #[error("the executor returned {found} logits, expected {expected}")]
    LogitsShape {
        /// Values expected.
        expected: usize,
        /// Values returned.
        found: usize,
    },
    /// The model gave logits that no token can be chosen from.
    #[error("request {request_id}, generated token {position}: {source}")]
    Logits {
        /// Which request.
        request_id: u64,
        /// Index of the token that was to be sampled, from 0.
        position: usize,
        /// What is wrong with them.
        source: SamplerError,
    },
}
