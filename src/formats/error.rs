//! What can be wrong with a model on disk.

use std::io;
use std::path::{Path, PathBuf};

use super::gguf::GgufType;

/// Why a model file cannot be read or written. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Neither a Hugging Face folder nor a GGUF file.
    #[error(
        "{}: {found}; expected a folder with config.json and *.safetensors, or a GGUF file",
        path.display()
    )]
    NotAModel {
        /// What was opened.
        path: PathBuf,
        /// What was there instead.
        found: String,
    },
    /// A JSON file that is too large, malformed, or not of the expected form.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        reason: String,
    },
    /// A file that another file promises is absent.
    #[error("{}: {missing} is missing ({promised_by} names it); download it again", folder.display())]
    MissingFile {
        /// The model's folder.
        folder: PathBuf,
        /// The file's name.
        missing: String,
        /// Which file says that it must be there.
        promised_by: String,
    },
    /// The shard index names a tensor that its shard does not hold.
    #[error(
        "{}: the index places tensor {tensor} in {shard}, which does not hold it",
        folder.display()
    )]
    TensorNotInShard {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's file name.
        shard: String,
    },
    /// Two files of one model hold a tensor of the same name.
    #[error("{}: tensor {tensor} occurs twice (in {first} and {second})", folder.display())]
    DuplicateTensor {
        /// The model's folder.
        folder: PathBuf,
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A malformed safetensors file.
    #[error("{}: {fault}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: SafetensorsFault,
    },
    /// A malformed GGUF file.
    #[error("{}: at byte {offset}: {fault}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Where the reader stood.
        offset: usize,
        /// What is wrong.
        fault: GgufFault,
    },
    /// A metadata key of a GGUF file is absent or of another type.
    #[error("{}: metadata key {key}: expected {expected}, found {found}", path.display())]
    GgufKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the reader needs.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The tokenizer is absent, malformed or of an unsupported kind.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A text cannot be tokenised.
    #[error("cannot tokenise: {reason}")]
    Encode {
        /// The tokenizer's reason.
        reason: String,
    },
    /// A writer was used against its plan.
    #[error("writing {}: {reason}", path.display())]
    Plan {
        /// The file under construction.
        path: PathBuf,
        /// Which tensor, expected and found.
        reason: String,
    },
}

impl FormatError {
    /// What the operating system said about a file.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// What is wrong with a safetensors file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsFault {
    /// Not even the header's length.
    #[error("{found} bytes are too few for a safetensors file; download it again")]
    TooSmall {
        /// The file's size.
        found: usize,
    },
    /// The header's length is beyond the format's limit.
    #[error("header of {found} bytes exceeds the limit of {limit}; not a safetensors file?")]
    HeaderTooLarge {
        /// What the file states.
        found: u64,
        /// The limit.
        limit: usize,
    },
    /// The header does not end within the file.
    #[error("header of {header} bytes does not fit the file of {file} bytes; download it again")]
    HeaderTruncated {
        /// What the file states.
        header: usize,
        /// The file's size.
        file: usize,
    },
    /// The header is not the JSON that the format asks for.
    #[error("header: {0}")]
    HeaderJson(String),
    /// One tensor's entry is malformed.
    #[error("tensor {tensor}: {reason}")]
    Entry {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The data type is not one that this program knows.
    #[error("tensor {tensor}: unsupported dtype {dtype}")]
    UnknownDType {
        /// The tensor.
        tensor: String,
        /// The type's name in the header.
        dtype: String,
    },
    /// Offsets and shape disagree.
    #[error("tensor {tensor}: shape and dtype need {expected} bytes, the offsets give {found}")]
    WrongSize {
        /// The tensor.
        tensor: String,
        /// From shape and dtype.
        expected: usize,
        /// From the offsets.
        found: usize,
    },
    /// A tensor does not begin where the one before it ends.
    #[error("tensor {tensor}: begins at {found}, the data before it ends at {expected}")]
    HoleOrOverlap {
        /// The tensor.
        tensor: String,
        /// End of the tensor before.
        expected: usize,
        /// Its own begin.
        found: usize,
    },
    /// The data are shorter or longer than the tensors.
    #[error("the tensors need {expected} bytes of data, the file has {found}; download it again")]
    WrongDataSize {
        /// End of the last tensor.
        expected: usize,
        /// Bytes after the header.
        found: usize,
    },
}

/// What is wrong with a GGUF file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufFault {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file (it begins with {0:02x?})")]
    Magic([u8; 4]),
    /// A version that this reader does not know.
    #[error("GGUF version {0}; only versions 2 and 3 are supported")]
    Version(u32),
    /// The file ends before something that it states.
    #[error("{what} needs {needed} bytes, {left} are left; download it again")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// How much it takes.
        needed: u64,
        /// How much there is.
        left: usize,
    },
    /// A stated length or count is beyond reason.
    #[error("{what} of {found} exceeds the limit of {limit}")]
    Limit {
        /// What was being read.
        what: &'static str,
        /// What the file states.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A string that is not UTF-8.
    #[error("{what} is not UTF-8")]
    Utf8 {
        /// What was being read.
        what: &'static str,
    },
    /// A metadata type number that does not exist.
    #[error("key {key}: unknown value type {found}")]
    ValueType {
        /// The key.
        key: String,
        /// The number in the file.
        found: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("boolean with value {0}")]
    Bool(u8),
    /// A name that occurs twice.
    #[error("{what} {name} occurs twice")]
    Duplicate {
        /// A key or a tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The alignment is not a power of two within bounds.
    #[error("general.alignment is {0}; expected a power of two up to 65536")]
    Alignment(u64),
    /// The alignment has the wrong type.
    #[error("general.alignment has type {0}; expected u32")]
    AlignmentType(GgufType),
    /// A tensor type that this program does not know.
    #[error("tensor {tensor}: unknown ggml type {found}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number in the file.
        found: u32,
    },
    /// Shape and type of a tensor do not make a size.
    #[error("tensor {tensor}: shape {shape:?} (outermost first) is impossible for type {dtype}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Vec<usize>,
        /// Its type's name.
        dtype: &'static str,
    },
    /// A tensor's data begin at an offset that is not aligned.
    #[error("tensor {tensor}: offset {offset} is not a multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the data's start.
        offset: u64,
        /// The file's alignment.
        alignment: usize,
    },
    /// A tensor's data lie (partly) outside the file.
    #[error(
        "tensor {tensor}: bytes {offset}..+{bytes} of the data section, which has {section} bytes; \
         download it again"
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Its offset from the data's start.
        offset: u64,
        /// Its size.
        bytes: usize,
        /// The section's size.
        section: usize,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
}
