//! The sampling half of a sequence: its text, stop strings, random stream and log-probabilities.

use std::sync::Arc;
use std::time::Instant;

use crate::random::CounterRng;

use super::sampler::{self, RowScan, Sampled, Sampler, SamplerError, SeenTokens};
use super::sequence::Sequence;
use super::stops::StopMatcher;
use super::{Completion, Detokenizer, FinishReason, SamplingParams, TokenLogprob};

/// One sample of a request, from submission to completion.
#[derive(Debug)]
pub(super) struct Generation {
    request_id: u64,
    params: Arc<SamplingParams>,
    sample_index: usize,
    /// The budget of new tokens.
    max_new_tokens: usize,
    text: StopMatcher,
    stream: CounterRng,
    /// From admission on, when there is a repetition penalty.
    seen: Option<SeenTokens>,
    num_generated: usize,
    cumulative_logprob: f64,
    logprobs: Option<Vec<TokenLogprob>>,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl Generation {
    /// Nothing generated yet.
    pub(super) fn new(
        request_id: u64,
        params: Arc<SamplingParams>,
        sample_index: usize,
        max_new_tokens: usize,
    ) -> Self {
        Self {
            request_id,
            sample_index,
            max_new_tokens,
            text: StopMatcher::new(&params.stop),
            stream: sampler::random_stream(params.seed, request_id, sample_index),
            seen: None,
            num_generated: 0,
            cumulative_logprob: 0.0,
            logprobs: params.logprobs.map(|_| Vec::new()),
            admitted: None,
            first_token: None,
            params,
        }
    }

    /// Sample `sample_index` of the same request, where this one has generated nothing.
    pub(super) fn fork(&self, sample_index: usize) -> Self {
        assert_eq!(self.num_generated, 0, "samples part at their first token");
        let params = self.params.clone();
        Self {
            admitted: self.admitted,
            seen: self.seen.clone(),
            ..Self::new(self.request_id, params, sample_index, self.max_new_tokens)
        }
    }

    pub(super) fn request_id(&self) -> u64 {
        self.request_id
    }

    pub(super) fn num_generated(&self) -> usize {
        self.num_generated
    }

    /// Notes that it gets a share of a step; the first time counts as its admission.
    pub(super) fn admit(&mut self, prompt_token_ids: &[u32], now: Instant) {
        if self.admitted.is_some() {
            return;
        }
        self.admitted = Some(now);
        if self.params.repetition_penalty != 1.0 {
            let mut seen = SeenTokens::default();
            prompt_token_ids.iter().for_each(|&id| seen.insert(id));
            self.seen = Some(seen);
        }
    }

    /// Chooses the next token. *Shapes* `logits: [vocab_size]`, of which `scan` is the scan.
    pub(super) fn sample(
        &self,
        sampler: &mut Sampler,
        logits: &[f32],
        scan: RowScan,
    ) -> Result<Sampled, SamplerError> {
        sampler.sample(
            logits,
            scan,
            &self.params,
            self.seen.as_ref(),
            self.stream,
            self.num_generated,
        )
    }

    /// Takes the chosen token in; returns why the sequence ends with it, if it does.
    pub(super) fn push(
        &mut self,
        sampled: Sampled,
        detokenizer: &dyn Detokenizer,
        now: Instant,
    ) -> Option<Ended> {
        let token_id = sampled.token_id;
        self.first_token.get_or_insert(now);
        self.num_generated += 1;
        self.cumulative_logprob += f64::from(sampled.logprob);
        if let Some(seen) = &mut self.seen {
            seen.insert(token_id);
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(sampled.into());
        }
        if self.params.stop_token_ids.contains(&token_id) {
            return Some(Ended::Eos);
        }
        let stopped = self
            .text
            .push(|bytes| detokenizer.append_token_bytes(token_id, bytes));
        if stopped {
            return Some(Ended::StopString);
        }
        (self.num_generated == self.max_new_tokens).then_some(Ended::Length)
    }

    /// The finished sample.
    pub(super) fn complete(self, sequence: &Sequence, ended: Ended, now: Instant) -> Completion {
        let (text, stop) = self.text.finish();
        let finish_reason = match (ended, stop) {
            (Ended::StopString, Some(stop)) => FinishReason::StopString(stop),
            (Ended::Eos, _) => FinishReason::Eos,
            (Ended::Length | Ended::StopString, _) => FinishReason::Length,
        };
        let admitted = self.admitted.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        Completion {
            request_id: self.request_id,
            sample_index: self.sample_index,
            text,
            token_ids: sequence.generated_token_ids().to_vec(),
            finish_reason,
            prompt_tokens: sequence.num_prompt_tokens,
            cached_tokens: sequence.num_cached_tokens,
            max_gen_toks_effective: self.max_new_tokens,
            cumulative_logprob: self.cumulative_logprob,
            logprobs: self.logprobs,
            prefill_time: first_token - admitted,
            decode_time: now - first_token,
        }
    }
}

/// How a sequence ended, before its text says which stop string it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Eos,
    StopString,
    Length,
}
