//! Checkpoints to GGUF and back, tensor by tensor, streaming, in parallel.
//!
//! What is written is what llama.cpp's own converter writes: the same keys, names, shapes, types
//! and bytes. A family is a row of data ([`Family`]): its name, its tensor names, and what is done
//! to some of them. Memory is bounded by a few pieces per thread, whatever the model's size.

mod config;
mod config_json;
mod encode;
mod error;
mod family;
mod importance;
mod llama3;
mod metadata;
mod options;
mod plan;
mod quantise;
mod special_tokens;
mod to_folder;
mod to_gguf;
mod vocabulary;

pub use error::ConvertError;
pub use family::Family;
pub use importance::ImportanceMatrix;
pub use options::{GgufOptions, OutType};
pub use quantise::{
    BlockFault, Loss, QuantiseOptions, Quantised, QuantisedTensor, QuantisedType, TypeChoices,
    quantise,
};
pub use to_folder::{FolderOptions, to_folder};
pub use to_gguf::{Converted, default_file_name, to_gguf};
