//! Guessing the next tokens from the sequence's own text (prompt-lookup decoding, Saxena 2023).
//!
//! When few sequences are left, a step costs the reading of the weights, however many rows it has.
//! If the last tokens occurred before, what followed them then is given to the next step as a draft.
//! The sampler then chooses each token from the model's logits exactly as without drafts and stops
//! at the first that differs, so outputs are the same bits with speculation on or off, greedy or
//! sampled, wherever rows are batch-invariant.

/// When to guess, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Tokens guessed per sequence and step, at most.
    pub max_draft_tokens: usize,
    /// Only when at most this many sequences run: with more, rows cost arithmetic, not reading.
    pub max_running: usize,
}

/// Repeats of this many tokens are looked for first, then shorter ones.
const MAX_NGRAM: usize = 4;
/// A single repeated token says nothing about the next.
const MIN_NGRAM: usize = 2;

/// What followed the latest earlier occurrence of the last tokens: up to `max_draft_tokens` tokens.
pub(super) fn propose(token_ids: &[u32], max_draft_tokens: usize) -> &[u32] {
    let Some(end_of_earlier) = token_ids.len().checked_sub(1) else {
        return &[];
    };
    for len in (MIN_NGRAM..=MAX_NGRAM.min(end_of_earlier)).rev() {
        let last = &token_ids[token_ids.len() - len..];
        let found = token_ids[..end_of_earlier]
            .windows(len)
            .rposition(|window| window == last);
        if let Some(begin) = found {
            let follows = &token_ids[begin + len..];
            return &follows[..follows.len().min(max_draft_tokens)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_latest_repeat_decides() {
        assert_eq!(propose(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [9, 2]);
        assert_eq!(propose(&[5, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [8, 1]);
    }

    #[test]
    fn a_loop_is_continued_as_far_as_it_is_known() {
        assert_eq!(propose(&[7, 7, 7, 7], 8), [7]);
        assert_eq!(propose(&[1, 2, 1, 2, 1, 2], 8), [1, 2]);
    }

    #[test]
    fn nothing_repeated_is_no_guess() {
        assert_eq!(propose(&[], 4), [0u32; 0]);
        assert_eq!(propose(&[1, 1], 4), [0u32; 0]);
        assert_eq!(propose(&[1, 2, 3, 4, 3], 4), [0u32; 0]);
    }
}
