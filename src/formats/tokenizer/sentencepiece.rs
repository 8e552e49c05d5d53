//! A sentencepiece BPE vocabulary (pieces and scores) as a tokenizer.json.
//!
//! sentencepiece merges, at each step, the neighbouring pair whose joined piece has the highest
//! score. The same tokenizer as a merge list: every way to split a piece in two pieces, ranked by
//! the piece's score. Llama's, Mistral's, Gemma's and Phi-3's files are of this kind.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::from_gguf::Vocabulary;
use super::pieces::byte_of;

pub(super) fn to_json(
    vocabulary: &Vocabulary<'_>,
    scores: &[f32],
    unk: Option<&str>,
    add_space_prefix: bool,
    added: Vec<Value>,
) -> Value {
    let tokens = vocabulary.tokens;
    let vocab: Map<String, Value> = (0..tokens.len())
        .filter(|id| !vocabulary.is_padding(*id))
        .map(|id| (tokens[id].clone(), json!(id)))
        .collect();
    let byte_fallback = tokens.iter().any(|token| byte_of(token).is_some());
    let mark_spaces = json!({
        "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}",
    });
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    let normalizer = if add_space_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        let prefix = json!({ "type": "Prepend", "prepend": "\u{2581}" });
        json!({ "type": "Sequence", "normalizers": [prefix, mark_spaces] })
    } else {
        mark_spaces
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges(vocabulary, scores),
        },
    })
}

/// All splits of all pieces, best score first; ties keep the order of the pieces' ids.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Vec<Value> {
    let tokens = vocabulary.tokens;
    let is_piece = |id: &usize| !vocabulary.is_added(*id) && !vocabulary.is_padding(*id);
    let ids: HashMap<&str, usize> = (0..tokens.len())
        .filter(is_piece)
        .map(|id| (tokens[id].as_str(), id))
        .collect();
    let mut ranked: Vec<(f32, usize, usize, usize)> = Vec::new();
    for id in (0..tokens.len()).filter(is_piece) {
        let piece = tokens[id].as_str();
        let begin = ranked.len();
        for (split, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(split);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                ranked.push((scores[id], id, *left, *right));
            }
        }
        ranked[begin..].sort_unstable_by_key(|(_, _, left, right)| (*left, *right));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked
        .into_iter()
        .map(|(_, _, left, right)| json!([tokens[left], tokens[right]]))
        .collect()
}
