//! Text to token ids and back, from a Hugging Face folder or from GGUF metadata.
//!
//! Both become one `tokenizer.json` in memory, run by the `tokenizers` crate, so that a GGUF file
//! tokenises exactly as the folder it was made from. On top stands what the engine needs and the
//! crate does not give: the exact bytes of each token, ids that begin and end a text, and the
//! chat template's source. Rendering templates is the task room's business.

mod added;
mod from_folder;
mod from_gguf;
mod pieces;
mod pre_tokenizer;
mod sentencepiece;

use std::path::Path;

use serde_json::Value;

use super::{Checkpoint, FormatError, GgufMetadata, Source};
use pieces::Pieces;

/// A tokenizer, immutable and shared between threads by reference.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    /// Ids put before a text that is encoded with special tokens.
    prefix: Vec<u32>,
    /// Ids put behind it.
    suffix: Vec<u32>,
    bos: Option<NamedToken>,
    eos: Option<NamedToken>,
    pad: Option<NamedToken>,
    unk: Option<NamedToken>,
    eos_token_ids: Vec<u32>,
    /// Name and source; the one called `default` is the template of models that have only one.
    chat_templates: Vec<(String, String)>,
}

/// A special token: its text, and its id where the vocabulary holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedToken {
    text: String,
    id: Option<u32>,
}

/// What a loader found; [`Tokenizer::assemble`] makes the tokenizer of it.
struct Loaded {
    inner: tokenizers::Tokenizer,
    /// The vocabulary has at least this many ids; those that `inner` lacks are padding.
    num_tokens: usize,
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
    unk: Option<String>,
    /// `None`: as the post-processor of `inner` does.
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    /// Beside `eos`.
    eos_token_ids: Vec<u32>,
    chat_templates: Vec<(String, String)>,
}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint.
    ///
    /// # Errors
    /// Tokenizer files or metadata are missing, malformed or of an unsupported kind.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, FormatError> {
        match checkpoint.source() {
            Source::HuggingFace {
                config,
                generation_config,
                folder,
            } => {
                let loaded = from_folder::load(folder, Some(config), generation_config.as_ref())?;
                Self::assemble(folder, loaded)
            }
            Source::Gguf(metadata) => Self::assemble(metadata.path(), from_gguf::load(metadata)?),
        }
    }

    /// Reads the tokenizer files of a folder that need not hold a model.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or malformed.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self, FormatError> {
        let folder = folder.as_ref();
        Self::assemble(folder, from_folder::load(folder, None, None)?)
    }

    fn assemble(path: &Path, loaded: Loaded) -> Result<Self, FormatError> {
        let Loaded { mut inner, .. } = loaded;
        let fail = |reason: String| FormatError::Tokenizer {
            path: path.to_owned(),
            reason,
        };
        // A tokenizer.json may carry the settings of the training run; a text is never cut here.
        inner
            .with_truncation(None)
            .map_err(|error| fail(error.to_string()))?
            .with_padding(None);
        let named = |text: Option<String>| {
            text.map(|text| NamedToken {
                id: inner.token_to_id(&text),
                text,
            })
        };
        let (bos, eos) = (named(loaded.bos), named(loaded.eos));
        let (pad, unk) = (named(loaded.pad), named(loaded.unk));
        let (mut prefix, mut suffix) =
            added::around_text(&inner).map_err(|error| fail(error.to_string()))?;
        if let Some(add) = loaded.add_bos {
            added::set_first(&mut prefix, bos.as_ref().and_then(|token| token.id), add);
        }
        if let Some(add) = loaded.add_eos {
            added::set_last(&mut suffix, eos.as_ref().and_then(|token| token.id), add);
        }
        let mut eos_token_ids = loaded.eos_token_ids;
        eos_token_ids.extend(eos.as_ref().and_then(|token| token.id));
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        let pieces = Pieces::of(&inner, loaded.num_tokens).map_err(fail)?;
        Ok(Self {
            inner,
            pieces,
            prefix,
            suffix,
            bos,
            eos,
            pad,
            unk,
            eos_token_ids,
            chat_templates: loaded.chat_templates,
        })
    }

    /// Tokenises a text. Special and added tokens that occur in the text are recognised.
    ///
    /// With `add_special_tokens`, the ids that the model expects around a text (usually a BOS, if
    /// any) are put around it; a BOS that the text itself begins with is not taken into account.
    ///
    /// # Errors
    /// The tokenizer's own model refuses the text (it has no token for a character).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, FormatError> {
        let encoding =
            self.inner
                .encode_fast(text, false)
                .map_err(|error| FormatError::Encode {
                    reason: error.to_string(),
                })?;
        if !add_special_tokens {
            return Ok(encoding.get_ids().to_vec());
        }
        Ok([&self.prefix, encoding.get_ids(), &self.suffix].concat())
    }

    /// The text of token ids: their bytes joined, malformed UTF-8 replaced by U+FFFD.
    ///
    /// A sentencepiece tokenizer that puts a space before every text loses it again here, as in
    /// Hugging Face's `decode`. Ids beyond the vocabulary are left out. Spaces are not "cleaned
    /// up", whatever `clean_up_tokenization_spaces` says: text must survive a round trip.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            if !(skip_special && self.is_special(*id)) {
                bytes.extend_from_slice(self.token_bytes(*id).unwrap_or_default());
            }
        }
        let strip = self.strips_leading_space() && bytes.first() == Some(&b' ');
        String::from_utf8_lossy(&bytes[usize::from(strip)..]).into_owned()
    }

    /// The bytes that a token adds to the text; `None` for an id that the vocabulary lacks.
    ///
    /// Joined, the bytes of a sequence are its text before [`Tokenizer::decode`] strips a leading
    /// space. A token can hold part of a character. Special tokens give their own text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.bytes(id)
    }

    /// Whether `decode` drops one space at the very beginning of a text.
    pub fn strips_leading_space(&self) -> bool {
        self.pieces.strips_leading_space()
    }

    /// Whether the token is a control token: no part of the text, left out by `skip_special`.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// Whether the token is searched for in a text before anything else is done with it.
    pub fn is_added(&self, id: u32) -> bool {
        self.pieces.is_added(id)
    }

    /// GGUF's name of the byte-level pre-tokenizer, found by what it does to a test text.
    ///
    /// `None` for sentencepiece vocabularies and for pre-tokenizers that GGUF readers do not know.
    pub fn gguf_pre_tokenizer(&self) -> Option<&'static str> {
        pre_tokenizer::recognise(&self.inner)
    }

    /// Whether the vocabulary is a sentencepiece one (a space is part of a token as U+2581).
    pub fn is_sentencepiece(&self) -> bool {
        self.pieces.is_sentencepiece()
    }

    /// The `tokenizer.json` of a GGUF file's tokenizer.
    ///
    /// # Errors
    /// The file holds no tokenizer, or one of an unsupported kind.
    pub fn json_of_gguf(metadata: &GgufMetadata) -> Result<Value, FormatError> {
        from_gguf::to_json(metadata)
    }

    /// One more than the largest token id, added tokens included. The model's embedding may have
    /// more rows.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a token by its text as the vocabulary writes it, e.g. `<|im_end|>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token's text as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text of the token that begins a document, for chat templates.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_ref().map(|token| token.text.as_str())
    }

    /// The id of the token that begins a document.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos.as_ref()?.id
    }

    /// The text of the token that ends a document or a turn.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_ref().map(|token| token.text.as_str())
    }

    /// The id of the token that ends a document or a turn.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos.as_ref()?.id
    }

    /// The text of the padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.pad.as_ref().map(|token| token.text.as_str())
    }

    /// The id of the padding token.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad.as_ref()?.id
    }

    /// The text of the token for what the vocabulary cannot express.
    pub fn unk_token(&self) -> Option<&str> {
        self.unk.as_ref().map(|token| token.text.as_str())
    }

    /// The special tokens that chat templates name, as far as there are some.
    pub fn special_tokens(&self) -> Vec<(&'static str, &str)> {
        let tokens = [
            ("bos_token", self.bos_token()),
            ("eos_token", self.eos_token()),
            ("pad_token", self.pad_token()),
            ("unk_token", self.unk_token()),
        ];
        let tokens = tokens.into_iter();
        tokens
            .filter_map(|(name, token)| Some((name, token?)))
            .collect()
    }

    /// All that decides which tokens a text becomes, as JSON.
    ///
    /// # Errors
    /// The tokenizer cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, FormatError> {
        self.inner
            .to_string(false)
            .map_err(|error| FormatError::Encode {
                reason: error.to_string(),
            })
    }

    /// Every token that ends a generation, sorted: the tokenizer's EOS, those of
    /// `generation_config.json` or `config.json`, and for GGUF its end-of-turn tokens.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Whether [`Tokenizer::encode`] with special tokens puts a BOS before the text.
    pub fn adds_bos(&self) -> bool {
        self.bos_token_id()
            .is_some_and(|bos| self.prefix.first() == Some(&bos))
    }

    /// The source of the model's chat template (Jinja), if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template_named("default")
    }

    /// The source of a chat template by name, of models that have several (`tool_use`, `rag`).
    pub fn chat_template_named(&self, name: &str) -> Option<&str> {
        let found = self.chat_templates.iter().find(|(own, _)| own == name);
        found.map(|(_, source)| source.as_str())
    }

    /// The names of all chat templates.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.chat_templates.iter().map(|(name, _)| name.as_str())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
