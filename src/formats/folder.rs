//! A Hugging Face model folder: configuration, and one or several safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::Placed;
use super::mmap::MappedFile;
use super::{FormatError, SafetensorsFile, json};

pub(super) const CONFIG: &str = "config.json";
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const SINGLE_FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Every file beside the tensors that can change what a model does, in a fixed order.
pub(super) const DESCRIBING_FILES: &[&str] = &[
    CONFIG,
    GENERATION_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
];

/// What [`open`] found.
pub(super) struct OpenedFolder {
    pub(super) config: Value,
    pub(super) generation_config: Option<Value>,
    pub(super) files: Vec<MappedFile>,
    pub(super) tensors: Vec<Placed>,
}

/// Opens the folder at `path`, which holds a `config.json`.
pub(super) fn open(path: &Path) -> Result<OpenedFolder, FormatError> {
    let config =
        json::read_json_object(&path.join(CONFIG))?.ok_or_else(|| FormatError::NotAModel {
            path: path.to_owned(),
            found: format!("no {CONFIG}"),
        })?;
    let generation_config = json::read_json_object(&path.join(GENERATION_CONFIG))?;
    let (files, tensors) = open_tensors(path)?;
    Ok(OpenedFolder {
        config: Value::Object(config),
        generation_config: generation_config.map(Value::Object),
        files,
        tensors,
    })
}

fn open_tensors(path: &Path) -> Result<(Vec<MappedFile>, Vec<Placed>), FormatError> {
    let index = weight_map(path)?;
    // As transformers does: a single file wins over an index that was left behind.
    let names: Vec<String> = if path.join(SINGLE_FILE).exists() || index.is_none() {
        vec![single_file(path)?]
    } else {
        let mut shards: Vec<_> = index.iter().flatten().map(|(_, shard)| shard).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.into_iter().cloned().collect()
    };
    let mut files = Vec::with_capacity(names.len());
    let mut tensors: Vec<Placed> = Vec::new();
    let mut holder: HashMap<String, usize> = HashMap::new();
    for (file, name) in names.iter().enumerate() {
        let shard = path.join(name);
        if !shard.exists() {
            return Err(FormatError::MissingFile {
                folder: path.to_owned(),
                missing: name.clone(),
                promised_by: INDEX.to_owned(),
            });
        }
        let (map, entries) = SafetensorsFile::open(&shard)?.into_parts();
        for entry in entries {
            if let Some(first) = holder.insert(entry.name.clone(), file) {
                return Err(FormatError::DuplicateTensor {
                    folder: path.to_owned(),
                    tensor: entry.name,
                    first: names[first].clone(),
                    second: name.clone(),
                });
            }
            tensors.push(Placed { file, entry });
        }
        files.push(map);
    }
    if names.len() > 1 || names.first().is_some_and(|name| name != SINGLE_FILE) {
        check_index(path, index.iter().flatten(), &holder, &names)?;
    }
    Ok((files, tensors))
}

/// Every tensor of the index must be in the shard that the index names.
fn check_index<'a>(
    path: &Path,
    index: impl Iterator<Item = (&'a String, &'a String)>,
    holder: &HashMap<String, usize>,
    names: &[String],
) -> Result<(), FormatError> {
    for (tensor, shard) in index {
        let found = holder.get(tensor).map(|file| &names[*file]);
        if found != Some(shard) {
            return Err(FormatError::TensorNotInShard {
                folder: path.to_owned(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
    }
    Ok(())
}

/// The index's `weight_map`: tensor to shard file name, which must be a plain name.
fn weight_map(path: &Path) -> Result<Option<BTreeMap<String, String>>, FormatError> {
    let index_path = path.join(INDEX);
    let Some(index) = json::read_json_object(&index_path)? else {
        return Ok(None);
    };
    let malformed = |reason: String| FormatError::Json {
        path: index_path.clone(),
        reason,
    };
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(malformed("no weight_map object".to_owned()));
    };
    let mut shards = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard
            .as_str()
            .ok_or_else(|| malformed(format!("weight_map entry {tensor} is not a file name")))?;
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(malformed(format!(
                "weight_map entry {tensor} points outside the folder: {shard}"
            )));
        }
        shards.insert(tensor.clone(), shard.to_owned());
    }
    if shards.is_empty() {
        return Err(malformed("weight_map is empty".to_owned()));
    }
    Ok(Some(shards))
}

/// The one file of a folder without an index: `model.safetensors`, or whatever it is called.
fn single_file(path: &Path) -> Result<String, FormatError> {
    if path.join(SINGLE_FILE).exists() {
        return Ok(SINGLE_FILE.to_owned());
    }
    let mut found: Vec<String> = files_with_extension(path, "safetensors")?
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    if found.len() == 1 {
        return Ok(found.remove(0));
    }
    let what = if found.is_empty() {
        "no *.safetensors file (PyTorch .bin files are not read: convert them)".to_owned()
    } else {
        format!("{} *.safetensors files but no {INDEX}", found.len())
    };
    Err(FormatError::NotAModel {
        path: path.to_owned(),
        found: what,
    })
}

/// The files of a folder with a given extension, sorted by name.
pub(super) fn files_with_extension(
    folder: &Path,
    extension: &str,
) -> Result<Vec<PathBuf>, FormatError> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| FormatError::io(folder, error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| FormatError::io(folder, error))?
            .path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}
