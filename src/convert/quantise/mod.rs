//! A GGUF file in fewer bits, as llama.cpp's quantiser writes it: the same tensors in the same
//! order, each in the type that the mixture gives it, the same bytes.
//!
//! Pieces of rows are read from the map, quantised by ggml and written to their place, in
//! parallel over all tensors; a thread holds one piece.

mod blocks;
mod file_type;
#[cfg(feature = "ggml")]
mod ggml;
#[cfg(not(feature = "ggml"))]
#[path = "no_ggml.rs"]
mod ggml;
mod loss;
mod mixture;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

pub use blocks::BlockFault;
pub use file_type::QuantisedType;
pub use loss::Loss;
pub use mixture::TypeChoices;

use blocks::Rows;
use mixture::{Candidate, ModelFacts, choose, file_order, needs_importance};

use super::importance::ImportanceMatrix;
use super::to_folder::family;
use super::to_gguf::check_space;
use super::{ConvertError, Family};
use crate::formats::{
    Checkpoint, DType, GgufMetadata, GgufSplit, GgufValue, GgufWriter, PlannedTensor, Source,
    TensorView, write_behind,
};

/// Elements per piece: 1 MiB in single precision, so that the last pieces of a slow type end
/// together.
const PIECE_ELEMENTS: usize = 1 << 18;

/// `general.quantization_version`: the block layouts as they have been since 2023.
const QUANTIZATION_VERSION: u32 = 2;

/// Keys that belong to the file that was read, not to the model.
const KEYS_OF_THE_FILE: [&str; 6] = [
    "general.quantization_version",
    "general.file_type",
    "general.alignment",
    "split.no",
    "split.count",
    "split.tensors.count",
];

/// How to quantise a file.
#[derive(Debug)]
pub struct QuantiseOptions {
    /// The file to write.
    pub out: PathBuf,
    /// Its type.
    pub file_type: QuantisedType,
    /// What the user says about the types of tensors.
    pub types: TypeChoices,
    /// Whether tensors that are quantised already may be quantised again.
    pub allow_requantise: bool,
    /// How much each column of each matrix matters.
    pub importance: Option<ImportanceMatrix>,
    /// Metadata to add or replace, in this order.
    pub overrides: Vec<(String, GgufValue)>,
    /// When to start another file.
    pub split: GgufSplit,
    /// Instead of `split`: a file for each file of the source, with the same tensors.
    pub keep_split: bool,
    /// Measure what each tensor lost.
    pub check: bool,
    /// Plan and report, write nothing.
    pub dry_run: bool,
}

/// What was written, or would be.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// The files, in order; of a dry run the one that was asked for.
    pub files: Vec<PathBuf>,
    /// The tensors, in file order.
    pub tensors: Vec<QuantisedTensor>,
    /// Whether the real run will need an importance matrix that is not there.
    pub lacks_importance: bool,
}

/// One tensor of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedTensor {
    /// Its name.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// The type that it had.
    pub from: DType,
    /// The type that it has.
    pub to: DType,
    /// The type of the mixture that its rows did not fit.
    pub instead_of: Option<DType>,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
    /// What was lost, where that was measured.
    pub loss: Option<Loss>,
}

/// Quantises `checkpoint`, a GGUF file of a dense model.
///
/// `progress` is called with the bytes of tensor data written so far, from any thread.
///
/// # Errors
/// The source is no GGUF file of a supported family, is quantised already, or holds values that
/// its new type cannot; the type needs an importance matrix; the target cannot be written. No file
/// appears then.
pub fn quantise(
    checkpoint: &Checkpoint,
    options: &QuantiseOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Quantised, ConvertError> {
    let Source::Gguf(metadata) = checkpoint.source() else {
        return Err(ConvertError::WrongSource {
            path: checkpoint.path().to_owned(),
            found: "a Hugging Face folder",
            expected: "a GGUF file (make one with micota convert)",
        });
    };
    check_types(checkpoint, &options.types)?;
    let jobs = plan(checkpoint, metadata, options)?;
    let mut quantised = Quantised {
        files: vec![options.out.clone()],
        tensors: jobs.iter().map(Job::summary).collect(),
        lacks_importance: false,
    };
    for job in &jobs {
        if job.view.dtype != job.planned.dtype && job.needs_importance && job.importance.is_none() {
            if options.dry_run {
                quantised.lacks_importance = true;
            } else {
                return Err(fault(checkpoint, job, BlockFault::NeedsImportance));
            }
        }
    }
    if options.dry_run {
        return Ok(quantised);
    }
    check_space(
        &options.out,
        quantised.tensors.iter().map(|t| t.bytes_after).sum(),
    )?;
    let pairs = pairs(metadata, options);
    let mut planned = jobs.iter().map(|job| job.planned.clone());
    let writer = if options.keep_split {
        let files = checkpoint.tensors_by_file().into_iter();
        let parts = files.map(|file| planned.by_ref().take(file.len()).collect());
        GgufWriter::create_parts(&options.out, &pairs, parts.collect())?
    } else {
        GgufWriter::create(&options.out, &pairs, planned.collect(), options.split)?
    };
    let losses = write(checkpoint, &jobs, &writer, options.check, progress)?;
    for (tensor, loss) in quantised.tensors.iter_mut().zip(losses) {
        tensor.loss = loss;
    }
    quantised.files = writer.finish()?;
    Ok(quantised)
}

/// One tensor of the output and how it comes about.
struct Job<'a> {
    view: TensorView<'a>,
    planned: PlannedTensor,
    instead_of: Option<DType>,
    needs_importance: bool,
    importance: Option<Vec<f32>>,
}

impl Job<'_> {
    fn row_len(&self) -> usize {
        self.view.shape.last().copied().unwrap_or(1)
    }

    fn summary(&self) -> QuantisedTensor {
        let planned = &self.planned;
        let bytes = planned.dtype.tensor_bytes(&planned.shape);
        QuantisedTensor {
            name: planned.name.clone(),
            shape: planned.shape.clone(),
            from: self.view.dtype,
            to: planned.dtype,
            instead_of: self.instead_of,
            bytes_before: self.view.data.len() as u64,
            bytes_after: bytes.unwrap_or(0) as u64,
            loss: None,
        }
    }
}

/// Types that the user names must be ones that tensors can be quantised to.
fn check_types(checkpoint: &Checkpoint, types: &TypeChoices) -> Result<(), ConvertError> {
    let named = types.tensor_types.iter().map(|(_, dtype)| *dtype);
    let mut all = named
        .chain(types.output_tensor_type)
        .chain(types.token_embedding_type);
    match all.find(|dtype| !blocks::is_target(*dtype)) {
        None => Ok(()),
        Some(dtype) => Err(ConvertError::Quantise {
            path: checkpoint.path().to_owned(),
            tensor: "(a type that was asked for)".to_owned(),
            dtype,
            fault: BlockFault::NotATarget,
        }),
    }
}

fn plan<'a>(
    checkpoint: &'a Checkpoint,
    metadata: &GgufMetadata,
    options: &QuantiseOptions,
) -> Result<Vec<Job<'a>>, ConvertError> {
    let facts = facts(checkpoint, metadata, options.importance.is_some())?;
    let mut views: Vec<_> = checkpoint.tensors().collect();
    if !options.keep_split {
        views.sort_by(|a, b| file_order(a.name, b.name));
    }
    let candidates: Vec<_> = views
        .iter()
        .map(|view| Candidate {
            name: view.name,
            dtype: view.dtype,
            shape: view.shape,
        })
        .collect();
    let chosen = choose(options.file_type, &options.types, facts, &candidates);
    let mut jobs = Vec::with_capacity(views.len());
    for (view, choice) in views.into_iter().zip(chosen) {
        let mut job = Job {
            planned: PlannedTensor {
                name: view.name.to_owned(),
                dtype: choice.dtype,
                shape: view.shape.to_vec(),
            },
            instead_of: choice.instead_of,
            needs_importance: needs_importance(view.name, choice.dtype, options.file_type),
            importance: None,
            view,
        };
        let changes = view.dtype != choice.dtype;
        if changes && view.dtype.is_quantized() && !options.allow_requantise {
            return Err(ConvertError::Requantise {
                path: checkpoint.path().to_owned(),
                tensor: view.name.to_owned(),
                dtype: view.dtype,
            });
        }
        if let (true, Some(matrix)) = (changes, &options.importance) {
            job.importance = importance_of(checkpoint, &job, matrix)?;
        }
        jobs.push(job);
    }
    Ok(jobs)
}

/// A tensor's columns in the matrix. One of another model is refused; the embedding, which is
/// looked up and not multiplied by, is not looked for.
fn importance_of(
    checkpoint: &Checkpoint,
    job: &Job<'_>,
    matrix: &ImportanceMatrix,
) -> Result<Option<Vec<f32>>, ConvertError> {
    let Some(columns) = matrix.columns(job.view.name) else {
        return Ok(None);
    };
    if columns.len() == job.row_len() {
        return Ok(Some(columns));
    }
    if job.view.name == "token_embd.weight" {
        return Ok(None);
    }
    Err(fault(checkpoint, job, BlockFault::Importance))
}

fn facts(
    checkpoint: &Checkpoint,
    metadata: &GgufMetadata,
    has_importance: bool,
) -> Result<ModelFacts, ConvertError> {
    let architecture = metadata.architecture()?;
    let family = family(checkpoint, metadata)?;
    let key = |key: &str| format!("{architecture}.{key}");
    if metadata.find_usize(&key("expert_count"))?.unwrap_or(0) > 0 {
        return Err(ConvertError::Architecture {
            path: checkpoint.path().to_owned(),
            found: format!("{architecture} with a mixture of experts"),
            supported: "dense models".to_owned(),
        });
    }
    let num_layers = metadata.usize(&key("block_count"))?;
    let heads = metadata.usize(&key("attention.head_count"))?;
    let key_heads = metadata
        .find_usize(&key("attention.head_count_kv"))?
        .unwrap_or(heads);
    Ok(ModelFacts {
        num_layers,
        heads_per_group: heads.checked_div(key_heads).unwrap_or(0),
        is_70b: num_layers == 80
            && match family {
                Family::Qwen2 => true,
                Family::Llama | Family::Mistral => heads != key_heads,
                _ => false,
            },
        has_importance,
    })
}

/// The source's pairs in their order, then what the new file says of itself.
fn pairs(metadata: &GgufMetadata, options: &QuantiseOptions) -> Vec<(String, GgufValue)> {
    let file_type = options
        .file_type
        .file_type()
        .map(GgufValue::U32)
        .or_else(|| metadata.get("general.file_type").cloned());
    let mut pairs: Vec<_> = metadata
        .pairs()
        .filter(|(key, _)| !KEYS_OF_THE_FILE.contains(key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    let version = GgufValue::U32(QUANTIZATION_VERSION);
    pairs.push(("general.quantization_version".to_owned(), version));
    if let Some(file_type) = file_type {
        pairs.push(("general.file_type".to_owned(), file_type));
    }
    let of_matrix = options.importance.iter().flat_map(ImportanceMatrix::pairs);
    for (key, value) in options.overrides.iter().cloned().chain(of_matrix) {
        pairs.retain(|(known, _)| *known != key);
        pairs.push((key, value));
    }
    pairs
}

/// A range of rows of one tensor.
struct Piece {
    job: usize,
    begin: usize,
    end: usize,
}

fn pieces(index: usize, job: &Job<'_>) -> impl Iterator<Item = Piece> {
    let row_len = job.row_len().max(1);
    let rows = job.view.num_elements() / row_len;
    let step = (PIECE_ELEMENTS / row_len).max(1);
    (0..rows).step_by(step).map(move |begin| Piece {
        job: index,
        begin,
        end: (begin + step).min(rows),
    })
}

/// What a thread works in.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    read_back: Vec<f32>,
}

/// Quantises and writes every tensor; the losses are in the order of `jobs`.
fn write(
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    writer: &GgufWriter,
    check: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Option<Loss>>, ConvertError> {
    let pieces: Vec<_> = jobs
        .iter()
        .enumerate()
        .flat_map(|(index, job)| pieces(index, job))
        .collect();
    let written = AtomicU64::new(0);
    let sync = || Ok(writer.sync()?);
    let sums: Vec<_> = write_behind(sync, |behind| {
        let write = |buffers: &mut Buffers, piece: &Piece| {
            let job = &jobs[piece.job];
            let sums = convert(job, piece, writer, buffers, check, &|len| {
                behind.wrote(len);
                progress(written.fetch_add(len, Ordering::Relaxed) + len);
            });
            sums.map(|sums| (piece.job, sums))
                .map_err(|error| match error {
                    PieceError::Fault(found) => fault(checkpoint, job, found),
                    PieceError::Write(error) => error.into(),
                })
        };
        pieces
            .par_iter()
            .map_init(Buffers::default, write)
            .collect::<Result<_, ConvertError>>()
    })?;
    let mut losses = vec![None; jobs.len()];
    for (job, sums) in sums {
        if let Some(sums) = sums {
            losses[job]
                .get_or_insert_with(loss::Sums::default)
                .add(&sums);
        }
    }
    Ok(losses
        .into_iter()
        .map(|sums| sums.map(|s| s.loss()))
        .collect())
}

enum PieceError {
    Fault(BlockFault),
    Write(crate::formats::FormatError),
}

/// Returns the piece's error sums, if they are wanted and the tensor changes.
fn convert(
    job: &Job<'_>,
    piece: &Piece,
    writer: &GgufWriter,
    buffers: &mut Buffers,
    check: bool,
    wrote: &dyn Fn(u64),
) -> Result<Option<loss::Sums>, PieceError> {
    let row_len = job.row_len();
    let (from, to) = (job.view.dtype, job.planned.dtype);
    let bytes_of = |dtype: DType, rows: usize| {
        let bytes = dtype.tensor_bytes(&[rows, row_len]);
        bytes.ok_or(PieceError::Fault(BlockFault::Length))
    };
    let rows = piece.end - piece.begin;
    let source = &job.view.data[bytes_of(from, piece.begin)?..bytes_of(from, piece.end)?];
    let offset = bytes_of(to, piece.begin)? as u64;
    let write = |bytes: &[u8]| {
        let written = writer.write_at(&job.planned.name, offset, bytes);
        wrote(bytes.len() as u64);
        written.map_err(PieceError::Write)
    };
    if from == to {
        write(source)?;
        return Ok(None);
    }
    let Buffers {
        values,
        bytes,
        read_back,
    } = buffers;
    values.resize(rows * row_len, 0.0);
    ggml::dequantise(from, source, values).map_err(PieceError::Fault)?;
    bytes.resize(bytes_of(to, rows)?, 0);
    let whole_rows = Rows {
        values,
        row_len,
        importance: job.importance.as_deref(),
    };
    ggml::quantise(to, whole_rows, bytes).map_err(PieceError::Fault)?;
    write(bytes)?;
    if !check {
        return Ok(None);
    }
    read_back.resize(values.len(), 0.0);
    ggml::dequantise(to, bytes, read_back).map_err(PieceError::Fault)?;
    Ok(Some(loss::Sums::of(values, read_back)))
}

fn fault(checkpoint: &Checkpoint, job: &Job<'_>, fault: BlockFault) -> ConvertError {
    ConvertError::Quantise {
        path: checkpoint.path().to_owned(),
        tensor: job.planned.name.clone(),
        dtype: job.planned.dtype,
        fault,
    }
}
