//! Importance matrices: the mean square of what each column of a matrix is multiplied with, as
//! llama.cpp's `llama-imatrix` stores them, in both of its formats.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ConvertError;
use crate::durable::write_atomic;
use crate::formats::{
    Checkpoint, DType, FormatError, GgufArray, GgufSplit, GgufValue, GgufWriter, PlannedTensor,
    Source,
};

/// `general.type` of such a GGUF file.
const TYPE: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const RUN: &str = "micota.imatrix.run";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// llama.cpp's limit on texts that become metadata, in bytes.
const MAX_TEXT: usize = 127;
/// More values than a row of any model; a larger count is a damaged file.
const MAX_COLUMNS: usize = 1 << 24;

/// Sums of squares by tensor, and what they were collected from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    entries: BTreeMap<String, Entry>,
    /// What the activations came from, in words.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub num_chunks: u32,
    /// Tokens of a chunk; 0 where the file does not say.
    pub chunk_size: u32,
    /// Names the run that collects this, so that it can go on; our own key in GGUF files.
    pub run: Option<String>,
    /// The file that this was read from.
    path: Option<PathBuf>,
}

/// One tensor's sums over `count` rows.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    sums: Vec<f32>,
    count: u64,
}

impl ImportanceMatrix {
    /// A matrix in the making.
    pub fn new(datasets: Vec<String>, chunk_size: u32) -> Self {
        Self {
            datasets,
            chunk_size,
            ..Self::default()
        }
    }

    /// Sets a tensor's sums of squares over `count` rows. *Shapes* `sums`: a row of the tensor.
    pub fn set(&mut self, tensor: &str, sums: Vec<f32>, count: u64) {
        self.entries
            .insert(tensor.to_owned(), Entry { sums, count });
    }

    /// Adds to a tensor's sums of squares, over `count` more rows.
    ///
    /// # Panics
    /// The tensor has another number of columns.
    pub fn add(&mut self, tensor: &str, sums: &[f64], count: u64) {
        let entry = self
            .entries
            .entry(tensor.to_owned())
            .or_insert_with(|| Entry {
                sums: vec![0.0; sums.len()],
                count: 0,
            });
        assert_eq!(entry.sums.len(), sums.len(), "columns of {tensor}");
        for (total, sum) in entry.sums.iter_mut().zip(sums) {
            *total = (f64::from(*total) + sum) as f32;
        }
        entry.count += count;
    }

    /// Adds what another matrix has collected. The older format counts chunks and not rows; they
    /// are taken to be of this matrix's size.
    ///
    /// # Errors
    /// A tensor has another number of columns there.
    pub fn absorb(&mut self, other: &Self) -> Result<(), ConvertError> {
        let rows = if other.chunk_size > 0 {
            1
        } else {
            self.chunk_size.max(1)
        };
        for (tensor, entry) in &other.entries {
            let own = self.entries.get(tensor);
            if own.is_some_and(|own| own.sums.len() != entry.sums.len()) {
                let reason = format!("{tensor}: another number of columns than before");
                return Err(damaged(
                    other.path.as_deref().unwrap_or(Path::new("")),
                    reason,
                ));
            }
            let sums: Vec<f64> = entry
                .sums
                .iter()
                .map(|sum| f64::from(*sum) * f64::from(rows))
                .collect();
            self.add(tensor, &sums, entry.count * u64::from(rows));
        }
        self.datasets.extend(other.datasets.iter().cloned());
        self.num_chunks += other.num_chunks;
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor's sums of squares and the number of rows that they are over.
    pub fn sums(&self, tensor: &str) -> Option<(&[f32], u64)> {
        let entry = self.entries.get(tensor)?;
        Some((&entry.sums, entry.count))
    }

    /// Keeps the tensors for whose names `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| keep(name));
    }

    /// The mean square of each column; ones where nothing was collected.
    pub(super) fn columns(&self, tensor: &str) -> Option<Vec<f32>> {
        let entry = self.entries.get(tensor)?;
        let count = entry.count as f32;
        let mean = |sum: &f32| if count > 0.0 { sum / count } else { 1.0 };
        Some(entry.sums.iter().map(mean).collect())
    }

    /// What a file that was quantised with this says about it.
    pub(super) fn pairs(&self) -> Vec<(String, GgufValue)> {
        let text = |text: &str| {
            let end = (0..=MAX_TEXT.min(text.len()))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            GgufValue::String(text[..end.unwrap_or(0)].to_owned())
        };
        let mut pairs = Vec::new();
        if let Some(path) = &self.path {
            pairs.push(("file", text(&path.display().to_string())));
        }
        if let Some(first) = self.datasets.first() {
            pairs.push(("dataset", text(first)));
        }
        pairs.push(("entries_count", GgufValue::U32(self.entries.len() as u32)));
        if self.num_chunks > 0 {
            pairs.push(("chunks_count", GgufValue::U32(self.num_chunks)));
        }
        pairs
            .into_iter()
            .map(|(key, value)| (format!("quantize.imatrix.{key}"), value))
            .collect()
    }

    /// Reads either format.
    ///
    /// # Errors
    /// The file cannot be read, is of another kind or damaged, or belongs to a mixture of experts.
    pub fn read(path: &Path) -> Result<Self, ConvertError> {
        let bytes = std::fs::read(path).map_err(|error| FormatError::io(path, error))?;
        let mut matrix = if bytes.starts_with(b"GGUF") {
            Self::read_gguf(path)?
        } else {
            Self::read_legacy(&bytes).map_err(|reason| damaged(path, reason))?
        };
        for (tensor, entry) in &matrix.entries {
            if !entry.sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0) {
                let reason = format!("{tensor}: sums of squares must be finite and not negative");
                return Err(damaged(path, reason));
            }
        }
        matrix.path = Some(path.to_owned());
        Ok(matrix)
    }

    fn read_gguf(path: &Path) -> Result<Self, ConvertError> {
        let checkpoint = Checkpoint::open(path)?;
        let Source::Gguf(metadata) = checkpoint.source() else {
            return Err(damaged(path, "is no GGUF file".to_owned()));
        };
        let datasets = metadata.find_strings(DATASETS)?;
        let num_chunks = metadata.find_u32(CHUNK_COUNT)?;
        let chunk_size = metadata.find_u32(CHUNK_SIZE)?;
        let (Some(datasets), Some(num_chunks), Some(chunk_size)) =
            (datasets, num_chunks, chunk_size)
        else {
            let reason = format!(
                "is no importance matrix: {DATASETS}, {CHUNK_COUNT} or {CHUNK_SIZE} is missing"
            );
            return Err(damaged(path, reason));
        };
        let mut matrix = Self {
            num_chunks,
            run: metadata.find_str(RUN)?.map(str::to_owned),
            ..Self::new(datasets.to_vec(), chunk_size)
        };
        for view in checkpoint.tensors() {
            let Some(tensor) = view.name.strip_suffix(SUMS) else {
                continue;
            };
            let counts = checkpoint.tensor(&format!("{tensor}{COUNTS}"));
            let counts = counts.filter(|counts| counts.num_elements() == 1);
            let (
                DType::F32,
                Some(
                    counts @ crate::formats::TensorView {
                        dtype: DType::F32, ..
                    },
                ),
            ) = (view.dtype, counts)
            else {
                let reason = format!(
                    "{tensor}: expected F32 sums with one F32 count (mixtures of experts are not \
                     supported)"
                );
                return Err(damaged(path, reason));
            };
            let count = floats(counts.data)[0].round();
            matrix.set(tensor, floats(view.data), count.max(0.0) as u64);
        }
        if matrix.entries.is_empty() {
            return Err(damaged(path, "holds no entries".to_owned()));
        }
        Ok(matrix)
    }

    /// The format from before: counted entries of name, calls, values; then chunks and dataset.
    fn read_legacy(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        let mut matrix = Self::default();
        let num_entries = reader.count("number of entries", MAX_COLUMNS)?;
        if num_entries == 0 {
            return Err("holds no entries".to_owned());
        }
        for _ in 0..num_entries {
            let name = reader.text()?;
            let calls = reader.count("calls", usize::MAX)?;
            let num_values = reader.count("number of values", MAX_COLUMNS)?;
            let values = floats(reader.take(4 * num_values)?);
            matrix.set(&name, values, calls as u64);
            let entry = matrix.entries.get_mut(&name);
            if let (0, Some(entry)) = (calls, entry) {
                // Means already.
                entry.count = 1;
            }
        }
        // What follows is missing in old files.
        if reader.at < bytes.len() {
            matrix.num_chunks = reader.count("chunks", usize::MAX)? as u32;
            if reader.at < bytes.len() {
                let dataset = reader.text()?;
                matrix.datasets = [dataset].into_iter().filter(|d| !d.is_empty()).collect();
            }
        }
        Ok(matrix)
    }

    /// Writes the GGUF form, complete or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_gguf(&self, path: &Path) -> Result<(), ConvertError> {
        let datasets = GgufArray::String(self.datasets.clone());
        let pairs = [
            ("general.type", GgufValue::String(TYPE.to_owned())),
            (DATASETS, GgufValue::Array(datasets)),
            (CHUNK_COUNT, GgufValue::U32(self.num_chunks)),
            (CHUNK_SIZE, GgufValue::U32(self.chunk_size)),
        ];
        let run = self.run.clone().map(GgufValue::String);
        let pairs: Vec<_> = pairs
            .into_iter()
            .chain(run.map(|run| (RUN, run)))
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let mut planned = Vec::new();
        for (tensor, entry) in &self.entries {
            for (suffix, len) in [(SUMS, entry.sums.len()), (COUNTS, 1)] {
                planned.push(PlannedTensor {
                    name: format!("{tensor}{suffix}"),
                    dtype: DType::F32,
                    shape: vec![len],
                });
            }
        }
        let writer = GgufWriter::create(path, &pairs, planned, GgufSplit::default())?;
        for (tensor, entry) in &self.entries {
            writer.write_at(&format!("{tensor}{SUMS}"), 0, &bytes(&entry.sums))?;
            let count = [entry.count as f32];
            writer.write_at(&format!("{tensor}{COUNTS}"), 0, &bytes(&count))?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Writes the format from before (`.dat`), complete or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_legacy(&self, path: &Path) -> Result<(), ConvertError> {
        let mut out = (self.entries.len() as i32).to_le_bytes().to_vec();
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as i32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        for (tensor, entry) in &self.entries {
            text(&mut out, tensor);
            let calls = entry.count.div_ceil(u64::from(self.chunk_size.max(1)));
            out.extend((calls as i32).to_le_bytes());
            out.extend((entry.sums.len() as i32).to_le_bytes());
            let count = entry.count.max(1) as f32;
            let scaled: Vec<f32> = entry
                .sums
                .iter()
                .map(|sum| sum / count * calls as f32)
                .collect();
            out.extend(bytes(&scaled));
        }
        out.extend((self.num_chunks as i32).to_le_bytes());
        text(&mut out, self.datasets.first().map_or("", String::as_str));
        write_atomic(path, &out).map_err(|error| FormatError::io(path, error))?;
        Ok(())
    }
}

fn damaged(path: &Path, reason: String) -> ConvertError {
    ConvertError::Importance {
        path: path.to_owned(),
        reason,
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let floats = bytes.as_chunks::<4>().0.iter();
    floats.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats
        .iter()
        .flat_map(|float| float.to_le_bytes())
        .collect()
}

/// A position in bytes; every read is checked.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            let size = self.bytes.len();
            format!(
                "ends at byte {size}, but {len} bytes are due at {}",
                self.at
            )
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn count(&mut self, what: &str, limit: usize) -> Result<usize, String> {
        let at = self.at;
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        let count = i32::from_le_bytes(word);
        let fits = usize::try_from(count).ok().filter(|count| *count <= limit);
        fits.ok_or_else(|| format!("{what} at byte {at} is {count}; is this an importance matrix?"))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.count("length of a name", 1 << 16)?;
        let at = self.at;
        let text = std::str::from_utf8(self.take(len)?);
        text.map(str::to_owned)
            .map_err(|_| format!("the name at byte {at} is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> ImportanceMatrix {
        let mut matrix = ImportanceMatrix::new(vec!["text.txt".to_owned()], 128);
        matrix.num_chunks = 3;
        matrix.set("blk.0.attn_q.weight", vec![1.0, 2.5, 0.0], 384);
        matrix.set("blk.1.ffn_down.weight", vec![8.0; 5], 384);
        matrix
    }

    #[test]
    fn both_formats_give_back_the_means() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("m.gguf"), folder.path().join("m.dat"));
        let matrix = sample();
        matrix.write_gguf(&new).unwrap();
        matrix.write_legacy(&old).unwrap();
        for path in [&new, &old] {
            let read = ImportanceMatrix::read(path).unwrap();
            assert_eq!(read.datasets, matrix.datasets);
            assert_eq!(read.num_chunks, 3);
            for tensor in matrix.tensors() {
                let (found, expected) = (read.columns(tensor), matrix.columns(tensor));
                assert_eq!(found, expected, "{tensor} of {}", path.display());
            }
        }
        let keys: Vec<_> = ImportanceMatrix::read(&new)
            .unwrap()
            .pairs()
            .into_iter()
            .map(|pair| pair.0)
            .collect();
        let expected = ["file", "dataset", "entries_count", "chunks_count"];
        assert_eq!(keys, expected.map(|key| format!("quantize.imatrix.{key}")));
    }

    #[test]
    fn another_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not.dat");
        std::fs::write(&path, b"\xff\xff\xff\xff").unwrap();
        let error = ImportanceMatrix::read(&path).unwrap_err().to_string();
        assert!(error.contains("not.dat") && error.contains("-1"), "{error}");
        std::fs::write(&path, 2_i32.to_le_bytes()).unwrap();
        let error = ImportanceMatrix::read(&path).unwrap_err().to_string();
        assert!(error.contains("ends at byte 4"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImportanceMatrix::read_legacy(&bytes);
        }
    }
}
