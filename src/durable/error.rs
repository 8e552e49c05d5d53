//! What can go wrong with a journal, in words that a user can act on.

use std::io;
use std::path::PathBuf;

/// A journal that cannot be opened, read or extended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its folder cannot be opened, made or locked.
    #[error("{}: cannot open the journal: {source}", path.display())]
    Open {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds it.
    #[error(
        "{}: another run is writing this journal; wait for it, or choose another output folder",
        path.display()
    )]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// The file is something else.
    #[error(
        "{}: this is not a journal of micota (its first line is no journal header); move it away",
        path.display()
    )]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// Written in a layout that this program does not read.
    #[error(
        "{}: journal layout {found}, this program reads layout {expected}; \
         finish it with the program that wrote it, or start over without it",
        path.display()
    )]
    Version {
        /// The journal.
        path: PathBuf,
        /// Layout in the file.
        found: u64,
        /// Layout of this program.
        expected: u64,
    },
    /// The journal belongs to a run with other settings.
    #[error(
        "{}: the unfinished run in this journal had other settings:\n{}\n\
         rerun with those settings to finish it, choose another output folder, \
         or start over without it",
        path.display(),
        differences.join("\n")
    )]
    Settings {
        /// The journal.
        path: PathBuf,
        /// One line a key: `  key: value there, now value here`.
        differences: Vec<String>,
    },
    /// A line that is not the last one is damaged.
    #[error(
        "{}: line {line} is damaged ({reason}); only a last line can be torn by a crash, \
         so the file was changed from outside",
        path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// From 1, the header included.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A record could not be written; the ones before it are safe.
    #[error(
        "{}: cannot write record {}: {source}{}; \
         the {finished} finished records are safe and the same command continues after them",
        path.display(),
        finished + 1,
        room(source, *free_bytes)
    )]
    Append {
        /// The journal.
        path: PathBuf,
        /// Records before it.
        finished: usize,
        /// Free bytes on that file system, where it says so.
        free_bytes: Option<u64>,
        /// What the system said.
        source: io::Error,
    },
}

/// The free space, said only where the failure is about space.
fn room(source: &io::Error, free_bytes: Option<u64>) -> String {
    let about_space = matches!(
        source.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    match free_bytes {
        Some(bytes) if about_space => format!(" ({bytes} bytes free; make room)"),
        _ => String::new(),
    }
}
