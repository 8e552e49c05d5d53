//! GGUF version 2 and 3: typed metadata, tensor table, aligned data.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Dimensions are stored
//! innermost first; this room shows shapes outermost first.

mod metadata;
mod open;
mod reader;
mod value;
mod writer;

pub use metadata::GgufMetadata;
pub(super) use open::{only_model_in, open};
pub use value::{GgufArray, GgufType, GgufValue};
pub use writer::{GgufSplit, GgufWriter};

/// The first bytes of every GGUF file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The alignment of tensor data where the file states none.
const DEFAULT_ALIGNMENT: usize = 32;
/// The key that states another one.
const ALIGNMENT_KEY: &str = "general.alignment";
