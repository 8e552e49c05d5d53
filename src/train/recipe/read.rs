//! A recipe's text to a [`Recipe`]: YAML, overrides, and a message for every key that is not read.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::keys::{NOTED, REFUSED, asks_for_nothing};
use super::{FIELDS, Recipe};
use crate::train::TrainError;

/// Names less alike than this are not suggested.
const LEAST_SIMILARITY: f64 = 0.75;

/// A checked recipe, and one line for each key without effect.
pub(super) fn read(
    path: &Path,
    text: &str,
    overrides: &[String],
) -> Result<(Recipe, Vec<String>), TrainError> {
    let fail = |reason: String| TrainError::Recipe {
        path: path.to_owned(),
        reason,
    };
    let mut keys: Map<String, Value> = yaml(text).map_err(fail)?;
    for setting in overrides {
        let (key, value) = parse_override(setting).map_err(fail)?;
        keys.insert(key, value);
    }
    let mut notes = Vec::new();
    let mut read = Map::new();
    for (key, value) in keys {
        if value.is_null() {
            continue;
        }
        if FIELDS.contains(&key.as_str()) {
            read.insert(key, value);
        } else if let Some((_, why)) = NOTED.iter().find(|(name, _)| *name == key) {
            notes.push(format!("{key} has no effect: {why}"));
        } else if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == key) {
            if !asks_for_nothing(&value) {
                return Err(fail(format!(
                    "{}{key}: {value} is not supported: {why}",
                    place(text, &key)
                )));
            }
        } else {
            return Err(fail(format!(
                "{}unknown key {key}{}",
                place(text, &key),
                suggestion(&key)
            )));
        }
    }
    let recipe: Recipe = serde_path(&read)
        .map_err(|(key, reason)| fail(format!("{}{key}{reason}", place(text, &key))))?;
    recipe
        .check()
        .map_err(|(key, reason)| fail(format!("{}{key}: {reason}", place(text, key))))?;
    Ok((recipe, notes))
}

/// The recipe, or the key that does not fit (empty where one is missing) and why.
fn serde_path(keys: &Map<String, Value>) -> Result<Recipe, (String, String)> {
    let whole = |keys: Map<String, Value>| serde_json::from_value(Value::Object(keys));
    let error = match whole(keys.clone()) {
        Ok(recipe) => return Ok(recipe),
        Err(error) => error,
    };
    // The message of a wrong type does not say where: the key is the one without which the
    // message changes.
    let message = error.to_string();
    for key in keys.keys() {
        let mut without = keys.clone();
        without.remove(key);
        let changed = whole(without).map_or_else(|e| e.to_string(), |_| String::new());
        if changed != message {
            return Err((key.clone(), format!(": {message}")));
        }
    }
    Err((String::new(), message))
}

/// YAML in which only `true` and `false` are booleans: `eval_strategy: no` is a word.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// `key=value`, the value as YAML would read it.
fn parse_override(setting: &str) -> Result<(String, Value), String> {
    let (key, value) = setting
        .split_once('=')
        .ok_or_else(|| format!("expected key=value, found {setting}"))?;
    if value.is_empty() {
        return Ok((key.to_owned(), Value::Null));
    }
    let value = yaml(value).map_err(|error| format!("{key}: {error}"))?;
    Ok((key.trim_start_matches('-').to_owned(), value))
}

/// `line N: ` of a key in the recipe's text; empty where an override gave it.
fn place(text: &str, key: &str) -> String {
    let holds = |line: &str| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    match text.lines().position(holds) {
        Some(line) if !key.is_empty() => format!("line {}: ", line + 1),
        _ => String::new(),
    }
}

fn suggestion(key: &str) -> String {
    let known = FIELDS
        .iter()
        .chain(NOTED.iter().map(|(name, _)| name))
        .chain(REFUSED.iter().map(|(name, _)| name));
    let nearest = known
        .map(|name| (strsim::jaro_winkler(key, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((similarity, name)) if similarity >= LEAST_SIMILARITY => {
            format!("; did you mean {name}?")
        }
        _ => String::new(),
    }
}
