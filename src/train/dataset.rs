//! Data files to conversations: alpaca and sharegpt rows in JSON or JSONL, by `dataset_info.json`
//! or by path.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TrainError;
use super::encode::Conversation;
use super::recipe::Recipe;

/// The conversations of a recipe's data sets, in order, and how many rows were dropped because
/// their turns do not alternate.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Rows.
    pub conversations: Vec<Conversation>,
    /// Rows left out.
    pub dropped: usize,
}

/// Where a data set lies and what its columns are called.
struct Description {
    path: PathBuf,
    is_sharegpt: bool,
    columns: Option<Map<String, Value>>,
}

impl Description {
    /// The name of a column: as the description says, the default where it says nothing at all,
    /// and absent where it names other columns only.
    fn column<'a>(&'a self, role: &str, default: &'a str) -> Option<&'a str> {
        match &self.columns {
            None => Some(default),
            Some(columns) => columns.get(role).and_then(Value::as_str),
        }
    }
}

/// Loads the data sets that a recipe names.
///
/// # Errors
/// A data set is not described, its file is missing or malformed, or a row lacks its columns.
pub fn load(recipe: &Recipe) -> Result<Dataset, TrainError> {
    let mut dataset = Dataset::default();
    for name in recipe
        .dataset
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let description = describe(&recipe.dataset_dir, name)?;
        let rows = read_rows(&description.path)?;
        let most = recipe.max_samples.unwrap_or(usize::MAX);
        for (index, row) in rows.iter().take(most).enumerate() {
            match conversation(&description, row) {
                Ok(Some(conversation)) => dataset.conversations.push(conversation),
                Ok(None) => dataset.dropped += 1,
                Err(reason) => {
                    let reason = format!("row {index}: {reason}");
                    return Err(TrainError::Data {
                        path: description.path,
                        reason,
                    });
                }
            }
        }
    }
    Ok(dataset)
}

fn describe(folder: &Path, name: &str) -> Result<Description, TrainError> {
    let direct = Path::new(name);
    if direct
        .extension()
        .is_some_and(|e| e == "json" || e == "jsonl")
        && direct.exists()
    {
        return Ok(Description {
            path: direct.to_owned(),
            is_sharegpt: false,
            columns: None,
        });
    }
    let path = folder.join("dataset_info.json");
    let text = std::fs::read_to_string(&path).map_err(|error| TrainError::Io {
        path: path.clone(),
        error,
    })?;
    let fail = |reason: String| TrainError::Data {
        path: path.clone(),
        reason,
    };
    let info: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let known = || info.keys().cloned().collect::<Vec<_>>().join(", ");
    let entry = info.get(name).ok_or_else(|| {
        fail(format!(
            "no data set named {name}; it describes {}",
            known()
        ))
    })?;
    let file = entry["file_name"].as_str().ok_or_else(|| {
        fail(format!(
            "{name}: file_name is missing; only local files are read"
        ))
    })?;
    Ok(Description {
        path: folder.join(file),
        is_sharegpt: entry["formatting"].as_str() == Some("sharegpt"),
        columns: entry["columns"].as_object().cloned(),
    })
}

fn read_rows(path: &Path) -> Result<Vec<Value>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|error| TrainError::Io {
        path: path.to_owned(),
        error,
    })?;
    let fail = |reason: String| TrainError::Data {
        path: path.to_owned(),
        reason,
    };
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(&text).map_err(|error| fail(error.to_string()));
    }
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| fail(format!("line {}: {error}", number + 1)))
        })
        .collect()
}

fn text<'a>(row: &'a Value, column: Option<&str>) -> &'a str {
    column.and_then(|column| row[column].as_str()).unwrap_or("")
}

/// A row's conversation; `None` where its turns do not alternate.
fn conversation(description: &Description, row: &Value) -> Result<Option<Conversation>, String> {
    if description.is_sharegpt {
        return sharegpt(description, row);
    }
    let required = |role: &str, default: &'static str| {
        let column = description
            .column(role, default)
            .ok_or_else(|| format!("the description names no column for {role}"))?;
        row[column]
            .as_str()
            .ok_or_else(|| format!("no text in column {column}"))
    };
    let mut user = required("prompt", "instruction")?.to_owned();
    let input = text(row, description.column("query", "input"));
    if !input.is_empty() {
        user = format!("{user}\n{input}");
    }
    let answer = required("response", "output")?.to_owned();
    let system = text(row, description.column("system", "system")).to_owned();
    let mut turns = Vec::new();
    if let Some(history) = description
        .column("history", "history")
        .and_then(|c| row[c].as_array())
    {
        for pair in history {
            match (pair[0].as_str(), pair[1].as_str()) {
                (Some(user), Some(answer)) => turns.push((user.to_owned(), answer.to_owned())),
                _ => return Err("history holds something other than pairs of texts".into()),
            }
        }
    }
    turns.push((user, answer));
    Ok(Some(Conversation { system, turns }))
}

fn sharegpt(description: &Description, row: &Value) -> Result<Option<Conversation>, String> {
    let column = description.column("messages", "conversations");
    let column = column.ok_or("the description names no column for messages")?;
    let messages = row[column]
        .as_array()
        .ok_or_else(|| format!("no list in column {column}"))?;
    let mut system = text(row, description.column("system", "system")).to_owned();
    let mut said = Vec::with_capacity(messages.len());
    for message in messages {
        let role = message["from"].as_str().ok_or("a message without `from`")?;
        let value = message["value"]
            .as_str()
            .ok_or("a message without `value`")?;
        said.push((role, value));
    }
    let mut said = said.as_slice();
    if let [("system", first), rest @ ..] = said {
        system = (*first).to_owned();
        said = rest;
    }
    let alternate = said
        .chunks(2)
        .all(|pair| matches!(pair, [("human", _), ("gpt", _)]));
    if said.is_empty() || !alternate {
        return Ok(None);
    }
    let turns = said
        .chunks(2)
        .map(|pair| (pair[0].1.to_owned(), pair[1].1.to_owned()))
        .collect();
    Ok(Some(Conversation { system, turns }))
}
