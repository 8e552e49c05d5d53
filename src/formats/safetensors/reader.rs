//! One safetensors file, memory-mapped.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::FormatError;
use super::super::checkpoint::TensorView;
use super::super::mmap::MappedFile;
use super::header::{self, TensorEntry};

/// A safetensors file that has been checked as a whole: adapters, optimizer states, golden data.
///
/// For a model's folder use [`Checkpoint`](super::super::Checkpoint), which knows shards.
pub struct SafetensorsFile {
    file: MappedFile,
    tensors: Vec<TensorEntry>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    /// The file cannot be read, or anything that it states is inconsistent.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let file = MappedFile::open(path)?;
        let header = header::parse(file.bytes()).map_err(|fault| FormatError::Safetensors {
            path: path.to_owned(),
            fault,
        })?;
        Ok(Self {
            file,
            tensors: header.tensors,
            metadata: header.metadata,
        })
    }

    /// The `__metadata__` block.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All tensors, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors
            .iter()
            .map(|entry| TensorView::of_entry(entry, self.file.bytes()))
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let entry = self.tensors.iter().find(|entry| entry.name == name)?;
        Some(TensorView::of_entry(entry, self.file.bytes()))
    }

    pub(in super::super) fn into_parts(self) -> (MappedFile, Vec<TensorEntry>) {
        (self.file, self.tensors)
    }
}
