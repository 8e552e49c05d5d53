//! What the user decides about a conversion.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::formats::{DType, GgufSplit};

/// The type of the large tensors of a GGUF file. Norms and biases are always F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutType {
    /// Single precision.
    F32,
    /// Half precision; values beyond 65504 become infinite.
    F16,
    /// bfloat16: exact for checkpoints in bfloat16.
    Bf16,
    /// 8 bits with a scale per 32 elements.
    Q8_0,
    /// BF16 for a bfloat16 source, F16 otherwise.
    Auto,
}

impl OutType {
    /// The type as llama.cpp's converter spells it (`--outtype`).
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Auto => "auto",
        }
    }
}

/// How to write a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufOptions {
    /// A file, a file name with `{ftype}` in it, or a folder; `None` is the model's folder.
    pub outfile: Option<PathBuf>,
    /// The type of the large tensors.
    pub out_type: OutType,
    /// Only metadata and tokenizer, no tensors.
    pub vocab_only: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
    /// When to start another file.
    pub split: GgufSplit,
    /// `general.name`; the folder's name if absent.
    pub model_name: Option<String>,
    /// `general.*` strings to add or replace.
    pub metadata: Map<String, Value>,
}

impl Default for GgufOptions {
    fn default() -> Self {
        Self {
            outfile: None,
            out_type: OutType::Auto,
            vocab_only: false,
            dry_run: false,
            split: GgufSplit::default(),
            model_name: None,
            metadata: Map::new(),
        }
    }
}

/// A resolved [`OutType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileType {
    pub(super) dtype: DType,
    /// `general.file_type`.
    pub(super) id: u32,
}

impl FileType {
    /// `source`: the type of the checkpoint's matrices.
    pub(super) fn of(out_type: OutType, source: DType) -> Self {
        let (dtype, id) = match out_type {
            OutType::F32 => (DType::F32, 0),
            OutType::F16 => (DType::F16, 1),
            OutType::Q8_0 => (DType::Q8_0, 7),
            OutType::Bf16 => (DType::BF16, 32),
            OutType::Auto if source == DType::BF16 => (DType::BF16, 32),
            OutType::Auto => (DType::F16, 1),
        };
        Self { dtype, id }
    }

    /// As file names spell it.
    pub(super) fn name(self) -> String {
        self.dtype.name().to_lowercase()
    }
}
