//! What ends a run. A bad answer never does; it is counted.

use std::io;
use std::path::PathBuf;

use crate::durable::JournalError;

/// An error of the `eval` room.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The journal cannot be opened or extended.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine or server failed.
    #[error("generation failed: {0}")]
    Generator(String),
    /// The generator returned something that was not asked for.
    #[error(
        "the generator returned request {request_id}, sample {sample_index}, which nobody asked for"
    )]
    UnknownCompletion {
        /// Its request.
        request_id: u64,
        /// Its sample.
        sample_index: usize,
    },
    /// The generator has nothing left to do, but answers are missing.
    #[error("the generator finished with {missing} of {total} answers missing")]
    MissingAnswers {
        /// Answers that never came.
        missing: usize,
        /// Answers asked for.
        total: usize,
    },
    /// An output file or folder cannot be written.
    #[error("{}: cannot write: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
