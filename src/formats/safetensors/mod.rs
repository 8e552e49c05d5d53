//! safetensors: a JSON header of names, types, shapes and offsets, then the bytes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. The reader accepts exactly files
//! whose tensors cover the data section without holes or overlaps, as the reference reader does.

mod header;
mod reader;
mod writer;

pub(super) use header::TensorEntry;
pub use reader::SafetensorsFile;
pub use writer::SafetensorsWriter;
