//! Who computes what in the next step: continuous batching with chunked prefill.
//!
//! Every step gives one row to each decoding sequence, the rest of the row budget to prefill
//! chunks, and admits waiting sequences while rows, slots and blocks last. When blocks run out the
//! youngest sequence gives its up and is recomputed later; the oldest one always proceeds, so every
//! sequence ends. Order and timing decide only when something is computed, never what: a row's
//! logits depend on its sequence alone. Pure bookkeeping: no tensor, no clock, no randomness.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::block_manager::{BlockCopy, BlockManager, PrefixHit};
use super::sequence::{Sequence, SequenceId};

/// How many waiting sequences one step may pass over because another sequence is computing the
/// prefix that they share: bounds the time of a step when thousands share one.
const MAX_DEFERRED_PER_STEP: usize = 64;

/// The limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchedulerLimits {
    /// Sequences that run at the same time.
    pub(super) max_num_seqs: usize,
    /// Rows of one step.
    pub(super) max_num_batched_tokens: usize,
}

/// One sequence's share of a step: its next `num_rows` uncomputed tokens and drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScheduledRows {
    pub(super) id: SequenceId,
    /// Rows in all.
    pub(super) num_rows: usize,
    /// Last rows among them that are guesses.
    pub(super) num_draft_rows: usize,
    /// Whether its newest known token is computed, so that the next one can be sampled.
    pub(super) reaches_end: bool,
    /// Whether it is a chunk of a prompt or of what a preemption dropped, not one new token.
    pub(super) is_prefill: bool,
}

/// A step to carry out: first the copies, in order, then the rows.
#[derive(Debug, Default)]
pub(super) struct StepPlan {
    pub(super) copies: Vec<BlockCopy>,
    pub(super) rows: Vec<ScheduledRows>,
}

/// What the scheduler did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SchedulerCounts {
    /// Sequences that gave their blocks up.
    pub(super) preemptions: u64,
    /// Tokens computed a second time because their keys and values were given up.
    pub(super) recomputed_tokens: u64,
    /// Prompt tokens of first admissions, shared samples included.
    pub(super) prompt_tokens: u64,
    /// Those among them that were taken from the prefix cache or from a sample of the same prompt.
    pub(super) prefix_hit_tokens: u64,
}

/// Longest expected first, so that the end of a run is not one long straggler; then as submitted.
type WaitingKey = (Reverse<usize>, Reverse<usize>, SequenceId);

/// Order of first admission, then of samples: the greatest is the youngest.
type Seniority = (u64, SequenceId);

/// All sequences of an engine and the KV blocks that they own.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: SchedulerLimits,
    manager: BlockManager,
    sequences: Vec<Option<Sequence>>,
    waiting: BTreeMap<WaitingKey, SequenceId>,
    /// Admitted before and out of blocks now; they come before all that wait.
    preempted: BTreeMap<Seniority, SequenceId>,
    /// Oldest first.
    running: Vec<(Seniority, SequenceId)>,
    num_admitted: u64,
    counts: SchedulerCounts,
}

impl Scheduler {
    pub(super) fn new(limits: SchedulerLimits, manager: BlockManager) -> Self {
        assert!(limits.max_num_seqs > 0 && limits.max_num_batched_tokens > 0);
        Self {
            limits,
            manager,
            sequences: Vec::new(),
            waiting: BTreeMap::new(),
            preempted: BTreeMap::new(),
            running: Vec::new(),
            num_admitted: 0,
            counts: SchedulerCounts::default(),
        }
    }

    /// Puts a sequence in the queue.
    ///
    /// # Panics
    /// When it could not finish even with the whole pool to itself; callers refuse it before.
    pub(super) fn submit(&mut self, sequence: Sequence) -> SequenceId {
        // The last token that is generated is never computed.
        let positions = sequence.max_len - 1;
        assert!(
            positions.div_ceil(self.manager.block_size()) <= self.manager.num_blocks(),
            "a sequence that can never fit is refused before it is submitted"
        );
        let id = SequenceId(self.sequences.len());
        let key = (
            Reverse(sequence.num_tokens_left()),
            Reverse(sequence.num_prompt_tokens),
            id,
        );
        self.sequences.push(Some(sequence));
        self.waiting.insert(key, id);
        id
    }

    /// A sequence that has not finished.
    pub(super) fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences[id.0]
            .as_ref()
            .expect("a sequence is asked for only until it finishes")
    }

    fn sequence_mut(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences[id.0]
            .as_mut()
            .expect("a sequence is asked for only until it finishes")
    }

    pub(super) fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Running sequences, oldest first.
    pub(super) fn running_ids(&self) -> Vec<SequenceId> {
        self.running.iter().map(|&(_, id)| id).collect()
    }

    pub(super) fn num_waiting(&self) -> usize {
        self.waiting.len() + self.preempted.len()
    }

    pub(super) fn counts(&self) -> SchedulerCounts {
        self.counts
    }

    pub(super) fn manager(&self) -> &BlockManager {
        &self.manager
    }

    /// Plans the next step. It has no rows exactly when nothing is waiting or running.
    pub(super) fn schedule(&mut self) -> StepPlan {
        let mut plan = StepPlan::default();
        let mut rows_left = self.limits.max_num_batched_tokens;
        let mut preempted = false;
        while self.continue_running(&mut plan, &mut rows_left) {
            preempted = true;
            if !plan.rows.is_empty() {
                break;
            }
        }
        if !preempted {
            self.admit(&mut plan, &mut rows_left);
        }
        assert!(
            !plan.rows.is_empty() || self.running.is_empty() && self.num_waiting() == 0,
            "the oldest sequence always proceeds"
        );
        plan
    }

    /// Gives rows to running sequences, oldest first; returns whether one lost its blocks.
    fn continue_running(&mut self, plan: &mut StepPlan, rows_left: &mut usize) -> bool {
        let mut preempted = false;
        // Rows that the sequences not looked at yet need to decode: prefill leaves them alone.
        let mut reserved = self.count_decoding(0);
        let mut index = 0;
        while index < self.running.len() {
            let id = self.running[index].1;
            let sequence = self.sequence(id);
            let decoding = sequence.is_decoding();
            reserved -= usize::from(decoding);
            let rows = if decoding {
                1.min(*rows_left)
            } else {
                let available = rows_left.saturating_sub(reserved);
                sequence.num_uncomputed_tokens().min(available)
            };
            if rows == 0 {
                index += 1;
                continue;
            }
            while !self.fits(id, rows) {
                preempted = true;
                let victim = self.preempt_youngest();
                if victim == id {
                    return true;
                }
                reserved = self.count_decoding(index + 1);
            }
            // A guess may take rows and blocks that nobody else wants, no more.
            let guesses = self
                .sequence(id)
                .draft_token_ids
                .len()
                .min(rows_left.saturating_sub(reserved + rows));
            let drafts = if decoding && self.fits(id, rows + guesses) {
                guesses
            } else {
                0
            };
            self.plan_rows(plan, id, rows, drafts);
            *rows_left -= rows + drafts;
            index += 1;
        }
        preempted
    }

    fn count_decoding(&self, from: usize) -> usize {
        let decoding = |&&(_, id): &&(Seniority, SequenceId)| self.sequence(id).is_decoding();
        self.running[from..].iter().filter(decoding).count()
    }

    fn fits(&self, id: SequenceId, rows: usize) -> bool {
        let sequence = self.sequence(id);
        let start = sequence.num_computed_tokens;
        let needed = self
            .manager
            .blocks_to_extend(&sequence.blocks, start, start + rows);
        needed <= self.manager.num_free()
    }

    /// Takes the blocks for `rows + drafts` more positions and adds the rows to the plan.
    fn plan_rows(&mut self, plan: &mut StepPlan, id: SequenceId, rows: usize, drafts: usize) {
        let sequence = self.sequences[id.0]
            .as_mut()
            .expect("a running sequence has not finished");
        let start = sequence.num_computed_tokens;
        let end = start + rows + drafts;
        self.manager
            .extend(&mut sequence.blocks, start, end, &mut plan.copies);
        let reaches_end = rows == sequence.num_uncomputed_tokens();
        plan.rows.push(ScheduledRows {
            id,
            num_rows: rows + drafts,
            num_draft_rows: drafts,
            reaches_end,
            is_prefill: start < sequence.num_prompt_tokens || rows > 1,
        });
    }

    fn preempt_youngest(&mut self) -> SequenceId {
        let (seniority, id) = self.running.pop().expect("someone holds the blocks");
        let sequence = self.sequences[id.0]
            .as_mut()
            .expect("a running sequence has not finished");
        self.manager.release(&mut sequence.blocks);
        self.counts.preemptions += 1;
        sequence.num_dropped_tokens = sequence.num_computed_tokens;
        sequence.draft_token_ids.clear();
        sequence.num_computed_tokens = 0;
        self.preempted.insert(seniority, id);
        id
    }

    /// Admits sequences, those preempted before first, while rows, slots and blocks last.
    fn admit(&mut self, plan: &mut StepPlan, rows_left: &mut usize) {
        while *rows_left > 0
            && let Some((&seniority, &id)) = self.preempted.first_key_value()
        {
            if self.slots_in_use() + self.slots_of(id) > self.limits.max_num_seqs {
                return;
            }
            let hit = self.manager.find_prefix(&self.sequence(id).token_ids);
            if !self.has_room(id, &hit) {
                return;
            }
            self.preempted.remove(&seniority);
            let found = self.start(plan, rows_left, seniority, id, hit);
            let dropped = self.sequence(id).num_dropped_tokens;
            self.counts.recomputed_tokens += dropped.saturating_sub(found) as u64;
        }
        let mut deferred = 0;
        let mut cursor = self.waiting.keys().next().copied();
        while *rows_left > 0
            && let Some(key) = cursor
        {
            let id = key.2;
            cursor = self
                .waiting
                .range((std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded))
                .next()
                .map(|(&key, _)| key);
            if self.slots_in_use() + self.slots_of(id) > self.limits.max_num_seqs {
                return;
            }
            let hit = self.manager.find_prefix(&self.sequence(id).token_ids);
            if self.is_being_computed(plan, id, &hit) {
                deferred += 1;
                if deferred == MAX_DEFERRED_PER_STEP {
                    return;
                }
                continue;
            }
            if !self.has_room(id, &hit) {
                return;
            }
            self.waiting.remove(&key);
            self.num_admitted += 1;
            let seniority = (self.num_admitted, id);
            let found = self.start(plan, rows_left, seniority, id, hit);
            let sequence = self.sequence_mut(id);
            sequence.num_cached_tokens = found;
            let num_prompt_tokens = sequence.num_prompt_tokens;
            self.counts.prompt_tokens += num_prompt_tokens as u64;
            self.counts.prefix_hit_tokens += found as u64;
        }
    }

    /// Sequences that run or will as soon as a prompt is computed.
    fn slots_in_use(&self) -> usize {
        self.running.iter().map(|&(_, id)| self.slots_of(id)).sum()
    }

    fn slots_of(&self, id: SequenceId) -> usize {
        (1 + self.sequence(id).num_pending_samples).min(self.limits.max_num_seqs)
    }

    /// Whether the pool can take the whole sequence as it is, and leave every running one a block
    /// to grow into: admitting it would otherwise preempt someone at once.
    fn has_room(&self, id: SequenceId, hit: &PrefixHit) -> bool {
        let sequence = self.sequence(id);
        let total = sequence.token_ids.len().div_ceil(self.manager.block_size());
        let needed = total - hit.num_blocks() + hit.num_unowned();
        needed + self.running.len() <= self.manager.num_free()
    }

    /// Whether a sequence of this step computes the first block that `hit` lacks: one step later it
    /// can be shared instead of computed twice.
    fn is_being_computed(&self, plan: &StepPlan, id: SequenceId, hit: &PrefixHit) -> bool {
        let token_ids = &self.sequence(id).token_ids;
        let end = (hit.num_blocks() + 1) * self.manager.block_size();
        if !self.manager.caches_prefixes() || end >= token_ids.len() {
            return false;
        }
        plan.rows.iter().any(|rows| {
            let other = self.sequence(rows.id);
            rows.is_prefill
                && other.num_computed_tokens < end
                && end <= other.num_computed_tokens + rows.num_rows - rows.num_draft_rows
                && other.token_ids[..end] == token_ids[..end]
        })
    }

    /// Moves a sequence to the running ones with its first chunk; returns the tokens found cached.
    fn start(
        &mut self,
        plan: &mut StepPlan,
        rows_left: &mut usize,
        seniority: Seniority,
        id: SequenceId,
        hit: PrefixHit,
    ) -> usize {
        let sequence = self.sequences[id.0]
            .as_mut()
            .expect("a waiting sequence has not finished");
        let found = self.manager.take_prefix(&mut sequence.blocks, hit);
        sequence.num_computed_tokens = found;
        let rows = sequence.num_uncomputed_tokens().min(*rows_left);
        self.plan_rows(plan, id, rows, 0);
        *rows_left -= rows;
        self.insert_running(seniority, id);
        found
    }

    fn insert_running(&mut self, seniority: Seniority, id: SequenceId) {
        let place = self
            .running
            .partition_point(|&(other, _)| other < seniority);
        self.running.insert(place, (seniority, id));
    }

    /// Records that the known tokens among `rows` are computed. Drafts are not, until
    /// [`Self::accept_draft`].
    pub(super) fn commit(&mut self, rows: &ScheduledRows) {
        self.advance(rows.id, rows.num_rows - rows.num_draft_rows);
    }

    /// Records that the newest token was computed as a draft of the step just done.
    pub(super) fn accept_draft(&mut self, id: SequenceId) {
        self.advance(id, 1);
    }

    fn advance(&mut self, id: SequenceId, num_tokens: usize) {
        let sequence = self.sequences[id.0]
            .as_mut()
            .expect("a scheduled sequence has not finished");
        sequence.num_computed_tokens += num_tokens;
        assert!(sequence.num_computed_tokens <= sequence.token_ids.len());
        self.manager.file_computed(
            &mut sequence.blocks,
            &sequence.token_ids,
            sequence.num_computed_tokens,
        );
    }

    /// A further sample of a prompt that has just been computed; it shares all blocks.
    pub(super) fn fork(&mut self, leader: SequenceId) -> SequenceId {
        let id = SequenceId(self.sequences.len());
        let (admitted, _) = self
            .running
            .iter()
            .find(|&&(_, running)| running == leader)
            .expect("a prompt is computed by a running sequence")
            .0;
        let prompt = self.sequence_mut(leader);
        assert!(prompt.num_pending_samples > 0 && prompt.num_uncomputed_tokens() == 0);
        prompt.num_pending_samples -= 1;
        let prompt = self.sequence(leader);
        let num_prompt_tokens = prompt.num_prompt_tokens;
        let mut sample = Sequence {
            token_ids: prompt.token_ids.clone(),
            num_prompt_tokens,
            num_computed_tokens: 0,
            num_cached_tokens: num_prompt_tokens,
            num_dropped_tokens: num_prompt_tokens,
            draft_token_ids: Vec::new(),
            max_len: prompt.max_len,
            num_pending_samples: 0,
            blocks: super::block_manager::BlockTable::default(),
        };
        self.counts.prompt_tokens += num_prompt_tokens as u64;
        self.counts.prefix_hit_tokens += num_prompt_tokens as u64;
        let seniority = (admitted, id);
        if self.running.len() < self.limits.max_num_seqs {
            sample.blocks = self.manager.fork(
                &self.sequences[leader.0].as_ref().expect("just seen").blocks,
                num_prompt_tokens,
            );
            sample.num_computed_tokens = num_prompt_tokens;
            self.sequences.push(Some(sample));
            self.insert_running(seniority, id);
        } else {
            // More samples than slots: the rest wait without blocks and find the prompt cached.
            self.sequences.push(Some(sample));
            self.preempted.insert(seniority, id);
        }
        id
    }

    /// Appends a sampled token.
    pub(super) fn push_token(&mut self, id: SequenceId, token_id: u32) {
        let sequence = self.sequence_mut(id);
        assert!(
            sequence.num_tokens_left() > 0,
            "a sequence ends at its budget"
        );
        sequence.token_ids.push(token_id);
    }

    /// Sets the tokens that the next step shall verify if it has rows and blocks to spare.
    pub(super) fn set_drafts(&mut self, id: SequenceId, draft_token_ids: Vec<u32>) {
        let sequence = self.sequence_mut(id);
        assert!(
            draft_token_ids.len() < sequence.num_tokens_left() || draft_token_ids.is_empty(),
            "a draft leaves one token of the budget to sample"
        );
        sequence.draft_token_ids = draft_token_ids;
    }

    /// Ends a sequence wherever it is and takes its blocks back.
    pub(super) fn finish(&mut self, id: SequenceId) -> Sequence {
        let mut sequence = self.sequences[id.0]
            .take()
            .expect("a sequence finishes once");
        if let Some(place) = self.running.iter().position(|&(_, other)| other == id) {
            self.running.remove(place);
        } else {
            self.preempted.retain(|_, other| *other != id);
            self.waiting.retain(|_, other| *other != id);
        }
        self.manager.release(&mut sequence.blocks);
        sequence
    }

    /// The tokens last set with [`Self::set_drafts`]; none are left.
    pub(super) fn take_drafts(&mut self, id: SequenceId) -> Vec<u32> {
        std::mem::take(&mut self.sequence_mut(id).draft_token_ids)
    }

    /// Drops every sequence; all blocks are free again.
    pub(super) fn cancel_all(&mut self) {
        self.waiting.clear();
        self.preempted.clear();
        self.running.clear();
        for sequence in self.sequences.iter_mut().filter_map(Option::take) {
            let mut blocks = sequence.blocks;
            self.manager.release(&mut blocks);
        }
    }

    /// Asserts what must hold between any two calls.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let live = || self.sequences.iter().flatten();
        self.manager
            .check_invariants(live().map(|sequence| &sequence.blocks));
        let listed = self.running.len() + self.preempted.len() + self.waiting.len();
        assert_eq!(live().count(), listed, "a sequence is in exactly one place");
        assert!(self.slots_in_use() <= self.limits.max_num_seqs);
        assert!(self.running.is_sorted(), "running sequences stand by age");
        for id in self.preempted.values().chain(self.waiting.values()) {
            assert!(
                self.sequence(*id).blocks.is_empty(),
                "{id:?} waits with blocks"
            );
            assert_eq!(self.sequence(*id).num_computed_tokens, 0);
        }
        for &(_, id) in &self.running {
            let sequence = self.sequence(id);
            let capacity = sequence.blocks.blocks().len() * self.manager.block_size();
            assert!(sequence.num_computed_tokens <= capacity);
            assert!(sequence.num_uncomputed_tokens() > 0);
            assert!(sequence.token_ids.len() < sequence.max_len);
        }
    }
}
