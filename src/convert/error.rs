//! Why a model cannot be converted.

use std::path::PathBuf;

use super::quantise::BlockFault;
use crate::formats::{DType, FormatError};

/// Why a model cannot be converted. Nothing has been written then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source or the target, as a file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The source is in the target's format already.
    #[error("{}: is {found}; expected {expected}", path.display())]
    WrongSource {
        /// The source.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// The architecture is not one of the families.
    #[error("{}: architecture {found:?} is not supported (supported: {supported})", path.display())]
    Architecture {
        /// The source.
        path: PathBuf,
        /// What the model says.
        found: String,
        /// All that are.
        supported: String,
    },
    /// A key of config.json is absent or of another type.
    #[error("{}: config.json: {key}: expected {expected}, found {found}", path.display())]
    Config {
        /// The source.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A tensor that the family does not have.
    #[error(
        "{}: tensor {tensor} is not part of a {family} model; is this the right architecture?",
        path.display()
    )]
    UnknownTensor {
        /// The source.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The family's name.
        family: &'static str,
    },
    /// A tensor's shape does not fit what must be done to it.
    #[error("{}: tensor {tensor}: shape {shape:?} does not fit {what}", path.display())]
    Shape {
        /// The source.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its shape, outermost first.
        shape: Vec<usize>,
        /// What was expected of it.
        what: String,
    },
    /// A tensor of a type that is not read here.
    #[error("{}: tensor {tensor}: type {dtype} cannot be converted", path.display())]
    Type {
        /// The source.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// A tensor cannot be quantised to the type that it should have.
    #[error("{}: tensor {tensor} to {dtype}: {fault}", path.display())]
    Quantise {
        /// The source.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The type that it should have.
        dtype: DType,
        /// What stands against it.
        fault: BlockFault,
    },
    /// A tensor has lost bits already.
    #[error(
        "{}: tensor {tensor} is {dtype} already; quantise the original model, or pass \
         --allow-requantize and lose quality twice",
        path.display()
    )]
    Requantise {
        /// The source.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// An importance matrix that is none.
    #[error("{}: {reason}", path.display())]
    Importance {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer cannot be expressed.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The source.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The disk is too small for what will be written.
    #[error("{}: {needed} bytes are needed, {free} are free", path.display())]
    DiskSpace {
        /// The target's folder.
        path: PathBuf,
        /// What will be written.
        needed: u64,
        /// What is there.
        free: u64,
    },
}
