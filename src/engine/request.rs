//! What a caller asks for: a prompt and how to continue it.

/// One prompt and its sampling parameters. With `n > 1` it makes `n` sequences that share the
/// prompt's KV blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The caller's number for it, unique in a run; it also keys the random stream, so a request
    /// draws the same values whatever else is in the batch.
    pub id: u64,
    /// The prompt, exactly as the model sees it (BOS included where the template writes one).
    pub prompt_token_ids: Vec<u32>,
    /// How to continue.
    pub params: SamplingParams,
}

/// How tokens are chosen and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// The cap on new tokens.
    pub max_gen_toks: usize,
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the `k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Texts that end the generation; the text is cut before the first occurrence.
    pub stop: Vec<String>,
    /// Token ids that end the generation (EOS ids); they add no text.
    pub stop_token_ids: Vec<u32>,
    /// Independent samples of the same prompt.
    pub n: usize,
    /// Per generated token: its log-probability and this many most likely alternatives.
    pub logprobs: Option<usize>,
    /// The run's seed. A token's draw is keyed by (seed, request id, sample index, position).
    pub seed: u64,
}

impl Default for SamplingParams {
    /// Greedy, 256 new tokens (lm-evaluation-harness's default), no stops, one sample.
    fn default() -> Self {
        Self {
            max_gen_toks: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            n: 1,
            logprobs: None,
            seed: 0,
        }
    }
}
