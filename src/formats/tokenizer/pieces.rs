//! The exact bytes of every token, worked out once from the tokenizer's decoder.
//!
//! The two families of decoders: byte-level BPE writes each byte as one printable character
//! (GPT-2's table), sentencepiece writes a space as U+2581 and unknown bytes as `<0xNN>` tokens.

use std::collections::HashMap;

use serde_json::Value;

/// One past the largest id that a vocabulary may have: 64 times the largest in use.
const MAX_TOKENS: usize = 1 << 24;
/// How sentencepiece writes a space.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// The bytes of all tokens, in one buffer.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// End of each token's bytes; `None` where the vocabulary has no such id.
    spans: Vec<Option<(u32, u32)>>,
    special: Vec<bool>,
    added: Vec<bool>,
    sentencepiece: bool,
    strips_leading_space: bool,
}

/// How the vocabulary's texts stand for bytes.
enum Spelling {
    ByteLevel(HashMap<char, u8>),
    SentencePiece { byte_fallback: bool },
}

impl Pieces {
    /// `num_tokens`: the vocabulary is at least this large.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer, num_tokens: usize) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.get_decoder())
            .map_err(|error| format!("decoder: {error}"))?;
        let (spelling, strips_leading_space) = read_decoder(&decoder)?;
        // A sorted list, so that nothing depends on the order of a hash table.
        let mut vocab: Vec<(u32, String)> = tokenizer
            .get_vocab(true)
            .into_iter()
            .map(|(text, id)| (id, text))
            .collect();
        vocab.sort_unstable();
        let largest = vocab.last().map_or(0, |(id, _)| *id as usize + 1);
        let len = largest.max(num_tokens);
        if len > MAX_TOKENS {
            return Err(format!("token id {} exceeds {MAX_TOKENS}", len - 1));
        }
        let mut pieces = Self {
            bytes: Vec::new(),
            spans: vec![None; len],
            special: vec![false; len],
            added: vec![false; len],
            sentencepiece: matches!(spelling, Spelling::SentencePiece { .. }),
            strips_leading_space,
        };
        for (id, text) in &vocab {
            let begin = pieces.bytes.len() as u32;
            spelling.append(text, &mut pieces.bytes);
            pieces.spans[*id as usize] = Some((begin, pieces.bytes.len() as u32));
        }
        let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        for (id, token) in added {
            if let Some(special) = pieces.special.get_mut(id as usize) {
                *special = token.special;
                pieces.added[id as usize] = true;
            }
        }
        Ok(pieces)
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let (begin, end) = (*self.spans.get(id as usize)?)?;
        Some(&self.bytes[begin as usize..end as usize])
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.get(id as usize).copied().unwrap_or(false)
    }

    pub(super) fn is_sentencepiece(&self) -> bool {
        self.sentencepiece
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }
}

impl Spelling {
    fn append(&self, text: &str, bytes: &mut Vec<u8>) {
        match self {
            Self::ByteLevel(table) => {
                let begin = bytes.len();
                for character in text.chars() {
                    let Some(byte) = table.get(&character) else {
                        // An added token, in plain text.
                        bytes.truncate(begin);
                        bytes.extend_from_slice(text.as_bytes());
                        return;
                    };
                    bytes.push(*byte);
                }
            }
            Self::SentencePiece { byte_fallback } => {
                if let Some(byte) = byte_of(text).filter(|_| *byte_fallback) {
                    bytes.push(byte);
                } else {
                    bytes.extend_from_slice(text.replace(SPACE_MARK, " ").as_bytes());
                }
            }
        }
    }
}

/// The byte of a `<0xNN>` token.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 and up.
fn byte_level_table() -> HashMap<char, u8> {
    let mut table = HashMap::new();
    let mut next = 0x100_u32;
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        };
        table.insert(character, byte);
    }
    table
}

/// The spelling, and whether decoding strips a leading space.
fn read_decoder(decoder: &Value) -> Result<(Spelling, bool), String> {
    let steps: Vec<&Value> = match decoder.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![decoder],
    };
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(str::to_owned);
    let mut spelling = None;
    let mut byte_fallback = false;
    let mut strips = false;
    for step in steps {
        match kind(step).as_deref() {
            Some("ByteLevel") => spelling = Some(Spelling::ByteLevel(byte_level_table())),
            Some("Replace") => {
                let from = step.pointer("/pattern/String").and_then(Value::as_str);
                let to = step.get("content").and_then(Value::as_str);
                if from != Some("\u{2581}") || to != Some(" ") {
                    return Err("its decoder replaces something other than U+2581".to_owned());
                }
                spelling = Some(Spelling::SentencePiece { byte_fallback });
            }
            Some("Metaspace") => {
                spelling = Some(Spelling::SentencePiece { byte_fallback });
                strips = step.get("prepend_scheme").and_then(Value::as_str) != Some("never");
            }
            Some("ByteFallback") => byte_fallback = true,
            Some("Fuse") => {}
            Some("Strip") => strips = step.get("start").and_then(Value::as_u64) == Some(1),
            other => {
                return Err(format!(
                    "decoder {} is not supported (byte-level BPE and sentencepiece are)",
                    other.unwrap_or("(none)")
                ));
            }
        }
    }
    match spelling {
        Some(Spelling::SentencePiece { .. }) => {
            Ok((Spelling::SentencePiece { byte_fallback }, strips))
        }
        Some(byte_level) => Ok((byte_level, strips)),
        None => Err("its decoder is neither byte-level nor sentencepiece".to_owned()),
    }
}
