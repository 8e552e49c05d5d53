//! JSON files of a model folder: bounded size, errors with file, line and column.

use std::path::Path;

use serde_json::{Map, Value};

use super::FormatError;

/// Largest JSON file read whole. The largest in use are tokenizer.json files of about 35 MB
/// (Gemma 3, 262k tokens); an order of magnitude above that is a mistake or an attack.
const MAX_JSON_BYTES: u64 = 512 << 20;

/// Reads a JSON file; `None` if it does not exist.
pub(super) fn read_optional(path: &Path) -> Result<Option<Value>, FormatError> {
    read_bytes_optional(path)?
        .map(|bytes| parse(path, &bytes))
        .transpose()
}

/// Reads a JSON object; `None` if the file does not exist.
///
/// # Errors
/// The file is too large, not JSON, or not an object.
pub fn read_json_object(path: &Path) -> Result<Option<Map<String, Value>>, FormatError> {
    match read_optional(path)? {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(FormatError::Json {
            path: path.to_owned(),
            reason: "expected a JSON object at the top".to_owned(),
        }),
    }
}

/// Reads a small file of a model folder whole; `None` if it does not exist.
pub(super) fn read_bytes_optional(path: &Path) -> Result<Option<Vec<u8>>, FormatError> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FormatError::io(path, error)),
    };
    if size > MAX_JSON_BYTES {
        return Err(FormatError::Json {
            path: path.to_owned(),
            reason: format!("{size} bytes exceed the limit of {MAX_JSON_BYTES}"),
        });
    }
    let bytes = std::fs::read(path).map_err(|error| FormatError::io(path, error))?;
    Ok(Some(bytes))
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Value, FormatError> {
    serde_json::from_slice(bytes).map_err(|error| FormatError::Json {
        path: path.to_owned(),
        reason: format!("not valid JSON: {error}"),
    })
}
