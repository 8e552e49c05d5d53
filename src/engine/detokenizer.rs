//! From token ids back to text: all that the engine asks of a tokenizer.

/// The bytes that each token stands for. Text is the concatenation of its tokens' bytes; a token
/// may hold a part of a character.
pub trait Detokenizer: Send + Sync {
    /// Appends the bytes of `token_id`. Special tokens give their text; an id that the vocabulary
    /// lacks (rows that pad an embedding) gives nothing.
    fn append_token_bytes(&self, token_id: u32, bytes: &mut Vec<u8>);
}
