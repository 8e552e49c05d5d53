//! One finished sample: a line of the journal, and a part of a line of the output.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::{Completion, FinishReason, TokenLogprob};

/// A sample as it is kept and written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratedSample {
    /// The text, cut before a stop string.
    pub text: String,
    /// Every generated token.
    pub token_ids: Vec<u32>,
    /// `eos`, `stop` or `length`.
    pub finish_reason: String,
    /// The stop string that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Number of generated tokens.
    pub generated_tokens: usize,
    /// Its budget of new tokens, after clamping to the context.
    pub max_gen_toks: usize,
    /// Sum of the tokens' log-probabilities.
    pub cumulative_logprob: f64,
    /// Per token, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<WrittenLogprob>>,
    /// From admission to the first token.
    pub prefill_seconds: f64,
    /// From the first token to the last.
    pub decode_seconds: f64,
}

/// A token's log-probability. JSON has no infinities: an impossible token's is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrittenLogprob {
    /// The generated token.
    pub token_id: u32,
    /// Its log-probability.
    pub logprob: Option<f32>,
    /// The most likely tokens with theirs, best first.
    pub top: Vec<(u32, Option<f32>)>,
}

impl From<TokenLogprob> for WrittenLogprob {
    fn from(token: TokenLogprob) -> Self {
        let finite = |logprob: f32| Some(logprob).filter(|logprob| logprob.is_finite());
        let top = token.top.into_iter();
        Self {
            token_id: token.token_id,
            logprob: finite(token.logprob),
            top: top.map(|(id, logprob)| (id, finite(logprob))).collect(),
        }
    }
}

/// A sample and its place in the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SampleRecord {
    /// Index of the prompt in the input, from 0.
    pub(super) prompt_index: usize,
    pub(super) sample_index: usize,
    pub(super) prompt_tokens: usize,
    #[serde(flatten)]
    pub(super) sample: GeneratedSample,
}

impl From<Completion> for SampleRecord {
    fn from(completion: Completion) -> Self {
        let (finish_reason, stop) = match completion.finish_reason {
            FinishReason::Eos => ("eos", None),
            FinishReason::StopString(stop) => ("stop", Some(stop)),
            FinishReason::Length => ("length", None),
        };
        let logprobs = completion.logprobs.map(|logprobs| {
            let written = logprobs.into_iter().map(WrittenLogprob::from);
            written.collect()
        });
        Self {
            prompt_index: completion.request_id as usize,
            sample_index: completion.sample_index,
            prompt_tokens: completion.prompt_tokens,
            sample: GeneratedSample {
                text: completion.text,
                generated_tokens: completion.token_ids.len(),
                token_ids: completion.token_ids,
                finish_reason: finish_reason.to_owned(),
                stop,
                max_gen_toks: completion.max_gen_toks_effective,
                cumulative_logprob: completion.cumulative_logprob,
                logprobs,
                prefill_seconds: completion.prefill_time.as_secs_f64(),
                decode_seconds: completion.decode_time.as_secs_f64(),
            },
        }
    }
}

/// A line of the output: the sample's keys beside the prompt's, or with several samples a list.
pub(super) fn output_line(
    id: Option<&Value>,
    prompt_tokens: usize,
    samples: &[&GeneratedSample],
) -> Value {
    let mut line = opening(id);
    line.insert("prompt_tokens".to_owned(), prompt_tokens.into());
    match samples {
        [sample] => {
            if let Value::Object(keys) = json!(sample) {
                line.extend(keys);
            }
        }
        samples => {
            line.insert("samples".to_owned(), json!(samples));
        }
    }
    Value::Object(line)
}

/// The line of a prompt that could not run.
pub(super) fn refused_line(id: Option<&Value>, reason: &str) -> Value {
    let mut line = opening(id);
    line.insert("error".to_owned(), reason.into());
    Value::Object(line)
}

fn opening(id: Option<&Value>) -> Map<String, Value> {
    let id = id.map(|id| ("id".to_owned(), id.clone()));
    id.into_iter().collect()
}
