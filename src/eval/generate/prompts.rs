//! The input of `micota generate`: one JSON object per line.
//!
//! A line has exactly one of `prompt` (text), `messages` (a conversation for the chat template) and
//! `prompt_token_ids`. An `id` of any kind is copied to the output; other keys, such as columns of a
//! data set, are left alone. Every line is checked before a model is loaded.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::task::Message;

use super::GenerateError;

/// Bytes of one line: the longest context in use (1 Mi tokens) is a few megabytes of text.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A checked line of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLine {
    /// Its number in the file, from 1.
    pub line: usize,
    /// The caller's name for it.
    pub id: Option<Value>,
    /// What to continue.
    pub source: PromptSource,
}

/// What a line asks to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptSource {
    /// Text, tokenised with the special tokens that the model expects around it.
    Text(String),
    /// A conversation, rendered with the model's chat template.
    Messages(Vec<Message>),
    /// Tokens, taken as they are.
    TokenIds(Vec<u32>),
}

#[derive(Deserialize)]
struct RawLine {
    id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    prompt_token_ids: Option<Vec<u32>>,
}

/// Reads and checks all lines; empty ones are skipped.
///
/// # Errors
/// The file cannot be read, has no prompts, or a line is not what it should be; the message names
/// file and line.
pub fn read_prompts(path: &Path) -> Result<Vec<PromptLine>, GenerateError> {
    let unreadable = |source| GenerateError::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut prompts = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE_BYTES + 1);
        let len = limited.read_until(b'\n', &mut bytes).map_err(unreadable)?;
        if len == 0 {
            break;
        }
        let bad = |reason: String| GenerateError::Line {
            path: path.to_owned(),
            line,
            reason,
        };
        if len as u64 > MAX_LINE_BYTES {
            return Err(bad(format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let raw: RawLine =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let source = source_of(raw.prompt, raw.messages, raw.prompt_token_ids).map_err(bad)?;
        prompts.push(PromptLine {
            line,
            id: raw.id,
            source,
        });
    }
    if prompts.is_empty() {
        return Err(GenerateError::NoPrompts {
            path: path.to_owned(),
        });
    }
    Ok(prompts)
}

fn source_of(
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    token_ids: Option<Vec<u32>>,
) -> Result<PromptSource, String> {
    let source = match (prompt, messages, token_ids) {
        (Some(text), None, None) => PromptSource::Text(text),
        (None, Some(messages), None) => PromptSource::Messages(messages),
        (None, None, Some(token_ids)) => PromptSource::TokenIds(token_ids),
        (None, None, None) => {
            return Err("no `prompt`, `messages` or `prompt_token_ids`".to_owned());
        }
        _ => {
            return Err(
                "more than one of `prompt`, `messages` and `prompt_token_ids`; keep one".to_owned(),
            );
        }
    };
    match &source {
        PromptSource::Text(text) if text.is_empty() => Err("`prompt` is empty".to_owned()),
        PromptSource::Messages(messages) if messages.is_empty() => {
            Err("`messages` is empty".to_owned())
        }
        PromptSource::TokenIds(token_ids) if token_ids.is_empty() => {
            Err("`prompt_token_ids` is empty".to_owned())
        }
        _ => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PromptLine>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}", folder.path().display());
        read_prompts(&path).map_err(|error| error.to_string().replace(&prefix, "DIR"))
    }

    #[test]
    fn each_kind_of_line_is_read() {
        let prompts = read(concat!(
            "{\"prompt\": \"a\", \"id\": 7, \"level\": \"hard\"}\n\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\r\n",
            "{\"prompt_token_ids\": [1, 2]}",
        ))
        .unwrap();
        assert_eq!(prompts[0].id, Some(7.into()));
        assert_eq!(prompts[0].source, PromptSource::Text("a".to_owned()));
        let message = Message::new("user", "b");
        assert_eq!(prompts[1].source, PromptSource::Messages(vec![message]));
        assert_eq!(prompts[2].source, PromptSource::TokenIds(vec![1, 2]));
        assert_eq!(prompts[2].line, 4);
    }

    #[test]
    fn a_bad_line_is_named() {
        let refused = |text: &str| read(text).unwrap_err();
        assert_eq!(
            refused("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n"),
            "DIR/in.jsonl:2: no `prompt`, `messages` or `prompt_token_ids`"
        );
        assert_eq!(
            refused("{\"prompt\": \"a\", \"prompt_token_ids\": [1]}"),
            "DIR/in.jsonl:1: more than one of `prompt`, `messages` and `prompt_token_ids`; keep one"
        );
        assert!(refused("{\"prompt\": 5}").starts_with("DIR/in.jsonl:1: invalid type"));
        assert!(refused("not json").starts_with("DIR/in.jsonl:1: "));
        assert!(
            refused("{\"prompt_token_ids\": [-1]}").starts_with("DIR/in.jsonl:1: invalid value")
        );
        assert_eq!(
            refused("{\"prompt\": \"\"}"),
            "DIR/in.jsonl:1: `prompt` is empty"
        );
        assert!(refused("\n\n").contains("no prompts"));
    }
}
