//! A small byte-level BPE vocabulary in Qwen2's layout, for models trained from nothing.

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl};

/// Qwen2's pre-tokenizer: words, digits one by one, punctuation, blanks.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's special tokens, which follow the learned entries.
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Every byte has its own entry.
const NUM_BYTES: usize = 256;
/// ChatML without a default system text.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The two files of a tokenizer folder.
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `tokenizer_config.json`.
    pub config: String,
}

/// The vocabulary cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// Too small to hold what every vocabulary holds.
    #[error("vocab_size {found}: expected at least {least} (every byte and the special tokens)")]
    TooSmall {
        /// What was asked for.
        found: usize,
        /// The smallest possible.
        least: usize,
    },
    /// The tokenizer library failed.
    #[error("tokenizer: {0}")]
    Library(String),
}

/// Learns merges on `texts` until the vocabulary has `vocab_size` entries.
///
/// # Errors
/// `vocab_size` is too small, or the tokenizer library fails.
pub fn train(texts: &[String], vocab_size: usize) -> Result<TokenizerFiles, VocabularyError> {
    let least = NUM_BYTES + SPECIALS.len();
    if vocab_size < least {
        return Err(VocabularyError::TooSmall {
            found: vocab_size,
            least,
        });
    }
    let library = |error: tokenizers::Error| VocabularyError::Library(error.to_string());
    let split = Split::new(
        SplitPattern::Regex(QWEN2_PATTERN.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(library)?;
    let bytes = ByteLevel::new(false, false, false);
    let stages: Vec<PreTokenizerWrapper> = vec![split.into(), bytes.into()];
    let mut tokenizer: TokenizerImpl<BPE, NFC, Sequence, ByteLevel, ByteLevelDecoder> =
        TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(NFC))
            .with_pre_tokenizer(Some(Sequence::new(stages)))
            .with_post_processor(Some(ByteLevel::new(false, false, false)))
            .with_decoder(Some(ByteLevelDecoder::default()))
            .build()
            .map_err(library)?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size - SPECIALS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer
        .train(&mut trainer, texts.iter())
        .map_err(library)?;
    let specials = SPECIALS.map(|text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(specials).map_err(library)?;
    let config = json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": null,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    });
    Ok(TokenizerFiles {
        tokenizer: tokenizer.to_string(true).map_err(library)?,
        config: format!("{config:#}\n"),
    })
}
