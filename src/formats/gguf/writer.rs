//! Writes GGUF version 3 files whose layout is planned before the first byte of data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::FormatError;
use super::super::planned::{self, PlannedFile, PlannedTensor};
use super::value::{GgufArray, GgufType, GgufValue};
use super::{DEFAULT_ALIGNMENT, MAGIC};

const VERSION: u32 = 3;
/// The most parts that their five-digit names and 16-bit keys can count.
const MAX_PARTS: usize = u16::MAX as usize;

/// When to start another file. The default is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct GgufSplit {
    /// A tensor that would take a file's data beyond this starts the next.
    pub max_bytes: Option<u64>,
    /// So does one that would be beyond this many.
    pub max_tensors: Option<usize>,
}

/// Writes a GGUF model: metadata and tensor table first, tensors in any order after that, in
/// pieces, from several threads. Nothing stands at its path before [`GgufWriter::finish`].
pub struct GgufWriter {
    path: PathBuf,
    files: Vec<PlannedFile>,
    /// Which file holds a tensor.
    home: HashMap<String, usize>,
    file_bytes: u64,
}

impl GgufWriter {
    /// Plans the files and creates them (as temporary files); the folder must exist.
    ///
    /// With more than one part, `NAME.gguf` becomes `NAME-00001-of-00003.gguf` and so on, with
    /// llama.cpp's `split.*` keys; the first part carries the metadata.
    ///
    /// # Errors
    /// A key or name occurs twice or is too long, a type or shape does not exist in GGUF, or the
    /// folder is not writable.
    pub fn create(
        path: impl AsRef<Path>,
        pairs: &[(String, GgufValue)],
        tensors: Vec<PlannedTensor>,
        split: GgufSplit,
    ) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let sized = sized(path, tensors)?;
        let parts = planned::split(
            sized
                .into_iter()
                .map(|(tensor, bytes)| ((tensor, bytes), bytes)),
            split.max_bytes.unwrap_or(u64::MAX),
            split.max_tensors.unwrap_or(usize::MAX).max(1),
        );
        Self::plan(path, pairs, parts)
    }

    /// As [`GgufWriter::create`], with a part for each list of tensors.
    ///
    /// # Errors
    /// As [`GgufWriter::create`].
    pub fn create_parts(
        path: impl AsRef<Path>,
        pairs: &[(String, GgufValue)],
        parts: Vec<Vec<PlannedTensor>>,
    ) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let parts = parts.into_iter().map(|tensors| sized(path, tensors));
        Self::plan(path, pairs, parts.collect::<Result<_, _>>()?)
    }

    fn plan(
        path: &Path,
        pairs: &[(String, GgufValue)],
        parts: Vec<Vec<(PlannedTensor, u64)>>,
    ) -> Result<Self, FormatError> {
        let num_parts = parts.len();
        let num_tensors: usize = parts.iter().map(Vec::len).sum();
        let mut writer = Self {
            path: path.to_owned(),
            files: Vec::new(),
            home: HashMap::new(),
            file_bytes: 0,
        };
        if num_parts > MAX_PARTS {
            return Err(writer.error(format!("{num_parts} parts exceed the limit of {MAX_PARTS}")));
        }
        for (index, part) in parts.into_iter().enumerate() {
            let own = if index == 0 { pairs } else { &[] };
            if num_parts == 1 {
                writer.start_file(path.to_owned(), own.to_vec(), part)?;
            } else {
                let split_pairs = [
                    ("split.no", GgufValue::U16(index as u16)),
                    ("split.count", GgufValue::U16(num_parts as u16)),
                    ("split.tensors.count", GgufValue::I32(num_tensors as i32)),
                ];
                let mut own = own.to_vec();
                own.extend(split_pairs.map(|(key, value)| (key.to_owned(), value)));
                writer.start_file(part_path(path, index, num_parts), own, part)?;
            }
        }
        Ok(writer)
    }

    fn start_file(
        &mut self,
        path: PathBuf,
        pairs: Vec<(String, GgufValue)>,
        tensors: Vec<(PlannedTensor, u64)>,
    ) -> Result<(), FormatError> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((pairs.len() as u64).to_le_bytes());
        let mut keys = std::collections::HashSet::new();
        for (key, value) in &pairs {
            if !keys.insert(key) {
                return Err(self.error(format!("metadata key {key} is planned twice")));
            }
            put_string(&mut header, key);
            header.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        let mut slots = Vec::with_capacity(tensors.len());
        for (tensor, bytes) in tensors {
            let id = tensor.dtype.gguf_id().ok_or_else(|| {
                self.error(format!(
                    "tensor {}: GGUF has no type {}",
                    tensor.name, tensor.dtype
                ))
            })?;
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                header.extend((*dim as u64).to_le_bytes());
            }
            header.extend(id.to_le_bytes());
            header.extend(offset.to_le_bytes());
            if self
                .home
                .insert(tensor.name.clone(), self.files.len())
                .is_some()
            {
                return Err(self.error(format!("tensor {} is planned twice", tensor.name)));
            }
            slots.push((tensor.name, offset, bytes));
            offset += bytes.next_multiple_of(DEFAULT_ALIGNMENT as u64);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        let data_begin = header.len() as u64;
        for slot in &mut slots {
            slot.1 += data_begin;
        }
        self.file_bytes += data_begin + offset;
        let file = PlannedFile::create(path, &header, slots, data_begin + offset)?;
        self.files.push(file);
        Ok(())
    }

    /// Writes a piece of a tensor, `offset` bytes from its beginning. Pieces must not overlap.
    ///
    /// # Errors
    /// No such tensor in the plan, the piece exceeds it, or the disk refuses.
    pub fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FormatError> {
        let file = self
            .home
            .get(name)
            .ok_or_else(|| self.error(format!("tensor {name} is not in the plan")))?;
        self.files[*file].write_at(name, offset, bytes)
    }

    /// Has the disk store what has been written so far, so that [`GgufWriter::finish`] has less
    /// to wait for. May run while others write.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<(), FormatError> {
        self.files.iter().try_for_each(PlannedFile::sync)
    }

    /// Puts the files in their places and returns their paths.
    ///
    /// # Errors
    /// A tensor has not been written completely (no file appears then), or the disk refuses.
    pub fn finish(self) -> Result<Vec<PathBuf>, FormatError> {
        for file in &self.files {
            file.check_complete()?;
        }
        self.files.into_iter().map(PlannedFile::commit).collect()
    }

    /// The size of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    fn error(&self, reason: String) -> FormatError {
        FormatError::Plan {
            path: self.path.clone(),
            reason,
        }
    }
}

/// Tensors with the bytes of their data; `path` is for the error's text only.
fn sized(
    path: &Path,
    tensors: Vec<PlannedTensor>,
) -> Result<Vec<(PlannedTensor, u64)>, FormatError> {
    let tensors = tensors.into_iter();
    let sized = tensors.map(|tensor| tensor.bytes(path).map(|bytes| (tensor, bytes)));
    sized.collect()
}

fn part_path(path: &Path, index: usize, num_parts: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{:05}-of-{num_parts:05}.gguf", index + 1))
}

fn put_string(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}

fn put_value(header: &mut Vec<u8>, value: &GgufValue) {
    match value {
        GgufValue::U8(value) => header.extend(value.to_le_bytes()),
        GgufValue::I8(value) => header.extend(value.to_le_bytes()),
        GgufValue::U16(value) => header.extend(value.to_le_bytes()),
        GgufValue::I16(value) => header.extend(value.to_le_bytes()),
        GgufValue::U32(value) => header.extend(value.to_le_bytes()),
        GgufValue::I32(value) => header.extend(value.to_le_bytes()),
        GgufValue::F32(value) => header.extend(value.to_le_bytes()),
        GgufValue::Bool(value) => header.push(u8::from(*value)),
        GgufValue::String(text) => put_string(header, text),
        GgufValue::Array(array) => put_array(header, array),
        GgufValue::U64(value) => header.extend(value.to_le_bytes()),
        GgufValue::I64(value) => header.extend(value.to_le_bytes()),
        GgufValue::F64(value) => header.extend(value.to_le_bytes()),
    }
}

fn put_array(header: &mut Vec<u8>, array: &GgufArray) {
    let element_type: GgufType = array.element_type();
    header.extend((element_type as u32).to_le_bytes());
    header.extend((array.len() as u64).to_le_bytes());
    match array {
        GgufArray::U8(values) => header.extend_from_slice(values),
        GgufArray::I8(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::U16(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I16(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::U32(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I32(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::F32(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::Bool(values) => header.extend(values.iter().map(|v| u8::from(*v))),
        GgufArray::String(values) => values.iter().for_each(|text| put_string(header, text)),
        GgufArray::Array(values) => values.iter().for_each(|array| put_array(header, array)),
        GgufArray::U64(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I64(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::F64(values) => header.extend(values.iter().flat_map(|v| v.to_le_bytes())),
    }
}
