//! The metadata of a GGUF file, with getters whose errors name the key.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::FormatError;
use super::value::{GgufArray, GgufValue};

/// The key/value pairs of a GGUF file, in file order.
///
/// Getters come in pairs: `find_x` gives `None` for an absent key, `x` makes that an error. A key
/// of another type is an error in both. Integers of every width are accepted where one fits.
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    pairs: Vec<(String, GgufValue)>,
    index: HashMap<String, usize>,
}

impl GgufMetadata {
    /// Keys must be unique: the reader checks it.
    pub(super) fn new(path: &Path, pairs: Vec<(String, GgufValue)>) -> Self {
        let index = pairs.iter().map(|(key, _)| key.clone()).zip(0..).collect();
        Self {
            path: path.to_owned(),
            pairs,
            index,
        }
    }

    /// The file that these pairs come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All pairs, in file order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        Some(&self.pairs[*self.index.get(key)?].1)
    }

    /// `general.architecture`, the prefix of the model's own keys.
    ///
    /// # Errors
    /// The key is absent or not a string.
    pub fn architecture(&self) -> Result<&str, FormatError> {
        self.str("general.architecture")
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// The key is absent, not an integer, negative, or too large.
    pub fn usize(&self, key: &str) -> Result<usize, FormatError> {
        self.required(key, "an unsigned integer", self.find_usize(key)?)
    }

    /// An unsigned integer, if the key is there.
    ///
    /// # Errors
    /// The value is not an integer, negative, or too large.
    pub fn find_usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        self.find(key, "an unsigned integer", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    /// A token id or another number below 2^32, if the key is there.
    ///
    /// # Errors
    /// The value is not an integer, negative, or too large.
    pub fn find_u32(&self, key: &str) -> Result<Option<u32>, FormatError> {
        self.find(key, "an unsigned 32-bit integer", |value| {
            u32::try_from(value.as_u64()?).ok()
        })
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// The key is absent or not a float.
    pub fn f64(&self, key: &str) -> Result<f64, FormatError> {
        self.required(key, "a floating-point number", self.find_f64(key)?)
    }

    /// A floating-point number, if the key is there.
    ///
    /// # Errors
    /// The value is not a float.
    pub fn find_f64(&self, key: &str) -> Result<Option<f64>, FormatError> {
        self.find(key, "a floating-point number", GgufValue::as_f64)
    }

    /// A boolean, if the key is there.
    ///
    /// # Errors
    /// The value is not a boolean.
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.find(key, "a boolean", |value| match value {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// The key is absent or not a string.
    pub fn str(&self, key: &str) -> Result<&str, FormatError> {
        self.required(key, "a string", self.find_str(key)?)
    }

    /// A string, if the key is there.
    ///
    /// # Errors
    /// The value is not a string.
    pub fn find_str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.find(key, "a string", |value| match value {
            GgufValue::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of strings, if the key is there.
    ///
    /// # Errors
    /// The value is not an array of strings.
    pub fn find_strings(&self, key: &str) -> Result<Option<&[String]>, FormatError> {
        self.find(key, "an array of strings", |value| match value {
            GgufValue::Array(GgufArray::String(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit floats, if the key is there.
    ///
    /// # Errors
    /// The value is not an array of f32.
    pub fn find_f32s(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        self.find(key, "an array of f32", |value| match value {
            GgufValue::Array(GgufArray::F32(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit integers, if the key is there.
    ///
    /// # Errors
    /// The value is not an array of i32.
    pub fn find_i32s(&self, key: &str) -> Result<Option<&[i32]>, FormatError> {
        self.find(key, "an array of i32", |value| match value {
            GgufValue::Array(GgufArray::I32(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    fn find<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| FormatError::GgufKey {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: describe(value),
        })
    }

    fn required<T>(
        &self,
        key: &str,
        expected: &'static str,
        found: Option<T>,
    ) -> Result<T, FormatError> {
        found.ok_or_else(|| FormatError::GgufKey {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: "no such key".to_owned(),
        })
    }
}

fn describe(value: &GgufValue) -> String {
    match value {
        GgufValue::Array(array) => {
            format!("an array of {} {}", array.len(), array.element_type())
        }
        GgufValue::String(_) => "a string".to_owned(),
        number => format!("{number:?}"),
    }
}
