//! The loop: requests in, steps of the runner, completions out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSlice;

use super::block_manager::BlockManager;
use super::generation::Generation;
use super::sampler::{self, RowScan, Sampled, Sampler, SamplerError};
use super::scheduler::{ScheduledRows, Scheduler, SchedulerLimits, StepPlan};
use super::sequence::{Sequence, SequenceId};
use super::speculation::Speculator;
use super::{
    Completion, Detokenizer, EngineError, ModelRunner, Occupancy, Request, RequestError,
    Speculation, Statistics, StepInput, StepSequence,
};

/// The limits of an engine. Changing any of them never changes a result, only its time and memory
/// (`max_model_len` lowers budgets, which completions report).
#[derive(Clone, Copy, Debug, PartialEq)]
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
    speculator: Option<Speculator>,
    /// What one sequence got in a step.
    sampled: Vec<u32>,
    sampler: Sampler,
    /// The sequence whose next token each row of [`Self::logits`] gives; none where that depends on
    /// the rows before.
    owners: Vec<Option<SequenceId>>,
    /// Of each row of [`Self::logits`].
    choices: Vec<Result<RowChoice, SamplerError>>,
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
            speculator: config.speculation.map(Speculator::new),
            sampled: Vec::new(),
            sampler: Sampler::default(),
            owners: Vec::new(),
            choices: Vec::new(),
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

    /// Drops everything unfinished; its blocks are free again.
    pub fn cancel(&mut self) {
        self.scheduler.cancel_all();
        self.generations.iter_mut().for_each(|slot| *slot = None);
        self.unfinished.clear();
        if let Some(speculator) = &mut self.speculator {
            speculator.forget_all();
        }
    }

    /// Who is where right now.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: self.scheduler.num_running(),
            waiting: self.scheduler.num_waiting(),
            kv_blocks_used: self.num_used_blocks(),
            kv_blocks_total: self.runner.num_blocks(),
        }
    }

    fn num_used_blocks(&self) -> usize {
        self.runner.num_blocks() - self.scheduler.manager().num_free()
    }

    fn add_generation(&mut self, id: SequenceId, generation: Generation) {
        assert_eq!(id.0, self.generations.len(), "one generation per sequence");
        self.generations.push(Some(generation));
    }

    /// Guesses what follows each running sequence, when few enough run.
    fn propose_drafts(&mut self) {
        let running = self.scheduler.num_running();
        let Some(speculator) = &mut self.speculator else {
            return;
        };
        if !speculator.wants(running) {
            return;
        }
        for id in self.scheduler.running_ids() {
            let sequence = self.scheduler.sequence(id);
            // The budget's last token needs no guess: it is not computed.
            let useful = sequence.num_tokens_left() - 1;
            if sequence.is_decoding() && useful > 0 {
                let drafts = speculator.draft(id, &sequence.token_ids, running, useful);
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
        self.choose(plan, &logits);
        let mut completions = Vec::new();
        let mut rest = logits.as_slice();
        let mut row = 0;
        for rows in &plan.rows {
            self.scheduler.commit(rows);
            if rows.reaches_end {
                let (own, others) = rest.split_at((1 + rows.num_draft_rows) * vocab_size);
                rest = others;
                self.start_samples(rows.id, &own[..vocab_size], row, now, &mut completions)?;
                self.extend_sequence(rows, own, row, now, &mut completions)?;
                row += 1 + rows.num_draft_rows;
            }
        }
        self.logits = logits;
        Ok(completions)
    }

    /// Scans every row of a step's logits and chooses what follows from it alone, on all cores: with a
    /// large vocabulary this is a noticeable part of a step on one.
    fn choose(&mut self, plan: &StepPlan, logits: &[f32]) {
        self.owners.clear();
        for rows in plan.rows.iter().filter(|rows| rows.reaches_end) {
            self.owners.push(Some(rows.id));
            let guessed = self.owners.len() + rows.num_draft_rows;
            self.owners.resize(guessed, None);
        }
        let generations = &self.generations;
        let rows = logits.par_chunks_exact(self.runner.vocab_size());
        rows.zip(&self.owners)
            .map_init(Sampler::default, |sampler, (logits, owner)| {
                let scan = RowScan::of(logits)?;
                let sampled = match owner {
                    Some(id) => {
                        Some(generation_of(generations, *id).sample(sampler, logits, scan)?)
                    }
                    None => None,
                };
                Ok(RowChoice { scan, sampled })
            })
            .collect_into_vec(&mut self.choices);
    }

    /// The next token of a sequence, from row `row` of the step's logits.
    fn sample(
        &mut self,
        id: SequenceId,
        logits: &[f32],
        row: usize,
    ) -> Result<Sampled, EngineError> {
        let generation = generation_of(&self.generations, id);
        let is_owner = self.owners[row] == Some(id);
        let chosen = match &mut self.choices[row] {
            Ok(RowChoice { scan, sampled }) => match sampled.take_if(|_| is_owner) {
                Some(sampled) => Ok(sampled),
                None => generation.sample(&mut self.sampler, logits, *scan),
            },
            Err(error) => Err(*error),
        };
        chosen.map_err(|source| EngineError::Logits {
            request_id: generation.request_id(),
            position: generation.num_generated(),
            source,
        })
    }

    /// When a prompt with several samples has been computed: starts the others from its logits.
    fn start_samples(
        &mut self,
        leader: SequenceId,
        logits: &[f32],
        row: usize,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), EngineError> {
        for sample_index in 1..=self.scheduler.sequence(leader).num_pending_samples {
            let id = self.scheduler.fork(leader);
            let generation = generation_of(&self.generations, leader).fork(sample_index);
            self.add_generation(id, generation);
            let sampled = self.sample(id, logits, row)?;
            self.append_token(id, sampled, now, completions);
        }
        Ok(())
    }

    /// Appends the next token and, as long as the model confirms the guesses, the ones after it.
    fn extend_sequence(
        &mut self,
        rows: &ScheduledRows,
        logits: &[f32],
        first_row: usize,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), EngineError> {
        let drafts = self.scheduler.take_drafts(rows.id);
        let mut drafts = drafts[..rows.num_draft_rows].iter();
        let each = logits.chunks_exact(self.runner.vocab_size());
        self.sampled.clear();
        for (row, logits) in (first_row..).zip(each) {
            let sampled = self.sample(rows.id, logits, row)?;
            let Some(token_id) = self.append_token(rows.id, sampled, now, completions) else {
                if let Some(speculator) = &mut self.speculator {
                    speculator.forget(rows.id);
                }
                return Ok(());
            };
            self.sampled.push(token_id);
            if drafts.next() != Some(&token_id) {
                break;
            }
            self.scheduler.accept_draft(rows.id);
            self.statistics.accepted_draft_tokens += 1;
        }
        if let Some(speculator) = &mut self.speculator {
            speculator.note(rows.id, &self.sampled);
        }
        Ok(())
    }

    /// Appends a token; returns it unless the sequence ended with it.
    fn append_token(
        &mut self,
        id: SequenceId,
        sampled: Sampled,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Option<u32> {
        let slot = &mut self.generations[id.0];
        let generation = slot.as_mut().expect("a sampled sequence has not finished");
        let token_id = sampled.token_id;
        self.scheduler.push_token(id, token_id);
        self.statistics.generated_tokens += 1;
        let Some(ended) = generation.push(sampled, &*self.detokenizer, now) else {
            return Some(token_id);
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
        None
    }
}

/// A row of a step's logits.
#[derive(Debug)]
struct RowChoice {
    scan: RowScan,
    /// The next token of the row's owner.
    sampled: Option<Sampled>,
}

fn generation_of(generations: &[Option<Generation>], id: SequenceId) -> &Generation {
    let generation = generations[id.0].as_ref();
    generation.expect("a scheduled sequence has not finished")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{FinishReason, RunnerError, SamplerError, SamplingParams, ScriptedRunner};

    /// Each token is one digit.
    struct Digits;

    impl Detokenizer for Digits {
        fn append_token_bytes(&self, token_id: u32, bytes: &mut Vec<u8>) {
            bytes.push(b'0' + (token_id % 10) as u8);
        }
    }

    const CONFIG: EngineConfig = EngineConfig {
        max_model_len: 32,
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        prefix_caching: true,
        speculation: None,
    };

    /// 8 blocks of 4 positions.
    fn engine(config: EngineConfig) -> Engine {
        let runner = ScriptedRunner::new(10, 4, 8, 1);
        Engine::new(Box::new(runner), Arc::new(Digits), config).unwrap()
    }

    fn request(id: u64, prompt_tokens: usize, max_gen_toks: usize) -> Request {
        Request {
            id,
            prompt_token_ids: vec![3; prompt_tokens],
            params: SamplingParams {
                max_gen_toks,
                ..SamplingParams::default()
            },
        }
    }

    fn finish_all(engine: &mut Engine) -> Vec<Completion> {
        let mut completions = Vec::new();
        while engine.has_unfinished() {
            completions.extend(engine.step().unwrap());
        }
        completions
    }

    #[test]
    fn a_budget_beyond_the_context_is_shortened_and_counted() {
        let mut engine = engine(CONFIG);
        engine.submit(request(1, 20, 100)).unwrap();
        engine.submit(request(2, 20, 12)).unwrap();
        for completion in finish_all(&mut engine) {
            assert_eq!(completion.finish_reason, FinishReason::Length);
            assert_eq!(completion.max_gen_toks_effective, 12);
            assert_eq!(completion.token_ids.len(), 12);
        }
        assert_eq!(engine.statistics().clamped_requests, 1);
    }

    #[test]
    fn a_prompt_that_leaves_no_room_is_refused_with_the_numbers() {
        let mut engine = engine(CONFIG);
        engine.submit(request(1, 31, 9)).unwrap();
        let error = engine.submit(request(2, 32, 9)).unwrap_err();
        assert_eq!(
            error,
            RequestError::PromptTooLong {
                prompt_tokens: 32,
                max_model_len: 32
            }
        );
        assert_eq!(finish_all(&mut engine).len(), 1);
        assert_eq!(engine.statistics().refused_requests, 1);
    }

    #[test]
    fn a_request_larger_than_the_pool_is_refused_with_the_numbers() {
        let mut engine = engine(EngineConfig {
            max_model_len: 64,
            ..CONFIG
        });
        // 33 positions are computed at most; the 34th token is only sampled.
        engine.submit(request(1, 20, 13)).unwrap();
        let error = engine.submit(request(2, 20, 14)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "20 prompt tokens and 14 new ones need 9 KV blocks of 4 tokens and the pool has 8; raise \
             the KV memory or lower max_gen_toks"
        );
        assert_eq!(finish_all(&mut engine)[0].token_ids.len(), 13);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut engine = engine(CONFIG);
        engine.submit(request(1, 2, 2)).unwrap();
        let refused = |engine: &mut Engine, request| engine.submit(request).unwrap_err();
        let error = refused(&mut engine, request(1, 2, 2));
        assert_eq!(error, RequestError::DuplicateId);
        let error = refused(&mut engine, request(2, 0, 2));
        assert_eq!(error, RequestError::EmptyPrompt);
        let mut unknown = request(3, 2, 2);
        unknown.prompt_token_ids[1] = 10;
        let error = refused(&mut engine, unknown);
        assert!(matches!(
            error,
            RequestError::UnknownToken { position: 1, .. }
        ));
        let error = refused(&mut engine, request(4, 2, 0)).to_string();
        assert_eq!(error, "max_gen_toks is 0, expected at least 1");
    }

    #[test]
    fn samples_share_their_prompt_and_differ_by_their_draws() {
        let mut engine = engine(CONFIG);
        let mut several = request(1, 11, 5);
        several.params.n = 3;
        several.params.temperature = 1.0;
        engine.submit(several).unwrap();
        let mut completions = finish_all(&mut engine);
        completions.sort_by_key(|completion| completion.sample_index);
        let texts: Vec<_> = completions.iter().map(|c| c.text.as_str()).collect();
        assert_eq!(texts.len(), 3);
        assert!(texts[1..].iter().all(|&text| text != texts[0]), "{texts:?}");
        let statistics = engine.statistics();
        assert_eq!(statistics.prefill_tokens, 11);
        assert_eq!(statistics.prompt_tokens, 33);
        assert_eq!(statistics.prefix_hit_tokens, 22);
    }

    #[test]
    fn a_shared_beginning_is_computed_once_even_when_all_arrive_together() {
        let mut engine = engine(CONFIG);
        for id in 0..4 {
            let mut request = request(id, 9, 2);
            request.prompt_token_ids[8] = id as u32;
            engine.submit(request).unwrap();
        }
        finish_all(&mut engine);
        assert_eq!(engine.statistics().prefill_tokens, 9 + 3);
    }

    #[test]
    fn cancelling_frees_everything_and_the_engine_goes_on() {
        let mut engine = engine(CONFIG);
        engine.submit(request(1, 8, 8)).unwrap();
        engine.submit(request(2, 8, 8)).unwrap();
        engine.step().unwrap();
        assert!(engine.occupancy().kv_blocks_used > 0);
        engine.cancel();
        engine.check_invariants();
        assert_eq!(engine.occupancy().kv_blocks_used, 0);
        assert!(!engine.has_unfinished());
        engine.submit(request(1, 8, 8)).unwrap();
        assert_eq!(finish_all(&mut engine).len(), 1);
    }

    #[test]
    fn the_longest_budget_is_admitted_first() {
        let mut engine = engine(EngineConfig {
            max_num_seqs: 1,
            ..CONFIG
        });
        for (id, max_gen_toks) in [(1, 2), (2, 5), (3, 3)] {
            engine.submit(request(id, 4, max_gen_toks)).unwrap();
        }
        let order: Vec<_> = finish_all(&mut engine)
            .iter()
            .map(|c| c.request_id)
            .collect();
        assert_eq!(order, [2, 3, 1]);
    }

    /// A runner whose logits are all the same value, or too few.
    struct Broken {
        value: f32,
        short: bool,
    }

    impl ModelRunner for Broken {
        fn vocab_size(&self) -> usize {
            10
        }
        fn block_size(&self) -> usize {
            4
        }
        fn num_blocks(&self) -> usize {
            8
        }
        fn is_batch_invariant(&self) -> bool {
            true
        }
        fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
            logits.clear();
            logits.resize(
                input.num_logits() * 10 - usize::from(self.short),
                self.value,
            );
            Ok(())
        }
        fn copy_block(&mut self, _source: u32, _target: u32) -> Result<(), RunnerError> {
            Ok(())
        }
    }

    #[test]
    fn unusable_logits_end_the_run_and_name_the_request() {
        let step = |value, short| {
            let runner = Box::new(Broken { value, short });
            let mut engine = Engine::new(runner, Arc::new(Digits), CONFIG).unwrap();
            engine.submit(request(7, 4, 4)).unwrap();
            engine.step().unwrap_err()
        };
        let error = step(f32::NAN, false);
        assert!(matches!(
            error,
            EngineError::Logits {
                request_id: 7,
                position: 0,
                source: SamplerError::NotANumber { token_id: 0 }
            }
        ));
        let error = step(0.0, true).to_string();
        assert_eq!(error, "the executor returned 9 logits, expected 10");
    }

    #[test]
    fn a_limit_of_zero_is_no_engine() {
        let runner = ScriptedRunner::new(10, 4, 8, 1);
        let config = EngineConfig {
            max_num_seqs: 0,
            ..CONFIG
        };
        let error = Engine::new(Box::new(runner), Arc::new(Digits), config).err();
        let message = error.unwrap().to_string();
        assert_eq!(message, "max_num_seqs is 0, expected at least 1");
    }
}
