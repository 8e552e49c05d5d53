//! A file whose layout is fixed before its data come: positioned writes, complete or absent.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{DType, FormatError};
use crate::durable::AtomicFile;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// The name in the file.
    pub name: String,
    /// How the elements are stored.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    /// Bytes of the data; `folder` is for the error's text only.
    pub(super) fn bytes(&self, folder: &Path) -> Result<u64, FormatError> {
        let bytes = self.dtype.tensor_bytes(&self.shape);
        let bytes = bytes.ok_or_else(|| FormatError::Plan {
            path: folder.to_owned(),
            reason: format!(
                "tensor {}: shape {:?} is impossible for {}",
                self.name, self.shape, self.dtype
            ),
        })?;
        Ok(bytes as u64)
    }
}

/// One file under construction. Writers share it by reference; pieces must not overlap.
pub(super) struct PlannedFile {
    path: PathBuf,
    /// Keeps the temporary file; committed at the end.
    target: AtomicFile,
    /// The same file, for positioned writes through a shared reference.
    file: File,
    slots: HashMap<String, Slot>,
    /// Names in the plan's order, so that errors do not depend on a hash table's.
    order: Vec<String>,
    /// Whether data were written since the last [`PlannedFile::sync`].
    unsynced: AtomicBool,
}

struct Slot {
    begin: u64,
    len: u64,
    written: AtomicU64,
}

impl PlannedFile {
    /// Creates the (temporary) file at its full length and writes `header`.
    ///
    /// `tensors`: name, first byte in the file, number of bytes. Bytes between them are zeros.
    pub(super) fn create(
        path: PathBuf,
        header: &[u8],
        tensors: impl IntoIterator<Item = (String, u64, u64)>,
        file_bytes: u64,
    ) -> Result<Self, FormatError> {
        let mut slots = HashMap::new();
        let mut order = Vec::new();
        for (name, begin, len) in tensors {
            let written = AtomicU64::new(0);
            let slot = Slot {
                begin,
                len,
                written,
            };
            if slots.insert(name.clone(), slot).is_some() {
                let reason = format!("tensor {name} is planned twice");
                return Err(FormatError::Plan { path, reason });
            }
            order.push(name);
        }
        let io = |error| FormatError::io(&path, error);
        let mut target = AtomicFile::create(&path).map_err(io)?;
        let file = target.file().and_then(File::try_clone).map_err(io)?;
        file.set_len(file_bytes).map_err(io)?;
        file.write_all_at(header, 0).map_err(io)?;
        Ok(Self {
            path,
            target,
            file,
            slots,
            order,
            unsynced: AtomicBool::new(true),
        })
    }

    /// Writes a piece of a tensor, `offset` bytes from its beginning.
    pub(super) fn write_at(
        &self,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FormatError> {
        let slot = self
            .slots
            .get(name)
            .ok_or_else(|| self.error(format!("tensor {name} is not in the plan")))?;
        let size = bytes.len() as u64;
        if offset.checked_add(size).is_none_or(|end| end > slot.len) {
            return Err(self.error(format!(
                "tensor {name}: {size} bytes at {offset} exceed the planned {}",
                slot.len
            )));
        }
        self.file
            .write_all_at(bytes, slot.begin + offset)
            .map_err(|error| FormatError::io(&self.path, error))?;
        slot.written.fetch_add(size, Ordering::Relaxed);
        self.unsynced.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Has the disk store what has been written since the last time.
    pub(super) fn sync(&self) -> Result<(), FormatError> {
        if self.unsynced.swap(false, Ordering::Relaxed) {
            let stored = self.file.sync_data();
            stored.map_err(|error| FormatError::io(&self.path, error))?;
        }
        Ok(())
    }

    /// Fails unless every tensor has been written completely.
    pub(super) fn check_complete(&self) -> Result<(), FormatError> {
        for name in &self.order {
            let slot = &self.slots[name];
            let written = slot.written.load(Ordering::Relaxed);
            if written != slot.len {
                let planned = slot.len;
                return Err(self.error(format!(
                    "tensor {name}: {written} of {planned} bytes were written"
                )));
            }
        }
        Ok(())
    }

    /// Puts the file in its place.
    pub(super) fn commit(self) -> Result<PathBuf, FormatError> {
        let path = self.path;
        match self.target.commit() {
            Ok(()) => Ok(path),
            Err(error) => Err(FormatError::io(&path, error)),
        }
    }

    fn error(&self, reason: String) -> FormatError {
        FormatError::Plan {
            path: self.path.clone(),
            reason,
        }
    }
}

/// Distributes tensors over files in order: one that would take a file beyond `max_bytes` or
/// `max_tensors` starts the next. There is always at least one file.
pub(super) fn split<T>(
    tensors: impl IntoIterator<Item = (T, u64)>,
    max_bytes: u64,
    max_tensors: usize,
) -> Vec<Vec<T>> {
    let mut files = Vec::new();
    let mut current = Vec::new();
    let mut current_bytes = 0_u64;
    for (tensor, bytes) in tensors {
        let full = current_bytes.saturating_add(bytes) > max_bytes || current.len() >= max_tensors;
        if full && !current.is_empty() {
            files.push(std::mem::take(&mut current));
            current_bytes = 0;
        }
        current_bytes += bytes;
        current.push(tensor);
    }
    files.push(current);
    files
}
