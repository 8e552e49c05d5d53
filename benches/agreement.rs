//! What a device and a compute type cost in accuracy: logits of given text, teacher-forced, against
//! those of the CPU executor in single precision.
//!
//! `cargo bench --bench agreement -- MODEL TEXT [DEVICE/DTYPE[/QUANTIZE] ...]` takes documents with
//! empty lines between them, for example `cpu/bf16/int8`. Without names it compares `cpu/bf16` and
//! ggml's processor in every form.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run says so by stopping"
)]

use std::path::Path;
use std::sync::Arc;

use micota::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
#[cfg(feature = "ggml")]
use micota::engine::backends::ggml::{AttentionPath, GgmlOptions, GgmlRunner};
use micota::engine::{Device, ModelRunner, StepInput, StepSequence, Tokenizer};
use micota::formats::Checkpoint;
use micota::kernels::cpu::Isa;
use micota::model::Model;

/// Tokens of a document at most, and rows of a step.
const MAX_TOKENS: usize = 1024;
const ROWS: usize = 64;
const BLOCK_SIZE: usize = 32;

/// An executor under comparison, and how far its logits were from the reference's.
struct Contestant {
    name: String,
    runner: Box<dyn ModelRunner>,
    logits: Vec<f32>,
    squares: f64,
    same_top: usize,
    divergence: f64,
    loss: f64,
}

fn cpu(model: &Arc<Model>, compute_type: ComputeType, quantize: Quantize) -> Box<dyn ModelRunner> {
    let options = CpuOptions {
        compute_type,
        quantize,
        kv_type: KvType::Auto,
        threads: std::thread::available_parallelism().unwrap().get(),
        isa: Isa::detect(),
        block_size: BLOCK_SIZE,
        num_blocks: MAX_TOKENS / BLOCK_SIZE,
        max_model_len: MAX_TOKENS,
    };
    Box::new(CpuRunner::load(model, &options).unwrap())
}

#[cfg(feature = "ggml")]
fn on_ggml(
    model: &Arc<Model>,
    device: &Device,
    compute_type: ComputeType,
    attention: AttentionPath,
) -> Box<dyn ModelRunner> {
    let options = GgmlOptions {
        devices: device.find().unwrap(),
        compute_type,
        threads: std::thread::available_parallelism().unwrap().get(),
        block_size: BLOCK_SIZE,
        num_blocks: MAX_TOKENS / BLOCK_SIZE,
        max_model_len: MAX_TOKENS,
        max_num_seqs: 1,
        max_num_batched_tokens: ROWS,
        attention: Some(attention),
    };
    Box::new(GgmlRunner::load(model, &options).unwrap())
}

/// The executors that `name` means: ggml's once for each form of attention.
fn contestants(model: &Arc<Model>, name: &str) -> Vec<Contestant> {
    let (device, rest) = name.split_once('/').expect("a name is DEVICE/DTYPE");
    let (compute_type, quantize) = rest.split_once('/').unwrap_or((rest, "auto"));
    let compute_type: ComputeType = compute_type.parse().unwrap();
    let quantize: Quantize = quantize.parse().unwrap();
    let runners: Vec<(String, Box<dyn ModelRunner>)> = match device.parse().unwrap() {
        Device::Cpu => vec![(name.to_owned(), cpu(model, compute_type, quantize))],
        #[cfg(feature = "ggml")]
        device => [AttentionPath::Flash, AttentionPath::Plain]
            .map(|attention| {
                let runner = on_ggml(model, &device, compute_type, attention);
                (format!("{name} {attention:?}"), runner)
            })
            .into(),
        #[cfg(not(feature = "ggml"))]
        device => panic!("{device} is not in this build"),
    };
    let contestant = |(name, runner)| Contestant {
        name,
        runner,
        logits: Vec::new(),
        squares: 0.0,
        same_top: 0,
        divergence: 0.0,
        loss: 0.0,
    };
    runners.into_iter().map(contestant).collect()
}

/// Rows `range` of a document, with logits of all.
fn step(tokens: &[u32], range: std::ops::Range<usize>) -> StepInput {
    let num_blocks = range.end.div_ceil(BLOCK_SIZE) as u32;
    StepInput {
        token_ids: tokens[range.clone()].to_vec(),
        sequences: vec![StepSequence {
            first_row: 0,
            num_rows: range.len(),
            num_computed_tokens: range.start,
            block_table: (0..num_blocks).collect(),
            num_logits: range.len(),
        }],
    }
}

/// `log(sum(exp(logits)))`.
fn log_sum(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let exps = logits.iter().map(|l| (f64::from(*l) - largest).exp());
    largest + exps.sum::<f64>().ln()
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len())
        .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
        .unwrap()
}

impl Contestant {
    /// Counts one row; `next` is the document's own next token.
    fn add(&mut self, row: usize, reference: &[f32], next: u32) {
        let found = &self.logits[row * reference.len()..][..reference.len()];
        let (of_found, of_reference) = (log_sum(found), log_sum(reference));
        for (found, reference) in found.iter().zip(reference) {
            let (found, reference) = (f64::from(*found), f64::from(*reference));
            self.squares += (found - reference).powi(2);
            let expected = reference - of_reference;
            self.divergence += expected.exp() * (expected - (found - of_found));
        }
        self.same_top += usize::from(top(found) == top(reference));
        self.loss += of_found - f64::from(found[next as usize]);
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [model, text, names @ ..] = args.as_slice() else {
        println!(
            "SKIPPED: cargo bench --bench agreement -- MODEL TEXT [DEVICE/DTYPE[/QUANTIZE] ...]"
        );
        return;
    };
    let default = ["cpu/bf16", "ggml-cpu/f32", "ggml-cpu/bf16"].map(str::to_owned);
    let names = if names.is_empty() {
        &default[..]
    } else {
        names
    };
    let checkpoint = Arc::new(Checkpoint::open(Path::new(model)).unwrap());
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let model = Arc::new(Model::from_checkpoint(checkpoint).unwrap());
    let mut reference = cpu(&model, ComputeType::F32, Quantize::Auto);
    let mut contestants: Vec<Contestant> = names
        .iter()
        .flat_map(|name| contestants(&model, name))
        .collect();
    let vocab_size = reference.vocab_size();
    let (mut expected, mut loss, mut positions) = (Vec::new(), 0.0, 0);
    for document in std::fs::read_to_string(text).unwrap().split("\n\n") {
        let mut tokens = tokenizer.encode(document, true).unwrap();
        tokens.truncate(MAX_TOKENS);
        let rows = tokens.len().saturating_sub(1);
        for first in (0..rows).step_by(ROWS) {
            let range = first..rows.min(first + ROWS);
            let input = step(&tokens, range.clone());
            reference.forward(&input, &mut expected).unwrap();
            for contestant in &mut contestants {
                let logits = &mut contestant.logits;
                contestant.runner.forward(&input, logits).unwrap();
            }
            for (row, expected) in expected.chunks_exact(vocab_size).enumerate() {
                let next = tokens[first + row + 1];
                for contestant in &mut contestants {
                    contestant.add(row, expected, next);
                }
                loss += log_sum(expected) - f64::from(expected[next as usize]);
            }
            positions += range.len();
        }
    }
    let count = positions as f64;
    println!("{positions} positions; loss in f32 {:.4}", loss / count);
    println!("executor                rms  same top token  divergence    loss");
    for contestant in &contestants {
        println!(
            "{:<20} {:>6.4} {:>14.2}% {:>11.6} {:>7.4}",
            contestant.name,
            (contestant.squares / (count * vocab_size as f64)).sqrt(),
            100.0 * contestant.same_top as f64 / count,
            contestant.divergence / count,
            contestant.loss / count
        );
    }
}
