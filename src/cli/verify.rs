//! Whether a converted model says what its source says: the same prompts through both, in our
//! engine, logits compared.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};

use crate::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
use crate::engine::{ModelRunner, StepInput, StepSequence, available_bytes};
use crate::formats::{Checkpoint, DType, Tokenizer};
use crate::kernels::cpu::Isa;
use crate::model::Model;

/// What both forms read: prose, a problem, code with many blanks, other scripts.
const PROMPTS: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog, and then it rests in the shade of a tree.",
    "Question: A train travels 60 km in 45 minutes. What is its speed in km/h?\nAnswer: Let's",
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n",
    "Größe: 3,5 m² — 北京 — Привет, мир! \\frac{a}{b} = \\sqrt{2}",
];
/// Positions per KV block.
const BLOCK_SIZE: usize = 32;

/// How far two forms are apart.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// Root mean square of the differences of logits over that of the logits.
    pub(super) relative: f64,
    /// The largest difference of a logit.
    pub(super) largest: f64,
    /// Positions whose most likely token is the same.
    pub(super) same_token: usize,
    /// Positions.
    pub(super) positions: usize,
    /// What [`Comparison::relative`] may be for these types.
    pub(super) tolerance: f64,
    /// What both were computed in.
    pub(super) compute_type: ComputeType,
    /// Prompts that the two tokenizers read differently.
    pub(super) other_tokens: Vec<&'static str>,
}

impl Comparison {
    /// Whether the two forms are the same model.
    pub(super) fn agrees(&self) -> bool {
        self.other_tokens.is_empty() && self.relative <= self.tolerance
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "agrees": self.agrees(),
            "relative_difference": self.relative,
            "tolerance": self.tolerance,
            "largest_difference": self.largest,
            "same_token": self.same_token,
            "positions": self.positions,
            "computed_in": self.compute_type.name(),
            "prompts_tokenised_differently": self.other_tokens,
        })
    }

    /// The result in words.
    pub(super) fn line(&self) -> String {
        if let Some(prompt) = self.other_tokens.first() {
            return format!(
                "verify: FAILED, the tokenizers of source and result read {prompt:?} differently"
            );
        }
        format!(
            "verify: {}, logits differ by {:.2e} of their size (at most {} for these types), \
             by {:.3} at most; the same next token at {} of {} positions, computed in {}",
            if self.agrees() { "agrees" } else { "FAILED" },
            self.relative,
            self.tolerance,
            self.largest,
            self.same_token,
            self.positions,
            self.compute_type
        )
    }
}

/// Runs the prompts through both models, one after the other.
///
/// Positions beyond a sliding window that only one of the two has are left out: GGUF cannot store
/// Mistral's.
pub(super) fn compare(source: &Path, written: &Path) -> anyhow::Result<Comparison> {
    let (source, source_tokenizer) = open(source)?;
    let (written, written_tokenizer) = open(written)?;
    let window = |model: &Model| model.spec.sliding_window.iter().flatten().min().copied();
    let limit = match (window(&source), window(&written)) {
        (a, b) if a == b => usize::MAX,
        (a, b) => a.into_iter().chain(b).min().unwrap_or(usize::MAX),
    };
    let mut prompts = Vec::new();
    let mut other_tokens = Vec::new();
    for text in PROMPTS {
        let mut ids = source_tokenizer.encode(text, true)?;
        if ids != written_tokenizer.encode(text, true)? {
            other_tokens.push(text);
        }
        ids.truncate(limit.min(source.spec.max_position_embeddings));
        prompts.push(ids);
    }
    // Single precision leaves nothing to the arithmetic, where there is room for it.
    let needed = source.num_parameters().saturating_mul(6);
    let room = available_bytes().is_none_or(|free| needed < free);
    let compute_type = if room {
        ComputeType::F32
    } else {
        ComputeType::Bf16
    };
    let tolerance = tolerance(matrix_type(&source), matrix_type(&written), compute_type);
    let expected = logits(&source, &prompts, compute_type)?;
    let found = logits(&written, &prompts, compute_type)?;
    let vocab_size = source.spec.vocab_size;
    let mut comparison = Comparison {
        relative: f64::INFINITY,
        largest: f64::INFINITY,
        same_token: 0,
        positions: expected.len() / vocab_size,
        tolerance,
        compute_type,
        other_tokens,
    };
    if expected.len() == found.len() {
        measure(&expected, &found, vocab_size, &mut comparison);
    }
    Ok(comparison)
}

fn open(path: &Path) -> anyhow::Result<(Arc<Model>, Tokenizer)> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let model = Model::from_checkpoint(checkpoint).with_context(|| path.display().to_string())?;
    Ok((Arc::new(model), tokenizer))
}

/// The type of most of a model's elements.
fn matrix_type(model: &Model) -> DType {
    let mut elements = std::collections::BTreeMap::new();
    for view in model.checkpoint().tensors() {
        let entry = elements.entry(view.dtype.name()).or_insert((0, view.dtype));
        entry.0 += view.num_elements();
    }
    let most = elements.into_values().max_by_key(|(count, _)| *count);
    most.map_or(DType::F32, |(_, dtype)| dtype)
}

/// What the narrower of two types explains. A wrong permutation, scale or norm differs by about
/// as much as the logits are large, hundred times more than the 16-bit types.
fn tolerance(source: DType, written: DType, compute_type: ComputeType) -> f64 {
    let loss = |dtype: DType| -> f64 {
        match dtype {
            DType::F32 => 1e-4,
            DType::F16 => 1e-2,
            DType::BF16 => 5e-2,
            _ => 0.1,
        }
    };
    let exact = match compute_type {
        ComputeType::F32 => 1e-4,
        ComputeType::Bf16 => 1e-2,
    };
    // Both in bfloat16 (or in single precision) hold the same numbers.
    if source == written {
        exact
    } else {
        loss(written).max(exact)
    }
}

/// Logits of every position of every prompt.
fn logits(
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    compute_type: ComputeType,
) -> anyhow::Result<Vec<f32>> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let options = CpuOptions {
        compute_type,
        quantize: Quantize::None,
        kv_type: KvType::Auto,
        threads: std::thread::available_parallelism()?.get(),
        isa: Isa::detect(),
        block_size: BLOCK_SIZE,
        num_blocks: longest.div_ceil(BLOCK_SIZE),
        max_model_len: longest,
    };
    let mut runner = CpuRunner::load(model, &options)?;
    let mut all = Vec::new();
    let mut logits = Vec::new();
    for ids in prompts.iter().filter(|ids| !ids.is_empty()) {
        let step = StepInput {
            token_ids: ids.clone(),
            sequences: vec![StepSequence {
                first_row: 0,
                num_rows: ids.len(),
                num_computed_tokens: 0,
                block_table: (0..options.num_blocks as u32).collect(),
                num_logits: ids.len(),
            }],
        };
        runner.forward(&step, &mut logits)?;
        all.extend_from_slice(&logits);
    }
    Ok(all)
}

fn measure(expected: &[f32], found: &[f32], vocab_size: usize, into: &mut Comparison) {
    let (mut squared, mut total, mut largest) = (0.0, 0.0, 0.0_f64);
    for (a, b) in expected.iter().zip(found) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        squared += (a - b) * (a - b);
        total += a * a;
        largest = largest.max((a - b).abs());
    }
    let most_likely = |row: &[f32]| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map(|(index, _)| index)
    };
    let rows = expected.chunks(vocab_size).zip(found.chunks(vocab_size));
    let same = rows.filter(|(a, b)| most_likely(a) == most_likely(b));
    into.same_token = same.count();
    into.largest = largest;
    // A NaN on either side must not pass.
    let relative = (squared / f64::max(total, f64::MIN_POSITIVE)).sqrt();
    into.relative = if relative.is_nan() {
        f64::INFINITY
    } else {
        relative
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(expected: &[f32], found: &[f32]) -> Comparison {
        let mut comparison = Comparison {
            relative: f64::INFINITY,
            largest: f64::INFINITY,
            same_token: 0,
            positions: 2,
            tolerance: 0.1,
            compute_type: ComputeType::F32,
            other_tokens: Vec::new(),
        };
        measure(expected, found, 2, &mut comparison);
        comparison
    }

    #[test]
    fn only_close_logits_agree() {
        let same = comparison(&[1.0, 2.0, 4.0, 3.0], &[1.0, 2.0, 4.0, 3.0]);
        assert!(same.agrees() && same.same_token == 2 && same.largest == 0.0);
        let swapped = comparison(&[1.0, 2.0, 4.0, 3.0], &[2.0, 1.0, 4.0, 3.0]);
        assert!(!swapped.agrees() && swapped.same_token == 1 && swapped.largest == 1.0);
        assert!(swapped.line().contains("FAILED"));
        assert!(!comparison(&[1.0; 4], &[f32::NAN; 4]).agrees());
    }

    #[test]
    fn types_that_hold_the_same_numbers_leave_no_room() {
        let bf16 = tolerance(DType::BF16, DType::BF16, ComputeType::F32);
        assert!(bf16 <= 1e-4);
        assert!(tolerance(DType::F32, DType::BF16, ComputeType::F32) > bf16);
        assert!(tolerance(DType::BF16, DType::Q8_0, ComputeType::F32) < 0.5);
    }
}
