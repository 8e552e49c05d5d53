//! The output's vocabulary, and which rows of the inputs' embeddings its tokens take.

mod align;
mod chat_template;
mod tokenizer;

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::error::MergeError;
use super::model::Model;
use super::recipe::TokenRecipe;

use align::{Vocabularies, align};

pub(crate) use align::Alignment;
pub(crate) use chat_template::chat_template;
pub(crate) use tokenizer::{OutputTokenizer, build_tokenizer};

/// A model's tokens, as its `tokenizer.json` lists them.
pub(crate) struct Vocabulary {
    /// By id, without those at or above the model's `vocab_size`.
    tokens: Vec<(String, usize)>,
    ids: HashMap<String, usize>,
    file: Value,
}

/// The output's tokenizer.
pub(crate) struct OutputVocabulary {
    /// The token of each embedding row; `None` where the donor's ids have a gap.
    pub(crate) tokens: Vec<Option<String>>,
    /// The content of `tokenizer.json`.
    pub(crate) file: Value,
    /// The model whose other tokenizer files go with it.
    pub(crate) donor: PathBuf,
}

impl Vocabulary {
    pub(crate) fn of(model: &Model) -> Result<Self, MergeError> {
        let path = model.folder.join("tokenizer.json");
        let fail =
            |problem: String| MergeError::Tokenizer(format!("{}: {problem}", path.display()));
        let text = std::fs::read(&path).map_err(|e| {
            fail(format!(
                "{e}; tokenizer settings need the fast tokenizer of every model"
            ))
        })?;
        let mut file: Value =
            serde_json::from_slice(&text).map_err(|e| fail(format!("not JSON: {e}")))?;
        let limit = model.vocab_size().unwrap_or(usize::MAX);
        let mut tokens = model_tokens(&file).ok_or_else(|| fail("no vocabulary".to_owned()))?;
        let added = added_tokens(&file).map(|(token, id)| (token.to_owned(), id));
        tokens.extend(added.collect::<Vec<_>>());
        tokens.retain(|(_, id)| *id < limit);
        tokens.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        tokens.dedup();
        drop_beyond(&mut file, limit);
        let ids = tokens.iter().cloned().collect();
        Ok(Self { tokens, ids, file })
    }

    /// The row of a token, if the model has it.
    pub(crate) fn id(&self, token: &str) -> Option<usize> {
        self.ids.get(token).copied()
    }

    fn is_added(&self, token: &str) -> Option<&Value> {
        let added = self.file.get("added_tokens")?.as_array()?;
        added.iter().find(|entry| entry["content"] == token)
    }
}

/// Tokens of the model proper: a mapping (BPE, WordPiece) or a list (Unigram).
fn model_tokens(file: &Value) -> Option<Vec<(String, usize)>> {
    match &file["model"]["vocab"] {
        Value::Object(map) => {
            let tokens = map.iter().map(|(token, id)| {
                let id = usize::try_from(id.as_u64()?).ok()?;
                Some((token.clone(), id))
            });
            tokens.collect()
        }
        Value::Array(list) => {
            let tokens = list.iter().zip(0..);
            tokens
                .map(|(entry, id)| Some((entry.get(0)?.as_str()?.to_owned(), id)))
                .collect()
        }
        _ => None,
    }
}

fn added_tokens(file: &Value) -> impl Iterator<Item = (&str, usize)> {
    let added = file["added_tokens"].as_array().into_iter().flatten();
    added.filter_map(|entry| {
        let id = usize::try_from(entry["id"].as_u64()?).ok()?;
        Some((entry["content"].as_str()?, id))
    })
}

fn drop_beyond(file: &mut Value, limit: usize) {
    let beyond = |id: &Value| id.as_u64().is_some_and(|id| id >= limit as u64);
    match &mut file["model"]["vocab"] {
        Value::Object(map) => map.retain(|_, id| !beyond(id)),
        Value::Array(list) => list.truncate(limit),
        _ => {}
    }
    if let Some(added) = file["added_tokens"].as_array_mut() {
        added.retain(|entry| !beyond(&entry["id"]));
    }
}

/// Takes a donor's vocabulary, adds every token of `others` that it lacks (their ordinary tokens
/// first, in order of models and ids, then their added tokens), then the named ones.
pub(crate) fn build(
    donor: &Model,
    vocabulary: &Vocabulary,
    others: &[&Vocabulary],
    named: &[TokenRecipe],
) -> Result<OutputVocabulary, MergeError> {
    let rows = vocabulary.tokens.last().map_or(0, |(_, id)| id + 1);
    let mut output = OutputVocabulary {
        tokens: vec![None; rows],
        file: vocabulary.file.clone(),
        donor: donor.folder.clone(),
    };
    let mut present: HashMap<String, ()> = HashMap::new();
    for (token, id) in &vocabulary.tokens {
        output.tokens[*id] = Some(token.clone());
        present.insert(token.clone(), ());
    }
    for added in [false, true] {
        for other in others {
            for (token, _) in &other.tokens {
                let entry = other.is_added(token);
                if entry.is_some() == added && present.insert(token.clone(), ()).is_none() {
                    output.append(token, entry)?;
                }
            }
        }
    }
    for recipe in named {
        if present.insert(recipe.token.clone(), ()).is_none() {
            output.append(&recipe.token, Some(&json!({})))?;
        }
    }
    Ok(output)
}

impl OutputVocabulary {
    /// Adds a token at the next id: as an added token with the properties of `entry`, or to the
    /// vocabulary proper.
    fn append(&mut self, token: &str, entry: Option<&Value>) -> Result<(), MergeError> {
        let id = self.tokens.len();
        self.tokens.push(Some(token.to_owned()));
        match (entry, &mut self.file["model"]["vocab"]) {
            (None, Value::Object(vocabulary)) => {
                vocabulary.insert(token.to_owned(), json!(id));
                return Ok(());
            }
            (None, Value::Array(list)) if list.len() == id => {
                list.push(json!([token, 0.0]));
                return Ok(());
            }
            _ => {}
        }
        let property = |name: &str, default: bool| {
            let value = entry.and_then(|entry| entry.get(name)).cloned();
            value.unwrap_or(json!(default))
        };
        let entry = json!({
            "id": id,
            "content": token,
            "single_word": property("single_word", false),
            "lstrip": property("lstrip", false),
            "rstrip": property("rstrip", false),
            "normalized": property("normalized", true),
            "special": property("special", false),
        });
        match self
            .file
            .get_mut("added_tokens")
            .and_then(Value::as_array_mut)
        {
            Some(added) => added.push(entry),
            None => self.file["added_tokens"] = json!([entry]),
        }
        Ok(())
    }

    /// `tokenizer_config.json` of the donor, with the tokens added since.
    pub(crate) fn config(&self, donor: &Map<String, Value>) -> Map<String, Value> {
        let mut config = donor.clone();
        let Some(decoder) = config
            .get_mut("added_tokens_decoder")
            .and_then(Value::as_object_mut)
        else {
            return config;
        };
        decoder.clear();
        for entry in self.file["added_tokens"].as_array().into_iter().flatten() {
            let mut properties = entry.clone();
            if let Some(properties) = properties.as_object_mut() {
                properties.remove("id");
            }
            decoder.insert(entry["id"].to_string(), properties);
        }
        config
    }
}
