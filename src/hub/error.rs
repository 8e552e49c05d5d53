//! What can go wrong between an id and a file on this machine.

use std::io;
use std::path::PathBuf;

/// An error of the `hub` room.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not an id at all.
    #[error("`{id}` is not the id of a hub repository: expected NAME or OWNER/NAME")]
    BadId {
        /// What was given.
        id: String,
    },
    /// The cache does not have it and the network may not be used.
    #[error(
        "{id}: {what} is not in the cache {} and HF_HUB_OFFLINE is set; unset it to download, or \
         copy the cache from a machine that has it",
        cache.display()
    )]
    Offline {
        /// The repository.
        id: String,
        /// The file, or "the list of files".
        what: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The hub refuses or cannot be reached.
    #[error("{id}: {what} from {endpoint}: {problem}")]
    Request {
        /// The repository.
        id: String,
        /// The file, or "the list of files".
        what: String,
        /// The server.
        endpoint: String,
        /// What it says, and what may help.
        problem: String,
    },
    /// The downloaded bytes are not the hub's.
    #[error(
        "{id}: {file}: SHA-256 {found} downloaded, {expected} expected; the damaged copy was \
         deleted, run again"
    )]
    Checksum {
        /// The repository.
        id: String,
        /// The file.
        file: String,
        /// The hub's checksum.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The disk that holds the cache is too small.
    #[error(
        "{id}: {file} has {needed} bytes, the disk of {} has {free} free; set HF_HOME to a folder \
         on another one",
        cache.display()
    )]
    DiskFull {
        /// The repository.
        id: String,
        /// The file.
        file: String,
        /// Bytes of the file that are still to come.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// The cache.
        cache: PathBuf,
    },
    /// The server's answer would lead outside the cache.
    #[error("{id}: the server names {what} `{name}`, which is not a plain name")]
    UnsafeName {
        /// The repository.
        id: String,
        /// "a file", "an etag", "a commit".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A model repository without weights that can be read.
    #[error("{id}: no model to load: {problem}")]
    NoModel {
        /// The repository.
        id: String,
        /// What is there instead.
        problem: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}
