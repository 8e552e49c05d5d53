//! Tokenizers against the ids that transformers gives (`golden/engine`).

use std::path::Path;

use micota::formats::{Checkpoint, GgufSplit, GgufWriter, Source, Tokenizer};
use serde_json::Value;

use crate::gguf_listings::pairs;
use crate::shared::shared;

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn reference(golden: &Path, model: &str) -> Value {
    let path = golden.join("engine").join(model).join("reference.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Checks the three texts and the rendered chat; returns the number of comparisons.
fn compare(tokenizer: &Tokenizer, reference: &Value, model: &str) -> usize {
    let cases = reference["tokenizer"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let special = tokenizer.encode(text, true).unwrap();
        assert_eq!(special, ids(&case["ids"]), "{model}: {text:?}");
        let plain = tokenizer.encode(text, false).unwrap();
        assert_eq!(plain, ids(&case["ids_no_special"]), "{model}: {text:?}");
        let decoded = case["decoded"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&special, true), decoded, "{model}");
    }
    let chat = &reference["chat"];
    let rendered = chat["rendered"].as_str().unwrap();
    let found = tokenizer.encode(rendered, false).unwrap();
    assert_eq!(found, ids(&chat["ids"]), "{model}: {rendered:?}");
    assert!(tokenizer.chat_template().is_some(), "{model}");
    cases.len() + 1
}

#[test]
fn folders_tokenise_as_transformers_does() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden");
    let mut compared = 0;
    for entry in std::fs::read_dir(golden.join("engine")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let model = path.file_name().unwrap().to_str().unwrap().to_owned();
        let checkpoint = Checkpoint::open(golden.join("tiny").join(&model)).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        compared += compare(&tokenizer, &reference(&golden, &model), &model);
    }
    assert_eq!(compared, 40, "ten models with three texts and a chat each");
}

/// `decode` without the strip is the joined bytes, and agrees with the `tokenizers` crate on
/// every single token and on all tokens in a row.
#[test]
fn token_bytes_are_what_the_reference_decoder_gives() {
    let Some(shared) = shared() else { return };
    for model in ["q2t-think", "ll3-base", "mistral", "gemma3", "phi3"] {
        let folder = shared.join("golden/tiny").join(model);
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let reference = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        let all: Vec<u32> = (0..tokenizer.vocab_size() as u32).collect();
        for id in &all {
            let expected = reference.decode(&[*id], false).unwrap();
            assert_eq!(tokenizer.decode(&[*id], false), expected, "{model} {id}");
        }
        // Special tokens first, so that no run of bytes is cut differently by the two decoders.
        let text: Vec<u32> = all
            .iter()
            .copied()
            .filter(|id| std::str::from_utf8(tokenizer.token_bytes(*id).unwrap()).is_ok())
            .collect();
        let expected = reference.decode(&text, true).unwrap();
        assert_eq!(tokenizer.decode(&text, true), expected, "{model}");
    }
}

/// A GGUF file with the reference converter's metadata tokenises as the folder it was made from.
#[test]
fn gguf_files_tokenise_as_their_folders_do() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden");
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for entry in std::fs::read_dir(golden.join("gguf")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(model) = name.strip_suffix(".f32.json") else {
            continue;
        };
        let listing: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let pairs = pairs(&listing);
        let file = folder.path().join(format!("{model}.gguf"));
        let writer = GgufWriter::create(&file, &pairs, Vec::new(), GgufSplit::default()).unwrap();
        writer.finish().unwrap();
        let checkpoint = Checkpoint::open(&file).unwrap();
        let Source::Gguf(metadata) = checkpoint.source() else {
            panic!("a GGUF file");
        };
        let read: Vec<_> = metadata
            .pairs()
            .map(|(k, v)| (k.to_owned(), v.clone()))
            .collect();
        assert_eq!(read, pairs, "{model}: written and read back");
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
        compared += compare(&tokenizer, &reference(&golden, model), model);

        let folder_tokenizer =
            Tokenizer::from_checkpoint(&Checkpoint::open(golden.join("tiny").join(model)).unwrap())
                .unwrap();
        for id in 0..folder_tokenizer.vocab_size() as u32 {
            assert_eq!(
                tokenizer.token_bytes(id),
                folder_tokenizer.token_bytes(id),
                "{model}: token {id}"
            );
            assert_eq!(tokenizer.is_special(id), folder_tokenizer.is_special(id));
        }
        assert_eq!(tokenizer.chat_template(), folder_tokenizer.chat_template());
        assert_eq!(tokenizer.eos_token(), folder_tokenizer.eos_token());
    }
    assert_eq!(compared, 36, "nine models with three texts and a chat each");
}
