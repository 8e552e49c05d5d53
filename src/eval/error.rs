//! What ends a run. A bad answer never does; it is counted.

use std::io;
use std::path::PathBuf;

use crate::durable::JournalError;
use crate::engine::{EngineError, RequestError};
use crate::grade::GradeError;
use crate::task::TaskError;

/// An error of the `eval` room.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The journal cannot be opened or extended.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A task cannot be read or rendered.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A document whose solution holds no boxed answer.
    #[error(
        "task {task}, document {doc_id}: the field that holds the gold answer has no complete \\boxed{{}}"
    )]
    NoGold {
        /// The task.
        task: String,
        /// The document's number in its split.
        doc_id: usize,
    },
    /// A filter whose arguments do not fit it.
    #[error("task {task}, filter {filter}: {reason}")]
    FilterArguments {
        /// The task.
        task: String,
        /// The pipeline's name.
        filter: String,
        /// What does not fit.
        reason: String,
    },
    /// A task's grader cannot be built.
    #[error("task {task}: {source}")]
    Grade {
        /// The task.
        task: String,
        /// What is wrong with its filters or metrics.
        source: GradeError,
    },
    /// The engine failed.
    #[error("generation failed: {0}")]
    Engine(#[from] EngineError),
    /// The engine refused a request that was planned.
    #[error("request {request_id}: {source}")]
    Refused {
        /// Its request.
        request_id: u64,
        /// Why.
        source: RequestError,
    },
    /// A document that could never run with these settings.
    #[error("task {task}, document {doc_id}: {source}")]
    NeverRuns {
        /// The task.
        task: String,
        /// The document's number in its split.
        doc_id: usize,
        /// Why, with the numbers.
        source: RequestError,
    },
    /// The tokenizer refused a prompt.
    #[error("task {task}, document {doc_id}: {reason}")]
    Encode {
        /// The task.
        task: String,
        /// The document's number in its split.
        doc_id: usize,
        /// What the tokenizer said.
        reason: String,
    },
    /// `--samples` names a document that is not there.
    #[error("task {task}: --samples asks for document {wanted}, the split has {num_docs}, from 0")]
    NoSuchDocument {
        /// The task.
        task: String,
        /// What was asked for.
        wanted: String,
        /// Documents of the split.
        num_docs: usize,
    },
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
    /// A log of answers cannot be read.
    #[error("{}: {problem}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A judge cannot be asked.
    #[error("the judge failed: {problem}")]
    Judge {
        /// Why.
        problem: String,
    },
    /// A server does not answer, or refuses.
    #[error("the server at {url}: {problem}")]
    Server {
        /// Where it was asked.
        url: String,
        /// What came back, after the last attempt.
        problem: String,
    },
}
