//! A GGUF file as a Hugging Face folder, so that it can be merged and trained.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::plan::{self, Content, PlannedJob, Transform};
use super::to_gguf::{Converted, check_space, elements};
use super::{ConvertError, Family, config_json, encode};
use crate::durable::write_atomic;
use crate::formats::{
    Checkpoint, DType, FormatError, GgufMetadata, PlannedTensor, SafetensorsWriter, Source,
    Tokenizer,
};

/// How to write the folder.
#[derive(Clone, Debug, Default)]
pub struct FolderOptions {
    /// F32, F16 or BF16 for every tensor; `None` is the type of the file's matrices, and BF16 for
    /// quantised files.
    pub dtype: Option<DType>,
    /// A tensor that would take a file beyond this starts the next.
    pub max_shard_bytes: Option<u64>,
    /// Plan and report, write nothing.
    pub dry_run: bool,
}

/// Tensors that config.json expresses.
const FREQUENCY_TENSORS: &[&str] = &[
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Converts `checkpoint`, a GGUF file, to a folder that must not exist or be empty.
///
/// A model in bfloat16 that came from a folder in bfloat16 gets its bytes back. A Mistral becomes
/// a Llama: GGUF does not tell them apart, and stores no window.
///
/// # Errors
/// The source is not of a supported family, cannot be expressed as config.json, or the folder
/// cannot be written. config.json appears last.
pub fn to_folder(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &FolderOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Converted, ConvertError> {
    let Source::Gguf(metadata) = checkpoint.source() else {
        return Err(ConvertError::WrongSource {
            path: checkpoint.path().to_owned(),
            found: "a Hugging Face folder already",
            expected: "a GGUF file",
        });
    };
    let family = family(checkpoint, metadata)?;
    let dtype = options.dtype.unwrap_or_else(|| matrix_type(checkpoint));
    let jobs = jobs(checkpoint, metadata, family, dtype)?;
    let config = config_json::config(checkpoint, metadata, family, dtype)?;
    let files = json_files(checkpoint, metadata, family, &config)?;
    let planned: Vec<_> = jobs.iter().map(|job| job.planned.clone()).collect();
    let bytes =
        |planned: &PlannedTensor| planned.dtype.tensor_bytes(&planned.shape).unwrap_or(0) as u64;
    let mut converted = Converted {
        files: vec![folder.to_owned()],
        num_parameters: planned.iter().map(|planned| elements(&planned.shape)).sum(),
        num_tensors: planned.len(),
        tensor_bytes: planned.iter().map(bytes).sum(),
        tensors: planned
            .iter()
            .map(|planned| (planned.name.clone(), planned.dtype, planned.shape.clone()))
            .collect(),
    };
    if options.dry_run {
        return Ok(converted);
    }
    check_space(folder, converted.tensor_bytes)?;
    create_empty(folder)?;
    let writer = SafetensorsWriter::create(folder, planned, options.max_shard_bytes)?;
    encode::convert_all(
        &jobs,
        |name, offset, bytes| writer.write_at(name, offset, bytes),
        || writer.sync(),
        progress,
    )?;
    converted.files = writer.finish()?;
    for (name, contents) in files {
        let path = folder.join(name);
        write_atomic(&path, contents.as_bytes()).map_err(|error| io(&path, error))?;
        converted.files.push(path);
    }
    Ok(converted)
}

fn io(path: &Path, source: std::io::Error) -> ConvertError {
    let path = path.to_owned();
    ConvertError::Format(FormatError::Io { path, source })
}

fn create_empty(folder: &Path) -> Result<(), ConvertError> {
    std::fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
    let mut entries = std::fs::read_dir(folder).map_err(|error| io(folder, error))?;
    if entries.next().is_some() {
        let error = std::io::Error::other("the folder is not empty; name a new one");
        return Err(io(folder, error));
    }
    Ok(())
}

/// The family that a GGUF file's architecture names.
pub(super) fn family(
    checkpoint: &Checkpoint,
    metadata: &GgufMetadata,
) -> Result<Family, ConvertError> {
    let architecture = metadata.architecture()?;
    Family::ALL
        .into_iter()
        .find(|family| family.gguf_name() == architecture)
        .ok_or_else(|| ConvertError::Architecture {
            path: checkpoint.path().to_owned(),
            found: architecture.to_owned(),
            supported: "qwen2, qwen3, llama, gemma3, phi3".to_owned(),
        })
}

/// The plain type of the first matrix; BF16 where it is quantised.
fn matrix_type(checkpoint: &Checkpoint) -> DType {
    let first = checkpoint.tensors().find(|view| view.shape.len() > 1);
    first
        .map(|view| view.dtype)
        .filter(|dtype| matches!(dtype, DType::F32 | DType::F16))
        .unwrap_or(DType::BF16)
}

fn jobs<'a>(
    checkpoint: &'a Checkpoint,
    metadata: &GgufMetadata,
    family: Family,
    dtype: DType,
) -> Result<Vec<PlannedJob<'a>>, ConvertError> {
    let path = || -> PathBuf { checkpoint.path().to_owned() };
    let mut jobs = Vec::new();
    for view in checkpoint.tensors() {
        if FREQUENCY_TENSORS.contains(&view.name) {
            continue;
        }
        let name = family
            .hf_tensor_name(view.name)
            .ok_or_else(|| ConvertError::UnknownTensor {
                path: path(),
                tensor: view.name.to_owned(),
                family: family.gguf_name(),
            })?;
        if encode::block_type(view.dtype).is_none() {
            return Err(ConvertError::Type {
                path: path(),
                tensor: view.name.to_owned(),
                dtype: view.dtype,
            });
        }
        let key = |key: &str| format!("{}.attention.{key}", family.gguf_name());
        let heads = metadata.usize(&key("head_count"))?;
        let kv_heads = metadata.find_usize(&key("head_count_kv"))?.unwrap_or(heads);
        let heads = match view.name.rsplit('.').nth(1) {
            Some("attn_q") if family.interleaves_heads() => Some(heads),
            Some("attn_k") if family.interleaves_heads() => Some(kv_heads),
            _ => None,
        };
        let transform = match heads {
            Some(heads) => {
                let head_dim = plan::head_rows(view.shape, heads);
                let head_dim = head_dim.ok_or_else(|| ConvertError::Shape {
                    path: path(),
                    tensor: view.name.to_owned(),
                    shape: view.shape.to_vec(),
                    what: format!("{heads} heads of an even size"),
                })?;
                Transform::Deinterleave { head_dim }
            }
            None if view.name.ends_with("norm.weight") && family.norm_offset() != 0.0 => {
                Transform::Add(-family.norm_offset())
            }
            None => Transform::None,
        };
        jobs.push(PlannedJob {
            planned: PlannedTensor {
                name,
                dtype,
                shape: view.shape.to_vec(),
            },
            content: Content::Source { view, transform },
        });
    }
    Ok(jobs)
}

/// Everything beside the tensors; config.json last, for it makes the folder a model.
fn json_files(
    checkpoint: &Checkpoint,
    metadata: &GgufMetadata,
    family: Family,
    config: &Value,
) -> Result<Vec<(&'static str, String)>, ConvertError> {
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let tokenizer_json = Tokenizer::json_of_gguf(metadata)?;
    let context = metadata.usize(&format!("{}.context_length", family.gguf_name()))?;
    let tokenizer_config = config_json::tokenizer_config(&tokenizer, &tokenizer_json, context);
    let generation_config = config_json::generation_config(metadata, &tokenizer)?;
    let text = |value: &Value| format!("{value:#}\n");
    Ok(vec![
        ("tokenizer.json", text(&tokenizer_json)),
        ("tokenizer_config.json", text(&tokenizer_config)),
        ("generation_config.json", text(&generation_config)),
        ("config.json", text(config)),
    ])
}
