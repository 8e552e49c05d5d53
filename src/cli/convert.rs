//! `micota convert`: a checkpoint as GGUF, or a GGUF file as a Hugging Face folder.
//!
//! Flags are those of llama.cpp's `convert_hf_to_gguf.py`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, json};

use super::Exit;
use super::exit::usage;
use super::model_source::ModelSource;
use super::verify::{Comparison, compare};
use crate::convert::{Converted, FolderOptions, GgufOptions, OutType, to_folder, to_gguf};
use crate::formats::{Checkpoint, DType, GgufSplit, Source, read_json_object};

/// Convert a Hugging Face folder to GGUF, byte for byte as llama.cpp's converter does, or back.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The model: a folder with config.json and safetensors, a hub name, MODEL+ADAPTER to fold an
    /// adapter in, or a GGUF file for `--to hf`.
    model: String,
    /// The format to write; by default the one that the model is not in.
    #[arg(long, value_enum)]
    to: Option<Format>,
    /// Where to write: a file (`{ftype}` in its name becomes the type), or a folder. Default: a
    /// name made of the model's, inside the model's folder; for `--to hf` beside the file.
    #[arg(long, value_name = "PATH")]
    outfile: Option<PathBuf>,
    /// Type of the matrices: f32, f16, bf16, q8_0; auto is bf16 for a bfloat16 model, else f16.
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    outtype: OutType,
    /// Write only the metadata and the tokenizer.
    #[arg(long)]
    vocab_only: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// At most this many tensors in a file; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    split_max_tensors: usize,
    /// At most this many bytes of tensors in a file, with K, M or G for powers of 1000; 0 is no
    /// limit.
    #[arg(long, value_name = "N(K|M|G)", default_value = "0", value_parser = parse_size)]
    split_max_size: u64,
    /// A JSON file with `general.*` strings to add or replace.
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// The model's name inside the file; by default the folder's.
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Run a few prompts through source and result and compare their logits; exit code 3 if they
    /// disagree.
    #[arg(long, conflicts_with_all = ["dry_run", "vocab_only"])]
    verify: bool,
    /// List every tensor.
    #[arg(long, short)]
    verbose: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder with safetensors.
    Hf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let source = ModelSource::find(&args.model)?;
    if source.is_temporary() && args.outfile.is_none() {
        return Err(usage(anyhow::anyhow!(
            "{}: what is made of it has no place of its own; add --outfile",
            args.model
        )));
    }
    let checkpoint = Checkpoint::open(source.path())?;
    let is_gguf = matches!(checkpoint.source(), Source::Gguf(_));
    let to = args
        .to
        .unwrap_or(if is_gguf { Format::Hf } else { Format::Gguf });
    let bar = progress_bar(&checkpoint);
    let progress = |written: u64| bar.set_position(written);
    let started = std::time::Instant::now();
    let converted = match to {
        Format::Gguf => to_gguf(&checkpoint, &gguf_options(args)?, &progress)?,
        Format::Hf => {
            let folder = hf_folder(args, source.path());
            to_folder(&checkpoint, &folder, &folder_options(args)?, &progress)?
        }
    };
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let comparison = match (args.verify, converted.files.first(), to) {
        (true, Some(_), Format::Hf) => {
            Some(compare(source.path(), &hf_folder(args, source.path()))?)
        }
        (true, Some(file), Format::Gguf) => Some(compare(source.path(), file)?),
        _ => None,
    };
    report(args, &converted, seconds, comparison.as_ref())?;
    Ok(match comparison {
        Some(comparison) if !comparison.agrees() => Exit::GateFailed,
        _ => Exit::Done,
    })
}

fn split(args: &Args) -> GgufSplit {
    GgufSplit {
        max_bytes: (args.split_max_size > 0).then_some(args.split_max_size),
        max_tensors: (args.split_max_tensors > 0).then_some(args.split_max_tensors),
    }
}

fn gguf_options(args: &Args) -> anyhow::Result<GgufOptions> {
    let metadata = match &args.metadata {
        None => Map::new(),
        Some(path) => {
            let metadata = read_json_object(path).map_err(usage)?;
            let metadata = metadata
                .with_context(|| format!("--metadata {}: no such file", path.display()))
                .map_err(usage)?;
            for (key, value) in &metadata {
                if !key.starts_with("general.") || !value.is_string() {
                    return Err(usage(anyhow::anyhow!(
                        "--metadata {}: {key}: expected keys that begin with general. and strings",
                        path.display()
                    )));
                }
            }
            metadata
        }
    };
    Ok(GgufOptions {
        outfile: args.outfile.clone(),
        out_type: args.outtype,
        vocab_only: args.vocab_only,
        dry_run: args.dry_run,
        split: split(args),
        model_name: args.model_name.clone(),
        metadata,
    })
}

fn folder_options(args: &Args) -> anyhow::Result<FolderOptions> {
    let dtype = match args.outtype {
        OutType::F32 => Some(DType::F32),
        OutType::F16 => Some(DType::F16),
        OutType::Bf16 => Some(DType::BF16),
        OutType::Auto => None,
        OutType::Q8_0 => {
            return Err(usage(anyhow::anyhow!(
                "--outtype q8_0: a folder of safetensors has f32, f16 or bf16"
            )));
        }
    };
    if args.vocab_only || args.split_max_tensors > 0 {
        return Err(usage(anyhow::anyhow!(
            "--vocab-only and --split-max-tensors are for GGUF files"
        )));
    }
    Ok(FolderOptions {
        dtype,
        max_shard_bytes: split(args).max_bytes,
        dry_run: args.dry_run,
    })
}

/// `--outfile`, else the file's name without `.gguf`.
fn hf_folder(args: &Args, model: &Path) -> PathBuf {
    args.outfile.clone().unwrap_or_else(|| {
        let stem = model.with_extension("");
        if stem == model {
            model.join("hf")
        } else {
            stem
        }
    })
}

/// A bar over the bytes of the input's tensors; hidden where stderr is no terminal.
pub(super) fn progress_bar(checkpoint: &Checkpoint) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // The output's size is known only inside; the input's is near enough for a bar's end.
    let total = checkpoint
        .tensors()
        .map(|tensor| tensor.data.len() as u64)
        .sum();
    let style = ProgressStyle::with_template("{bar:40} {bytes} {bytes_per_sec} {elapsed}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn report(
    args: &Args,
    converted: &Converted,
    seconds: f64,
    comparison: Option<&Comparison>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        let tensors = converted.tensors.iter().map(
            |(name, dtype, shape)| json!({ "name": name, "type": dtype.name(), "shape": shape }),
        );
        let result = json!({
            "files": converted.files,
            "written": !args.dry_run,
            "num_parameters": converted.num_parameters,
            "num_tensors": converted.num_tensors,
            "tensor_bytes": converted.tensor_bytes,
            "seconds": seconds,
            "tensors": tensors.collect::<Vec<_>>(),
            "verify": comparison.map(Comparison::to_json),
        });
        writeln!(out, "{result:#}")?;
        return Ok(());
    }
    if args.verbose {
        for (name, dtype, shape) in &converted.tensors {
            writeln!(out, "{name:<40} {dtype:<6} {shape:?}")?;
        }
    }
    let verb = if args.dry_run { "would write" } else { "wrote" };
    writeln!(
        out,
        "{verb} {} tensors, {} parameters, {:.1} MB of tensors in {seconds:.1} s:",
        converted.num_tensors,
        converted.num_parameters,
        converted.tensor_bytes as f64 / 1e6
    )?;
    for file in &converted.files {
        writeln!(out, "{}", Path::display(file))?;
    }
    if let Some(comparison) = comparison {
        writeln!(out, "{}", comparison.line())?;
    }
    Ok(())
}

/// `4G`, `500M`, `1000`: powers of 1000, as llama.cpp reads them.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 1_000),
        Some('M') => (&text[..text.len() - 1], 1_000_000),
        Some('G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number with K, M or G"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text} bytes do not fit 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_a_thousand() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("4G"), Ok(4_000_000_000));
        assert_eq!(parse_size("250M"), Ok(250_000_000));
        assert!(parse_size("4GB").is_err());
        assert!(parse_size("99999999999G").is_err());
    }
}
