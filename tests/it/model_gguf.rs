//! The same decoder from a folder and from the GGUF file made of it: equal logits, up to what the
//! element type costs and up to what GGUF cannot say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use micota::convert::{GgufOptions, OutType, to_gguf};
use micota::formats::Checkpoint;
use micota::model::{Model, Rope, reference_forward};
use serde_json::{Value, json};

use crate::random_model::{RandomModel, small_config};
use crate::shared::shared;

const MODELS: [&str; 10] = [
    "gemma3",
    "ll3-base",
    "ll3-math-sharded",
    "mistral",
    "phi3",
    "q2t-base",
    "q2t-math",
    "q2t-think",
    "q2u-base",
    "q3",
];
/// Short enough for the window of the golden Mistral, which GGUF does not store.
const TOKEN_IDS: [u32; 8] = [1, 250, 17, 3, 99, 99, 280, 42];

fn load(path: &Path) -> Model {
    Model::from_checkpoint(Arc::new(Checkpoint::open(path).unwrap())).unwrap()
}

/// Converts the folder to GGUF in `target` and loads it.
fn converted(folder: &Path, target: &Path, out_type: OutType) -> Model {
    let options = GgufOptions {
        outfile: Some(target.join("model.gguf")),
        out_type,
        ..GgufOptions::default()
    };
    let checkpoint = Checkpoint::open(folder).unwrap();
    let converted = to_gguf(&checkpoint, &options, &|_| {}).unwrap();
    let [file]: [PathBuf; 1] = converted.files.try_into().unwrap();
    load(&file)
}

fn largest_difference(a: &Model, b: &Model, token_ids: &[u32]) -> f32 {
    let logits = |model| reference_forward(model, token_ids, token_ids.len()).logits;
    let pairs = logits(a).into_iter().zip(logits(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn golden_models_compute_the_same_from_gguf() {
    let Some(shared) = shared() else { return };
    // Bounds for F16 and Q8_0 are a few times what llama.cpp differs by (golden/gguf/README.md).
    let cases = [
        (OutType::F32, 2e-5),
        (OutType::Bf16, 0.2),
        (OutType::F16, 0.03),
        (OutType::Q8_0, 1.5),
    ];
    for name in MODELS {
        let folder = shared.join("golden/tiny").join(name);
        let original = load(&folder);
        for (out_type, bound) in cases {
            let target = tempfile::tempdir().unwrap();
            let model = converted(&folder, target.path(), out_type);
            let difference = largest_difference(&original, &model, &TOKEN_IDS);
            let what = format!("{name} {}", out_type.name());
            assert!(difference <= bound, "{what}: {difference}");
            // bfloat16 weights lose nothing in BF16.
            if out_type == OutType::Bf16 && name != "q2u-base" {
                assert!(difference <= 2e-5, "{what}: {difference}");
            }
        }
    }
}

#[test]
fn gguf_states_the_same_decoder() {
    let Some(shared) = shared() else { return };
    for name in MODELS {
        let folder = shared.join("golden/tiny").join(name);
        let target = tempfile::tempdir().unwrap();
        let gguf = converted(&folder, target.path(), OutType::Auto).spec;
        let mut expected = load(&folder).spec;
        if name == "mistral" {
            // GGUF knows no Mistral and no window for what it takes for a Llama.
            expected.family = "llama";
            expected.sliding_window.fill(None);
        }
        for (expected, found) in expected.rope.iter_mut().zip(&gguf.rope) {
            let frequencies = |rope| Rope::new(rope, 4096).inverse_frequencies().to_vec();
            for (e, f) in frequencies(expected).into_iter().zip(frequencies(found)) {
                assert!((e / f - 1.0).abs() < 1e-6, "{name}: {e} and {f}");
            }
            // Llama 3's scaling becomes a factor per frequency, whose effect was compared above.
            expected.scaling = found.scaling.clone();
        }
        assert_eq!(gguf, expected, "{name}");
    }
}

/// A random model of `model_type` beside the tokenizer of a golden one, through GGUF and back.
fn scaled_difference(shared: &Path, model_type: &str, tokenizer_of: &str, changes: Value) -> f32 {
    let mut config = small_config(model_type, &json!({"vocab_size": 352}));
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let folder = tempfile::tempdir().unwrap();
    RandomModel::new(config, 3).write(folder.path());
    let golden = shared.join("golden/tiny").join(tokenizer_of);
    for file in std::fs::read_dir(golden).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().starts_with("tokenizer") {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let target = tempfile::tempdir().unwrap();
    let original = load(folder.path());
    let model = converted(folder.path(), target.path(), OutType::F32);
    let token_ids: Vec<u32> = (0..90).map(|i| i * 37 % 352).collect();
    largest_difference(&original, &model, &token_ids)
}

#[test]
fn scaled_rotary_embeddings_survive_gguf() {
    let Some(shared) = shared() else { return };
    let yarn = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64
    });
    let longrope = json!({
        "type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5],
        "long_factor": [1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
    });
    let cases = [
        ("qwen2", "q2t-base", json!({"rope_scaling": yarn})),
        ("llama", "ll3-base", json!({"rope_scaling": yarn})),
        (
            "llama",
            "ll3-base",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ),
        (
            "gemma3_text",
            "gemma3",
            json!({
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 8,
                "num_hidden_layers": 7
            }),
        ),
        (
            "phi3",
            "phi3",
            json!({
                "rope_scaling": longrope, "original_max_position_embeddings": 64, "hidden_size": 64
            }),
        ),
    ];
    for (model_type, tokenizer_of, changes) in cases {
        let what = format!("{model_type} {changes}");
        let difference = scaled_difference(&shared, model_type, tokenizer_of, changes);
        assert!(difference <= 1e-4, "{what}: {difference}");
    }
}
