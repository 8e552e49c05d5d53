//! Whether a folder can be written, asked before a long job starts rather than found out at its end.

use std::io;
use std::path::{Path, PathBuf};

/// Writes a file into `folder` and takes it away again, with the folders that had to be made for
/// it: nothing is left behind. An empty path is the working directory.
///
/// # Errors
/// A folder cannot be made, or no file can be written into it.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect();
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::Builder::new().tempfile_in(folder))
        .and_then(|mut file| io::Write::write_all(&mut file, b"probe"));
    for path in missing {
        // One that another program has put something into meanwhile stays, as it should.
        let _ = std::fs::remove_dir(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("a/b")).unwrap();
        check_writable(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        assert!(check_writable(&file).is_err() && check_writable(&file.join("x")).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }
}
