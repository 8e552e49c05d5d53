//! The hashes of lm-evaluation-harness: SHA-256, lower-case hex, of UTF-8 text.
//!
//! They tell two runs of "the same" benchmark apart. Pinned by `golden/hashes` and `golden/lmeval`.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::python_json;

/// Of a text: `prompt_hash`, `target_hash`, `system_instruction_sha`, `chat_template_sha`.
pub fn text_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Of a document: its JSON with indent 2, keys in the document's order.
pub fn doc_hash(doc: &Map<String, Value>) -> String {
    text_hash(&python_json::object_to_indented(doc))
}

/// Of token ids, as little-endian `u32`s: whether two runs fed the model the same input.
pub fn token_ids_hash(token_ids: &[u32]) -> String {
    let mut hasher = Sha256::new();
    for id in token_ids {
        hasher.update(id.to_le_bytes());
    }
    hex(&hasher.finalize())
}

/// Of a task: over its logged samples in file order, one sample at a time.
#[derive(Clone, Debug, Default)]
pub struct TaskHasher(Sha256);

impl TaskHasher {
    /// Takes in the three hashes of the next sample.
    pub fn add(&mut self, doc_hash: &str, prompt_hash: &str, target_hash: &str) {
        for hash in [doc_hash, prompt_hash, target_hash] {
            self.0.update(hash.as_bytes());
        }
    }

    /// The entry of `task_hashes`.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_text_has_the_published_hash() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(text_hash(""), empty);
        assert_eq!(token_ids_hash(&[]), empty);
        assert_eq!(TaskHasher::default().finish(), empty);
    }

    #[test]
    fn token_ids_do_not_run_together() {
        assert_ne!(token_ids_hash(&[1, 256]), token_ids_hash(&[1 + (256 << 8)]));
        assert_ne!(token_ids_hash(&[1, 2]), token_ids_hash(&[2, 1]));
    }
}
