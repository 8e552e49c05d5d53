//! The tokenizer's arrays: tokens by id, their types, scores or merges.

use serde_json::{Map, Value};

use super::metadata::Pairs;
use super::{ConvertError, Family};
use crate::formats::{
    GgufArray, GgufValue, PieceKind, Tokenizer, read_json_object, read_sentencepiece_model,
};

// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Score of tokens that are matched before any merging.
const ADDED_SCORE: f32 = -1000.0;
/// Score of ids without a token.
const PADDING_SCORE: f32 = -10_000.0;

/// The vocabulary as GGUF stores it.
struct Vocabulary {
    model: &'static str,
    pre: &'static str,
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Option<Vec<f32>>,
    merges: Vec<String>,
}

/// The tokenizer files of a folder, read once.
pub(super) struct TokenizerFiles<'a> {
    pub(super) folder: &'a std::path::Path,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) json: &'a Map<String, Value>,
    pub(super) config: &'a Map<String, Value>,
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
}

/// Appends the arrays; returns whether the vocabulary is a sentencepiece one.
pub(super) fn append(
    files: &TokenizerFiles<'_>,
    family: Family,
    pairs: &mut Pairs,
) -> Result<bool, ConvertError> {
    let vocabulary = read(files, family)?;
    let text = |value: &str| GgufValue::String(value.to_owned());
    let mut put = |key: &str, value| pairs.push((format!("tokenizer.ggml.{key}"), value));
    put("model", text(vocabulary.model));
    put("pre", text(vocabulary.pre));
    put(
        "tokens",
        GgufValue::Array(GgufArray::String(vocabulary.tokens)),
    );
    let is_sentencepiece = vocabulary.scores.is_some();
    if let Some(scores) = vocabulary.scores {
        put("scores", GgufValue::Array(GgufArray::F32(scores)));
    }
    put(
        "token_type",
        GgufValue::Array(GgufArray::I32(vocabulary.types)),
    );
    if !vocabulary.merges.is_empty() {
        put(
            "merges",
            GgufValue::Array(GgufArray::String(vocabulary.merges)),
        );
    }
    Ok(is_sentencepiece)
}

fn read(files: &TokenizerFiles<'_>, family: Family) -> Result<Vocabulary, ConvertError> {
    if files.tokenizer.is_sentencepiece() {
        return sentencepiece(files, family);
    }
    let size = files.tokenizer.vocab_size();
    if size > files.vocab_size {
        return Err(fail(
            files,
            format!(
                "it has {size} tokens, config.json has vocab_size {}",
                files.vocab_size
            ),
        ));
    }
    let pre = files.tokenizer.gguf_pre_tokenizer().ok_or_else(|| {
        fail(
            files,
            "its pre-tokenizer is none that GGUF readers know (qwen2, llama-bpe, tekken, smollm, \
             gpt-2)"
                .to_owned(),
        )
    })?;
    byte_level(files, pre)
}

fn byte_level(files: &TokenizerFiles<'_>, pre: &'static str) -> Result<Vocabulary, ConvertError> {
    let mut tokens = Vec::with_capacity(files.vocab_size);
    let mut types = Vec::with_capacity(files.vocab_size);
    for id in 0..files.vocab_size as u32 {
        let Some(token) = files.tokenizer.token(id) else {
            tokens.push(padding(id as usize));
            types.push(UNUSED);
            continue;
        };
        let added = files.tokenizer.is_added(id);
        let special = files.tokenizer.is_special(id) || looks_special(&token);
        let (token, kind) = match (added, special) {
            (false, _) => (token, NORMAL),
            (true, true) => (token, CONTROL),
            (true, false) => (spaces(&token), USER_DEFINED),
        };
        types.push(kind);
        tokens.push(token);
    }
    Ok(Vocabulary {
        model: "gpt2",
        pre,
        tokens,
        types,
        scores: None,
        merges: merges(files)?,
    })
}

/// The merges of tokenizer.json as `left right`; a space inside a part becomes U+0120.
fn merges(files: &TokenizerFiles<'_>) -> Result<Vec<String>, ConvertError> {
    merge_pairs(files)?
        .into_iter()
        .map(|(left, right)| Ok(format!("{} {}", escape(&left), escape(&right))))
        .collect()
}

fn escape(part: &str) -> String {
    part.replace(' ', "\u{120}")
}

/// Both spellings of the merge list: `"a b"` and `["a", "b"]`.
fn merge_pairs(files: &TokenizerFiles<'_>) -> Result<Vec<(String, String)>, ConvertError> {
    let merges = files
        .json
        .get("model")
        .and_then(|model| model.get("merges")?.as_array())
        .ok_or_else(|| {
            fail(
                files,
                "tokenizer.json has no merges: it is not BPE".to_owned(),
            )
        })?;
    let read = |merge: &Value| -> Option<(String, String)> {
        if let Some(text) = merge.as_str() {
            let (left, right) = text.split_once(' ')?;
            return Some((left.to_owned(), right.to_owned()));
        }
        let [left, right] = merge.as_array()?.as_slice() else {
            return None;
        };
        Some((left.as_str()?.to_owned(), right.as_str()?.to_owned()))
    };
    merges
        .iter()
        .map(|merge| read(merge).ok_or_else(|| fail(files, format!("malformed merge {merge}"))))
        .collect()
}

/// Tokens whose ids have no row in the embedding are left out, as the reference does.
///
/// Pieces and scores from tokenizer.model, or from tokenizer.json where that is all there is;
/// then everything that the other files add.
fn sentencepiece(files: &TokenizerFiles<'_>, family: Family) -> Result<Vocabulary, ConvertError> {
    let size = files.vocab_size;
    let mut vocabulary = Vocabulary {
        model: "llama",
        pre: "default",
        tokens: (0..size).map(padding).collect(),
        types: vec![UNUSED; size],
        scores: None,
        merges: Vec::new(),
    };
    let mut scores = vec![PADDING_SCORE; size];
    let model = files.folder.join("tokenizer.model");
    match read_sentencepiece_model(&model)? {
        Some(pieces) => {
            for (id, piece) in pieces.into_iter().enumerate().take(size) {
                vocabulary.types[id] = match piece.kind {
                    PieceKind::Normal | PieceKind::UserDefined => NORMAL,
                    PieceKind::Unknown => UNKNOWN,
                    PieceKind::Control => CONTROL,
                    PieceKind::Unused => UNUSED,
                    PieceKind::Byte => BYTE,
                };
                vocabulary.tokens[id] = piece.text;
                scores[id] = piece.score;
            }
        }
        None => pieces_of_json(files, &mut vocabulary, &mut scores)?,
    }
    let mut add = |id: u64, text: &str, special: bool| {
        let Some(id) = usize::try_from(id).ok().filter(|id| *id < size) else {
            return;
        };
        // Phi-3's converter takes the flags at their word; elsewhere the text may say more.
        let control = special || (family != Family::Phi3 && looks_special(text));
        vocabulary.types[id] = if control { CONTROL } else { USER_DEFINED };
        vocabulary.tokens[id] = if control || family == Family::Phi3 {
            text.to_owned()
        } else {
            spaces(text)
        };
        scores[id] = ADDED_SCORE;
    };
    let special = |token: &Value| token.get("special").and_then(Value::as_bool) == Some(true);
    let content = |token: &Value| token.get("content")?.as_str().map(str::to_owned);
    for (text, id) in read_json_object(&files.folder.join("added_tokens.json"))?.unwrap_or_default()
    {
        if let Some(id) = id.as_u64() {
            add(id, &text, false);
        }
    }
    let from_json = files.json.get("added_tokens").and_then(Value::as_array);
    for token in from_json.into_iter().flatten() {
        if let (Some(id), Some(text)) = (token.get("id").and_then(Value::as_u64), content(token)) {
            add(id, &text, special(token));
        }
    }
    let decoder = files
        .config
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    for (id, token) in decoder.into_iter().flatten() {
        if let (Ok(id), Some(text)) = (id.parse(), content(token)) {
            add(id, &text, special(token));
        }
    }
    vocabulary.scores = Some(scores);
    Ok(vocabulary)
}

/// Scores from the merge list: the piece that is made first has the highest, as sentencepiece's
/// own BPE trainer numbers them; bytes and single characters keep the order of their ids.
fn pieces_of_json(
    files: &TokenizerFiles<'_>,
    vocabulary: &mut Vocabulary,
    scores: &mut [f32],
) -> Result<(), ConvertError> {
    let num_tokens = files.tokenizer.vocab_size();
    for (id, score) in scores.iter_mut().enumerate().take(num_tokens) {
        let Some(token) = files.tokenizer.token(id as u32) else {
            continue;
        };
        let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        vocabulary.types[id] = if is_byte { BYTE } else { NORMAL };
        vocabulary.tokens[id] = token;
        *score = 0.0;
    }
    let pairs = merge_pairs(files)?;
    let num_merges = pairs.len();
    let mut made = std::collections::HashSet::new();
    for (rank, (left, right)) in pairs.iter().enumerate() {
        let id = files.tokenizer.id(&format!("{left}{right}"));
        let score = id.and_then(|id| scores.get_mut(id as usize));
        if let (Some(id), Some(score)) = (id, score)
            && made.insert(id)
        {
            *score = -(rank as f32);
        }
    }
    for (id, score) in scores.iter_mut().enumerate().take(num_tokens) {
        if vocabulary.types[id] == NORMAL && !made.contains(&(id as u32)) {
            *score = -((num_merges + id) as f32);
        }
    }
    Ok(())
}

/// Tokens that users define are matched in plain text, in which no mark stands for a space.
fn spaces(text: &str) -> String {
    text.replace('\u{2581}', " ")
}

fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Texts that mean a control token even where a file forgets to say so.
fn looks_special(text: &str) -> bool {
    let enclosed = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || enclosed("<|", "|>")
        || enclosed("<｜", "｜>")
        || enclosed("<unused", ">")
}

fn fail(files: &TokenizerFiles<'_>, reason: String) -> ConvertError {
    ConvertError::Tokenizer {
        path: files.folder.to_owned(),
        reason,
    }
}
