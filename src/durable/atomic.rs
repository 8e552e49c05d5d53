//! Atomic replacement of one file by temp file, fsync and rename.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes gathered before a write reaches the kernel.
const BUFFER_BYTES: usize = 1 << 20;

/// A file under construction: nothing stands at its path until [`AtomicFile::commit`].
///
/// Dropped without a commit, it leaves no trace.
pub struct AtomicFile {
    writer: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will stand at `path`. The folder must exist.
    ///
    /// # Errors
    /// The temporary file cannot be made beside `path` (folder missing or not writable).
    pub fn create(path: &Path) -> io::Result<Self> {
        let folder = parent(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temp = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .permissions(default_permissions())
            .tempfile_in(folder)
            .map_err(|error| named(error, path))?;
        Ok(Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, temp),
            path: path.to_owned(),
        })
    }

    /// The file behind the buffer, for positioned writes from several threads.
    ///
    /// # Errors
    /// The buffered bytes cannot be written.
    pub fn file(&mut self) -> io::Result<&File> {
        self.writer.flush()?;
        Ok(self.writer.get_ref().as_file())
    }

    /// Flushes everything to the disk and puts the file in its place.
    ///
    /// # Errors
    /// Writing, flushing or renaming fails; the old file, if any, is untouched.
    pub fn commit(self) -> io::Result<()> {
        let Self { writer, path } = self;
        let commit = || -> io::Result<()> {
            let temp = writer
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            temp.as_file().sync_all()?;
            temp.persist(&path).map_err(|error| error.error)?;
            File::open(parent(&path))?.sync_all()
        };
        commit().map_err(|error| named(error, &path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.writer.seek(position)
    }
}

/// Replaces the file at `path` by `contents`, or leaves it as it was.
///
/// # Errors
/// As [`AtomicFile::create`] and [`AtomicFile::commit`]; the error's text names the path.
pub fn write_atomic(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(contents)
        .map_err(|error| named(error, path))?;
    file.commit()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What `File::create` would ask for: the umask decides. (Temporary files default to 0600.)
fn default_permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_file_leaves_the_old_one_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_committed_file_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_atomic(Path::new("/nonexistent/x/a.json"), b"").unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/x/a.json"),
            "{error}"
        );
    }
}
