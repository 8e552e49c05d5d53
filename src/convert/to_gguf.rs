//! A Hugging Face folder as a GGUF file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::config::Config;
use super::encode;
use super::metadata::{self, Pairs};
use super::options::FileType;
use super::plan::{self, Content, PlannedJob};
use super::special_tokens;
use super::vocabulary::{self, TokenizerFiles};
use super::{ConvertError, Family, GgufOptions, OutType};
use crate::durable::free_bytes;
use crate::formats::{
    Checkpoint, DType, GgufArray, GgufValue, GgufWriter, Source, Tokenizer, read_json_object,
};

/// What a conversion wrote, or would write.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The files, in order; of a dry run the one that was asked for.
    pub files: Vec<PathBuf>,
    /// Elements of all tensors.
    pub num_parameters: u64,
    /// Number of tensors.
    pub num_tensors: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Name, type and shape (outermost first) of each tensor.
    pub tensors: Vec<(String, DType, Vec<usize>)>,
}

/// Converts `checkpoint`, a Hugging Face folder, to GGUF.
///
/// `progress` is called with the bytes of tensor data written so far, from any thread.
///
/// # Errors
/// The source is not of a supported family, is inconsistent, or the target cannot be written.
/// No file appears then.
pub fn to_gguf(
    checkpoint: &Checkpoint,
    options: &GgufOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Converted, ConvertError> {
    let Source::HuggingFace {
        config,
        generation_config,
        folder,
    } = checkpoint.source()
    else {
        return Err(ConvertError::WrongSource {
            path: checkpoint.path().to_owned(),
            found: "a GGUF file",
            expected: "a Hugging Face folder (for the way back use --to hf)",
        });
    };
    let config = Config::new(folder, config)?;
    let family = config.family()?;
    let file_type = FileType::of(options.out_type, matrix_type(checkpoint));
    let jobs = plan::tensors(checkpoint, family, &config, file_type)?;
    check_types(checkpoint, &jobs)?;
    let count = |jobs: &[PlannedJob<'_>]| {
        jobs.iter()
            .map(|job| elements(&job.planned.shape))
            .sum::<u64>()
    };
    let num_parameters = count(&jobs);
    let jobs = if options.vocab_only { Vec::new() } else { jobs };
    let name = match &options.model_name {
        Some(name) => name.clone(),
        None => display_name(folder),
    };
    let mut pairs = metadata::general(
        family,
        &name,
        count(&jobs),
        generation_config.as_ref(),
        &options.metadata,
    );
    metadata::model(family, &config, file_type, &mut pairs)?;
    tokenizer_pairs(checkpoint, family, folder, &config, &mut pairs)?;
    let path = out_path(options, folder, &name, num_parameters, file_type);
    write(&path, &pairs, &jobs, options, progress)
}

fn write(
    path: &Path,
    pairs: &Pairs,
    jobs: &[PlannedJob<'_>],
    options: &GgufOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Converted, ConvertError> {
    let planned: Vec<_> = jobs.iter().map(|job| job.planned.clone()).collect();
    let bytes = |job: &PlannedJob<'_>| {
        let planned = &job.planned;
        planned.dtype.tensor_bytes(&planned.shape).unwrap_or(0) as u64
    };
    let tensor_bytes = jobs.iter().map(bytes).sum();
    let mut converted = Converted {
        files: vec![path.to_owned()],
        num_parameters: planned.iter().map(|planned| elements(&planned.shape)).sum(),
        num_tensors: planned.len(),
        tensor_bytes,
        tensors: planned
            .iter()
            .map(|planned| (planned.name.clone(), planned.dtype, planned.shape.clone()))
            .collect(),
    };
    if options.dry_run {
        return Ok(converted);
    }
    check_space(path, tensor_bytes)?;
    let writer = GgufWriter::create(path, pairs, planned, options.split)?;
    encode::convert_all(
        jobs,
        |name, offset, bytes| writer.write_at(name, offset, bytes),
        || writer.sync(),
        progress,
    )?;
    converted.files = writer.finish()?;
    Ok(converted)
}

/// Asked before the work, not found out at its end.
pub(super) fn check_space(path: &Path, needed: u64) -> Result<(), ConvertError> {
    match free_bytes(path) {
        Ok(free) if free < needed => Err(ConvertError::DiskSpace {
            path: path.to_owned(),
            needed,
            free,
        }),
        // A file system that does not answer is no reason to stop: writing will tell.
        _ => Ok(()),
    }
}

pub(super) fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|dim| *dim as u64).product()
}

/// The type of the checkpoint's first matrix, for `auto`.
fn matrix_type(checkpoint: &Checkpoint) -> DType {
    let first = checkpoint.tensors().find(|view| view.shape.len() > 1);
    first.map_or(DType::F32, |view| view.dtype)
}

fn check_types(checkpoint: &Checkpoint, jobs: &[PlannedJob<'_>]) -> Result<(), ConvertError> {
    for job in jobs {
        if let Content::Source { view, .. } = &job.content
            && encode::block_type(view.dtype).is_none()
        {
            return Err(ConvertError::Type {
                path: checkpoint.path().to_owned(),
                tensor: view.name.to_owned(),
                dtype: view.dtype,
            });
        }
    }
    Ok(())
}

fn tokenizer_pairs(
    checkpoint: &Checkpoint,
    family: Family,
    folder: &Path,
    config: &Config<'_>,
    pairs: &mut Pairs,
) -> Result<(), ConvertError> {
    let read = |name: &str| -> Result<Map<String, Value>, ConvertError> {
        Ok(read_json_object(&folder.join(name))?.unwrap_or_default())
    };
    // Both parse the same large file, which is most of a small model's conversion.
    let (tokenizer, json) = rayon::join(
        || Tokenizer::from_checkpoint(checkpoint),
        || read("tokenizer.json"),
    );
    let (tokenizer, json) = (tokenizer?, json?);
    let tokenizer_config = read("tokenizer_config.json")?;
    let model_config = read("config.json")?;
    let files = TokenizerFiles {
        folder,
        tokenizer: &tokenizer,
        json: &json,
        config: &tokenizer_config,
        vocab_size: config.u32("vocab_size")? as usize,
    };
    // llama.cpp's Llama converter alone passes this setting on.
    let add_prefix_space = tokenizer_config
        .get("add_prefix_space")
        .and_then(Value::as_bool);
    if let (true, Some(add)) = (family.interleaves_heads(), add_prefix_space) {
        pairs.push(space_prefix(add));
    }
    let is_sentencepiece = vocabulary::append(&files, family, pairs)?;
    let limit = is_sentencepiece.then_some(files.vocab_size);
    let special = special_tokens::Files {
        tokenizer: &json,
        tokenizer_config: &tokenizer_config,
        config: &model_config,
    };
    special_tokens::append(&special, limit, pairs);
    chat_templates(&tokenizer, pairs);
    if family == Family::Gemma3 && is_sentencepiece {
        pairs.push(space_prefix(false));
    }
    Ok(())
}

fn space_prefix(add: bool) -> (String, GgufValue) {
    let key = "tokenizer.ggml.add_space_prefix".to_owned();
    (key, GgufValue::Bool(add))
}

/// The default template, and named ones under their names and in a list of names.
fn chat_templates(tokenizer: &Tokenizer, pairs: &mut Pairs) {
    let mut names = Vec::new();
    for name in tokenizer
        .chat_template_names()
        .filter(|name| *name != "default")
    {
        let Some(source) = tokenizer.chat_template_named(name) else {
            continue;
        };
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        let key = format!("tokenizer.chat_template.{name}");
        pairs.push((key, GgufValue::String(source.to_owned())));
        names.push(name);
    }
    if !names.is_empty() {
        let names = GgufValue::Array(GgufArray::String(names));
        pairs.push(("tokenizer.chat_templates".to_owned(), names));
    }
    if let Some(source) = tokenizer.chat_template() {
        let source = GgufValue::String(source.to_owned());
        pairs.push(("tokenizer.chat_template".to_owned(), source));
    }
}

/// The folder's name as a title, by the reference converter's rule: words in lower case are
/// capitalised letter run by letter run (`q2t-base` is `Q2T Base`), versions and sizes are kept.
fn display_name(folder: &Path) -> String {
    let absolute = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let words = name.split(|c: char| c == '-' || c.is_whitespace());
    let words = words.filter(|word| !word.is_empty()).map(title);
    words.collect::<Vec<_>>().join(" ")
}

fn title(word: &str) -> String {
    let digit = |c: char| c.is_ascii_digit();
    let is_version = word.starts_with(digit)
        || word
            .strip_prefix('v')
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| digit(c) || c == '.'));
    if is_version || word.chars().any(char::is_uppercase) {
        return word.to_owned();
    }
    let mut after_letter = false;
    let mut title = String::new();
    for character in word.chars() {
        if after_letter {
            title.push(character);
        } else {
            title.extend(character.to_uppercase());
        }
        after_letter = character.is_alphabetic();
    }
    title
}

/// Where the file goes: the named file with `{ftype}` filled in, or a name made from the model's
/// inside the named folder or the model's own.
fn out_path(
    options: &GgufOptions,
    folder: &Path,
    name: &str,
    num_parameters: u64,
    file_type: FileType,
) -> PathBuf {
    let out = options.outfile.as_deref().unwrap_or(folder);
    if out.is_dir() {
        return out.join(default_file_name(name, num_parameters, &file_type.name()));
    }
    let Some(name) = out.file_name().map(|name| name.to_string_lossy()) else {
        return out.to_owned();
    };
    let lower = file_type.name();
    let upper = lower.to_uppercase();
    let name = ["{ftype}", "{outtype}"]
        .iter()
        .fold(name.into_owned(), |name, hole| name.replace(hole, &lower));
    let name = ["{FTYPE}", "{OUTTYPE}"]
        .iter()
        .fold(name, |name, hole| name.replace(hole, &upper));
    out.with_file_name(name)
}

/// GGUF's naming convention: `Name-494M-BF16.gguf`.
pub fn default_file_name(name: &str, num_parameters: u64, out_type: &str) -> String {
    let name = name.trim().replace([' ', '/'], "-");
    let size = metadata::size_label(num_parameters);
    format!("{name}-{size}-{}.gguf", out_type.to_uppercase())
}

impl std::str::FromStr for OutType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Auto]
            .into_iter()
            .find(|own| own.name() == text)
            .ok_or_else(|| format!("unknown type {text:?} (f32, f16, bf16, q8_0, auto)"))
    }
}
