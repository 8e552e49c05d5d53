//! Writes safetensors files whose layout is planned before the first byte of data.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use super::super::FormatError;
use super::super::planned::{self, PlannedFile, PlannedTensor};
use super::header;
use crate::durable::write_atomic;

/// What the reference libraries write, and some readers insist on.
const FORMAT_METADATA: (&str, &str) = ("format", "pt");

/// Writes the tensors of a model as `model.safetensors`, or as shards with an index.
///
/// All tensors are named up front; their bytes may then come in any order, in pieces, and from
/// several threads at once. Nothing stands in the folder before [`SafetensorsWriter::finish`].
pub struct SafetensorsWriter {
    folder: PathBuf,
    shards: Vec<(String, PlannedFile)>,
    /// Which shard holds a tensor.
    home: HashMap<String, usize>,
    /// In the plan's order, for the index.
    order: Vec<String>,
    total_bytes: u64,
}

impl SafetensorsWriter {
    /// Plans the files and creates them (as temporary files) in `folder`, which must exist.
    ///
    /// Tensors fill shards in the given order; a tensor that would take a shard's data beyond
    /// `max_shard_bytes` starts the next one, and one that is larger by itself gets its own.
    /// Within a file, wider element types come first, so that every tensor is aligned to its
    /// element; apart from that the given order stays.
    ///
    /// # Errors
    /// A name occurs twice, a shape or type cannot be stored, or the folder is not writable.
    pub fn create(
        folder: impl AsRef<Path>,
        tensors: Vec<PlannedTensor>,
        max_shard_bytes: Option<u64>,
    ) -> Result<Self, FormatError> {
        Self::plan(folder.as_ref(), None, tensors, max_shard_bytes)
    }

    /// As [`SafetensorsWriter::create`], but one file of this name, for tensors that are no model.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::create`].
    pub fn create_file(path: &Path, tensors: Vec<PlannedTensor>) -> Result<Self, FormatError> {
        let name = path.file_name().unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = name.to_string_lossy().into_owned();
        Self::plan(folder, Some(name), tensors, None)
    }

    fn plan(
        folder: &Path,
        file_name: Option<String>,
        tensors: Vec<PlannedTensor>,
        max_shard_bytes: Option<u64>,
    ) -> Result<Self, FormatError> {
        let order: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let mut sized = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            if tensor.dtype.is_quantized() {
                return Err(FormatError::Plan {
                    path: folder.to_owned(),
                    reason: format!(
                        "tensor {}: safetensors has no type {}",
                        tensor.name, tensor.dtype
                    ),
                });
            }
            let bytes = tensor.bytes(folder)?;
            sized.push(((tensor, bytes), bytes));
        }
        let total_bytes = sized.iter().map(|(_, bytes)| bytes).sum();
        let groups = planned::split(sized, max_shard_bytes.unwrap_or(u64::MAX), usize::MAX);
        let mut writer = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            home: HashMap::new(),
            order,
            total_bytes,
        };
        let num_shards = groups.len();
        for (index, group) in groups.into_iter().enumerate() {
            let name = match &file_name {
                Some(name) => name.clone(),
                None if num_shards == 1 => "model.safetensors".to_owned(),
                None => format!("model-{:05}-of-{num_shards:05}.safetensors", index + 1),
            };
            writer.start_shard(name, group)?;
        }
        Ok(writer)
    }

    fn start_shard(
        &mut self,
        name: String,
        mut group: Vec<(PlannedTensor, u64)>,
    ) -> Result<(), FormatError> {
        group.sort_by_key(|(tensor, _)| std::cmp::Reverse(tensor.dtype.block_bytes()));
        let metadata = BTreeMap::from([FORMAT_METADATA].map(|(k, v)| (k.into(), v.into())));
        let header = header::render(&metadata, &group);
        let path = self.folder.join(&name);
        let mut end = header.len() as u64;
        let mut slots = Vec::with_capacity(group.len());
        for (tensor, bytes) in group {
            let twice = self.home.insert(tensor.name.clone(), self.shards.len());
            if twice.is_some() {
                let reason = format!("tensor {} is planned twice", tensor.name);
                return Err(FormatError::Plan { path, reason });
            }
            slots.push((tensor.name, end, bytes));
            end += bytes;
        }
        let file = PlannedFile::create(path, &header, slots, end)?;
        self.shards.push((name, file));
        Ok(())
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// No such tensor in the plan, more bytes than planned, or the disk refuses. Too few bytes
    /// are reported by [`SafetensorsWriter::finish`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        self.write_at(name, 0, bytes)
    }

    /// Writes a piece of a tensor, `offset` bytes from its beginning. Pieces must not overlap.
    ///
    /// # Errors
    /// No such tensor in the plan, the piece exceeds it, or the disk refuses.
    pub fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FormatError> {
        let shard = self.home.get(name).ok_or_else(|| FormatError::Plan {
            path: self.folder.clone(),
            reason: format!("tensor {name} is not in the plan"),
        })?;
        self.shards[*shard].1.write_at(name, offset, bytes)
    }

    /// Has the disk store what has been written so far, so that
    /// [`SafetensorsWriter::finish`] has less to wait for. May run while others write.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<(), FormatError> {
        self.shards.iter().try_for_each(|(_, file)| file.sync())
    }

    /// Puts the files in their places, the index last, and returns their paths.
    ///
    /// # Errors
    /// A tensor has not been written completely (no file appears then), or the disk refuses.
    pub fn finish(self) -> Result<Vec<PathBuf>, FormatError> {
        for (_, file) in &self.shards {
            file.check_complete()?;
        }
        self.finish_with_holes()
    }

    /// As [`SafetensorsWriter::finish`], where what was not written is zeros: a checkpoint's shape
    /// without its contents, which takes no room on the disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish_with_holes(self) -> Result<Vec<PathBuf>, FormatError> {
        let index = (self.shards.len() > 1).then(|| self.index());
        let mut paths = Vec::new();
        for (_, file) in self.shards {
            paths.push(file.commit()?);
        }
        if let Some(index) = index {
            let path = self.folder.join("model.safetensors.index.json");
            write_atomic(&path, index.as_bytes()).map_err(|error| FormatError::io(&path, error))?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn index(&self) -> String {
        let weight_map: Map<_, _> = self
            .order
            .iter()
            .map(|name| (name.clone(), json!(self.shards[self.home[name]].0)))
            .collect();
        let index = json!({
            "metadata": { "total_size": self.total_bytes },
            "weight_map": weight_map,
        });
        format!("{index:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{DType, SafetensorsFile};

    fn tensor(name: &str, dtype: DType, shape: &[usize]) -> PlannedTensor {
        PlannedTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn what_is_written_in_pieces_by_threads_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let plan = vec![
            tensor("half", DType::BF16, &[3, 5]),
            tensor("wide", DType::F32, &[7]),
            tensor("empty", DType::F32, &[0, 4]),
        ];
        let writer = SafetensorsWriter::create(folder.path(), plan, None).unwrap();
        let half: Vec<u8> = (0..30).collect();
        let wide: Vec<u8> = (100..128).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_at("half", 10, &half[10..]).unwrap());
            scope.spawn(|| writer.write_at("half", 0, &half[..10]).unwrap());
            writer.write("wide", &wide).unwrap();
        });
        let paths = writer.finish().unwrap();
        assert_eq!(paths, [folder.path().join("model.safetensors")]);
        let file = SafetensorsFile::open(&paths[0]).unwrap();
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.tensor("half").unwrap().data, half);
        assert_eq!(file.tensor("wide").unwrap().data, wide);
        assert_eq!(file.tensor("empty").unwrap().shape, [0, 4]);
        // The reference reader agrees.
        let bytes = std::fs::read(&paths[0]).unwrap();
        let reference = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.tensor("half").unwrap().data(), half);
    }

    #[test]
    fn shards_break_before_the_tensor_that_would_exceed_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let plan: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| tensor(name, DType::F32, &[2]))
            .to_vec();
        let writer = SafetensorsWriter::create(folder.path(), plan, Some(16)).unwrap();
        for name in ["a", "b", "c", "d"] {
            writer.write(name, &[0; 8]).unwrap();
        }
        let paths = writer.finish().unwrap();
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json"
            ]
        );
    }

    #[test]
    fn an_unfinished_tensor_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let plan = vec![tensor("a", DType::F32, &[2])];
        let writer = SafetensorsWriter::create(folder.path(), plan, None).unwrap();
        writer.write_at("a", 0, &[0; 4]).unwrap();
        assert!(writer.write_at("a", 4, &[0; 5]).is_err());
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("4 of 8 bytes"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_plan_with_a_name_twice_or_a_block_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for plan in [
            vec![tensor("a", DType::F32, &[2]), tensor("a", DType::F32, &[2])],
            vec![tensor("a", DType::Q8_0, &[32])],
            vec![tensor("a", DType::F32, &[usize::MAX, 8])],
        ] {
            assert!(SafetensorsWriter::create(folder.path(), plan, None).is_err());
        }
    }
}
