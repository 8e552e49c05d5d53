//! Model files on disk, memory-mapped and checked: Hugging Face folders, GGUF, tokenizers.
//!
//! [`Checkpoint::open`] takes either kind of model; [`Tokenizer::from_checkpoint`] reads its
//! tokenizer. This room reads and writes bytes; it knows no model family and computes nothing.
//! Every length, offset, count and depth that a file states is checked before it is used.

mod checkpoint;
mod dtype;
mod error;
mod fingerprint;
mod folder;
mod gguf;
mod json;
mod mmap;
mod planned;
mod safetensors;
mod sentencepiece_model;
mod tokenizer;
mod write_behind;

pub use checkpoint::{Checkpoint, Source, TensorView};
pub use dtype::DType;
pub use error::{FormatError, GgufFault, SafetensorsFault};
pub use gguf::{GgufArray, GgufMetadata, GgufSplit, GgufType, GgufValue, GgufWriter};
pub use json::read_json_object;
pub(crate) use mmap::MappedFile;
pub use planned::PlannedTensor;
pub use safetensors::{SafetensorsFile, SafetensorsWriter};
pub use sentencepiece_model::{Piece, PieceKind, read_sentencepiece_model};
pub use tokenizer::Tokenizer;
pub(crate) use write_behind::{WriteBehind, write_behind};
