//! What a caller gets back: one finished sequence.

use std::time::Duration;

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token id was generated.
    Eos,
    /// A stop string appeared; the text is cut before it.
    StopString(String),
    /// `max_gen_toks`, or the context length, was reached.
    Length,
}

/// One generated token's log-probability (natural logarithm, before temperature and filters).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The generated token.
    pub token_id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens with theirs, best first; ties by lower id.
    pub top: Vec<(u32, f32)>,
}

/// One finished sequence of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// [`super::Request::id`].
    pub request_id: u64,
    /// 0 to `n - 1`.
    pub sample_index: usize,
    /// The generated text, cut before a stop string. Special tokens are shown as text; the stop
    /// token adds none.
    pub text: String,
    /// Every generated token, a final stop token and the tokens of a stop string included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were found in the prefix cache.
    pub cached_tokens: usize,
    /// The budget of new tokens after clamping to the context length; below `max_gen_toks` when
    /// the context was too short for it.
    pub max_gen_toks_effective: usize,
    /// Sum of the generated tokens' log-probabilities.
    pub cumulative_logprob: f64,
    /// Per token, when asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// From admission to the first token.
    pub prefill_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
}
