//! Training steps: tokens a second and the most memory of one case, as a process of its own.
//!
//!     cargo bench --bench train -- full f32
//!     cargo bench --bench train -- lora bf16 recompute 12
//!
//! `full`: all weights of a Qwen2 shape of 4.36 million values, 16 rows of 256 tokens. `lora`: rank
//! 16 on every linear layer of one of 100 million, 4 rows of 512. Every token has a label. The
//! number is that of measured steps, after two others.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark that cannot run says so by stopping"
)]

use std::time::Instant;

use candle_core::DType;
use micota::model::spec_from_config;
use micota::random::CounterRng;
use micota::train::adapter::{self, AdapterConfig};
use micota::train::decoder::{Batch, Dropout};
use micota::train::init;
use micota::train::optimizer::AdamWConfig;
use micota::train::schedule::{Decay, Schedule};
use micota::train::trainer::{StepConfig, Trained, Trainer};

const WARM_STEPS: usize = 2;

struct Case {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    middle: usize,
    vocabulary: usize,
    rows: usize,
    length: usize,
}

const FULL: Case = Case {
    hidden: 256,
    layers: 6,
    heads: 8,
    kv_heads: 2,
    middle: 704,
    vocabulary: 512,
    rows: 16,
    length: 256,
};

const LORA: Case = Case {
    hidden: 768,
    layers: 12,
    heads: 12,
    kv_heads: 4,
    middle: 2048,
    vocabulary: 32_000,
    rows: 4,
    length: 512,
};

fn batch(case: &Case) -> Batch {
    let mut draws = vec![0u32; case.rows * case.length];
    CounterRng::from_parts(&[7]).fill(0, 0, &mut draws);
    let ids: Vec<u32> = draws
        .iter()
        .map(|draw| draw % case.vocabulary as u32)
        .collect();
    let rows = ids.chunks(case.length);
    Batch {
        input_ids: rows.clone().map(<[u32]>::to_vec).collect(),
        labels: rows
            .map(|row| row.iter().copied().map(Some).collect())
            .collect(),
        segments: vec![vec![1; case.length]; case.rows],
        position_ids: vec![(0..case.length as u32).collect(); case.rows],
    }
}

/// The most memory that this process had, in GiB.
fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / f64::from(1 << 20)
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let has = |word: &str| words.iter().any(|own| own == word);
    let case = if has("lora") { LORA } else { FULL };
    let steps = words.iter().find_map(|word| word.parse::<usize>().ok());
    let steps = steps.unwrap_or(8);
    let config = serde_json::json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": case.vocabulary, "hidden_size": case.hidden,
        "intermediate_size": case.middle, "num_hidden_layers": case.layers,
        "num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    let spec = spec_from_config(&config).unwrap();
    let weights = init::random(&spec, 0.02, 1).unwrap();
    let trained = if has("lora") {
        let adapter = AdapterConfig {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: ["q", "k", "v", "o", "gate", "up", "down"]
                .map(|name| format!("{name}_proj"))
                .to_vec(),
            use_rslora: false,
            modules_to_save: Vec::new(),
        };
        Trained::Adapters {
            adapters: adapter::fresh(&adapter, &spec, &weights, 1).unwrap(),
            weights: Vec::new(),
        }
    } else {
        Trained::Full
    };
    let config = StepConfig {
        optimizer: AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        },
        schedule: Schedule {
            learning_rate: 1e-4,
            decay: Decay::Constant,
            warmup_steps: 0,
            total_steps: 1000,
        },
        max_grad_norm: 1.0,
        dropout: Dropout::default(),
        recompute: has("recompute"),
        compute_dtype: if has("bf16") { DType::BF16 } else { DType::F32 },
    };
    let mut trainer = Trainer::new(spec, weights, trained, config).unwrap();
    let batches = [batch(&case)];
    let mut seconds: Vec<f64> = (0..WARM_STEPS + steps)
        .map(|_| {
            let started = Instant::now();
            trainer.step(&batches).unwrap();
            started.elapsed().as_secs_f64()
        })
        .collect();
    let mut measured = seconds.split_off(WARM_STEPS);
    let mean = measured.iter().sum::<f64>() / measured.len() as f64;
    measured.sort_by(f64::total_cmp);
    let tokens = (case.rows * case.length) as f64;
    println!(
        "{}: {:.0} tok/s mean, {:.0} best of {steps} steps, first {:.0}; peak {:.2} GiB",
        words.join(" "),
        tokens / mean,
        tokens / measured[0],
        tokens / seconds[0],
        peak_gib()
    );
}
