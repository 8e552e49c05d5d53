//! The seam between evaluation and whatever writes the answers: the engine, a server, or a script
//! in tests.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::engine::{Completion, Engine, FinishReason, Request, RequestError, cut_at_stop_strings};

use super::EvalError;
use super::record::Finish;

/// A finished answer, whoever wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// [`Request::id`].
    pub request_id: u64,
    /// 0 to `n - 1`.
    pub sample_index: usize,
    /// The text, cut before stop strings.
    pub text: String,
    /// How it ended.
    pub finish: Finish,
    /// Tokens of the prompt; 0 where a server does not say.
    pub prompt_tokens: usize,
    /// Tokens generated, a final stop token included; 0 where a server does not say.
    pub gen_tokens: usize,
    /// Its budget of new tokens, after clamping to the context.
    pub max_gen_toks: usize,
    /// Sum of the tokens' log-probabilities, where it is known.
    pub cumulative_logprob: Option<f64>,
    /// From admission to the first token; nothing where only the whole is known.
    pub prefill_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
}

impl From<Completion> for Answer {
    fn from(completion: Completion) -> Self {
        Self {
            request_id: completion.request_id,
            sample_index: completion.sample_index,
            text: completion.text,
            finish: match completion.finish_reason {
                FinishReason::Eos => Finish::Eos,
                FinishReason::StopString(stop) => Finish::Stop(stop),
                FinishReason::Length => Finish::Length,
            },
            prompt_tokens: completion.prompt_tokens,
            gen_tokens: completion.token_ids.len(),
            max_gen_toks: completion.max_gen_toks_effective,
            cumulative_logprob: Some(completion.cumulative_logprob).filter(|sum| sum.is_finite()),
            prefill_time: completion.prefill_time,
            decode_time: completion.decode_time,
        }
    }
}

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
    fn step(&mut self) -> Result<Vec<Answer>, EvalError>;

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

    fn step(&mut self) -> Result<Vec<Answer>, EvalError> {
        Ok(self.step()?.into_iter().map(Answer::from).collect())
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

    fn complete(&mut self, request: &Request, sample_index: usize) -> Answer {
        let text = (self.answer)(request, sample_index);
        let cut = cut_at_stop_strings(&text, &request.params.stop);
        let stops = request.params.stop.iter();
        let stopped_by = { stops }.rfind(|stop| !stop.is_empty() && text.contains(*stop));
        let limit = request.params.max_gen_toks;
        let (text, finish) = match stopped_by {
            Some(stop) => (cut, Finish::Stop(stop.clone())),
            None if text.len() > limit => {
                let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end));
                (&text[..end.unwrap_or(0)], Finish::Length)
            }
            None => (text.as_str(), Finish::Eos),
        };
        self.generated_tokens += text.len() as u64;
        Answer {
            request_id: request.id,
            sample_index,
            text: text.to_owned(),
            finish,
            prompt_tokens: request.prompt_token_ids.len(),
            gen_tokens: text.len(),
            max_gen_toks: limit,
            cumulative_logprob: Some(0.0),
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

    fn step(&mut self) -> Result<Vec<Answer>, EvalError> {
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
