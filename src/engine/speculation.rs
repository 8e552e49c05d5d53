//! Guessing the next tokens from the sequence's own text (prompt-lookup decoding, Saxena 2023).
//!
//! When few sequences are left, a step costs the reading of the weights, and a few rows more cost
//! little. If the last tokens occurred before, what followed them then is given to the next step as
//! a draft. The sampler then chooses each token from the model's logits exactly as without drafts
//! and stops at the first that differs, so outputs are the same bits with speculation on or off,
//! greedy or sampled, wherever rows are batch-invariant.
//!
//! A draft is as long as it pays: its rows are weighed against the steps that they are expected to
//! save, by how often guesses like these came true. What comes true is counted whether or not the
//! guess was given to the model, so a text that begins to repeat itself is noticed at once. No
//! clock decides: the same work gives the same drafts.

use std::collections::BTreeMap;

use super::sequence::SequenceId;

/// Whether an engine guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speculate {
    /// Where it pays by what the machine was measured at, and the output is the same bits: on the
    /// CPU, while few sequences run.
    #[default]
    Auto,
    /// Where it pays, while at most this many sequences run; on any executor that can.
    Below(usize),
    /// As these numbers say, likewise.
    As(Speculation),
    /// Never.
    Never,
}

/// When to guess, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculation {
    /// Tokens guessed per sequence and step, at most.
    pub max_draft_tokens: usize,
    /// Only when at most this many sequences run: with more, rows cost arithmetic, not reading.
    pub max_running: usize,
    /// What a further row adds to the time of a step, as a share of a step of one row. With 0 every
    /// guess is given to the model.
    pub row_cost: f64,
}

/// Repeats of this many tokens are the best sign; longer ones are not told apart.
const MAX_MATCH: usize = 4;
/// A single repeated token says nothing about the next.
const MIN_MATCH: usize = 2;

/// Weight of what happened in a sequence's guesses before, when the next comes out.
const SEQUENCE_MEMORY: f64 = 0.8;
/// The same for guesses of all sequences together.
const ENGINE_MEMORY: f64 = 0.98;
/// Guesses of a sequence that count as much as those of all others.
const PRIOR_WEIGHT: f64 = 2.0;

/// What followed the last tokens of a text where they occurred before.
#[derive(Debug, Default, PartialEq, Eq)]
struct Guess {
    /// How many of the last tokens were found, at most [`MAX_MATCH`].
    match_len: usize,
    token_ids: Vec<u32>,
}

/// The latest of the longest repeats decides. A repeat that reaches into its own copy goes on as
/// it began, as loops do.
fn find(token_ids: &[u32], most: usize) -> Option<Guess> {
    let end = token_ids.len();
    let (&last, earlier) = token_ids.split_last()?;
    let mut found = (0, 0);
    for index in (MIN_MATCH - 1..earlier.len()).rev() {
        if earlier[index] != last {
            continue;
        }
        let pairs = token_ids[..=index].iter().rev().zip(token_ids.iter().rev());
        let len = pairs.take(MAX_MATCH).take_while(|(a, b)| a == b).count();
        if len > found.0 {
            found = (len, index + 1);
        }
        if len == MAX_MATCH {
            break;
        }
    }
    let (match_len, begin) = found;
    (match_len >= MIN_MATCH).then(|| {
        let period = end - begin;
        let follows = (0..most).map(|offset| token_ids[begin + offset % period]);
        Guess {
            match_len,
            token_ids: follows.collect(),
        }
    })
}

/// How often a guessed token was the model's, the latest counting most.
#[derive(Clone, Copy, Debug, Default)]
struct Acceptance {
    confirmed: f64,
    refused: f64,
}

impl Acceptance {
    fn note(&mut self, memory: f64, confirmed: usize, refused: bool) {
        self.confirmed = memory * self.confirmed + confirmed as f64;
        self.refused = memory * self.refused + f64::from(u8::from(refused));
    }

    /// The share that is confirmed, where `prior` is expected before anything is known.
    fn rate(&self, prior: f64) -> f64 {
        let seen = self.confirmed + self.refused;
        (self.confirmed + PRIOR_WEIGHT * prior) / (seen + PRIOR_WEIGHT)
    }
}

/// A sequence's guesses.
#[derive(Debug, Default)]
struct Record {
    acceptance: Acceptance,
    /// What was guessed for the step that runs.
    pending: Guess,
}

/// Guesses for all sequences of an engine and learns from what the model says.
#[derive(Debug)]
pub(super) struct Speculator {
    speculation: Speculation,
    by_match_len: [Acceptance; MAX_MATCH + 1],
    /// Of the sequences that were guessed for and have not finished.
    records: BTreeMap<SequenceId, Record>,
}

impl Speculator {
    pub(super) fn new(speculation: Speculation) -> Self {
        Self {
            speculation,
            by_match_len: [Acceptance::default(); MAX_MATCH + 1],
            records: BTreeMap::new(),
        }
    }

    /// Whether to guess at all while `running` sequences run.
    pub(super) fn wants(&self, running: usize) -> bool {
        running <= self.speculation.max_running
    }

    /// The draft for a sequence with these tokens, of at most `most` tokens.
    pub(super) fn draft(
        &mut self,
        id: SequenceId,
        token_ids: &[u32],
        running: usize,
        most: usize,
    ) -> Vec<u32> {
        let most = most.min(self.speculation.max_draft_tokens);
        let Some(guess) = find(token_ids, most) else {
            return Vec::new();
        };
        let record = self.records.entry(id).or_default();
        let alike = self.by_match_len[guess.match_len].rate(0.5);
        let rate = record.acceptance.rate(alike);
        let paying = self.speculation.paying_tokens(rate, running);
        let draft = guess.token_ids[..guess.token_ids.len().min(paying)].to_vec();
        record.pending = guess;
        draft
    }

    /// Learns from the tokens that a sequence got in a step.
    pub(super) fn note(&mut self, id: SequenceId, token_ids: &[u32]) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        let guess = std::mem::take(&mut record.pending);
        let pairs = guess.token_ids.iter().zip(token_ids);
        let confirmed = pairs.clone().take_while(|(a, b)| a == b).count();
        let refused = confirmed < pairs.len();
        if confirmed == 0 && !refused {
            return;
        }
        let alike = &mut self.by_match_len[guess.match_len];
        alike.note(ENGINE_MEMORY, confirmed, refused);
        record.acceptance.note(SEQUENCE_MEMORY, confirmed, refused);
    }

    /// Drops what is known of a sequence that has finished.
    pub(super) fn forget(&mut self, id: SequenceId) {
        self.records.remove(&id);
    }

    /// Drops what is known of every sequence.
    pub(super) fn forget_all(&mut self) {
        self.records.clear();
    }
}

impl Speculation {
    /// Tokens of a draft that are worth their rows, when each comes true at this rate if those
    /// before it did, and `running` sequences share a step.
    fn paying_tokens(&self, rate: f64, running: usize) -> usize {
        let others = running.saturating_sub(1) as f64;
        // A token that comes true saves its sequence's share of a step.
        let saved = (1.0 + others * self.row_cost) / (others + 1.0);
        let mut expected = rate * saved;
        let mut tokens = 0;
        while tokens < self.max_draft_tokens && expected > self.row_cost {
            tokens += 1;
            expected *= rate;
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn propose(token_ids: &[u32], most: usize) -> Vec<u32> {
        find(token_ids, most).unwrap_or_default().token_ids
    }

    #[test]
    fn the_longest_latest_repeat_decides() {
        assert_eq!(propose(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [9, 2]);
        assert_eq!(propose(&[5, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [8, 1]);
    }

    #[test]
    fn a_loop_is_continued() {
        assert_eq!(propose(&[7, 7, 7, 7], 3), [7, 7, 7]);
        assert_eq!(propose(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn nothing_repeated_is_no_guess() {
        for text in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4, 3]] {
            assert_eq!(find(text, 4), None);
        }
    }

    const SPECULATION: Speculation = Speculation {
        max_draft_tokens: 15,
        max_running: 16,
        row_cost: 0.1,
    };

    #[test]
    fn a_draft_is_as_long_as_it_is_expected_to_pay() {
        // One sequence: a row costs a tenth of the step that it saves if it comes true.
        assert_eq!(SPECULATION.paying_tokens(0.05, 1), 0);
        assert_eq!(SPECULATION.paying_tokens(0.5, 1), 3);
        assert_eq!(SPECULATION.paying_tokens(1.0, 1), 15);
        // Sixteen: a step costs 2.5, a sequence's share of it 0.16.
        assert_eq!(SPECULATION.paying_tokens(0.5, 16), 0);
        assert_eq!(SPECULATION.paying_tokens(0.8, 16), 1);
        let free = Speculation {
            row_cost: 0.0,
            ..SPECULATION
        };
        assert_eq!(free.paying_tokens(0.01, 100), 15);
    }

    /// Lengths of the drafts for a text that is given token by token.
    fn draft_lens(speculator: &mut Speculator, text: &[u32]) -> Vec<usize> {
        let id = SequenceId(3);
        (1..text.len())
            .map(|known| {
                let draft = speculator.draft(id, &text[..known], 8, 100);
                speculator.note(id, &text[known..=known]);
                draft.len()
            })
            .collect()
    }

    #[test]
    fn drafts_end_when_guesses_fail_and_come_back_when_they_would_have_come_true() {
        let mut speculator = Speculator::new(SPECULATION);
        // Pairs that occur again and again, followed by something else each time.
        let misleading: Vec<u32> = (0..40).flat_map(|i| [1, 2, 100 + i]).collect();
        let lens = draft_lens(&mut speculator, &misleading);
        assert_eq!(lens[lens.len() - 30..], [0; 30]);
        let looping: Vec<u32> = (0..60).map(|i| 500 + i % 5).collect();
        let lens = draft_lens(&mut speculator, &looping);
        assert!(
            lens[lens.len() - 10..].iter().all(|&len| len > 5),
            "{lens:?}"
        );
    }

    #[test]
    fn a_finished_sequence_leaves_nothing() {
        let mut speculator = Speculator::new(SPECULATION);
        speculator.draft(SequenceId(0), &[1, 2, 1, 2], 1, 4);
        speculator.draft(SequenceId(1), &[1, 2, 1, 2], 1, 4);
        speculator.forget(SequenceId(0));
        assert_eq!(speculator.records.len(), 1);
        speculator.forget_all();
        assert!(speculator.records.is_empty());
    }
}
