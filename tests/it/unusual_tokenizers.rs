//! Vocabularies that differ from what a family's own files look like: what llama.cpp's converter
//! makes of them, checked against it when this was written.

use std::path::Path;

use micota::convert::{GgufOptions, to_gguf};
use micota::formats::{Checkpoint, GgufArray, GgufValue, Source};
use serde_json::{Value, json};

use crate::shared::shared;

/// A copy of a tiny model whose tokenizer files are changed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn copy(model: &str) -> Option<Self> {
        let source = shared()?.join("golden/tiny").join(model);
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            std::fs::write(folder.path().join(name), std::fs::read(&path).unwrap()).unwrap();
        }
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path().join(name)).unwrap()).unwrap()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.json(name);
        change(&mut value);
        std::fs::write(self.path().join(name), value.to_string()).unwrap();
    }

    fn vocab_size(&self) -> usize {
        self.json("config.json")["vocab_size"].as_u64().unwrap() as usize
    }

    fn set_vocab_size(&self, size: usize) {
        self.change("config.json", |config| config["vocab_size"] = json!(size));
    }

    /// One more than the largest id of tokenizer.json.
    fn num_tokens(&self) -> usize {
        let tokenizer = self.json("tokenizer.json");
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap().values();
        let added = tokenizer["added_tokens"].as_array().unwrap().iter();
        let ids = vocab.chain(added.map(|token| &token["id"]));
        ids.map(|id| id.as_u64().unwrap()).max().unwrap() as usize + 1
    }

    /// Adds tokens behind the others, in both files that list them, and room for five more.
    fn add(&self, texts: &[&str]) -> usize {
        let first = self.num_tokens();
        self.set_vocab_size(self.vocab_size().max(first) + texts.len() + 5);
        for (id, text) in (first..).zip(texts) {
            let token = json!({
                "id": id, "content": text, "special": false, "normalized": false,
                "lstrip": false, "rstrip": false, "single_word": false,
            });
            self.change("tokenizer.json", |tokenizer| {
                tokenizer["added_tokens"]
                    .as_array_mut()
                    .unwrap()
                    .push(token.clone());
            });
            self.change("tokenizer_config.json", |config| {
                if config["added_tokens_decoder"].is_null() {
                    config["added_tokens_decoder"] = json!({});
                }
                config["added_tokens_decoder"][id.to_string()] = token;
            });
        }
        first
    }

    fn vocabulary(&self) -> Vocabulary {
        let file = self.path().join("out.gguf");
        let options = GgufOptions {
            outfile: Some(file.clone()),
            vocab_only: true,
            ..GgufOptions::default()
        };
        to_gguf(&Checkpoint::open(self.path()).unwrap(), &options, &|_| {}).unwrap();
        Vocabulary(Checkpoint::open(&file).unwrap())
    }
}

struct Vocabulary(Checkpoint);

impl Vocabulary {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        let Source::Gguf(metadata) = self.0.source() else {
            panic!("a GGUF file was written");
        };
        metadata.get(key)
    }

    fn token(&self, id: usize) -> (&str, i32) {
        let (
            Some(GgufValue::Array(GgufArray::String(tokens))),
            Some(GgufValue::Array(GgufArray::I32(types))),
        ) = (
            self.get("tokenizer.ggml.tokens"),
            self.get("tokenizer.ggml.token_type"),
        )
        else {
            panic!("tokens and types are arrays");
        };
        assert_eq!(tokens.len(), types.len());
        (&tokens[id], types[id])
    }

    fn num_tokens(&self) -> usize {
        match self.get("tokenizer.ggml.tokens") {
            Some(GgufValue::Array(GgufArray::String(tokens))) => tokens.len(),
            _ => panic!("tokens are an array"),
        }
    }
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

#[test]
fn added_tokens_are_typed_by_flag_and_look_and_padded() {
    for model in ["q2t-base", "ll3-base", "mistral", "gemma3"] {
        let Some(folder) = Folder::copy(model) else {
            return;
        };
        let first = folder.add(&["<think>", "<|tool|>", "a\u{2581}b", "<unused7>"]);
        let vocabulary = folder.vocabulary();
        assert_eq!(vocabulary.num_tokens(), folder.vocab_size(), "{model}");
        assert_eq!(
            vocabulary.token(first),
            ("<think>", USER_DEFINED),
            "{model}"
        );
        assert_eq!(
            vocabulary.token(first + 1),
            ("<|tool|>", CONTROL),
            "{model}"
        );
        // Matched in plain text, where no mark stands for a space.
        assert_eq!(
            vocabulary.token(first + 2),
            ("a b", USER_DEFINED),
            "{model}"
        );
        assert_eq!(
            vocabulary.token(first + 3),
            ("<unused7>", CONTROL),
            "{model}"
        );
        let last = folder.vocab_size() - 1;
        let padding = format!("[PAD{last}]");
        assert_eq!(
            vocabulary.token(last),
            (padding.as_str(), UNUSED),
            "{model}"
        );
    }
}

#[test]
fn sentencepieces_without_a_row_are_left_out_and_others_refused() {
    let Some(folder) = Folder::copy("mistral") else {
        return;
    };
    folder.set_vocab_size(folder.num_tokens() - 2);
    assert_eq!(folder.vocabulary().num_tokens(), folder.vocab_size());

    let Some(folder) = Folder::copy("q2t-base") else {
        return;
    };
    folder.set_vocab_size(folder.num_tokens() - 2);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = to_gguf(&checkpoint, &GgufOptions::default(), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("vocab_size"), "{error}");
}

#[test]
fn a_list_of_added_tokens_alone_is_enough_for_sentencepiece() {
    let Some(folder) = Folder::copy("mistral") else {
        return;
    };
    let id = folder.num_tokens();
    folder.set_vocab_size(id + 1);
    let list = json!({ "<listed>": id }).to_string();
    std::fs::write(folder.path().join("added_tokens.json"), list).unwrap();
    assert_eq!(folder.vocabulary().token(id), ("<listed>", USER_DEFINED));
}

/// Pieces of a vocabulary that falls back to bytes, from tokenizer.json alone.
#[test]
fn byte_pieces_are_known_without_the_sentencepiece_model() {
    let Some(folder) = Folder::copy("mistral") else {
        return;
    };
    let with = folder.vocabulary();
    std::fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    let without = folder.vocabulary();
    assert_eq!(without.num_tokens(), with.num_tokens());
    let mut bytes = 0;
    for id in 0..with.num_tokens() {
        let (text, kind) = with.token(id);
        assert_eq!(without.token(id).0, text);
        if kind == 6 {
            assert_eq!(without.token(id).1, 6, "{text}");
            bytes += 1;
        }
    }
    assert_eq!(bytes, 256);
}

#[test]
fn settings_and_templates_are_passed_on() {
    let Some(folder) = Folder::copy("ll3-base") else {
        return;
    };
    folder.change("tokenizer_config.json", |config| {
        config["add_bos_token"] = json!(false);
        config["chat_template"] = json!([
            {"name": "default", "template": "{{ d }}"},
            {"name": "tool use", "template": "{{ t }}"},
        ]);
    });
    let vocabulary = folder.vocabulary();
    let text = |text: &str| Some(GgufValue::String(text.to_owned()));
    assert_eq!(
        vocabulary.get("tokenizer.ggml.add_bos_token"),
        Some(&GgufValue::Bool(false))
    );
    assert_eq!(
        vocabulary.get("tokenizer.chat_template"),
        text("{{ d }}").as_ref()
    );
    assert_eq!(
        vocabulary.get("tokenizer.chat_template.tool_use"),
        text("{{ t }}").as_ref()
    );
    // No tensors, no size.
    assert_eq!(vocabulary.get("general.size_label"), None);
}
