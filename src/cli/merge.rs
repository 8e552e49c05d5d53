//! `micota merge`: the flags of `mergekit-yaml`, and a few of our own.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;

use super::exit::{Exit, usage};
use crate::merge::{
    CheckReport, FloatType, Merge, MergeError, MergeOptions, Randomness, Recipe, fresh_seed,
};

/// Merge checkpoints as a recipe says, with bounded memory.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The recipe, in mergekit's YAML.
    config: PathBuf,
    /// The folder to write. It appears when it is complete.
    #[arg(required_unless_present = "check")]
    out: Option<PathBuf>,

    /// Only report what would be read and written, the size of task vectors, vocabularies.
    #[arg(long)]
    check: bool,
    /// Repeat the reference's random masks for this seed, bit for bit.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    random_seed: Option<i64>,
    /// Seed of our own generator, whose masks depend on neither order nor threads; without any
    /// seed a fresh one is taken and written into the model card.
    #[arg(long, value_name = "N", conflicts_with = "random_seed")]
    counter_seed: Option<u64>,
    /// Take random masks from a safetensors file (U8, one entry per TENSOR::MODEL).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["random_seed", "counter_seed"])]
    masks: Option<PathBuf>,
    /// Data bytes per output shard; K, M and B stand for 10^3, 10^6 and 10^9.
    #[arg(long, value_name = "SIZE", default_value = "5B", value_parser = shard_size)]
    out_shard_size: u64,
    /// Accept mistyped recipe keys, drop unknown tensors, leave the tying flag: as the reference.
    #[arg(long)]
    lenient: bool,
    /// Mix architectures.
    #[arg(long, overrides_with = "no_allow_crimes")]
    allow_crimes: bool,
    /// Cut embeddings of different sizes to the smallest.
    #[arg(long)]
    unsafe_truncate_embeddings: bool,
    /// Copy the tokenizer files where no tokenizer is built [default].
    #[arg(long, overrides_with = "no_copy_tokenizer")]
    copy_tokenizer: bool,
    /// Do not copy them.
    #[arg(long)]
    no_copy_tokenizer: bool,
    /// Write README.md [default].
    #[arg(long, overrides_with = "no_write_model_card")]
    write_model_card: bool,
    /// Do not write it.
    #[arg(long)]
    no_write_model_card: bool,
    /// Type in which adapters are folded in; the model's own by default.
    #[arg(long, value_name = "DTYPE", value_parser = float_type)]
    lora_merge_dtype: Option<FloatType>,
    /// Threads; all cores by default. The result does not depend on it.
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    num_threads: Option<u16>,
    /// Say more; may be repeated.
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    unneeded: Unneeded,
}

/// Flags of the reference that change nothing here.
#[derive(clap::Args)]
#[command(next_help_heading = "Accepted for mergekit-yaml's sake, without effect")]
struct Unneeded {
    /// Adapters are folded in while reading; nothing is cached.
    #[arg(long, value_name = "DIR")]
    lora_merge_cache: Option<PathBuf>,
    /// Use HF_HOME.
    #[arg(long, value_name = "DIR")]
    transformers_cache: Option<PathBuf>,
    /// Merging runs at disk speed on the CPU.
    #[arg(long)]
    cuda: bool,
    /// As --cuda.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// As --cuda.
    #[arg(long)]
    read_to_gpu: bool,
    /// As --cuda.
    #[arg(long)]
    multi_gpu: bool,
    /// As --cuda.
    #[arg(long)]
    gpu_rich: bool,
    /// Memory is always low.
    #[arg(long)]
    low_cpu_memory: bool,
    /// Inputs are always mapped lazily.
    #[arg(long)]
    lazy_unpickle: bool,
    /// Tensors are never aliased.
    #[arg(long)]
    clone_tensors: bool,
    /// No code of a model is ever run.
    #[arg(long)]
    trust_remote_code: bool,
    /// Output is always safetensors.
    #[arg(long)]
    safe_serialization: bool,
    /// Writing is always parallel.
    #[arg(long)]
    async_write: bool,
    /// As --async-write.
    #[arg(long, value_name = "N")]
    write_threads: Option<usize>,
    /// The opposite of --allow-crimes, which is the default.
    #[arg(long)]
    no_allow_crimes: bool,
}

impl Unneeded {
    /// Notes on flags whose wish is not granted.
    fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if self.cuda || self.device.is_some() || self.read_to_gpu || self.multi_gpu || self.gpu_rich
        {
            notes.push(
                "merging runs on the CPU, at the speed of the disk; GPU flags have no effect",
            );
        }
        if self.lora_merge_cache.is_some() {
            notes.push(
                "--lora-merge-cache: adapters are folded in while reading, nothing is cached",
            );
        }
        if self.transformers_cache.is_some() {
            notes.push("--transformers-cache has no effect; set HF_HOME");
        }
        notes
    }
}

/// A size in bytes with an optional K, M or B.
fn shard_size(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_uppercase();
    let (digits, unit) = match upper.char_indices().last() {
        Some((at, 'K')) => (&upper[..at], 1_000.0),
        Some((at, 'M')) => (&upper[..at], 1e6),
        Some((at, 'B' | 'G')) => (&upper[..at], 1e9),
        _ => (upper.as_str(), 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit >= 1.0 && number * unit < 1e18 => {
            Ok((number * unit) as u64)
        }
        _ => Err("expected a number of bytes, or one with K, M or B".to_owned()),
    }
}

fn float_type(text: &str) -> Result<FloatType, String> {
    FloatType::from_name(text)
        .ok_or_else(|| "expected bfloat16, float16, float32 or float64".to_owned())
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let text = std::fs::read_to_string(&args.config)
        .with_context(|| format!("recipe {}", args.config.display()))
        .map_err(usage)?;
    let named = |error: MergeError| {
        let wrong_usage = error.is_usage();
        let error = anyhow::Error::new(error).context(args.config.display().to_string());
        if wrong_usage { usage(error) } else { error }
    };
    let recipe = Recipe::parse(&text, args.lenient).map_err(named)?;
    let merge = Merge::prepare(&recipe, options(&args)?).map_err(named)?;
    let mut stderr = std::io::stderr().lock();
    for note in args.unneeded.notes() {
        writeln!(stderr, "note: {note}")?;
    }
    for warning in &merge.warnings {
        writeln!(stderr, "warning: {warning}")?;
    }
    if let Some(out) = &args.out {
        merge.check_output(out)?;
    }
    if args.check {
        print_report(&merge.check()?, args.verbose > 0)?;
        return Ok(Exit::Done);
    }
    let out = args.out.expect("clap requires it without --check");
    let bar = (!args.quiet && std::io::stderr().is_terminal())
        .then(|| indicatif::ProgressBar::new(merge.output_bytes()));
    if let Some(bar) = &bar {
        let style = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(indicatif::ProgressStyle::with_template(style)?);
    }
    merge.write(&out, &|progress| {
        if let Some(bar) = &bar {
            bar.set_position(progress.done_bytes);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if !args.quiet {
        writeln!(
            stderr,
            "merged {} MB into {}",
            merge.output_bytes() / 1_000_000,
            out.display()
        )?;
    }
    Ok(Exit::Done)
}

fn options(args: &Args) -> anyhow::Result<MergeOptions> {
    let randomness = match (args.random_seed, &args.masks, args.counter_seed) {
        (Some(seed), ..) => Randomness::Reference(seed as u64),
        (_, Some(path), _) => Randomness::Masks(path.clone()),
        (_, _, Some(seed)) => Randomness::Counter(seed),
        _ => Randomness::Counter(fresh_seed().context("no random seed from the system")?),
    };
    Ok(MergeOptions {
        randomness,
        shard_bytes: args.out_shard_size,
        copy_tokenizer: !args.no_copy_tokenizer,
        write_card: !args.no_write_model_card,
        allow_crimes: args.allow_crimes,
        truncate_embeddings: args.unsafe_truncate_embeddings,
        lenient: args.lenient,
        lora_dtype: args.lora_merge_dtype,
        threads: args.num_threads.map(usize::from),
        fetch: super::model_source::fetch(),
    })
}

/// Tensors listed without `--verbose`.
const SHOWN_TENSORS: usize = 10;

fn print_report(report: &CheckReport, all: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    for (model, bytes) in &report.inputs {
        writeln!(out, "reads   {:>12.1} MB  {model}", mb(*bytes))?;
    }
    writeln!(
        out,
        "writes  {:>12.1} MB  {} tensors, {} layers",
        mb(report.output_bytes),
        report.num_tensors,
        report.num_layers
    )?;
    writeln!(
        out,
        "memory  {:>12.1} MB  at most, beyond the page cache",
        mb(report.memory_bytes)
    )?;
    for (model, rows) in &report.vocabularies {
        writeln!(out, "rows    {rows:>12}     embedding of {model}")?;
    }
    if report.deltas.is_empty() {
        return Ok(());
    }
    let mut deltas: Vec<_> = report.deltas.iter().collect();
    deltas.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    let shown = if all {
        deltas.len()
    } else {
        SHOWN_TENSORS.min(deltas.len())
    };
    writeln!(
        out,
        "\ntask vectors, the largest {shown} of {}:",
        deltas.len()
    )?;
    writeln!(
        out,
        "{:>10} {:>10} {:>8}  tensor, model",
        "mean |d|", "max |d|", "changed"
    )?;
    for delta in &deltas[..shown] {
        writeln!(
            out,
            "{:>10.3e} {:>10.3e} {:>7.1}%  {}, {}",
            delta.mean,
            delta.max,
            delta.changed * 100.0,
            delta.tensor,
            delta.model
        )?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_sizes_are_the_references() {
        assert_eq!(shard_size("5B"), Ok(5_000_000_000));
        assert_eq!(shard_size("50K"), Ok(50_000));
        assert_eq!(shard_size("1.5m"), Ok(1_500_000));
        assert_eq!(shard_size("123"), Ok(123));
        for bad in ["", "B", "-1", "0", "5TB", "1e30"] {
            assert!(shard_size(bad).is_err(), "{bad}");
        }
    }
}
