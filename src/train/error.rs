//! What can go wrong in training.

use std::path::PathBuf;

/// A failure of the training room.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe is not valid; the text names line, column and key.
    #[error("{path}: {reason}", path = .path.display())]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A data file is not what the recipe says.
    #[error("{path}: {reason}", path = .path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// What is wrong, with the row's number.
        reason: String,
    },
    /// A recipe's key does not fit the model or the data; the text begins with the key.
    #[error("{0}")]
    Setting(String),
    /// A checkpoint or an output folder cannot be used.
    #[error("{path}: {reason}", path = .path.display())]
    Checkpoint {
        /// The checkpoint or folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The loss or a gradient is not a number any more.
    #[error(
        "step {step}: the loss is {loss} and the gradient norm {grad_norm}; {}; lower \
         learning_rate, or look at the rows of this step: {rows:?}",
        last_good(checkpoint.as_deref())
    )]
    Diverged {
        /// The step that failed.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        grad_norm: f64,
        /// The last checkpoint, from before the failure.
        checkpoint: Option<PathBuf>,
        /// The rows of the step's batches, by their place in the training set.
        rows: Vec<usize>,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// A model or tokenizer file cannot be read or written.
    #[error(transparent)]
    Format(#[from] crate::formats::FormatError),
    /// A data file cannot be read.
    #[error(transparent)]
    Rows(#[from] crate::rows::RowsError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

fn last_good(checkpoint: Option<&std::path::Path>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no checkpoint yet (save_steps)".to_owned(),
    }
}
