//! Conversations to token rows: cutting to `cutoff_len` and masking, as LLaMA-Factory does.

use super::template::{Special, Template};

/// One conversation: alternating user and assistant turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The row's own system text; empty for none.
    pub system: String,
    /// (user, assistant) pairs.
    pub turns: Vec<(String, String)>,
}

/// A tokenised row. Both vectors have the same length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// Tokens.
    pub input_ids: Vec<u32>,
    /// What each position teaches; `None` is masked.
    pub labels: Vec<Option<u32>>,
    /// Tokens that did not fit into `cutoff_len`.
    pub cut_tokens: usize,
    /// Whether the last answer lost its end, and with it the end-of-turn token.
    pub lost_end: bool,
}

/// How rows are cut and masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The most tokens of a row.
    pub cutoff_len: usize,
    /// Sources are trained on as well.
    pub train_on_prompt: bool,
    /// Only the last turn is trained on.
    pub mask_history: bool,
    /// Whether an empty thought block is trained (true) or part of the source (false), for
    /// templates that reason.
    pub enable_thinking: bool,
    /// Replaces the template's default system text.
    pub default_system: Option<String>,
}

const THOUGHT_BEGIN: &str = "<think>";
const THOUGHT_END: &str = "</think>";
const EMPTY_THOUGHT: &str = "<think>\n\n</think>\n\n";

/// The (source, answer) texts of every turn, in order.
pub fn pieces(
    conversation: &Conversation,
    template: &Template,
    special: &Special<'_>,
    options: &EncodeOptions,
) -> Vec<(String, String)> {
    let fallback = options
        .default_system
        .as_deref()
        .unwrap_or(template.default_system);
    let system = if conversation.system.is_empty() {
        fallback
    } else {
        &conversation.system
    };
    let turns = conversation.turns.iter().enumerate();
    turns
        .map(|(i, (user, assistant))| {
            let mut source = template.source((i == 0).then_some(system), user, special);
            let mut answer = template.answer(assistant, special);
            if template.is_reasoning {
                add_thoughts(
                    assistant,
                    &mut source,
                    &mut answer,
                    template,
                    special,
                    options,
                );
            }
            (source, answer)
        })
        .collect()
}

/// Qwen3's rule: an answer without thoughts gets an empty block, trained or masked; without
/// thinking, thoughts in the data are removed.
fn add_thoughts(
    assistant: &str,
    source: &mut String,
    answer: &mut String,
    template: &Template,
    special: &Special<'_>,
    options: &EncodeOptions,
) {
    if options.enable_thinking {
        if !assistant.contains(THOUGHT_BEGIN) && !assistant.contains(THOUGHT_END) {
            *answer = format!("{EMPTY_THOUGHT}{answer}");
        }
    } else {
        source.push_str(EMPTY_THOUGHT);
        *answer = template.answer(without_thoughts(assistant), special);
    }
}

fn without_thoughts(text: &str) -> &str {
    match text.split_once(THOUGHT_END) {
        Some((before, after)) if before.contains(THOUGHT_BEGIN) => after.trim_start_matches('\n'),
        _ => text,
    }
}

/// Lengths (source, answer) that stay of a turn when `budget` tokens are left.
fn fit(source: usize, answer: usize, budget: usize) -> (usize, usize) {
    let most = if answer * 2 < budget {
        budget
    } else if source * 2 < budget {
        budget - source
    } else {
        // In double precision and truncated, as the reference computes it.
        (budget as f64 * (answer as f64 / (source + answer) as f64)) as usize
    };
    let answer = answer.min(most);
    (source.min(budget.saturating_sub(answer)), answer)
}

/// Cuts and masks a tokenised conversation: (source, answer) token pairs per turn.
pub fn assemble(turns: &[(Vec<u32>, Vec<u32>)], options: &EncodeOptions) -> Example {
    let last = turns.len().saturating_sub(1);
    let order: Vec<usize> = if options.mask_history {
        (0..turns.len()).rev().collect()
    } else {
        (0..turns.len()).collect()
    };
    let mut kept: Vec<Option<(usize, usize)>> = vec![None; turns.len()];
    let mut used = 0;
    for turn in order {
        if used >= options.cutoff_len {
            break;
        }
        let (source, answer) = &turns[turn];
        let lengths = fit(source.len(), answer.len(), options.cutoff_len - used);
        used += lengths.0 + lengths.1;
        kept[turn] = Some(lengths);
    }
    let mut example = Example::default();
    for (turn, (source, answer)) in turns.iter().enumerate() {
        let (s, t) = kept[turn].unwrap_or((0, 0));
        example.cut_tokens += source.len() - s + answer.len() - t;
        if turn == last {
            example.lost_end = t < answer.len();
        }
        example.input_ids.extend_from_slice(&source[..s]);
        example.input_ids.extend_from_slice(&answer[..t]);
        let history = options.mask_history && turn != last;
        let label = |on: bool, id: &u32| on.then_some(*id);
        example.labels.extend(
            source[..s]
                .iter()
                .map(|id| label(options.train_on_prompt, id)),
        );
        example
            .labels
            .extend(answer[..t].iter().map(|id| label(!history, id)));
    }
    example
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_keeps_the_first_tokens_of_both_sides() {
        assert_eq!(fit(10, 10, 100), (10, 10));
        assert_eq!(fit(10, 100, 60), (10, 50));
        assert_eq!(fit(100, 100, 60), (30, 30));
        assert_eq!(fit(100, 10, 60), (50, 10));
        assert_eq!(fit(0, 0, 0), (0, 0));
    }

    #[test]
    fn a_cut_answer_is_noticed() {
        let options = EncodeOptions {
            cutoff_len: 6,
            train_on_prompt: false,
            mask_history: false,
            enable_thinking: true,
            default_system: None,
        };
        let example = assemble(&[(vec![1, 2], vec![3, 4, 5, 6, 7, 8])], &options);
        assert_eq!(example.input_ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(example.labels[..3], [None, None, Some(3)]);
        assert!(example.lost_end);
        assert_eq!(example.cut_tokens, 2);
    }
}
