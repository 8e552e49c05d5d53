//! The engine's flags, shared by every subcommand that runs a model.

use std::path::Path;

use anyhow::Context;
use clap::{Args as _, FromArgMatches as _};

use crate::engine::{
    ComputeType, Device, EngineOptions, Executor, KvType, LoadedModel, ModelInfo, Quantize,
    Speculate, StorageSummary, load,
};
use crate::kernels::cpu::Isa;

use super::notice::notice;
use super::quantities::{human_bytes, human_count};

/// How the engine runs. Everything left out is chosen from the model and the machine's memory.
#[derive(clap::Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Engine", rename_all = "snake_case")]
pub(super) struct EngineArgs {
    /// Where the model runs: auto, cpu, ggml-cpu, cuda, vulkan or metal, with a number as in
    /// cuda:1, or several with a stretch of the layers each as in cuda:0,1 [default: auto, a
    /// graphics processor if this build can use one, else the CPU]
    #[arg(long)]
    device: Option<Device>,
    /// Whose forward pass: micota, or llama.cpp for GGUF files of other architectures
    #[arg(long, default_value = "micota")]
    engine: Executor,
    /// What weights are held and multiplied in: f32 or bf16; sums are always 32 bits wide
    #[arg(long, default_value = "bf16")]
    dtype: ComputeType,
    /// Weights that are held, and multiplied, as integers: auto keeps those that a GGUF file holds
    /// so; none widens them; int8 rounds all to 8 bits with a scale for each 128 (half the memory of
    /// bf16); int8-32 with one for each 32 (slower, more exact); int8-row with one for each row
    #[arg(long, default_value = "auto")]
    quantize: Quantize,
    /// What keys and values are held in: auto is the type that is computed in; int8 takes half the
    /// memory of bf16
    #[arg(long, alias = "kv-dtype", default_value = "auto")]
    kv_dtype: KvType,
    /// Threads of the model [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Memory of the KV pool, for example 4GiB [default: what is free, or all that can be used]
    #[arg(long = "kv-memory", alias = "kv_memory", value_name = "SIZE", value_parser = parse_bytes)]
    kv_memory: Option<u64>,
    /// Tokens of prompt and answer together [default: what the model and the KV pool hold]
    #[arg(long, alias = "max-model-len")]
    max_model_len: Option<usize>,
    /// Sequences in flight [default: by a measurement of this machine, 64 on most]
    #[arg(long, alias = "max-num-seqs")]
    max_num_seqs: Option<usize>,
    /// Rows of one step, prompt chunks and decoding sequences together [default:
    /// 512, or 4 per sequence]
    #[arg(long, alias = "max-num-batched-tokens")]
    max_num_batched_tokens: Option<usize>,
    /// Positions of a KV block, a multiple of 16
    #[arg(long, alias = "block-size")]
    block_size: Option<usize>,
    /// Compute shared beginnings of prompts again for each
    #[arg(long, alias = "no-prefix-caching")]
    no_prefix_caching: bool,
    /// Guess ahead from repeated text, where that is expected to pay, while at most this many
    /// sequences run; 0 never guesses. The output is the same bits either way [default: 4 on the
    /// CPU]
    #[arg(long, alias = "speculate-below", value_name = "SEQUENCES")]
    speculate_below: Option<usize>,
    /// Instruction set of the kernels [default: the best that the CPU has]
    #[arg(long)]
    kernels: Option<Isa>,
}

impl EngineArgs {
    /// Loads the model at `path` and says on stderr what will run and how.
    pub(super) fn load(&self, path: &Path) -> anyhow::Result<LoadedModel> {
        self.load_with(path, |_| {})
    }

    /// As [`Self::load`], after `adjust` has put in what other flags say about the engine.
    pub(super) fn load_with(
        &self,
        path: &Path,
        adjust: impl FnOnce(&mut EngineOptions),
    ) -> anyhow::Result<LoadedModel> {
        let mut options = self.options();
        adjust(&mut options);
        let loaded = load(path, &options).with_context(|| path.display().to_string())?;
        for line in describe(&loaded.info) {
            notice(&line);
        }
        Ok(loaded)
    }

    /// Whether none of these flags was given, or only with its default.
    pub(super) fn is_default(&self) -> bool {
        let command = Self::augment_args(clap::Command::new("engine").no_binary_name(true));
        let defaults = Self::from_arg_matches(&command.get_matches_from(None::<&str>));
        defaults.is_ok_and(|defaults| *self == defaults)
    }

    /// The device that was asked for.
    pub(super) fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// `--threads`, for commands that compute beside the engine too.
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// The flags as the engine takes them.
    pub(super) fn options(&self) -> EngineOptions {
        EngineOptions {
            device: self.device.clone().unwrap_or_default(),
            executor: self.engine,
            compute_type: self.dtype,
            quantize: self.quantize,
            kv_type: self.kv_dtype,
            kernels: self.kernels,
            threads: self.threads,
            kv_bytes: self.kv_memory,
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            prefix_caching: !self.no_prefix_caching,
            speculation: match self.speculate_below {
                None => Speculate::Auto,
                Some(0) => Speculate::Never,
                Some(most) => Speculate::Below(most),
            },
        }
    }
}

/// What was loaded and chosen, in words.
fn describe(info: &ModelInfo) -> Vec<String> {
    let config = &info.config;
    let mut lines = vec![
        format!(
            "{} model of {} parameters in {}, {}; on {}, kernels {}, {} threads; loaded in {:.1} s",
            info.family,
            human_count(info.num_parameters),
            info.weights_name(),
            human_bytes(info.weight_bytes),
            info.device,
            info.kernels,
            info.threads,
            info.load_time.as_secs_f64(),
        ),
        format!(
            "context {} of {} tokens; KV pool {} in {}, {} blocks of {}; up to {} sequences, {} rows a step",
            config.max_model_len,
            info.model_max_len,
            human_bytes(info.kv_bytes),
            info.kv_name(),
            info.num_blocks,
            info.block_size,
            config.max_num_seqs,
            config.max_num_batched_tokens,
        ),
    ];
    if let Some(choice) = &info.batch_choice {
        lines.push(format!(
            "measured {:.0} GFLOP/s and {:.1} GB/s: with contexts of {} tokens, {} sequences reach \
             {:.0}% of the rate of 256; --max_num_seqs takes another number",
            choice.flops / 1e9,
            choice.bytes_per_s / 1e9,
            choice.context,
            config.max_num_seqs,
            100.0 * choice.share_of_rate,
        ));
    }
    if !info.is_batch_invariant {
        lines.push(
            "kernels on this device choose by size: the last bits of a score can change with what \
             runs beside it, and now and then a greedy answer with them"
                .to_owned(),
        );
    }
    lines.extend(requantised(&info.storage));
    lines
}

/// Which tensors were not taken as the file has them.
pub(super) fn requantised(storage: &StorageSummary) -> Option<String> {
    let changes: Vec<_> = storage
        .requantised
        .iter()
        .map(|((from, to), tensors)| format!("{tensors} tensors of {from} are held as {to}"))
        .collect();
    (!changes.is_empty()).then(|| {
        format!(
            "{}; --quantize none computes with the file's own numbers",
            changes.join(", ")
        )
    })
}

/// Reads `4GiB`, `512MB`, `2g` or a plain number of bytes. GB and GiB differ as the standard says.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        unit => return Err(format!("unknown unit `{unit}`; use MiB, GiB, MB or GB")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{number}` is no number"))?;
    Ok((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read_with_their_units() {
        assert_eq!(parse_bytes("4GiB"), Ok(4 << 30));
        assert_eq!(parse_bytes("1.5g"), Ok(3 << 29));
        assert_eq!(parse_bytes("512 MB"), Ok(512_000_000));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert!(parse_bytes("4 tons").unwrap_err().contains("tons"));
        assert!(parse_bytes("GiB").is_err());
    }
}
