//! `micota quantize`: a GGUF file in fewer bits.
//!
//! Flags and positions are those of llama.cpp's `llama-quantize`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use regex::Regex;
use serde_json::{Value, json};

use super::convert::{parse_size, progress_bar};
use super::exit::{Exit, usage};
use crate::convert::{
    ImportanceMatrix, Loss, QuantiseOptions, Quantised, QuantisedTensor, QuantisedType,
    TypeChoices, quantise,
};
use crate::formats::{Checkpoint, DType, GgufSplit, GgufValue};

/// Quantise a GGUF file, byte for byte as llama.cpp's quantiser does.
///
/// TYPE is one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1,
/// Q4_0, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S, Q2_0, Q1_0, IQ4_XS, IQ4_NL, IQ3_M, IQ3_S, IQ3_XS,
/// IQ3_XXS, IQ2_M, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_M, IQ1_S, TQ2_0, TQ1_0, or COPY. The types below
/// three bits need --imatrix (see `micota imatrix`).
#[derive(Parser)]
#[command(
    override_usage = "micota quantize [OPTIONS] IN.gguf [OUT.gguf] TYPE [THREADS]",
    after_help = "OUT is ggml-model-TYPE.gguf beside IN if it is left out."
)]
pub(super) struct Args {
    /// IN.gguf [OUT.gguf] TYPE [THREADS]
    #[arg(required = true, num_args = 2..=4, value_name = "IN [OUT] TYPE [THREADS]")]
    positions: Vec<String>,
    /// Quantise tensors again that are quantised already; worse than starting from the original.
    #[arg(long)]
    allow_requantize: bool,
    /// Leave output.weight as it is.
    #[arg(long)]
    leave_output_tensor: bool,
    /// No mixture: all matrices in the same type.
    #[arg(long)]
    pure: bool,
    /// An importance matrix, from `micota imatrix` or llama-imatrix.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Use the importance matrix only for tensors with this in their name; may be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,
    /// Do not use the importance matrix for tensors with this in their name; may be repeated.
    #[arg(long, value_name = "NAME")]
    exclude_weights: Vec<String>,
    /// The type of output.weight.
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<DType>,
    /// The type of token_embd.weight.
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<DType>,
    /// The type of tensors whose name matches a regular expression; may be repeated.
    #[arg(long, value_name = "NAME=TYPE", value_parser = named_type)]
    tensor_type: Vec<(Regex, DType)>,
    /// A file with such NAME=TYPE, separated by white space.
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,
    /// Metadata to add or replace; TYPE is str, int, float or bool; may be repeated.
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = override_kv)]
    override_kv: Vec<(String, GgufValue)>,
    /// Write as many files as the source has, with the same tensors in each.
    #[arg(long, conflicts_with = "split_max_size")]
    keep_split: bool,
    /// At most this many bytes of tensors in a file, with K, M or G for powers of 1000; 0 is no
    /// limit.
    #[arg(long, value_name = "N(K|M|G)", default_value = "0", value_parser = parse_size)]
    split_max_size: u64,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Measure what each tensor loses: root mean square and largest difference, relative error,
    /// cosine.
    #[arg(long)]
    check: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// The positions, told apart as llama.cpp tells them.
#[derive(Debug, PartialEq, Eq)]
struct Positions {
    input: PathBuf,
    out: PathBuf,
    file_type: QuantisedType,
    threads: Option<usize>,
}

impl Positions {
    fn of(positions: &[String]) -> anyhow::Result<Self> {
        let (input, rest) = positions.split_first().context("no IN.gguf")?;
        let input = PathBuf::from(input);
        let (out, file_type, threads) = match rest {
            [file_type] => (None, file_type, None),
            [first, second] => match first.parse::<QuantisedType>() {
                Ok(_) => (None, first, Some(second)),
                Err(_) => (Some(first), second, None),
            },
            [out, file_type, threads] => (Some(out), file_type, Some(threads)),
            _ => bail!("expected IN.gguf [OUT.gguf] TYPE [THREADS]"),
        };
        let file_type = file_type
            .parse::<QuantisedType>()
            .map_err(|problem| anyhow!("TYPE: {problem}"))?;
        let threads = threads.map(|text| {
            let threads = text.parse::<usize>().ok().filter(|threads| *threads > 0);
            threads.with_context(|| format!("THREADS: {text:?} is no number of threads"))
        });
        let default = || input.with_file_name(format!("ggml-model-{file_type}.gguf"));
        Ok(Self {
            out: out.map_or_else(default, PathBuf::from),
            input,
            file_type,
            threads: threads.transpose()?,
        })
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let positions = Positions::of(&args.positions).map_err(usage)?;
    if same_file(&positions.input, &positions.out) {
        return Err(usage(anyhow!(
            "{} is the input; name another file to write",
            positions.out.display()
        )));
    }
    let checkpoint = Checkpoint::open(&positions.input)?;
    let options = options(&args, &positions)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(positions.threads.unwrap_or(0))
        .build()
        .context("cannot start threads")?;
    let bar = progress_bar(&checkpoint);
    let started = std::time::Instant::now();
    let quantised =
        pool.install(|| quantise(&checkpoint, &options, &|written| bar.set_position(written)));
    bar.finish_and_clear();
    report(&args, &quantised?, started.elapsed().as_secs_f64())?;
    Ok(Exit::Done)
}

fn same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(a).is_some_and(|a| real(b) == Some(a))
}

fn options(args: &Args, positions: &Positions) -> anyhow::Result<QuantiseOptions> {
    let mut importance = match &args.imatrix {
        Some(path) => Some(ImportanceMatrix::read(path)?),
        None => None,
    };
    if let Some(matrix) = &mut importance {
        let named = |names: &[String], tensor: &str| names.iter().any(|n| tensor.contains(n));
        matrix.retain(|tensor| {
            !named(&args.exclude_weights, tensor)
                && (args.include_weights.is_empty() || named(&args.include_weights, tensor))
        });
    }
    let mut tensor_types = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--tensor-type-file {}", path.display()))
            .map_err(usage)?;
        for entry in text.split_whitespace() {
            let entry = named_type(entry)
                .map_err(|problem| usage(anyhow!("{}: {problem}", path.display())))?;
            tensor_types.push(entry);
        }
    }
    Ok(QuantiseOptions {
        out: positions.out.clone(),
        file_type: positions.file_type,
        types: TypeChoices {
            pure: args.pure,
            leave_output_tensor: args.leave_output_tensor,
            output_tensor_type: args.output_tensor_type,
            token_embedding_type: args.token_embedding_type,
            tensor_types,
        },
        allow_requantise: args.allow_requantize,
        importance,
        overrides: args.override_kv.clone(),
        split: GgufSplit {
            max_bytes: (args.split_max_size > 0).then_some(args.split_max_size),
            max_tensors: None,
        },
        keep_split: args.keep_split,
        check: args.check,
        dry_run: args.dry_run,
    })
}

/// A type of tensors by ggml's name, in any case.
fn tensor_type(text: &str) -> Result<DType, String> {
    DType::from_ggml_name(text).ok_or_else(|| format!("{text:?} is not one of ggml's types"))
}

fn named_type(text: &str) -> Result<(Regex, DType), String> {
    let (name, dtype) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("{text:?}: expected NAME=TYPE"))?;
    let name = Regex::new(&name.to_lowercase()).map_err(|error| format!("{text:?}: {error}"))?;
    Ok((name, tensor_type(dtype)?))
}

fn override_kv(text: &str) -> Result<(String, GgufValue), String> {
    let expected = || format!("{text:?}: expected KEY=TYPE:VALUE with str, int, float or bool");
    let (key, typed) = text.split_once('=').ok_or_else(expected)?;
    let (kind, value) = typed.split_once(':').ok_or_else(expected)?;
    let value = match kind {
        "str" => Some(GgufValue::String(value.to_owned())),
        // llama.cpp writes them unsigned.
        "int" => value.parse().ok().map(GgufValue::U32),
        "float" => value.parse().ok().map(GgufValue::F32),
        "bool" => value.parse().ok().map(GgufValue::Bool),
        _ => None,
    };
    if key.is_empty() {
        return Err(expected());
    }
    Ok((key.to_owned(), value.ok_or_else(expected)?))
}

fn report(args: &Args, quantised: &Quantised, seconds: f64) -> anyhow::Result<()> {
    let sum = |bytes: fn(&QuantisedTensor) -> u64| quantised.tensors.iter().map(bytes).sum::<u64>();
    let (before, after) = (sum(|t| t.bytes_before), sum(|t| t.bytes_after));
    let parameters = |tensor: &QuantisedTensor| tensor.shape.iter().product::<usize>();
    let elements: usize = quantised.tensors.iter().map(parameters).sum();
    let bits = after as f64 * 8.0 / elements.max(1) as f64;
    let mut out = std::io::stdout().lock();
    if args.json {
        let result = json!({
            "files": quantised.files,
            "written": !args.dry_run,
            "needs_imatrix": quantised.lacks_importance,
            "bytes_before": before,
            "bytes_after": after,
            "bits_per_weight": bits,
            "seconds": seconds,
            "tensors": quantised.tensors.iter().map(tensor_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{result:#}")?;
        return Ok(());
    }
    for tensor in &quantised.tensors {
        writeln!(out, "{}", tensor_line(tensor))?;
    }
    let fallbacks = quantised.tensors.iter().filter(|t| t.instead_of.is_some());
    let fallbacks = fallbacks.count();
    if fallbacks > 0 {
        writeln!(
            out,
            "{fallbacks} tensors have rows that their type cannot divide and got another (marked *)"
        )?;
    }
    if quantised.lacks_importance {
        writeln!(out, "the real run needs --imatrix")?;
    }
    let verb = if args.dry_run { "would write" } else { "wrote" };
    writeln!(
        out,
        "{verb} {} tensors, {:.1} MB from {:.1} MB, {bits:.2} bits per weight, in {seconds:.1} s:",
        quantised.tensors.len(),
        after as f64 / 1e6,
        before as f64 / 1e6,
    )?;
    for file in &quantised.files {
        writeln!(out, "{}", Path::display(file))?;
    }
    Ok(())
}

fn tensor_line(tensor: &QuantisedTensor) -> String {
    let mark = if tensor.instead_of.is_some() { "*" } else { "" };
    let line = format!(
        "{:<32} {:<16} {:>5} -> {}{mark}",
        tensor.name,
        format!("{:?}", tensor.shape),
        tensor.from.name(),
        tensor.to.name()
    );
    match tensor.loss {
        None => line,
        Some(Loss {
            rmse,
            max,
            relative,
            cosine,
        }) => format!(
            "{line:<68} rmse {rmse:.3e}  max {max:.3e}  relative {relative:.4}  cosine {cosine:.6}"
        ),
    }
}

fn tensor_json(tensor: &QuantisedTensor) -> Value {
    json!({
        "name": tensor.name,
        "shape": tensor.shape,
        "from": tensor.from.name(),
        "to": tensor.to.name(),
        "instead_of": tensor.instead_of.map(DType::name),
        "bytes_before": tensor.bytes_before,
        "bytes_after": tensor.bytes_after,
        "loss": tensor.loss.map(|loss| json!({
            "rmse": loss.rmse,
            "max": loss.max,
            "relative": loss.relative,
            "cosine": loss.cosine,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(text: &str) -> anyhow::Result<Positions> {
        let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        Positions::of(&words)
    }

    #[test]
    fn positions_are_told_apart_as_llama_cpp_does() {
        let found = positions("d/in.gguf q4_k").unwrap();
        assert_eq!(found.out, Path::new("d/ggml-model-Q4_K_M.gguf"));
        assert_eq!(found.file_type, QuantisedType::Q4_K_M);
        let found = positions("in.gguf out.gguf Q8_0 3").unwrap();
        assert_eq!((found.out, found.threads), ("out.gguf".into(), Some(3)));
        let found = positions("in.gguf Q8_0 3").unwrap();
        assert_eq!(found.out, Path::new("ggml-model-Q8_0.gguf"));
        assert_eq!(found.threads, Some(3));
        assert!(positions("in.gguf out.gguf").is_err());
        assert!(positions("in.gguf out.gguf Q8_0 none").is_err());
    }

    #[test]
    fn typed_arguments_are_read() {
        let (name, dtype) = named_type("blk\\.0\\..*attn_Q=q8_0").unwrap();
        assert!(name.is_match("blk.0.attn_q.weight") && dtype == DType::Q8_0);
        assert!(named_type("=q8_0").is_err() && named_type("attn_q=q99").is_err());
        let (key, value) = override_kv("general.name=str:a:b=c").unwrap();
        assert_eq!(key, "general.name");
        assert_eq!(value, GgufValue::String("a:b=c".to_owned()));
        assert_eq!(override_kv("x=int:7").unwrap().1, GgufValue::U32(7));
        for bad in ["x", "x=int", "x=int:y", "=int:7", "x=list:7"] {
            assert!(override_kv(bad).is_err(), "{bad}");
        }
    }
}
