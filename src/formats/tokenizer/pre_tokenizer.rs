//! The pre-tokenizers of byte-level BPE models: how a text is split before merging.
//!
//! One row per behaviour, with the names that GGUF's `tokenizer.ggml.pre` gives it. The regular
//! expressions are those that the models' own tokenizer.json files publish.

use serde_json::{Value, json};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
};

/// A text on which every two of the known pre-tokenizers differ: words, contractions, digits in
/// runs of many lengths, punctuation with letters and line ends, several kinds of space, case
/// changes, marks, and scripts without spaces.
const PROBE: &str = "Hello world, it's THEY'RE don't\n\n\n 1 12 123 1234 12345.67  x=3 (a)b/c/\n/\r\n\t\ttabs   \
    camelCaseWord ÉCOLE école नमस्ते 你好世界 3.14e-10 \u{a0}\u{2003}end!!!\n \n  ...?\n$%^ 🚀🚀 a\u{301}b  ";

/// One way to split.
pub(super) struct PreTokenizer {
    /// Names in GGUF; the first is the one to write.
    pub(super) names: &'static [&'static str],
    splits: &'static [Split],
    /// Whether the model normalises to NFC first.
    pub(super) nfc: bool,
    /// Whether a chunk that is a token as a whole is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub(super) add_bos: bool,
}

enum Split {
    Regex(&'static str),
    /// GPT-2's own expression, built into the byte-level step.
    Gpt2,
}

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// All that are known, in the order in which detection prefers them.
pub(super) const KNOWN: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[Split::Regex(QWEN2)],
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        splits: &[Split::Regex(LLAMA3)],
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe"],
        splits: &[Split::Regex(LLAMA3)],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["tekken"],
        splits: &[Split::Regex(TEKKEN)],
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["smollm", "command-r", "refact", "starcoder", "codeshell"],
        splits: &[Split::Regex(r"\p{N}"), Split::Gpt2],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "olmo", "mpt"],
        splits: &[Split::Gpt2],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
];

/// The pre-tokenizer that GGUF calls `name`.
pub(super) fn named(name: &str) -> Option<&'static PreTokenizer> {
    KNOWN.iter().find(|known| known.names.contains(&name))
}

/// GGUF's name of a tokenizer's pre-tokenizer, by what it does to [`PROBE`].
pub(super) fn recognise(tokenizer: &tokenizers::Tokenizer) -> Option<&'static str> {
    let expected = chunks(tokenizer.get_pre_tokenizer()?)?;
    KNOWN
        .iter()
        .find(|known| {
            serde_json::from_value::<PreTokenizerWrapper>(known.to_json())
                .ok()
                .and_then(|known| chunks(&known))
                .is_some_and(|found| found == expected)
        })
        .map(|known| known.names[0])
}

fn chunks(pre_tokenizer: &PreTokenizerWrapper) -> Option<Vec<String>> {
    let mut text = PreTokenizedString::from(PROBE);
    pre_tokenizer.pre_tokenize(&mut text).ok()?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Some(
        splits
            .into_iter()
            .map(|(chunk, _, _)| chunk.to_owned())
            .collect(),
    )
}

impl PreTokenizer {
    /// The `pre_tokenizer` block of a tokenizer.json.
    pub(super) fn to_json(&self) -> Value {
        let mut steps = Vec::new();
        let mut gpt2 = false;
        for split in self.splits {
            match split {
                Split::Regex(pattern) => steps.push(json!({
                    "type": "Split",
                    "pattern": { "Regex": pattern },
                    "behavior": "Isolated",
                    "invert": false,
                })),
                Split::Gpt2 => gpt2 = true,
            }
        }
        steps.push(json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": gpt2,
        }));
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows may split alike (they differ in other ways); then the first is the one to write.
    #[test]
    fn the_probe_tells_the_known_ones_apart() {
        let mut seen: Vec<Vec<String>> = Vec::new();
        for known in KNOWN {
            let wrapper: PreTokenizerWrapper = serde_json::from_value(known.to_json()).unwrap();
            let chunks = chunks(&wrapper).unwrap();
            if known.names[0] == "dbrx" {
                assert!(seen.contains(&chunks), "as llama-bpe");
            } else {
                assert!(!seen.contains(&chunks), "{:?}", known.names);
            }
            seen.push(chunks);
        }
    }
}
