//! Read-only memory maps of files: the only unsafe code of this room.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::FormatError;

/// A file mapped for reading; pages are loaded when touched.
///
/// A map is a promise that nobody changes the file while it is in use. Every file that this
/// program writes is replaced by rename, never changed in place, so its own output keeps it.
/// If another program truncates a mapped file, the process ends with SIGBUS.
pub(crate) struct MappedFile {
    map: memmap2::Mmap,
    path: PathBuf,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path).map_err(|error| FormatError::io(path, error))?;
        let is_file = file.metadata().map(|metadata| metadata.is_file());
        if !is_file.map_err(|error| FormatError::io(path, error))? {
            return Err(FormatError::NotAModel {
                path: path.to_owned(),
                found: "not a regular file".to_owned(),
            });
        }
        let map = map_read_only(&file).map_err(|error| FormatError::io(path, error))?;
        Ok(Self {
            map,
            path: path.to_owned(),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[allow(
    unsafe_code,
    reason = "mapping a file is unsafe because others can change it; see MappedFile"
)]
fn map_read_only(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is private to this process and read-only. The remaining hazard, another
    // program changing the file while it is mapped, is documented at `MappedFile`; bytes are only
    // ever interpreted as plain numbers, or copied and validated (UTF-8, JSON), so a change can
    // alter values but break no invariant of a Rust type.
    unsafe { memmap2::Mmap::map(file) }
}
