//! Merge throughput: three checkpoints of 20 million parameters, by method, reading from the page
//! cache and writing to the temporary folder.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot run says so by stopping"
)]

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use micota::formats::{DType, PlannedTensor, SafetensorsWriter};
use micota::merge::{Merge, MergeOptions, Randomness, Recipe};
use micota::random::CounterRng;

const HIDDEN: usize = 512;
const VOCABULARY: usize = 8192;
const LAYERS: usize = 4;

/// A Qwen2-shaped bfloat16 checkpoint; those of one base differ by small deltas.
fn checkpoint(folder: &Path, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |suffix: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{suffix}"), shape.to_vec()));
        };
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("{norm}.weight"), &[HIDDEN]);
        }
        for name in ["q", "k", "v"] {
            add(&format!("self_attn.{name}_proj.weight"), &[HIDDEN, HIDDEN]);
            add(&format!("self_attn.{name}_proj.bias"), &[HIDDEN]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[4 * HIDDEN, HIDDEN]);
        add("mlp.up_proj.weight", &[4 * HIDDEN, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, 4 * HIDDEN]);
    }
    let planned = shapes.iter().map(|(name, shape)| PlannedTensor {
        name: name.clone(),
        dtype: DType::BF16,
        shape: shape.clone(),
    });
    let writer = SafetensorsWriter::create(folder, planned.collect(), None).unwrap();
    for (index, (name, shape)) in shapes.iter().enumerate() {
        let elements = shape.iter().product();
        let mut base = vec![0; elements];
        let mut own = vec![0; elements];
        CounterRng::from_parts(&[0, index as u64]).fill(0, 0, &mut base);
        CounterRng::from_parts(&[seed, index as u64]).fill(0, 0, &mut own);
        let uniform = |bits: u32| f64::from(bits) / f64::from(u32::MAX) - 0.5;
        let values = base.iter().zip(&own).flat_map(|(base, own)| {
            half::bf16::from_f64(uniform(*base) * 0.1 + uniform(*own) * 0.01).to_le_bytes()
        });
        writer.write(name, &values.collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
}

fn merge(recipe: &Recipe, out: &Path) {
    let options = MergeOptions {
        randomness: Randomness::Reference(1),
        shard_bytes: u64::MAX,
        copy_tokenizer: false,
        write_card: false,
        allow_crimes: false,
        truncate_embeddings: false,
        lenient: false,
        lora_dtype: None,
        threads: None,
        fetch: Box::new(|path, _| Err(format!("no folder {path}"))),
    };
    Merge::prepare(recipe, options)
        .unwrap()
        .write(out, &|_| ())
        .unwrap();
}

fn methods(criterion: &mut Criterion) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (seed, name) in (1..).zip(["base", "a", "b"]) {
        checkpoint(&root.join(name), seed);
    }
    let bytes = std::fs::metadata(root.join("base/model.safetensors"))
        .unwrap()
        .len();
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(10);
    // Three inputs are read and one output is written.
    group.throughput(Throughput::Bytes(4 * bytes));
    for method in [
        "dare_ties",
        "ties",
        "della",
        "task_arithmetic",
        "linear",
        "slerp",
    ] {
        let input = |name: &str| {
            let root = root.display();
            format!("  - model: {root}/{name}\n    parameters: {{weight: 0.5, density: 0.5}}\n")
        };
        let mut text =
            format!("merge_method: {method}\ndtype: bfloat16\nparameters: {{t: 0.5}}\nmodels:\n");
        text += &input("a");
        match method {
            "slerp" => text += &format!("base_model: {}/a\n", root.display()),
            "linear" => {}
            _ => text += &format!("base_model: {}/base\n", root.display()),
        }
        let position = text.find("base_model").unwrap_or(text.len());
        text.insert_str(position, &input("b"));
        let recipe = Recipe::parse(&text, false).unwrap();
        group.bench_function(method, |bencher| {
            bencher.iter(|| merge(&recipe, &root.join("out")));
        });
    }
    group.finish();
}

criterion_group!(benches, methods);
criterion_main!(benches);
