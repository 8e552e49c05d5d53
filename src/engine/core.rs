//! The loop: requests in, steps of the runner, completions out.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::block_manager::BlockManager;
use super::generation::Generation;
use super::sampler::{self, Sampler};
use super::scheduler::{ScheduledRows, Scheduler, SchedulerLimits, StepPlan};
use super::sequence::{Sequence, SequenceId};
use super::speculation::propose;
use super::{
    Completion, Detokenizer, EngineError, ModelRunner, Progress, Request, RequestError,
    Speculation, Statistics, StepInput, StepSequence,
};

/// The limits of an engine. Changing any of them never changes a result, only its time and memory
/// (`max_model_len` lowers budgets, which completions report).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens that prompt and generation may have together.
    pub max_model_len: usize,
    /// Sequences in flight.
    pub max_num_seqs: usize,
    /// Rows of one step: decoding sequences first, prompt chunks with the rest.
    pub max_num_batched_tokens: usize,
    /// Whether computed blocks are kept and found again.
    pub prefix_caching: bool,
    /// Guessing ahead when few sequences are left; `None` never guesses.
    pub speculation: Option<Speculation>,
}

/// What [`Engine::run`] tells its caller, who answers whether to go on.
#[derive(Debug)]
pub enum Event {
    /// A request cannot run; it will not be heard of again. Sent before the first step.
    Refused {
        /// [`Request::id`].
        request_id: u64,
        /// Why.
        error: RequestError,
    },
    /// A sample is finished.
    Completed(Completion),
    /// A step is done.
    Progress(Progress),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every request was completed or refused.
    Finished,
    /// The caller broke off; unfinished requests are dropped and the engine can run again.
    Cancelled,
}

/// An inference engine: one model, one KV pool, any number of requests.
pub struct Engine {
    runner: Box<dyn ModelRunner>,
    detokenizer: Arc<dyn Detokenizer>,
    config: EngineConfig,
    scheduler: Scheduler,
    /// By [`SequenceId`]; `None` when finished.
    generations: Vec<Option<Generation>>,
    /// Unfinished samples of each unfinished request.
    unfinished: HashMap<u64, usize>,
    sampler: Sampler,
    input: StepInput,
    logits: Vec<f32>,
    statistics: Statistics,
}

impl Engine {
    /// An engine over `runner`'s model and KV pool.
    ///
    /// # Errors
    /// A limit is zero, or the runner's pool is empty.
    pub fn new(
        runner: Box<dyn ModelRunner>,
        detokenizer: Arc<dyn Detokenizer>,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let minimums = [
            ("max_model_len", config.max_model_len, 2, "at least 2"),
            ("max_num_seqs", config.max_num_seqs, 1, "at least 1"),
            (
                "max_num_batched_tokens",
                config.max_num_batched_tokens,
                1,
                "at least 1",
            ),
            ("block_size", runner.block_size(), 1, "at least 1"),
            ("number of KV blocks", runner.num_blocks(), 1, "at least 1"),
        ];
        for (name, value, minimum, expected) in minimums {
            if value < minimum {
                return Err(EngineError::InvalidConfig {
                    name,
                    value,
                    expected,
                });
            }
        }
        let limits = SchedulerLimits {
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
        };
        let manager = BlockManager::new(
            runner.num_blocks(),
            runner.block_size(),
            config.prefix_caching,
        );
        Ok(Self {
            runner,
            detokenizer,
            config,
            scheduler: Scheduler::new(limits, manager),
            generations: Vec::new(),
            unfinished: HashMap::new(),
            sampler: Sampler::default(),
            input: StepInput::default(),
            logits: Vec::new(),
            statistics: Statistics::default(),
        })
    }

    /// The limits in force.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Totals since the engine was made.
    pub fn statistics(&self) -> Statistics {
        let counts = self.scheduler.counts();
        Statistics {
            prompt_tokens: counts.prompt_tokens,
            prefix_hit_tokens: counts.prefix_hit_tokens,
            preemptions: counts.preemptions,
            recomputed_tokens: counts.recomputed_tokens,
            ..self.statistics
        }
    }

    /// The budget of new tokens that `request` would get: its `max_gen_toks`, or what the context
    /// leaves.
    ///
    /// # Errors
    /// The request cannot run, whatever else does.
    pub fn check(&self, request: &Request) -> Result<usize, RequestError> {
        sampler::check_params(&request.params)?;
        let prompt_tokens = request.prompt_token_ids.len();
        if prompt_tokens == 0 {
            return Err(RequestError::EmptyPrompt);
        }
        let vocab_size = self.runner.vocab_size();
        let known = |&token_id: &u32| (token_id as usize) < vocab_size;
        if let Some(position) = request.prompt_token_ids.iter().position(|id| !known(id)) {
            return Err(RequestError::UnknownToken {
                token_id: request.prompt_token_ids[position],
                position,
                vocab_size,
            });
        }
        let max_model_len = self.config.max_model_len;
        if prompt_tokens >= max_model_len {
            return Err(RequestError::PromptTooLong {
                prompt_tokens,
                max_model_len,
            });
        }
        let max_new_tokens = request
            .params
            .max_gen_toks
            .min(max_model_len - prompt_tokens);
        let block_size = self.runner.block_size();
        // The last token that is generated is never computed.
        let needed_blocks = (prompt_tokens + max_new_tokens - 1).div_ceil(block_size);
        if needed_blocks > self.runner.num_blocks() {
            return Err(RequestError::NeverFits {
                prompt_tokens,
                max_new_tokens,
                needed_blocks,
                block_size,
                num_blocks: self.runner.num_blocks(),
            });
        }
        Ok(max_new_tokens)
    }

    /// Queues a request; [`Self::step`] will admit it when there is room.
    ///
    /// # Errors
    /// The request cannot run, whatever else does, or one with the same id is unfinished.
    pub fn submit(&mut self, request: Request) -> Result<(), RequestError> {
        let checked = match self.check(&request) {
            Ok(_) if self.unfinished.contains_key(&request.id) => Err(RequestError::DuplicateId),
            checked => checked,
        };
        let max_new_tokens = checked.inspect_err(|_| self.statistics.refused_requests += 1)?;
        let Request {
            id: request_id,
            prompt_token_ids,
            params,
        } = request;
        self.unfinished.insert(request_id, params.n);
        self.statistics.clamped_requests += u64::from(max_new_tokens < params.max_gen_toks);
        let sequence = Sequence::new(prompt_token_ids, max_new_tokens, params.n);
        let id = self.scheduler.submit(sequence);
        let generation = Generation::new(request_id, Arc::new(params), 0, max_new_tokens);
        self.add_generation(id, generation);
        Ok(())
    }

    /// Whether a submitted request has not finished.
    pub fn has_unfinished(&self) -> bool {
        self.scheduler.num_running() + self.scheduler.num_waiting() > 0
    }

    /// Runs one step and returns the samples that it finished, in no particular order.
    ///
    /// # Errors
    /// The executor failed or gave unusable logits. Unfinished requests cannot be continued then.
    pub fn step(&mut self) -> Result<Vec<Completion>, EngineError> {
        let begin = Instant::now();
        self.propose_drafts();
        let plan = self.scheduler.schedule();
        if plan.rows.is_empty() {
            return Ok(Vec::new());
        }
        self.fill_input(&plan, begin);
        let planned = Instant::now();
        for copy in &plan.copies {
            self.runner.copy_block(copy.source, copy.target)?;
        }
        self.runner.forward(&self.input, &mut self.logits)?;
        let computed = Instant::now();
        let completions = self.take_in(&plan, computed)?;
        self.statistics.steps += 1;
        self.statistics.copied_blocks += plan.copies.len() as u64;
        self.statistics.scheduling_time += planned - begin;
        self.statistics.runner_time += computed - planned;
        self.statistics.sampling_time += computed.elapsed();
        Ok(completions)
    }

    /// Runs all `requests` to their end. `tell` hears of every refusal, completion and step, and
    /// cancels the run by answering [`ControlFlow::Break`].
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn run(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        tell: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<RunOutcome, EngineError> {
        let begin = Instant::now();
        let before = self.statistics;
        let mut progress = Progress {
            kv_blocks_total: self.runner.num_blocks(),
            ..Progress::default()
        };
        for request in requests {
            let (request_id, n) = (request.id, request.params.n);
            match self.submit(request) {
                Ok(()) => progress.total += n,
                Err(error) => {
                    if tell(Event::Refused { request_id, error }).is_break() {
                        self.cancel();
                        return Ok(RunOutcome::Cancelled);
                    }
                }
            }
        }
        while self.has_unfinished() {
            for completion in self.step()? {
                progress.done += 1;
                if tell(Event::Completed(completion)).is_break() {
                    self.cancel();
                    return Ok(RunOutcome::Cancelled);
                }
            }
            progress.running = self.scheduler.num_running();
            progress.waiting = self.scheduler.num_waiting();
            progress.generated_tokens = self.statistics.generated_tokens - before.generated_tokens;
            progress.prefill_tokens = self.statistics.prefill_tokens - before.prefill_tokens;
            progress.kv_blocks_used = self.num_used_blocks();
            progress.elapsed = begin.elapsed();
            if tell(Event::Progress(progress)).is_break() {
                self.cancel();
                return Ok(RunOutcome::Cancelled);
            }
        }
        Ok(RunOutcome::Finished)
    }

    /// Drops everything unfinished; its blocks are free again.
    pub fn cancel(&mut self) {
        self.scheduler.cancel_all();
        self.generations.iter_mut().for_each(|slot| *slot = None);
        self.unfinished.clear();
    }

    pub(super) fn num_used_blocks(&self) -> usize {
        self.runner.num_blocks() - self.scheduler.manager().num_free()
    }

    fn add_generation(&mut self, id: SequenceId, generation: Generation) {
        assert_eq!(id.0, self.generations.len(), "one generation per sequence");
        self.generations.push(Some(generation));
    }

    /// Guesses what follows each running sequence, when few enough run.
    fn propose_drafts(&mut self) {
        let Some(speculation) = self.config.speculation else {
            return;
        };
        if self.scheduler.num_running() > speculation.max_running {
            return;
        }
        for id in self.scheduler.running_ids() {
            let sequence = self.scheduler.sequence(id);
            // The budget's last token needs no guess: it is not computed.
            let useful = sequence.num_tokens_left() - 1;
            if sequence.is_decoding() && useful > 0 {
                let max_draft_tokens = speculation.max_draft_tokens.min(useful);
                let drafts = propose(&sequence.token_ids, max_draft_tokens).to_vec();
                self.scheduler.set_drafts(id, drafts);
            }
        }
    }

    /// Asserts what must hold between any two calls.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.scheduler.check_invariants();
        let generations = self.generations.iter().flatten().count();
        assert_eq!(
            generations,
            self.scheduler.num_running() + self.scheduler.num_waiting(),
            "every unfinished sequence has a generation"
        );
    }

    /// Writes the plan's rows into the step's input, reusing its buffers.
    fn fill_input(&mut self, plan: &StepPlan, now: Instant) {
        self.input.token_ids.clear();
        self.input
            .sequences
            .resize_with(plan.rows.len(), StepSequence::default);
        for (rows, share) in plan.rows.iter().zip(&mut self.input.sequences) {
            let sequence = self.scheduler.sequence(rows.id);
            let start = sequence.num_computed_tokens;
            let num_known = rows.num_rows - rows.num_draft_rows;
            share.first_row = self.input.token_ids.len();
            share.num_rows = rows.num_rows;
            share.num_computed_tokens = start;
            share.num_logits = if rows.reaches_end {
                1 + rows.num_draft_rows
            } else {
                0
            };
            share.block_table.clear();
            share
                .block_table
                .extend_from_slice(sequence.blocks.blocks());
            let token_ids = &mut self.input.token_ids;
            token_ids.extend_from_slice(&sequence.token_ids[start..start + num_known]);
            token_ids.extend_from_slice(&sequence.draft_token_ids[..rows.num_draft_rows]);
            let counter = if rows.is_prefill {
                &mut self.statistics.prefill_tokens
            } else {
                &mut self.statistics.decode_tokens
            };
            *counter += rows.num_rows as u64;
            self.statistics.draft_tokens += rows.num_draft_rows as u64;
            self.generations[rows.id.0]
                .as_mut()
                .expect("a scheduled sequence has not finished")
                .admit(&sequence.token_ids[..sequence.num_prompt_tokens], now);
        }
    }

    /// Takes a step's logits in: samples, appends, finishes.
    fn take_in(&mut self, plan: &StepPlan, now: Instant) -> Result<Vec<Completion>, EngineError> {
        let vocab_size = self.runner.vocab_size();
        let expected = self.input.num_logits() * vocab_size;
        let logits = std::mem::take(&mut self.logits);
        if logits.len() != expected {
            return Err(EngineError::LogitsShape {
                expected,
                found: logits.len(),
            });
        }
        let used = self.num_used_blocks() as u64;
        self.statistics.peak_kv_blocks = self.statistics.peak_kv_blocks.max(used);
        let mut completions = Vec::new();
        let mut rest = logits.as_slice();
        for rows in &plan.rows {
            self.scheduler.commit(rows);
            if rows.reaches_end {
                let (own, others) = rest.split_at((1 + rows.num_draft_rows) * vocab_size);
                rest = others;
                self.start_samples(rows.id, &own[..vocab_size], now, &mut completions)?;
                self.extend_sequence(rows, own, now, &mut completions)?;
            }
        }
        self.logits = logits;
        Ok(completions)
    }

    /// When a prompt with several samples has been computed: starts the others from its logits.
    fn start_samples(
        &mut self,
        leader: SequenceId,
        logits: &[f32],
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), EngineError> {
        for sample_index in 1..=self.scheduler.sequence(leader).num_pending_samples {
            let id = self.scheduler.fork(leader);
            let generation = self.generations[leader.0]
                .as_ref()
                .expect("a scheduled sequence has not finished")
                .fork(sample_index);
            self.add_generation(id, generation);
            self.append_token(id, logits, now, completions)?;
        }
        Ok(())
    }

    /// Appends the next token and, as long as the model confirms the guesses, the ones after it.
    fn extend_sequence(
        &mut self,
        rows: &ScheduledRows,
        logits: &[f32],
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), EngineError> {
        let drafts = self.scheduler.take_drafts(rows.id);
        let mut drafts = drafts[..rows.num_draft_rows].iter();
        for logits in logits.chunks_exact(self.runner.vocab_size()) {
            let Some(token_id) = self.append_token(rows.id, logits, now, completions)? else {
                return Ok(());
            };
            if drafts.next() != Some(&token_id) {
                return Ok(());
            }
            self.scheduler.accept_draft(rows.id);
            self.statistics.accepted_draft_tokens += 1;
        }
        Ok(())
    }

    /// Samples one token; returns it unless the sequence ended with it.
    fn append_token(
        &mut self,
        id: SequenceId,
        logits: &[f32],
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<Option<u32>, EngineError> {
        let slot = &mut self.generations[id.0];
        let generation = slot.as_mut().expect("a sampled sequence has not finished");
        let sampled = generation
            .sample(&mut self.sampler, logits)
            .map_err(|source| EngineError::Logits {
                request_id: generation.request_id(),
                position: generation.num_generated(),
                source,
            })?;
        let token_id = sampled.token_id;
        self.scheduler.push_token(id, token_id);
        self.statistics.generated_tokens += 1;
        let Some(ended) = generation.push(sampled, &*self.detokenizer, now) else {
            return Ok(Some(token_id));
        };
        let sequence = self.scheduler.finish(id);
        let generation = self.generations[id.0]
            .take()
            .expect("a sequence finishes once");
        let left = self.unfinished.get_mut(&generation.request_id());
        let left = left.expect("a sample belongs to an unfinished request");
        *left -= 1;
        if *left == 0 {
            self.unfinished.remove(&generation.request_id());
        }
        completions.push(generation.complete(&sequence, ended, now));
        Ok(None)
    }
}
