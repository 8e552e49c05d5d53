//! A model on disk, whatever its format: configuration and named tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::mmap::MappedFile;
use super::safetensors::TensorEntry;
use super::{DType, FormatError, GgufMetadata, fingerprint, folder, gguf};

/// An opened model: memory-mapped, checked, immutable, shared between threads by reference.
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    files: Vec<MappedFile>,
    tensors: Vec<Placed>,
    by_name: HashMap<String, usize>,
    fingerprint: OnceLock<String>,
}

/// Where a checkpoint's configuration comes from.
pub enum Source {
    /// A folder as `save_pretrained` writes it.
    HuggingFace {
        /// `config.json`, an object.
        config: Value,
        /// `generation_config.json`, where there is one.
        generation_config: Option<Value>,
        /// The folder.
        folder: PathBuf,
    },
    /// A GGUF file.
    Gguf(GgufMetadata),
}

/// One tensor's place: which file, and where in it.
pub(super) struct Placed {
    pub(super) file: usize,
    pub(super) entry: TensorEntry,
}

/// A tensor's description and its bytes as they lie in the file (unaligned, little endian).
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// How the elements are stored.
    pub dtype: DType,
    /// Dimensions, outermost first in both formats: `[out_features, in_features]` for a linear.
    pub shape: &'a [usize],
    /// Exactly `dtype.tensor_bytes(shape)` bytes.
    pub data: &'a [u8],
}

impl<'a> TensorView<'a> {
    pub(super) fn of_entry(entry: &'a TensorEntry, file: &'a [u8]) -> Self {
        Self {
            name: &entry.name,
            dtype: entry.dtype,
            shape: &entry.shape,
            data: &file[entry.begin..entry.begin + entry.len],
        }
    }

    /// The number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl std::fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a GGUF file, or a folder that holds exactly one GGUF model.
    ///
    /// Maps the tensors without reading them; only headers and configuration are parsed.
    ///
    /// # Errors
    /// The path is neither, a file is missing or malformed, or anything that a file states is
    /// inconsistent; the message names the file and the tensor or key.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(|error| FormatError::io(path, error))?;
        let not_a_model = |found: &str| FormatError::NotAModel {
            path: path.to_owned(),
            found: found.to_owned(),
        };
        if !metadata.is_dir() {
            if path.extension().is_some_and(|found| found == "safetensors") {
                return Err(not_a_model("a single safetensors file: name its folder"));
            }
            return Self::open_gguf(path, path);
        }
        if path.join(folder::CONFIG).exists() {
            return Self::open_folder(path);
        }
        if path.join(folder::ADAPTER_CONFIG).exists() {
            return Err(not_a_model(
                "a LoRA adapter: merge it into its base model first",
            ));
        }
        let file = gguf::only_model_in(path)?;
        Self::open_gguf(path, &file)
    }

    fn open_folder(path: &Path) -> Result<Self, FormatError> {
        let opened = folder::open(path)?;
        let source = Source::HuggingFace {
            config: opened.config,
            generation_config: opened.generation_config,
            folder: path.to_owned(),
        };
        Ok(Self::assemble(path, source, opened.files, opened.tensors))
    }

    fn open_gguf(path: &Path, file: &Path) -> Result<Self, FormatError> {
        let opened = gguf::open(file)?;
        let source = Source::Gguf(opened.metadata);
        Ok(Self::assemble(path, source, opened.files, opened.tensors))
    }

    fn assemble(path: &Path, source: Source, files: Vec<MappedFile>, tensors: Vec<Placed>) -> Self {
        let names = tensors.iter().map(|placed| placed.entry.name.clone());
        let by_name = names.zip(0..).collect();
        Self {
            path: path.to_owned(),
            source,
            files,
            tensors,
            by_name,
            fingerprint: OnceLock::new(),
        }
    }

    /// What was given to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The names of all tensors, in file order (shards by name, then by offset).
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|placed| placed.entry.name.as_str())
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|placed| self.view(placed))
    }

    /// The tensors of each file, in file order.
    pub fn tensors_by_file(&self) -> Vec<Vec<TensorView<'_>>> {
        let mut files: Vec<_> = self.files.iter().map(|_| Vec::new()).collect();
        for placed in &self.tensors {
            files[placed.file].push(self.view(placed));
        }
        files
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let index = *self.by_name.get(name)?;
        Some(self.view(&self.tensors[index]))
    }

    fn view<'a>(&'a self, placed: &'a Placed) -> TensorView<'a> {
        TensorView::of_entry(&placed.entry, self.files[placed.file].bytes())
    }

    /// A SHA-256, in hex, that names this model's contents wherever it lies.
    ///
    /// It covers the configuration and tokenizer files (all metadata of a GGUF file), the name,
    /// type and shape of every tensor, and samples of every tensor's bytes: small tensors whole,
    /// large ones in evenly spread pages (see `fingerprint.rs`). Any training step, merge,
    /// conversion or quantisation changes it; an edit of single bytes between the sampled pages
    /// of a large tensor does not. Neither paths nor times enter, so copies agree.
    ///
    /// The first call reads a few tens of megabytes; later calls are free.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint
            .get_or_init(|| fingerprint::of(&self.source, &self.files, &self.tensors))
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
