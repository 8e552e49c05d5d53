//! A document: one problem of a benchmark, with the place it came from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::builtin::Gold;
use super::config::TaskConfig;
use super::error::TaskError;
use super::python;
use super::template::TextTemplate;

/// One problem. Fields keep the order of their file, and numbers their spelling (`27.0`): this is
/// what is logged and hashed.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Fields in the file's order, then those that the task adds.
    pub fields: Map<String, Value>,
    /// Where it came from.
    pub origin: Origin,
}

/// A row and where it stands, before the task has seen it.
pub(super) type Row = (Origin, Map<String, Value>);

/// A file and the line (or row) in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// Line or row, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Document {
    /// The text to ask, by `doc_to_text` or what stands for it.
    pub(super) fn text(&self, task: &TaskConfig, by: &TextTemplate) -> Result<String, TaskError> {
        let value = self.value(task, "doc_to_text", by)?;
        Ok(python::text(&value))
    }

    /// The target, by `doc_to_target` or what stands for it: a field as it is, a rendered text, or
    /// the list that a rendered text spells.
    pub(super) fn target(&self, task: &TaskConfig, by: &TextTemplate) -> Result<Value, TaskError> {
        let value = self.value(task, "doc_to_target", by)?;
        let is_field = self.fields.contains_key(by.source());
        Ok(match &value {
            Value::String(text) if !is_field && text.starts_with('[') && text.ends_with(']') => {
                python::literal_list(text).unwrap_or(value)
            }
            _ => value,
        })
    }

    pub(super) fn value(
        &self,
        task: &TaskConfig,
        key: &str,
        by: &TextTemplate,
    ) -> Result<Value, TaskError> {
        by.value(&self.fields).map_err(|message| TaskError::Render {
            origin: self.origin.to_string(),
            key: key.to_owned(),
            task: task.name.clone(),
            message: format!("{message}; the document has {}", field_names(&self.fields)),
        })
    }

    /// The text that holds the gold answer: the target, a field, or a text with the gold in its
    /// last box. See [`TaskConfig::gold`].
    ///
    /// # Errors
    /// The field is missing.
    pub fn gold_text(&self, task: &TaskConfig, target: &Value) -> Result<String, TaskError> {
        match task.gold() {
            Gold::Target => Ok(python::text(target)),
            Gold::Field(field) | Gold::LastBoxOf(field) => {
                let value = self.fields.get(field).ok_or_else(|| TaskError::Field {
                    origin: self.origin.to_string(),
                    field: field.to_owned(),
                    reader: format!("the grader of task {}", task.name),
                    found: format!("the document has {}", field_names(&self.fields)),
                })?;
                Ok(python::text(value))
            }
        }
    }
}

/// Field names for an error message.
pub(super) fn field_names(fields: &Map<String, Value>) -> String {
    let names: Vec<String> = fields
        .keys()
        .take(20)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len() {
        0 => "no fields".to_owned(),
        _ => names.join(", "),
    }
}
