//! Writes safetensors files whose layout is planned before the first byte of data.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, json};

use super::super::{DType, FormatError};
use super::header;
use crate::durable::{AtomicFile, write_atomic};

/// What the reference libraries write, and some readers insist on.
const FORMAT_METADATA: (&str, &str) = ("format", "pt");

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// The name in the file.
    pub name: String,
    /// How the elements are stored; a plain type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Writes the tensors of a model as `model.safetensors`, or as shards with an index.
///
/// All tensors are named up front; their bytes may then come in any order, in pieces, and from
/// several threads at once. Nothing stands in the folder before [`SafetensorsWriter::finish`].
pub struct SafetensorsWriter {
    folder: PathBuf,
    shards: Vec<Shard>,
    slots: HashMap<String, Slot>,
    /// In the plan's order, for the index.
    order: Vec<String>,
    total_bytes: u64,
}

struct Shard {
    name: String,
    /// Keeps the temporary file; committed by `finish`.
    target: AtomicFile,
    /// The same file, for positioned writes through a shared reference.
    file: File,
    path: PathBuf,
}

struct Slot {
    shard: usize,
    begin: u64,
    len: u64,
    written: AtomicU64,
}

/// A planned tensor with its size.
struct Sized {
    tensor: PlannedTensor,
    bytes: usize,
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
    /// A name occurs twice, a shape is impossible for its type, or the folder is not writable.
    pub fn create(
        folder: impl AsRef<Path>,
        tensors: Vec<PlannedTensor>,
        max_shard_bytes: Option<u64>,
    ) -> Result<Self, FormatError> {
        let folder = folder.as_ref();
        let order: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let groups = plan_shards(folder, tensors, max_shard_bytes.unwrap_or(u64::MAX))?;
        let mut writer = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            slots: HashMap::new(),
            order,
            total_bytes: 0,
        };
        let num_shards = groups.len();
        for (index, group) in groups.into_iter().enumerate() {
            let name = if num_shards == 1 {
                "model.safetensors".to_owned()
            } else {
                format!("model-{:05}-of-{num_shards:05}.safetensors", index + 1)
            };
            writer.start_shard(name, group)?;
        }
        Ok(writer)
    }

    fn start_shard(&mut self, name: String, group: Vec<Sized>) -> Result<(), FormatError> {
        let path = self.folder.join(&name);
        let io = |error| FormatError::io(&path, error);
        let metadata = BTreeMap::from([FORMAT_METADATA].map(|(k, v)| (k.into(), v.into())));
        let rows = group.iter().map(|sized| {
            let tensor = &sized.tensor;
            (
                tensor.name.as_str(),
                tensor.dtype,
                tensor.shape.as_slice(),
                sized.bytes,
            )
        });
        let head = header::render(&metadata, rows);
        let mut target = AtomicFile::create(&path).map_err(io)?;
        let file = target.file().and_then(File::try_clone).map_err(io)?;
        let mut begin = head.len() as u64;
        let shard = self.shards.len();
        for Sized { tensor, bytes } in group {
            let len = bytes as u64;
            let slot = Slot {
                shard,
                begin,
                len,
                written: AtomicU64::new(0),
            };
            if self.slots.insert(tensor.name.clone(), slot).is_some() {
                return Err(FormatError::Plan {
                    path,
                    reason: format!("tensor {} is planned twice", tensor.name),
                });
            }
            begin += len;
            self.total_bytes += len;
        }
        // The full length at once: a full disk or a missing tensor shows here, not at the end.
        file.set_len(begin).map_err(io)?;
        file.write_all_at(&head, 0).map_err(io)?;
        self.shards.push(Shard {
            name,
            target,
            file,
            path,
        });
        Ok(())
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// No such tensor in the plan, `bytes` is not its size, or the disk refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let slot = self.slot(name)?;
        if bytes.len() as u64 != slot.len {
            return Err(self.plan_error(
                slot,
                format!(
                    "tensor {name} has {} bytes, planned were {}",
                    bytes.len(),
                    slot.len
                ),
            ));
        }
        self.write_at(name, 0, bytes)
    }

    /// Writes a piece of a tensor, `offset` bytes from its beginning. Pieces must not overlap.
    ///
    /// # Errors
    /// No such tensor in the plan, the piece exceeds it, or the disk refuses.
    pub fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), FormatError> {
        let slot = self.slot(name)?;
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > slot.len) {
            return Err(self.plan_error(
                slot,
                format!(
                    "tensor {name}: {} bytes at {offset} exceed the planned {}",
                    bytes.len(),
                    slot.len
                ),
            ));
        }
        let shard = &self.shards[slot.shard];
        shard
            .file
            .write_all_at(bytes, slot.begin + offset)
            .map_err(|error| FormatError::io(&shard.path, error))?;
        slot.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Puts the files in their places, the index last, and returns their paths.
    ///
    /// # Errors
    /// A tensor has not been written completely, or the disk refuses. No file appears then.
    pub fn finish(self) -> Result<Vec<PathBuf>, FormatError> {
        for name in &self.order {
            let slot = &self.slots[name];
            let written = slot.written.load(Ordering::Relaxed);
            if written != slot.len {
                return Err(self.plan_error(
                    slot,
                    format!(
                        "tensor {name}: {written} of {} bytes were written",
                        slot.len
                    ),
                ));
            }
        }
        let index = (self.shards.len() > 1).then(|| self.index());
        let mut paths = Vec::new();
        for shard in self.shards {
            let io = |error| FormatError::io(&shard.path, error);
            shard.target.commit().map_err(io)?;
            paths.push(shard.path);
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
            .map(|name| {
                let shard = &self.shards[self.slots[name].shard];
                (name.clone(), json!(shard.name))
            })
            .collect();
        let index = json!({
            "metadata": { "total_size": self.total_bytes },
            "weight_map": weight_map,
        });
        format!("{index:#}\n")
    }

    fn slot(&self, name: &str) -> Result<&Slot, FormatError> {
        self.slots.get(name).ok_or_else(|| FormatError::Plan {
            path: self.folder.clone(),
            reason: format!("tensor {name} is not in the plan"),
        })
    }

    fn plan_error(&self, slot: &Slot, reason: String) -> FormatError {
        FormatError::Plan {
            path: self.shards[slot.shard].path.clone(),
            reason,
        }
    }
}

/// Distributes tensors over shards; there is always at least one.
fn plan_shards(
    folder: &Path,
    tensors: Vec<PlannedTensor>,
    max_shard_bytes: u64,
) -> Result<Vec<Vec<Sized>>, FormatError> {
    let mut shards = vec![Vec::new()];
    let mut shard_bytes = 0_u64;
    for tensor in tensors {
        let plain = !tensor.dtype.is_quantized();
        let bytes = tensor.dtype.tensor_bytes(&tensor.shape).filter(|_| plain);
        let Some(bytes) = bytes else {
            return Err(FormatError::Plan {
                path: folder.to_owned(),
                reason: format!(
                    "tensor {}: {} with shape {:?} cannot be stored as safetensors",
                    tensor.name, tensor.dtype, tensor.shape
                ),
            });
        };
        let size = bytes as u64;
        if shard_bytes > 0 && shard_bytes.saturating_add(size) > max_shard_bytes {
            shards.push(Vec::new());
            shard_bytes = 0;
        }
        shard_bytes += size;
        let shard = shards.last_mut().expect("there is always a shard");
        shard.push(Sized { tensor, bytes });
    }
    for shard in &mut shards {
        shard.sort_by_key(|sized| std::cmp::Reverse(sized.tensor.dtype.block_bytes()));
    }
    Ok(shards)
}
