//! One finished answer, as the journal keeps it. Grades are not in it: they follow from the text
//! and are made again from it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::generator::Answer;

/// Which answer of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleId {
    /// The task.
    pub task: String,
    /// The document's number in its split, from 0.
    pub doc_id: usize,
    /// Which of the task's `repeats`, from 0.
    pub sample_index: usize,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Which one.
    #[serde(flatten)]
    pub id: SampleId,
    /// The text, cut before stop strings.
    pub text: String,
    /// How it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, a final stop token included.
    pub gen_tokens: usize,
    /// Its budget of new tokens, after clamping to the context.
    pub max_gen_toks: usize,
    /// Sum of the tokens' log-probabilities; absent where it is not finite or nobody knows.
    pub cumulative_logprob: Option<f64>,
    /// From admission to the first token.
    pub prefill_seconds: f64,
    /// From the first token to the last.
    pub decode_seconds: f64,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    Eos,
    /// This stop string ended it.
    Stop(String),
    /// The budget of new tokens was used up.
    Length,
    /// It was never asked, for this reason; the text is empty.
    Refused(String),
}

impl Finish {
    /// The word in a samples file: `eos`, `stop`, `length` or `refused`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop(_) => "stop",
            Self::Length => "length",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether the budget of new tokens cut it off.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Length)
    }

    /// The stop string that ended it.
    pub fn stop(&self) -> Option<&str> {
        match self {
            Self::Stop(stop) => Some(stop),
            Self::Eos | Self::Length | Self::Refused(_) => None,
        }
    }
}

impl SampleRecord {
    /// From what the generator returned for a document.
    pub(super) fn new(task: &str, doc_id: usize, answer: Answer) -> Self {
        Self {
            id: SampleId {
                task: task.to_owned(),
                doc_id,
                sample_index: answer.sample_index,
            },
            text: answer.text,
            finish: answer.finish,
            prompt_tokens: answer.prompt_tokens,
            gen_tokens: answer.gen_tokens,
            max_gen_toks: answer.max_gen_toks,
            cumulative_logprob: answer.cumulative_logprob,
            prefill_seconds: answer.prefill_time.as_secs_f64(),
            decode_seconds: answer.decode_time.as_secs_f64(),
        }
    }
}

/// The engine's number for a document: it keys the random stream, so it depends on nothing but
/// the task's name and the document's place in its split.
pub fn request_id(task: &str, doc_id: usize) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(task.as_bytes());
    hasher.update([0]);
    hasher.update((doc_id as u64).to_le_bytes());
    let digest = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}
