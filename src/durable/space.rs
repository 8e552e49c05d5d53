//! Free disk space, asked before a long job starts rather than found out at its end.

use std::io;
use std::path::Path;

/// Bytes that the current user can still write on the file system that holds `path`.
///
/// `path` need not exist yet: its nearest existing ancestor is asked.
///
/// # Errors
/// No ancestor exists, or the file system does not answer.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let mut probe = path;
    while !probe.exists() {
        probe = match probe.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
    }
    let stat = rustix::fs::statvfs(probe)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_exist_yet_has_a_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(&folder.path().join("not/yet/there")).unwrap() > 0);
    }
}
