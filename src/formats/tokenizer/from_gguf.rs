//! The tokenizer of a GGUF file, rebuilt as the tokenizer.json that it was made from.

use serde_json::{Map, Value, json};

use super::super::{FormatError, GgufMetadata};
use super::{Loaded, pre_tokenizer, sentencepiece};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

// Values of `tokenizer.ggml.token_type` that matter here.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Control tokens that end a turn or a document, whatever the file's eos_token_id says: chat
/// models stop at one and documents end with the other, but GGUF has one key for both.
/// llama.cpp decides by the same texts.
const END_OF_GENERATION: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
];

/// The vocabulary as the file stores it.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    pub(super) types: Option<&'a [i32]>,
}

impl Vocabulary<'_> {
    /// The token's type; normal where the file has no types.
    fn token_type(&self, id: usize) -> i32 {
        self.types.map_or(1, |types| types[id])
    }

    pub(super) fn is_padding(&self, id: usize) -> bool {
        self.token_type(id) == UNUSED && self.tokens[id] == format!("[PAD{id}]")
    }

    /// Whether the token is found in a text before anything else is done with it.
    pub(super) fn is_added(&self, id: usize) -> bool {
        matches!(self.token_type(id), CONTROL | USER_DEFINED)
    }

    fn is_control(&self, id: usize) -> bool {
        self.token_type(id) == CONTROL
    }
}

pub(super) fn load(metadata: &GgufMetadata) -> Result<Loaded, FormatError> {
    let fail = |reason: String| FormatError::Tokenizer {
        path: metadata.path().to_owned(),
        reason,
    };
    let vocabulary = vocabulary(metadata)?;
    let tokens = vocabulary.tokens;
    let special = |name: &str| -> Result<Option<u32>, FormatError> {
        let id = metadata.find_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
        match id {
            Some(id) if id as usize >= tokens.len() => Err(fail(format!(
                "{name} token {id} is beyond the {} tokens",
                tokens.len()
            ))),
            id => Ok(id),
        }
    };
    let text = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let unk = text(special("unknown")?);
    let (json, add_bos_default) = tokenizer_json(metadata, &vocabulary, unk.as_deref())?;
    let inner = tokenizers::Tokenizer::from_bytes(json.to_string())
        .map_err(|error| fail(error.to_string()))?;
    let mut eos_token_ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        eos_token_ids.extend(special(name)?);
    }
    let ends = |id: &usize| {
        vocabulary.is_control(*id) && END_OF_GENERATION.contains(&tokens[*id].as_str())
    };
    eos_token_ids.extend((0..tokens.len()).filter(ends).map(|id| id as u32));
    let flag = |name: &str| metadata.find_bool(&format!("tokenizer.ggml.{name}"));
    Ok(Loaded {
        inner,
        num_tokens: tokens.len(),
        bos: text(special("bos")?),
        eos: text(special("eos")?),
        pad: text(special("padding")?),
        unk,
        add_bos: Some(flag("add_bos_token")?.unwrap_or(add_bos_default)),
        add_eos: Some(flag("add_eos_token")?.unwrap_or(false)),
        eos_token_ids,
        chat_templates: chat_templates(metadata)?,
    })
}

/// The tokenizer.json alone.
pub(super) fn to_json(metadata: &GgufMetadata) -> Result<Value, FormatError> {
    let vocabulary = vocabulary(metadata)?;
    let unk = metadata.find_u32("tokenizer.ggml.unknown_token_id")?;
    let unk = unk.and_then(|id| vocabulary.tokens.get(id as usize));
    let (json, _) = tokenizer_json(metadata, &vocabulary, unk.map(String::as_str))?;
    Ok(json)
}

fn vocabulary(metadata: &GgufMetadata) -> Result<Vocabulary<'_>, FormatError> {
    let tokens = metadata
        .find_strings(TOKENS)?
        .ok_or_else(|| FormatError::Tokenizer {
            path: metadata.path().to_owned(),
            reason: format!("no {TOKENS}: the file holds no tokenizer"),
        })?;
    let types = metadata.find_i32s(TOKEN_TYPES)?;
    check_len(metadata, TOKEN_TYPES, types.map(<[_]>::len), tokens.len())?;
    Ok(Vocabulary { tokens, types })
}

fn check_len(
    metadata: &GgufMetadata,
    key: &str,
    found: Option<usize>,
    expected: usize,
) -> Result<(), FormatError> {
    match found {
        Some(found) if found != expected => Err(FormatError::Tokenizer {
            path: metadata.path().to_owned(),
            reason: format!("{key} has {found} entries for {expected} tokens"),
        }),
        _ => Ok(()),
    }
}

/// The tokenizer.json, and whether texts begin with BOS where the file does not say.
fn tokenizer_json(
    metadata: &GgufMetadata,
    vocabulary: &Vocabulary<'_>,
    unk: Option<&str>,
) -> Result<(Value, bool), FormatError> {
    let fail = |reason: String| FormatError::Tokenizer {
        path: metadata.path().to_owned(),
        reason,
    };
    let added = added_tokens(metadata, vocabulary)?;
    match metadata.str("tokenizer.ggml.model")? {
        "gpt2" => {
            let pre = metadata
                .find_str("tokenizer.ggml.pre")?
                .unwrap_or("default");
            let pre = pre_tokenizer::named(pre).ok_or_else(|| {
                let known: Vec<_> = pre_tokenizer::KNOWN
                    .iter()
                    .flat_map(|known| known.names)
                    .copied()
                    .collect();
                fail(format!(
                    "pre-tokenizer {pre:?} is not supported (supported: {})",
                    known.join(", ")
                ))
            })?;
            let merges = metadata
                .find_strings(MERGES)?
                .ok_or_else(|| fail(format!("no {MERGES}")))?;
            let merges = merges
                .iter()
                .map(|merge| merge.split_once(' ').map(|(a, b)| json!([a, b])))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| fail(format!("{MERGES}: an entry without a space")))?;
            let vocab: Map<String, Value> = (0..vocabulary.tokens.len())
                .filter(|id| !vocabulary.is_padding(*id) && !vocabulary.is_added(*id))
                .map(|id| (vocabulary.tokens[id].clone(), json!(id)))
                .collect();
            Ok((byte_level_json(pre, added, vocab, merges), pre.add_bos))
        }
        "llama" => {
            let scores = metadata
                .find_f32s(SCORES)?
                .ok_or_else(|| fail(format!("no {SCORES}")))?;
            check_len(
                metadata,
                SCORES,
                Some(scores.len()),
                vocabulary.tokens.len(),
            )?;
            let add_space_prefix = metadata
                .find_bool("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true);
            let json = sentencepiece::to_json(vocabulary, scores, unk, add_space_prefix, added);
            Ok((json, true))
        }
        other => Err(fail(format!(
            "model {other:?} is not supported (gpt2 and llama are)"
        ))),
    }
}

fn added_tokens(
    metadata: &GgufMetadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<Vec<Value>, FormatError> {
    // GGUF has no place for "eats the white space behind it"; Phi-3's turn tokens do, and
    // llama.cpp knows them by the architecture too.
    let phi3 = metadata.find_str("general.architecture")? == Some("phi3");
    Ok((0..vocabulary.tokens.len())
        .filter(|id| vocabulary.is_added(*id))
        .map(|id| {
            let text = vocabulary.tokens[id].as_str();
            let rstrip = phi3
                && vocabulary.is_control(id)
                && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
            json!({
                "id": id,
                "content": text,
                "single_word": false,
                "lstrip": false,
                "rstrip": rstrip,
                "normalized": false,
                "special": vocabulary.is_control(id),
            })
        })
        .collect())
}

fn byte_level_json(
    pre: &pre_tokenizer::PreTokenizer,
    added: Vec<Value>,
    vocab: Map<String, Value>,
    merges: Vec<Value>,
) -> Value {
    let byte_level = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pre.nfc.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": pre.to_json(),
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// `tokenizer.chat_template`, and `tokenizer.chat_template.NAME` for further ones.
fn chat_templates(metadata: &GgufMetadata) -> Result<Vec<(String, String)>, FormatError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = Vec::new();
    for (key, _) in metadata.pairs() {
        let name = match key.strip_prefix(KEY) {
            Some("") => "default",
            Some(rest) => match rest.strip_prefix('.') {
                Some(name) => name,
                None => continue,
            },
            None => continue,
        };
        templates.push((name.to_owned(), metadata.str(key)?.to_owned()));
    }
    Ok(templates)
}
