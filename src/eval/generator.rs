//! The seam between evaluation and whatever writes the answers: the engine, a server, or a script
//! in tests.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::engine::{Completion, Engine, FinishReason, Request, RequestError, cut_at_stop_strings};

use super::EvalError;

/// Continues prompts. Requests go in at any time; finished sequences come out of [`Self::step`] in
/// any order.
pub trait Generator {
    /// The budget of new tokens that the request would get: its `max_gen_toks`, or what the
    /// context leaves of it.
    ///
    /// # Errors
    /// The request can never run, whatever else does.
    fn check(&self, request: &Request) -> Result<usize, RequestError>;

    /// Takes in a request; it starts when there is room.
    ///
    /// # Errors
    /// The request can never run.
    fn submit(&mut self, request: Request) -> Result<(), EvalError>;

    /// Advances everything that runs by one step and returns what finished.
    ///
    /// # Errors
    /// The run cannot go on.
    fn step(&mut self) -> Result<Vec<Completion>, EvalError>;

    /// Whether nothing runs or waits.
    fn is_idle(&self) -> bool;

    /// What a progress display shows.
    fn load(&self) -> Load;

    /// What else it counted, for a run's manifest.
    fn statistics(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// How busy a generator is. Counts are of this process, not of what was resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// Prompt tokens computed since the start.
    pub prefill_tokens: u64,
    /// Share of the KV cache in use, 0 to 1; `None` where nobody knows.
    pub kv_usage: Option<f64>,
}

impl Generator for Engine {
    fn check(&self, request: &Request) -> Result<usize, RequestError> {
        self.check(request)
    }

    fn submit(&mut self, request: Request) -> Result<(), EvalError> {
        let request_id = request.id;
        self.submit(request)
            .map_err(|source| EvalError::Refused { request_id, source })
    }

    fn step(&mut self) -> Result<Vec<Completion>, EvalError> {
        Ok(self.step()?)
    }

    fn is_idle(&self) -> bool {
        !self.has_unfinished()
    }

    fn load(&self) -> Load {
        let occupancy = self.occupancy();
        let statistics = self.statistics();
        Load {
            running: occupancy.running,
            waiting: occupancy.waiting,
            generated_tokens: statistics.generated_tokens,
            prefill_tokens: statistics.prefill_tokens,
            kv_usage: Some(occupancy.kv_use()),
        }
    }

    fn statistics(&self) -> Map<String, Value> {
        let counted = self.statistics();
        let pairs = [
            ("steps", Value::from(counted.steps)),
            ("prefix_hit_tokens", counted.prefix_hit_tokens.into()),
            ("preemptions", counted.preemptions.into()),
            ("recomputed_tokens", counted.recomputed_tokens.into()),
            ("peak_kv_blocks", counted.peak_kv_blocks.into()),
            ("runner_seconds", counted.runner_time.as_secs_f64().into()),
            (
                "scheduling_seconds",
                counted.scheduling_time.as_secs_f64().into(),
            ),
            (
                "sampling_seconds",
                counted.sampling_time.as_secs_f64().into(),
            ),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
        pairs.into_iter().collect()
    }
}

/// A generator that answers from a script: no weights, no time.
///
/// Finishes up to `width` answers a step, newest request first, so that callers see an order that
/// is not that of submission.
pub struct ScriptedGenerator<F> {
    answer: F,
    width: usize,
    waiting: VecDeque<Request>,
    generated_tokens: u64,
}

impl<F: FnMut(&Request, usize) -> String> ScriptedGenerator<F> {
    /// `answer` gets a request and the sample's index, and returns the text before stop strings
    /// are looked for. One token stands for one byte.
    pub fn new(width: usize, answer: F) -> Self {
        Self {
            answer,
            width: width.max(1),
            waiting: VecDeque::new(),
            generated_tokens: 0,
        }
    }

    fn complete(&mut self, request: &Request, sample_index: usize) -> Completion {
        let text = (self.answer)(request, sample_index);
        let cut = cut_at_stop_strings(&text, &request.params.stop);
        let stops = request.params.stop.iter();
        let stopped_by = { stops }.rfind(|stop| !stop.is_empty() && text.contains(*stop));
        let limit = request.params.max_gen_toks;
        let (text, finish_reason) = match stopped_by {
            Some(stop) => (cut, FinishReason::StopString(stop.clone())),
            None if text.len() > limit => {
                let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end));
                (&text[..end.unwrap_or(0)], FinishReason::Length)
            }
            None => (text.as_str(), FinishReason::Eos),
        };
        self.generated_tokens += text.len() as u64;
        Completion {
            request_id: request.id,
            sample_index,
            text: text.to_owned(),
            token_ids: text.bytes().map(u32::from).collect(),
            finish_reason,
            prompt_tokens: request.prompt_token_ids.len(),
            cached_tokens: 0,
            max_gen_toks_effective: limit,
            cumulative_logprob: 0.0,
            logprobs: None,
            prefill_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }
}

impl<F: FnMut(&Request, usize) -> String> Generator for ScriptedGenerator<F> {
    fn check(&self, request: &Request) -> Result<usize, RequestError> {
        Ok(request.params.max_gen_toks)
    }

    fn submit(&mut self, request: Request) -> Result<(), EvalError> {
        self.waiting.push_back(request);
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Completion>, EvalError> {
        let mut finished = Vec::new();
        while finished.len() < self.width
            && let Some(request) = self.waiting.pop_back()
        {
            for sample_index in 0..request.params.n {
                finished.push(self.complete(&request, sample_index));
            }
        }
        Ok(finished)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn load(&self) -> Load {
        Load {
            running: self.waiting.len().min(self.width),
            waiting: self.waiting.len().saturating_sub(self.width),
            generated_tokens: self.generated_tokens,
            prefill_tokens: 0,
            kv_usage: None,
        }
    }
}
