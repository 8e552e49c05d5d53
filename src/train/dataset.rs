//! Data files to conversations: alpaca and sharegpt rows, by `dataset_info.json` or by path.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TrainError;
use super::encode::Conversation;

/// A row of a data set; `None` where its turns do not alternate, or it has no answer. Such rows
/// are left out, but count in the split and in packing groups as they do in the reference.
pub type Row = Option<Conversation>;

/// Where a data set lies and what its columns are called.
struct Description {
    files: Vec<PathBuf>,
    is_sharegpt: bool,
    columns: Option<Map<String, Value>>,
    tags: Tags,
    /// Only this many rows, where the description says so.
    num_samples: Option<usize>,
}

/// What a sharegpt message calls its parts.
struct Tags {
    role: String,
    content: String,
    user: String,
    assistant: String,
    system: String,
    observation: String,
    function: String,
}

impl Tags {
    fn read(entry: &Value) -> Self {
        let tag = |key: &str, default: &str| {
            let given = entry["tags"][key].as_str();
            given.unwrap_or(default).to_owned()
        };
        Self {
            role: tag("role_tag", "from"),
            content: tag("content_tag", "value"),
            user: tag("user_tag", "human"),
            assistant: tag("assistant_tag", "gpt"),
            system: tag("system_tag", "system"),
            observation: tag("observation_tag", "observation"),
            function: tag("function_tag", "function_call"),
        }
    }
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

/// Loads the named data sets one after the other, the first `max_samples` rows of each.
///
/// # Errors
/// A data set is not described, its file is missing or malformed, or a row lacks its columns.
pub fn load(
    names: &[String],
    folder: &Path,
    max_samples: Option<usize>,
) -> Result<Vec<Row>, TrainError> {
    let mut rows = Vec::new();
    for name in names {
        let description = describe(folder, name)?;
        let limits = [max_samples, description.num_samples];
        let mut left = limits.into_iter().flatten().min().unwrap_or(usize::MAX);
        for file in &description.files {
            for (index, row) in read_rows(file)?.iter().take(left).enumerate() {
                let row = conversation(&description, row);
                rows.push(row.map_err(|reason| TrainError::Data {
                    path: file.clone(),
                    reason: format!("row {index}: {reason}"),
                })?);
                left -= 1;
            }
        }
    }
    Ok(rows)
}

/// Data files by their names.
const EXTENSIONS: [&str; 4] = ["json", "jsonl", "csv", "parquet"];

fn is_data_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn describe(folder: &Path, name: &str) -> Result<Description, TrainError> {
    let direct = Path::new(name);
    if (is_data_file(direct) || direct.is_dir()) && direct.exists() {
        return Ok(Description {
            files: data_files(direct)?,
            is_sharegpt: false,
            columns: None,
            tags: Tags::read(&Value::Null),
            num_samples: None,
        });
    }
    let path = folder.join("dataset_info.json");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        TrainError::Setting(format!(
            "dataset: {name} is neither a folder nor a file that ends in {}, and {} cannot be read \
             ({error})",
            EXTENSIONS.join(", "),
            path.display()
        ))
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
    let is_sharegpt = match entry["formatting"].as_str() {
        None | Some("alpaca") => false,
        Some("sharegpt" | "openai") => true,
        Some(other) => {
            return Err(fail(format!(
                "{name}: formatting: expected alpaca or sharegpt, found {other}"
            )));
        }
    };
    if entry["ranking"].as_bool() == Some(true) {
        return Err(fail(format!(
            "{name}: pairs to rank are not for supervised fine-tuning"
        )));
    }
    Ok(Description {
        files: data_files(&folder.join(file))?,
        is_sharegpt,
        columns: entry["columns"].as_object().cloned(),
        tags: Tags::read(entry),
        num_samples: entry["num_samples"]
            .as_u64()
            .and_then(|count| usize::try_from(count).ok()),
    })
}

/// The file itself, or all data files of a folder by name.
fn data_files(path: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let io = |error| TrainError::Io {
        path: path.to_owned(),
        error,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if is_data_file(&file) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(TrainError::Data {
            path: path.to_owned(),
            reason: "the folder holds no .json, .jsonl, .csv or .parquet file".into(),
        });
    }
    Ok(files)
}

fn read_rows(path: &Path) -> Result<Vec<Value>, TrainError> {
    if !is_data_file(path) {
        return Err(TrainError::Data {
            path: path.to_owned(),
            reason: format!(
                "expected a file with one of the endings {}",
                EXTENSIONS.join(", ")
            ),
        });
    }
    let rows = crate::rows::read(path)?;
    Ok(rows
        .into_iter()
        .map(|(_, row)| Value::Object(row))
        .collect())
}

fn text<'a>(row: &'a Value, column: Option<&str>) -> &'a str {
    column.and_then(|column| row[column].as_str()).unwrap_or("")
}

/// A row's conversation; `None` where it is to be left out.
fn conversation(description: &Description, row: &Value) -> Result<Row, String> {
    if description.is_sharegpt {
        sharegpt(description, row)
    } else {
        alpaca(description, row)
    }
}

fn alpaca(description: &Description, row: &Value) -> Result<Row, String> {
    // A column that no row can have is a mistake; one that is empty in a row is a row to leave out.
    let required = |role: &str, default: &'static str| {
        let column = description
            .column(role, default)
            .ok_or_else(|| format!("the description names no column for {role}"))?;
        row.get(column)
            .ok_or_else(|| format!("no column {column}"))
            .map(Value::as_str)
    };
    let instruction = required("prompt", "instruction")?.unwrap_or("");
    let input = text(row, description.column("query", "input"));
    let parts = [instruction, input].into_iter();
    let user = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let Some(answer) = required("response", "output")? else {
        return Ok(None);
    };
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
    turns.push((user.join("\n"), answer.to_owned()));
    Ok(Some(Conversation { system, turns }))
}

fn sharegpt(description: &Description, row: &Value) -> Result<Row, String> {
    let column = description.column("messages", "conversations");
    let column = column.ok_or("the description names no column for messages")?;
    let messages = row[column]
        .as_array()
        .ok_or_else(|| format!("no list in column {column}"))?;
    let tags = &description.tags;
    let mut system = text(row, description.column("system", "system")).to_owned();
    let mut said = Vec::with_capacity(messages.len());
    for message in messages {
        let part = |tag: &str| {
            let part = message[tag].as_str();
            part.ok_or_else(|| format!("a message without `{tag}`"))
        };
        said.push((part(&tags.role)?, part(&tags.content)?));
    }
    let mut said = said.as_slice();
    if let [(role, first), rest @ ..] = said
        && *role == tags.system
    {
        system = (*first).to_owned();
        said = rest;
    }
    let is_tool = |role: &str| role == tags.observation || role == tags.function;
    if said.iter().any(|(role, _)| is_tool(role)) {
        return Err("tool calls and their results are not supported".into());
    }
    let alternate = said
        .chunks(2)
        .all(|pair| matches!(pair, [(a, _), (b, _)] if *a == tags.user && *b == tags.assistant));
    if said.is_empty() || !alternate {
        return Ok(None);
    }
    let turns = said
        .chunks(2)
        .map(|pair| (pair[0].1.to_owned(), pair[1].1.to_owned()))
        .collect();
    Ok(Some(Conversation { system, turns }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn description(entry: &Value) -> Description {
        Description {
            files: vec![],
            is_sharegpt: entry["formatting"] == "sharegpt",
            columns: entry["columns"].as_object().cloned(),
            tags: Tags::read(entry),
            num_samples: None,
        }
    }

    #[test]
    fn an_empty_instruction_leaves_no_line_feed_and_no_answer_leaves_no_row() {
        let plain = description(&json!({}));
        let row = json!({"instruction": "", "input": "x", "output": "y"});
        let found = conversation(&plain, &row).unwrap().unwrap();
        assert_eq!(found.turns, [("x".to_owned(), "y".to_owned())]);
        let row = json!({"instruction": "a", "output": null});
        assert_eq!(conversation(&plain, &row), Ok(None));
        assert!(conversation(&plain, &json!({"instruction": "a"})).is_err());
    }

    #[test]
    fn a_folder_is_all_its_files_whatever_their_kind() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("b.csv", "instruction,output\n\"1 +\n1?\",2\n");
        put("a.jsonl", "{\"instruction\": \"x\", \"output\": \"y\"}\n");
        put("notes.txt", "unread");
        let name = folder.path().display().to_string();
        let rows = load(&[name], Path::new("nowhere"), None).unwrap();
        let turns: Vec<_> = rows
            .into_iter()
            .flatten()
            .flat_map(|row| row.turns)
            .collect();
        let turn = |user: &str, answer: &str| (user.to_owned(), answer.to_owned());
        assert_eq!(turns, [turn("x", "y"), turn("1 +\n1?", "2")]);
    }

    #[test]
    fn columns_that_are_not_named_are_absent() {
        let named = description(&json!({"columns": {"prompt": "q", "response": "a"}}));
        let row = json!({"q": "1", "a": "2", "input": "unread", "system": "unread"});
        let found = conversation(&named, &row).unwrap().unwrap();
        assert_eq!(found.turns, [("1".to_owned(), "2".to_owned())]);
        assert_eq!(found.system, "");
    }

    #[test]
    fn tags_rename_roles_and_wrong_orders_are_left_out() {
        let tags = json!({"role_tag": "role", "content_tag": "content", "user_tag": "user",
            "assistant_tag": "assistant"});
        let entry = json!({"formatting": "sharegpt", "columns": {"messages": "m"}, "tags": tags});
        let description = description(&entry);
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let row = json!({"m": [message("system", "s"), message("user", "u"),
            message("assistant", "a")]});
        let found = conversation(&description, &row).unwrap().unwrap();
        assert_eq!((found.system.as_str(), found.turns.len()), ("s", 1));
        for wrong in [
            json!([message("assistant", "a"), message("user", "u")]),
            json!([message("user", "u")]),
            json!([]),
        ] {
            assert_eq!(conversation(&description, &json!({"m": wrong})), Ok(None));
        }
    }
}
