//! Conversion to GGUF against the listings of llama.cpp's converter (`golden/gguf`), and back.

use std::path::Path;

use micota::convert::{Converted, FolderOptions, GgufOptions, OutType, to_folder, to_gguf};
use micota::formats::{Checkpoint, GgufSplit, GgufValue, Source, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::gguf_listings::pairs;
use crate::shared::shared;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn convert(source: &Path, target: &Path, out_type: OutType, split: GgufSplit) -> Converted {
    let options = GgufOptions {
        outfile: Some(target.to_owned()),
        out_type,
        split,
        ..GgufOptions::default()
    };
    let checkpoint = Checkpoint::open(source).unwrap();
    to_gguf(&checkpoint, &options, &|_| {}).unwrap()
}

fn metadata(checkpoint: &Checkpoint) -> Vec<(String, GgufValue)> {
    let Source::Gguf(metadata) = checkpoint.source() else {
        panic!("a GGUF file");
    };
    metadata
        .pairs()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

#[test]
fn every_listing_is_repeated_to_the_byte() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden");
    let folder = tempfile::tempdir().unwrap();
    let mut listings = 0;
    for entry in std::fs::read_dir(golden.join("gguf")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let stem = name.strip_suffix(".json").unwrap_or_default();
        let Some((model, out_type)) = stem.rsplit_once('.') else {
            continue;
        };
        let listing: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let target = folder.path().join(format!("{stem}.gguf"));
        let source = golden.join("tiny").join(model);
        convert(
            &source,
            &target,
            out_type.parse().unwrap(),
            GgufSplit::default(),
        );

        let checkpoint = Checkpoint::open(&target).unwrap();
        // Names and labels inform only.
        let counts = |pairs: Vec<(String, GgufValue)>| -> Vec<_> {
            let informs = ["general.name", "general.size_label"];
            pairs
                .into_iter()
                .filter(|(key, _)| !informs.contains(&key.as_str()))
                .collect()
        };
        let (found, expected) = (counts(metadata(&checkpoint)), counts(pairs(&listing)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");

        let expected = listing["tensors"].as_array().unwrap();
        let tensors: Vec<_> = checkpoint.tensors().collect();
        assert_eq!(tensors.len(), expected.len(), "{name}");
        for (tensor, expected) in tensors.iter().zip(expected) {
            let of = format!("{name}: {}", tensor.name);
            assert_eq!(tensor.name, expected["name"].as_str().unwrap(), "{name}");
            assert_eq!(
                tensor.dtype.name(),
                expected["type"].as_str().unwrap(),
                "{of}"
            );
            let mut dims: Vec<usize> = serde_json::from_value(expected["dims"].clone()).unwrap();
            dims.reverse();
            assert_eq!(tensor.shape, dims, "{of}");
            assert_eq!(
                sha256(tensor.data),
                expected["sha256"].as_str().unwrap(),
                "{of}"
            );
        }
        let whole = sha256(&std::fs::read(&target).unwrap());
        assert_eq!(whole, listing["file_sha256"].as_str().unwrap(), "{name}");
        listings += 1;
    }
    assert_eq!(listings, 36, "nine models in four types");
}

/// To GGUF in the source's type and back: every tensor's bytes, the tokenizer, and a model that
/// converts to the same GGUF again.
#[test]
fn the_way_back_gives_the_bytes_that_went() {
    let Some(shared) = shared() else { return };
    let tiny = shared.join("golden/tiny");
    let models = [
        "q2t-base",
        "q2t-think",
        "q2u-base",
        "q3",
        "ll3-base",
        "mistral",
        "gemma3",
        "phi3",
    ];
    for model in models {
        let folder = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(tiny.join(model)).unwrap();
        let out_type = if model == "q2u-base" {
            OutType::F32
        } else {
            OutType::Auto
        };
        let out_type = if model.starts_with("q2u") {
            out_type
        } else {
            OutType::Bf16
        };
        let there = folder.path().join("there.gguf");
        convert(&tiny.join(model), &there, out_type, GgufSplit::default());
        let back = folder.path().join("back");
        let gguf = Checkpoint::open(&there).unwrap();
        to_folder(&gguf, &back, &FolderOptions::default(), &|_| {}).unwrap();

        let returned = Checkpoint::open(&back).unwrap();
        assert!(returned.tensor_names().eq(source.tensor_names()), "{model}");
        for (found, expected) in returned.tensors().zip(source.tensors()) {
            assert_eq!(found.shape, expected.shape, "{model}: {}", found.name);
            assert_eq!(found.dtype, expected.dtype, "{model}: {}", found.name);
            assert!(found.data == expected.data, "{model}: {}", found.name);
        }
        let (old, new) = (
            Tokenizer::from_checkpoint(&source).unwrap(),
            Tokenizer::from_checkpoint(&returned).unwrap(),
        );
        for text in [
            "Let x be 12 apples.\n\n",
            "<|im_start|>user\nhi<|im_end|>",
            " a  b",
        ] {
            assert_eq!(
                old.encode(text, true).unwrap(),
                new.encode(text, true).unwrap()
            );
        }
        assert_eq!(old.chat_template(), new.chat_template());

        let again = folder.path().join("again.gguf");
        convert(&back, &again, out_type, GgufSplit::default());
        let again = Checkpoint::open(&again).unwrap();
        for (found, expected) in again.tensors().zip(gguf.tensors()) {
            assert_eq!(found.name, expected.name, "{model}");
            assert!(found.data == expected.data, "{model}: {}", found.name);
        }
        let refused = to_folder(&gguf, &back, &FolderOptions::default(), &|_| {});
        assert!(refused.unwrap_err().to_string().contains("not empty"));
    }
}

#[test]
fn a_split_model_is_one_model() {
    let Some(shared) = shared() else { return };
    let source = shared.join("golden/tiny/q2t-base");
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.gguf");
    convert(&source, &whole, OutType::F16, GgufSplit::default());
    let split = GgufSplit {
        max_bytes: None,
        max_tensors: Some(10),
    };
    let parts = convert(
        &source,
        &folder.path().join("part.gguf"),
        OutType::F16,
        split,
    )
    .files;
    assert_eq!(parts.len(), 3);
    assert!(parts[0].ends_with("part-00001-of-00003.gguf"));
    let (whole, joined) = (
        Checkpoint::open(&whole).unwrap(),
        Checkpoint::open(&parts[1]).unwrap(),
    );
    assert_eq!(whole.tensors().count(), joined.tensors().count());
    for (found, expected) in joined.tensors().zip(whole.tensors()) {
        assert_eq!(found.name, expected.name);
        assert!(found.data == expected.data, "{}", found.name);
    }
    std::fs::remove_file(&parts[2]).unwrap();
    let error = Checkpoint::open(&parts[0]).unwrap_err().to_string();
    assert!(
        error.contains("part-00003-of-00003.gguf is missing"),
        "{error}"
    );
}

#[test]
fn a_model_that_cannot_be_converted_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model");
    std::fs::create_dir(&source).unwrap();
    let header = r#"{"odd.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    std::fs::write(source.join("model.safetensors"), bytes).unwrap();
    let attempt = |config: &str| {
        std::fs::write(source.join("config.json"), config).unwrap();
        let options = GgufOptions {
            outfile: Some(folder.path().join("out.gguf")),
            ..GgufOptions::default()
        };
        let checkpoint = Checkpoint::open(&source).unwrap();
        to_gguf(&checkpoint, &options, &|_| {})
            .unwrap_err()
            .to_string()
    };
    let error = attempt(r#"{"architectures":["MambaForCausalLM"]}"#);
    assert!(
        error.contains("MambaForCausalLM") && error.contains("Qwen2ForCausalLM"),
        "{error}"
    );
    let error = attempt(r#"{"architectures":["Qwen2ForCausalLM"]}"#);
    assert!(error.contains("odd.weight"), "{error}");
    assert!(!folder.path().join("out.gguf").exists());
}

/// The files of a golden model in a folder of their own, with another config.json.
fn with_config(source: &Path, folder: &Path, config: &Value) {
    std::fs::create_dir(folder).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::write(folder.join(entry.file_name()), bytes).unwrap();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// What transformers 5 makes of a config.json of transformers 4.
fn respelt(config: &Value) -> Value {
    let mut config = config.clone();
    let map = config.as_object_mut().unwrap();
    let dtype = map.remove("torch_dtype").unwrap();
    map.insert("dtype".to_owned(), dtype);
    let theta = map.remove("rope_theta").unwrap();
    let mut rope = match map.remove("rope_scaling") {
        Some(Value::Object(rope)) => rope,
        _ => serde_json::Map::new(),
    };
    rope.entry("rope_type").or_insert_with(|| "default".into());
    rope.insert("rope_theta".to_owned(), theta);
    let parameters = match map.remove("rope_local_base_freq") {
        None => Value::Object(rope),
        Some(local) => serde_json::json!({
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }),
    };
    map.insert("rope_parameters".to_owned(), parameters);
    config
}

#[test]
fn both_spellings_of_a_configuration_give_the_same_file() {
    let Some(shared) = shared() else { return };
    let tiny = shared.join("golden/tiny");
    let folder = tempfile::tempdir().unwrap();
    let file = |source: &Path, name: &str| {
        let target = folder.path().join(name);
        let options = GgufOptions {
            outfile: Some(target.clone()),
            out_type: OutType::Auto,
            model_name: Some("model".to_owned()),
            ..GgufOptions::default()
        };
        to_gguf(&Checkpoint::open(source).unwrap(), &options, &|_| {}).unwrap();
        std::fs::read(target).unwrap()
    };
    for name in ["q2t-base", "q3", "ll3-base", "mistral", "gemma3", "phi3"] {
        let config = std::fs::read(tiny.join(name).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let source = folder.path().join(name);
        with_config(&tiny.join(name), &source, &respelt(&config));
        let (old, new) = (
            file(&tiny.join(name), "old.gguf"),
            file(&source, "new.gguf"),
        );
        assert!(old == new, "{name}");
    }
    // The same model whole and in shards.
    let whole = file(&tiny.join("ll3-math"), "whole.gguf");
    assert!(whole == file(&tiny.join("ll3-math-sharded"), "sharded.gguf"));
}

/// Scaled rotary embeddings arrive in llama.cpp's words and are read back alike.
#[test]
fn scaled_positions_are_written_and_read() {
    let Some(shared) = shared() else { return };
    let source = shared.join("golden/tiny/q2t-base");
    let config = std::fs::read(source.join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let scalings = [
        (
            serde_json::json!({"type": "linear", "factor": 4.0}),
            "linear",
        ),
        (
            serde_json::json!({"rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 64}),
            "yarn",
        ),
    ];
    for (scaling, kind) in scalings {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config.clone();
        config["rope_scaling"] = scaling;
        let model = folder.path().join("model");
        with_config(&source, &model, &config);
        let target = folder.path().join("model.gguf");
        convert(&model, &target, OutType::F32, GgufSplit::default());
        let written = Checkpoint::open(&target).unwrap();
        let pairs = metadata(&written);
        let value = |key: &str| {
            let pair = pairs.iter().find(|(own, _)| own == key);
            pair.map(|(_, value)| value.clone())
        };
        let kind = GgufValue::String(kind.to_owned());
        assert_eq!(value("qwen2.rope.scaling.type"), Some(kind));
        assert_eq!(
            value("qwen2.rope.scaling.factor"),
            Some(GgufValue::F32(4.0))
        );
        let spec = |path: &Path| {
            let checkpoint = std::sync::Arc::new(Checkpoint::open(path).unwrap());
            micota::model::Model::from_checkpoint(checkpoint)
                .unwrap()
                .spec
        };
        assert_eq!(
            format!("{:?}", spec(&model).rope),
            format!("{:?}", spec(&target).rope)
        );
    }
}

#[test]
fn an_adapter_alone_is_no_model() {
    let Some(shared) = shared() else { return };
    let error = Checkpoint::open(shared.join("golden/tiny/q2t-lora")).unwrap_err();
    assert!(error.to_string().contains("adapter"), "{error}");
}
