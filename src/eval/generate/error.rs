//! What ends a batch generation before or during its run.

use std::io;
use std::path::PathBuf;

use crate::durable::JournalError;
use crate::engine::{EngineError, RequestError};

/// An error of `micota generate`.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The input cannot be read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the input is not a prompt.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The input has no lines.
    #[error("{}: no prompts in the file", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// A line asks for something that the engine can never run.
    #[error("{}:{line}: {source}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: RequestError,
    },
    /// The journal cannot be opened or extended.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The output cannot be written.
    #[error("{}: cannot write: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
