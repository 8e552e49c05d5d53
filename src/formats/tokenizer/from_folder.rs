//! The tokenizer of a Hugging Face folder: tokenizer.json and the small files around it.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::super::{FormatError, json};
use super::Loaded;

pub(super) fn load(
    folder: &Path,
    config: Option<&Value>,
    generation_config: Option<&Value>,
) -> Result<Loaded, FormatError> {
    let path = folder.join("tokenizer.json");
    let Some(bytes) = json::read_bytes_optional(&path)? else {
        return Err(FormatError::Tokenizer {
            path: folder.to_owned(),
            reason: missing(folder),
        });
    };
    let mut inner =
        tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| FormatError::Tokenizer {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    let settings =
        json::read_json_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let map = json::read_json_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    add_missing(&path, &mut inner, &settings)?;
    // `null` in tokenizer_config.json is a statement: this model has no such token.
    let token = |name: &str| settings.get(name).or_else(|| map.get(name)).and_then(text);
    let flag = |name: &str| settings.get(name).and_then(Value::as_bool);
    let configs = [generation_config, config];
    Ok(Loaded {
        num_tokens: 0,
        bos: token("bos_token"),
        eos: token("eos_token"),
        pad: token("pad_token"),
        unk: token("unk_token"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        eos_token_ids: configs.iter().flatten().flat_map(|c| eos_ids(c)).collect(),
        chat_templates: chat_templates(folder, &settings)?,
        inner,
    })
}

fn missing(folder: &Path) -> String {
    if folder.join("tokenizer.model").exists() {
        "only tokenizer.model is here; tokenizer.json is needed (save the tokenizer with \
         transformers' fast tokenizer once)"
            .to_owned()
    } else {
        "no tokenizer.json in the folder; download or copy it from the original model".to_owned()
    }
}

/// A token written as a string or as an object with its text in `content`.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_owned())
}

/// `eos_token_id`: a number or a list of numbers.
fn eos_ids(config: &Value) -> Vec<u32> {
    let ids = match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().collect(),
        Some(id) => vec![id],
        None => Vec::new(),
    };
    ids.into_iter()
        .filter_map(|id| u32::try_from(id.as_u64()?).ok())
        .collect()
}

/// Adds the tokens that tokenizer_config.json knows and tokenizer.json does not, as transformers
/// does. Each must get the id that the file states.
fn add_missing(
    path: &Path,
    inner: &mut tokenizers::Tokenizer,
    settings: &Map<String, Value>,
) -> Result<(), FormatError> {
    let Some(Value::Object(decoder)) = settings.get("added_tokens_decoder") else {
        return Ok(());
    };
    let mut tokens: Vec<(u32, &Value)> = decoder
        .iter()
        .filter_map(|(id, token)| Some((id.parse().ok()?, token)))
        .collect();
    tokens.sort_unstable_by_key(|(id, _)| *id);
    for (id, token) in tokens {
        let Some(content) = text(token) else { continue };
        let known = inner.token_to_id(&content);
        if known.is_none() {
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            let added = AddedToken::from(content.clone(), flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            inner
                .add_tokens([added])
                .map_err(|error| FormatError::Tokenizer {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
        }
        let found = inner.token_to_id(&content);
        if found != Some(id) {
            return Err(FormatError::Tokenizer {
                path: path.to_owned(),
                reason: format!(
                    "tokenizer_config.json gives token {content:?} the id {id}, \
                     tokenizer.json gives {found:?}; take both files from the same model"
                ),
            });
        }
    }
    Ok(())
}

/// Every chat template of the folder. chat_template.jinja wins over chat_template.json, which
/// wins over tokenizer_config.json, as in transformers.
fn chat_templates(
    folder: &Path,
    settings: &Map<String, Value>,
) -> Result<Vec<(String, String)>, FormatError> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = json::read_bytes_optional(&path)? {
        let source = String::from_utf8(bytes).map_err(|_| FormatError::Tokenizer {
            path,
            reason: "the template is not UTF-8".to_owned(),
        })?;
        return Ok(vec![("default".to_owned(), source)]);
    }
    let file = json::read_json_object(&folder.join("chat_template.json"))?;
    let template = file
        .as_ref()
        .and_then(|file| file.get("chat_template"))
        .or_else(|| settings.get("chat_template"));
    Ok(match template {
        Some(Value::String(source)) => vec![("default".to_owned(), source.clone())],
        Some(Value::Array(templates)) => templates
            .iter()
            .filter_map(|entry| {
                let name = entry.get("name")?.as_str()?;
                Some((name.to_owned(), entry.get("template")?.as_str()?.to_owned()))
            })
            .collect(),
        _ => Vec::new(),
    })
}
