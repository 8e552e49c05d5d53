//! Opens a GGUF model: one file, or the parts that llama.cpp's splitter made of it.

use std::path::{Path, PathBuf};

use super::super::checkpoint::Placed;
use super::super::mmap::MappedFile;
use super::super::{FormatError, folder};
use super::{GgufMetadata, reader};

/// Key of the number of parts.
const SPLIT_COUNT: &str = "split.count";

/// What [`open`] found.
pub(in super::super) struct OpenedGguf {
    pub(in super::super) metadata: GgufMetadata,
    pub(in super::super) files: Vec<MappedFile>,
    pub(in super::super) tensors: Vec<Placed>,
}

/// Opens the file at `path`; of a split model any part may be named, all must be there.
pub(in super::super) fn open(path: &Path) -> Result<OpenedGguf, FormatError> {
    let (metadata, first) = open_part(path)?;
    let num_parts = metadata.find_usize(SPLIT_COUNT)?.unwrap_or(1);
    if num_parts <= 1 {
        return assemble(path, metadata, vec![first]);
    }
    let names = part_names(path, num_parts)?;
    let mut parts = Vec::new();
    let mut shared = None;
    for name in names {
        let part = path.with_file_name(&name);
        if !part.exists() {
            return Err(FormatError::MissingFile {
                folder: part.parent().unwrap_or(Path::new(".")).to_owned(),
                missing: name,
                promised_by: path.display().to_string(),
            });
        }
        let (metadata, part) = open_part(&part)?;
        // The first part carries the metadata; the others only their split keys.
        shared.get_or_insert(metadata);
        parts.push(part);
    }
    let metadata = shared.unwrap_or(metadata);
    assemble(path, metadata, parts)
}

type Part = (MappedFile, Vec<super::super::safetensors::TensorEntry>);

fn open_part(path: &Path) -> Result<(GgufMetadata, Part), FormatError> {
    let file = MappedFile::open(path)?;
    let header = reader::parse(file.bytes()).map_err(|(offset, fault)| FormatError::Gguf {
        path: path.to_owned(),
        offset,
        fault,
    })?;
    let metadata = GgufMetadata::new(path, header.pairs);
    Ok((metadata, (file, header.tensors)))
}

fn assemble(
    path: &Path,
    metadata: GgufMetadata,
    parts: Vec<Part>,
) -> Result<OpenedGguf, FormatError> {
    let mut files: Vec<MappedFile> = Vec::new();
    let mut tensors: Vec<Placed> = Vec::new();
    let mut holder = std::collections::HashMap::new();
    for (index, (file, entries)) in parts.into_iter().enumerate() {
        files.push(file);
        for entry in entries {
            if let Some(first) = holder.insert(entry.name.clone(), index) {
                let name = |part: usize| files[part].path().display().to_string();
                return Err(FormatError::DuplicateTensor {
                    folder: path.to_owned(),
                    tensor: entry.name,
                    first: name(first),
                    second: name(index),
                });
            }
            tensors.push(Placed { file: index, entry });
        }
    }
    Ok(OpenedGguf {
        metadata,
        files,
        tensors,
    })
}

/// `NAME-00001-of-00003.gguf` and its siblings.
fn part_names(path: &Path, num_parts: usize) -> Result<impl Iterator<Item = String>, FormatError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = format!("-of-{num_parts:05}.gguf");
    let stem = name
        .strip_suffix(&suffix)
        .and_then(|rest| Some(rest.rsplit_once('-')?.0))
        .ok_or_else(|| FormatError::NotAModel {
            path: path.to_owned(),
            found: format!("one part of {num_parts}, but its name does not end in -00001{suffix}"),
        })?;
    let stem = stem.to_owned();
    Ok((1..=num_parts).map(move |part| format!("{stem}-{part:05}{suffix}")))
}

/// The one GGUF model of a folder: a single file, or the parts of a single split model.
pub(in super::super) fn only_model_in(folder: &Path) -> Result<PathBuf, FormatError> {
    let files = folder::files_with_extension(folder, "gguf")?;
    let firsts: Vec<_> = files.iter().filter(|file| is_first_part(file)).collect();
    match firsts[..] {
        [only] => Ok(only.clone()),
        [] => Err(FormatError::NotAModel {
            path: folder.to_owned(),
            found: "no config.json and no *.gguf in it".to_owned(),
        }),
        _ => Err(FormatError::NotAModel {
            path: folder.to_owned(),
            found: format!("{} GGUF files in it: name one of them", firsts.len()),
        }),
    }
}

/// False for part 2 and later of a split model.
fn is_first_part(file: &Path) -> bool {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let part = name
        .rsplit_once("-of-")
        .filter(|(_, count)| count.len() == 5 && count.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|(rest, _)| rest.rsplit_once('-'))
        .and_then(|(_, part)| part.parse::<u32>().ok());
    part.is_none_or(|part| part == 1)
}
