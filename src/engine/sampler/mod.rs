//! From a row of logits to a token.
//!
//! Greedy takes the most likely token, the lowest id among equals. Otherwise logits are divided by
//! the temperature, then min-p, top-k and top-p each keep the most likely tokens of what the one
//! before left (vLLM's order), and one is drawn. The draw is a pure function of (seed, request,
//! sample, position), so the rest of the batch cannot change it. Sums run in fixed order; the
//! vocabulary is never sorted.

mod draw;
mod scan;

use crate::random::CounterRng;

use super::{RequestError, SamplingParams, TokenLogprob};
use scan::{Peak, best, peak, peak_and_log_total};

/// Temperatures below this are greedy: dividing by them would overflow (vLLM's threshold).
const MIN_TEMPERATURE: f32 = 1e-5;
/// Alternatives reported per token, at most: they are kept for every token of every sequence.
const MAX_LOGPROBS: usize = 1024;

/// Logits that no token can be chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// Not a number.
    #[error(
        "the logit of token {token_id} is not a number; the weights may be damaged or overflow"
    )]
    NotANumber {
        /// The first such token.
        token_id: usize,
    },
    /// Infinite, or all minus infinity.
    #[error("the greatest logit is not finite; the weights may be damaged or overflow")]
    NoFiniteMaximum,
}

/// A sampled token and its log-probability under the model alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampled {
    pub(super) token_id: u32,
    pub(super) logprob: f32,
    pub(super) top: Vec<(u32, f32)>,
}

impl From<Sampled> for TokenLogprob {
    fn from(sampled: Sampled) -> Self {
        Self {
            token_id: sampled.token_id,
            logprob: sampled.logprob,
            top: sampled.top,
        }
    }
}

/// The tokens of prompt and output, each once, for the repetition penalty.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenTokens {
    ids: Vec<u32>,
    bits: Vec<u64>,
}

impl SeenTokens {
    /// Adds a token.
    pub(super) fn insert(&mut self, token_id: u32) {
        let (word, bit) = (token_id as usize / 64, 1u64 << (token_id % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.ids.push(token_id);
        }
    }
}

/// Checks that every parameter is in its range.
pub(super) fn check_params(params: &SamplingParams) -> Result<(), RequestError> {
    let check = |ok: bool, name, value: String, expected| {
        if ok {
            return Ok(());
        }
        Err(RequestError::InvalidParameter {
            name,
            value,
            expected,
        })
    };
    let SamplingParams {
        max_gen_toks,
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        n,
        ..
    } = *params;
    let text = |value: f32| value.to_string();
    check(
        max_gen_toks > 0,
        "max_gen_toks",
        max_gen_toks.to_string(),
        "at least 1",
    )?;
    check(
        temperature.is_finite() && temperature >= 0.0,
        "temperature",
        text(temperature),
        "0 (greedy) or a positive number",
    )?;
    check(
        top_p > 0.0 && top_p <= 1.0,
        "top_p",
        text(top_p),
        "above 0 and at most 1",
    )?;
    check((0.0..=1.0).contains(&min_p), "min_p", text(min_p), "0 to 1")?;
    check(
        repetition_penalty.is_finite() && repetition_penalty > 0.0,
        "repetition_penalty",
        text(repetition_penalty),
        "a positive number (1 is off)",
    )?;
    check(n > 0, "n", n.to_string(), "at least 1")?;
    let logprobs = params.logprobs.unwrap_or(0);
    check(
        logprobs <= MAX_LOGPROBS,
        "logprobs",
        logprobs.to_string(),
        "at most 1024",
    )
}

/// Whether `params` take the most likely token.
pub(super) fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature < MIN_TEMPERATURE
}

/// The random stream of one sample of a request.
pub(super) fn random_stream(seed: u64, request_id: u64, sample_index: usize) -> CounterRng {
    CounterRng::from_parts(&[seed, request_id, sample_index as u64])
}

/// What every choice from a row of logits starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowScan {
    peak: Peak,
    /// `ln(sum(exp(logits)))`.
    log_total: f64,
}

impl RowScan {
    /// *Shapes* `logits: [vocab_size]`.
    ///
    /// # Errors
    /// No token can be chosen from them.
    pub(super) fn of(logits: &[f32]) -> Result<Self, SamplerError> {
        let (peak, log_total) = peak_and_log_total(logits)?;
        Ok(Self { peak, log_total })
    }
}

/// Chooses tokens; keeps its buffers between calls.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    penalised: Vec<f32>,
}

impl Sampler {
    /// Chooses the token at `position` (its index among the generated ones).
    ///
    /// *Shapes* `logits: [vocab_size]`, of which `scan` is the scan.
    pub(super) fn sample(
        &mut self,
        logits: &[f32],
        scan: RowScan,
        params: &SamplingParams,
        seen: Option<&SeenTokens>,
        stream: CounterRng,
        position: usize,
    ) -> Result<Sampled, SamplerError> {
        let RowScan {
            peak: raw,
            log_total,
        } = scan;
        let (chosen_from, peak) = match seen {
            Some(seen) => self.penalise(logits, seen, params.repetition_penalty)?,
            None => (logits, raw),
        };
        let token_id = if is_greedy(params) {
            peak.token_id
        } else {
            draw::draw(
                chosen_from,
                peak.value,
                params,
                stream.uniform(position as u128),
            )
        };
        let logprob = |token_id: u32| (f64::from(logits[token_id as usize]) - log_total) as f32;
        let top = params.logprobs.map_or_else(Vec::new, |k| {
            best(logits, k)
                .into_iter()
                .map(|token_id| (token_id, logprob(token_id)))
                .collect()
        });
        Ok(Sampled {
            token_id,
            logprob: logprob(token_id),
            top,
        })
    }

    /// A copy of `logits` where tokens seen before are less likely (Keskar et al. 2019, section 4.1).
    fn penalise(
        &mut self,
        logits: &[f32],
        seen: &SeenTokens,
        penalty: f32,
    ) -> Result<(&[f32], Peak), SamplerError> {
        self.penalised.clear();
        self.penalised.extend_from_slice(logits);
        for &token_id in &seen.ids {
            let logit = &mut self.penalised[token_id as usize];
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
        let peak = peak(&self.penalised)?;
        Ok((&self.penalised, peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_at(logits: &[f32], params: &SamplingParams, position: usize) -> Sampled {
        let stream = random_stream(params.seed, 3, 0);
        let scan = RowScan::of(logits).unwrap();
        Sampler::default()
            .sample(logits, scan, params, None, stream, position)
            .unwrap()
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let logits = [0.0, 2.0, -1.0, 2.0];
        assert_eq!(
            sample_at(&logits, &SamplingParams::default(), 0).token_id,
            1
        );
    }

    #[test]
    fn log_probabilities_are_those_of_the_raw_logits() {
        let logits = [1.0, 2.0, 3.0, f32::NEG_INFINITY];
        let params = SamplingParams {
            temperature: 0.5,
            top_k: 1,
            logprobs: Some(2),
            ..SamplingParams::default()
        };
        let sampled = sample_at(&logits, &params, 0);
        let total = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln();
        assert_eq!(sampled.token_id, 2);
        assert!((f64::from(sampled.logprob) - (3.0 - total)).abs() < 1e-6);
        assert_eq!(sampled.top.len(), 2);
        assert_eq!(sampled.top[0], (2, sampled.logprob));
        assert!((f64::from(sampled.top[1].1) - (2.0 - total)).abs() < 1e-6);
    }

    #[test]
    fn damaged_logits_are_an_error_that_says_so() {
        let fails = |logits: &[f32]| RowScan::of(logits).unwrap_err();
        let nan = fails(&[0.0, f32::NAN, 1.0]);
        assert_eq!(nan, SamplerError::NotANumber { token_id: 1 });
        assert_eq!(
            fails(&[f32::NEG_INFINITY; 3]),
            SamplerError::NoFiniteMaximum
        );
        assert_eq!(fails(&[f32::INFINITY, 0.0]), SamplerError::NoFiniteMaximum);
    }

    #[test]
    fn the_repetition_penalty_lowers_tokens_of_either_sign() {
        let mut seen = SeenTokens::default();
        for token_id in [0, 1, 1] {
            seen.insert(token_id);
        }
        let mut sampler = Sampler::default();
        let (penalised, _) = sampler.penalise(&[2.0, -2.0, 1.5], &seen, 2.0).unwrap();
        assert_eq!(penalised, [1.0, -4.0, 1.5]);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let params = SamplingParams {
            top_p: 0.0,
            ..SamplingParams::default()
        };
        let error = check_params(&params).unwrap_err().to_string();
        assert_eq!(error, "top_p is 0, expected above 0 and at most 1");
        assert!(check_params(&SamplingParams::default()).is_ok());
    }

    #[test]
    fn draws_depend_on_seed_request_sample_and_position() {
        let logits = [0.0f32; 4096];
        let params = SamplingParams {
            temperature: 1.0,
            ..SamplingParams::default()
        };
        let draw = |seed, request_id, sample_index, position| {
            let stream = random_stream(seed, request_id, sample_index);
            let scan = RowScan::of(&logits).unwrap();
            let mut sampler = Sampler::default();
            let sampled = sampler.sample(&logits, scan, &params, None, stream, position);
            sampled.unwrap().token_id
        };
        let first = draw(1, 2, 3, 4);
        assert_eq!(first, draw(1, 2, 3, 4));
        for other in [
            draw(2, 2, 3, 4),
            draw(1, 3, 3, 4),
            draw(1, 2, 4, 4),
            draw(1, 2, 3, 5),
        ] {
            assert_ne!(first, other);
        }
    }
}
