//! What can be wrong with a checkpoint as a model.

use crate::formats::{DType, FormatError};

/// Why a checkpoint is not a decoder that can be run. Messages name the key or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No family claims the architecture.
    #[error("unknown architecture {found}; supported are {supported}")]
    UnknownArchitecture {
        /// What the checkpoint calls itself.
        found: String,
        /// Every name that would do.
        supported: String,
    },
    /// A key is absent and has no default.
    #[error("{place}: {key} is missing")]
    MissingKey {
        /// `config.json` or the GGUF's metadata.
        place: &'static str,
        /// The key, with the objects around it.
        key: String,
    },
    /// A key has a value that makes no sense.
    #[error("{place}: {key} is {found}, expected {expected}")]
    BadValue {
        /// `config.json` or the GGUF's metadata.
        place: &'static str,
        /// The key, with the objects around it.
        key: String,
        /// The value, shortened.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A number of the decoder is outside what any model has or does not fit the others.
    #[error("{quantity} is {found}, expected {expected}")]
    BadSpec {
        /// The field of the specification.
        quantity: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A valid value that this program does not implement.
    #[error("{place}: {key} = {found} is not supported; {instead}")]
    Unsupported {
        /// `config.json` or the GGUF's metadata.
        place: &'static str,
        /// The key, with the objects around it.
        key: String,
        /// The value, shortened.
        found: String,
        /// What is supported or can be done.
        instead: String,
    },
    /// A weight is not in the checkpoint.
    #[error("tensor {tensor} is missing: a {family} decoder needs it")]
    MissingTensor {
        /// Its name in the checkpoint's format.
        tensor: String,
        /// The family.
        family: &'static str,
    },
    /// A layer has a tensor that the family does not know: ignoring it would change results.
    #[error("tensor {tensor} has no place in a {family} decoder of this configuration")]
    UnexpectedTensor {
        /// Its name.
        tensor: String,
        /// The family.
        family: &'static str,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor {tensor} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// Outermost first.
        expected: Vec<usize>,
        /// Outermost first.
        found: Vec<usize>,
    },
    /// A tensor is stored in a way that cannot be read as numbers here.
    #[error("tensor {tensor} is stored as {found}; readable are {readable}")]
    StoredType {
        /// Its name.
        tensor: String,
        /// How it is stored.
        found: DType,
        /// The types that can be read.
        readable: String,
    },
    /// The file's metadata has the wrong type.
    #[error(transparent)]
    Format(#[from] FormatError),
}
