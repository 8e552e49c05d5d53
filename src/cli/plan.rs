//! `micota plan`: what a model would take of a device and how fast it could answer there, before
//! anything is bought, rented or loaded.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;

use super::engine_args::parse_bytes;
use super::exit::{Exit, usage};
use super::notice::notice;
use super::quantities::human_bytes;
use crate::engine::backends::cpu::{CpuOptions, KvType, MachineLimit, Quantize};
use crate::engine::{
    ComputeType, DeviceKind, DeviceLimit, Forecast, Plan, available_bytes, forecast,
};
use crate::formats::{Checkpoint, DType, SafetensorsWriter, read_json_object};
use crate::kernels::cpu::Isa;
use crate::model::{Model, planned_tensors};
use crate::task::{GenerationConfig, Registry};

/// Compute what a model would take of a device, and how fast it could answer there
#[derive(clap::Args)]
pub(super) struct Args {
    /// A model folder or a GGUF file; a folder with nothing but a config.json will do
    model: PathBuf,
    /// A graphics processor by name: t4, l4, l40s, 3090, 4090, a100-40, a100-80, h100, h200
    /// [default: this machine's CPU, measured now]
    #[arg(long, value_name = "NAME", value_parser = named_device)]
    gpu: Option<NamedDevice>,
    /// Memory of the device, for example 24GiB
    #[arg(long = "device-memory", alias = "device_memory", value_name = "SIZE", value_parser = parse_bytes)]
    device_memory: Option<u64>,
    /// What the device reads per second, for example 1008GB
    #[arg(long = "device-bandwidth", alias = "device_bandwidth", value_name = "SIZE", value_parser = parse_bytes)]
    device_bandwidth: Option<u64>,
    /// Dense bf16 multiplications and additions of the device, in 10^12 per second
    #[arg(long = "device-tflops", alias = "device_tflops", value_name = "NUMBER")]
    device_tflops: Option<f64>,
    /// Tasks whose longest answers are planned for
    #[arg(long, short = 't', num_args = 1.., value_delimiter = ',', value_name = "TASKS")]
    tasks: Vec<String>,
    /// Tokens of a prompt
    #[arg(long = "prompt-tokens", alias = "prompt_tokens", default_value_t = 256)]
    prompt_tokens: usize,
    /// Tokens of an answer [default: what the tasks allow, or 2048]
    #[arg(long = "answer-tokens", alias = "answer_tokens")]
    answer_tokens: Option<usize>,
    /// Answers altogether, for the time of a run
    #[arg(long)]
    answers: Option<u64>,
    /// Sequences in flight
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Rows of one step
    #[arg(
        long = "max_num_batched_tokens",
        alias = "max-num-batched-tokens",
        default_value_t = 2048
    )]
    max_num_batched_tokens: usize,
    /// What to compute in: bf16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: ComputeType,
    /// The share of the device's limit that is expected; `micota bench` shows it for this machine
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Answers of this many tokens where nothing says.
const DEFAULT_ANSWER_TOKENS: usize = 2048;

/// A graphics processor of the table.
#[derive(Clone, Copy, Debug)]
struct NamedDevice {
    name: &'static str,
    memory_mib: u64,
    gbytes_per_s: f64,
    tflops: f64,
}

/// Memory in MiB as NVIDIA's driver reports it, bandwidth in GB/s, and dense bf16 (fp16 for the
/// oldest) rates with sums in f32 in 10^12 per second, from the data sheets and architecture papers.
const GPUS: [(&str, u64, f64, f64); 9] = [
    ("t4", 15_360, 320.0, 65.0),
    ("l4", 23_034, 300.0, 121.0),
    ("l40s", 46_068, 864.0, 362.0),
    ("3090", 24_576, 936.0, 71.0),
    ("4090", 24_564, 1008.0, 165.0),
    ("a100-40", 40_960, 1555.0, 312.0),
    ("a100-80", 81_920, 2039.0, 312.0),
    ("h100", 81_559, 3350.0, 989.0),
    ("h200", 143_771, 4800.0, 989.0),
];

fn named_device(text: &str) -> Result<NamedDevice, String> {
    let wanted = text.to_ascii_lowercase().replace("rtx", "");
    let wanted = wanted.trim_matches(['-', ' ', '_']);
    let found = GPUS.iter().find(|(name, ..)| *name == wanted);
    let (name, memory_mib, gbytes_per_s, tflops) = *found.ok_or_else(|| {
        let names = GPUS.map(|(name, ..)| name).join(", ");
        format!(
            "`{text}` is not in the table ({names}); give --device-memory, --device-bandwidth and \
             --device-tflops from its data sheet"
        )
    })?;
    Ok(NamedDevice {
        name,
        memory_mib,
        gbytes_per_s,
        tflops,
    })
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    check(args).map_err(usage)?;
    let (device, name) = device(args)?;
    let (answer_tokens, is_default) = answer_tokens(args)?;
    if is_default {
        notice(&format!(
            "these tasks set no max_gen_toks, so answers end after {answer_tokens} tokens; \
             --answer-tokens plans for more"
        ));
    }
    let plan = Plan {
        compute_type: args.dtype,
        prompt_tokens: args.prompt_tokens,
        answer_tokens,
        concurrency: args.concurrency,
        max_num_batched_tokens: args.max_num_batched_tokens,
    };
    let model = open(&args.model)?;
    let forecast = forecast(&model, &device, &plan);
    let text = if args.json {
        serde_json::to_string_pretty(&to_json(args, &name, &device, &plan, &forecast))?
    } else {
        to_text(args, &name, &device, &plan, &forecast)
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")?;
    let fits = forecast.at_limit.is_some();
    anyhow::ensure!(
        fits,
        "not one sequence of {} tokens fits: take a larger device, a quantised model or shorter \
         answers",
        plan.prompt_tokens + plan.answer_tokens
    );
    Ok(Exit::Done)
}

/// The model, or one of zeros in its shape where only its configuration is here.
fn open(path: &Path) -> anyhow::Result<Model> {
    let (config, weights) = (path.join("config.json"), path.join("model.safetensors"));
    let has_weights = weights.exists() || path.join("model.safetensors.index.json").exists();
    if !config.is_file() || has_weights {
        return Ok(Model::from_checkpoint(Arc::new(Checkpoint::open(path)?))?);
    }
    let values = read_json_object(&config)?.context("config.json has gone")?;
    let tensors = planned_tensors(&values.into(), DType::BF16)
        .with_context(|| config.display().to_string())?;
    notice(&format!(
        "{} holds no safetensors file: planned for those that its config.json calls for, in bf16",
        path.display()
    ));
    let folder = tempfile::tempdir()?;
    std::fs::copy(&config, folder.path().join("config.json"))?;
    SafetensorsWriter::create(folder.path(), tensors, None)?.finish_with_holes()?;
    // Its mapping outlives the folder.
    let checkpoint = Checkpoint::open(folder.path())?;
    Ok(Model::from_checkpoint(Arc::new(checkpoint))?)
}

fn check(args: &Args) -> anyhow::Result<()> {
    let counts = [
        ("--prompt-tokens", args.prompt_tokens),
        ("--answer-tokens", args.answer_tokens.unwrap_or(1)),
        ("--concurrency", args.concurrency),
        ("--max_num_batched_tokens", args.max_num_batched_tokens),
    ];
    for (flag, count) in counts {
        anyhow::ensure!(
            (1..=1 << 24).contains(&count),
            "{flag} is {count}, expected from 1 to {}",
            1 << 24
        );
    }
    anyhow::ensure!(
        args.share > 0.0 && args.share <= 1.0,
        "--share is {}, expected above 0 and at most 1",
        args.share
    );
    let rates = [
        args.device_tflops,
        args.device_bandwidth.map(|bytes| bytes as f64),
    ];
    anyhow::ensure!(
        rates
            .iter()
            .flatten()
            .all(|rate| rate.is_finite() && *rate > 0.0),
        "--device-bandwidth and --device-tflops are above 0"
    );
    let described = [
        args.device_bandwidth.is_some(),
        args.device_tflops.is_some(),
        args.device_memory.is_some(),
    ];
    let is_whole = args.gpu.is_some() || described == [true; 3];
    let is_here = described == [false; 3] || described == [false, false, true];
    anyhow::ensure!(
        is_whole || is_here,
        "a device without a name needs all of --device-memory, --device-bandwidth and \
         --device-tflops; --device-memory alone is this machine with that memory"
    );
    Ok(())
}

/// The device that is planned for, and its name.
fn device(args: &Args) -> anyhow::Result<(DeviceLimit, String)> {
    let of_gpu = args.gpu.map(|gpu| DeviceLimit {
        memory_bytes: gpu.memory_mib << 20,
        flops: gpu.tflops * 1e12,
        bytes_per_s: gpu.gbytes_per_s * 1e9,
        kind: Some(DeviceKind::Gpu),
    });
    let (mut limit, name) = match (of_gpu, args.device_tflops, args.device_bandwidth) {
        (Some(limit), ..) => (limit, args.gpu.map_or("", |gpu| gpu.name).to_owned()),
        (None, Some(tflops), Some(bandwidth)) => (
            DeviceLimit {
                memory_bytes: 0,
                flops: tflops * 1e12,
                bytes_per_s: bandwidth as f64,
                kind: Some(DeviceKind::Gpu),
            },
            "as described".to_owned(),
        ),
        _ => (this_machine(args.dtype)?, "this machine's CPU".to_owned()),
    };
    limit.memory_bytes = args.device_memory.unwrap_or(limit.memory_bytes);
    limit.flops = args
        .device_tflops
        .map_or(limit.flops, |tflops| tflops * 1e12);
    limit.bytes_per_s = args
        .device_bandwidth
        .map_or(limit.bytes_per_s, |bytes| bytes as f64);
    Ok((limit, name))
}

fn this_machine(compute_type: ComputeType) -> anyhow::Result<DeviceLimit> {
    let options = CpuOptions {
        compute_type,
        quantize: Quantize::None,
        kv_type: KvType::Auto,
        threads: std::thread::available_parallelism()?.get(),
        isa: Isa::detect(),
        block_size: 16,
        num_blocks: 1,
        max_model_len: 1,
    };
    let measured = MachineLimit::measure(&options, None)?;
    Ok(DeviceLimit {
        memory_bytes: available_bytes().context(
            "the system does not say how much memory is available; give --device-memory",
        )?,
        flops: measured.flops,
        bytes_per_s: measured.bytes_per_s,
        kind: None,
    })
}

/// The longest answer that is to be expected, and whether that is only because its task does not
/// say.
fn answer_tokens(args: &Args) -> anyhow::Result<(usize, bool)> {
    if let Some(tokens) = args.answer_tokens {
        return Ok((tokens, false));
    }
    if args.tasks.is_empty() {
        return Ok((DEFAULT_ANSWER_TOKENS, false));
    }
    let registry = Registry::load(&[]).map_err(usage)?;
    let selection = registry.resolve(&args.tasks).map_err(usage)?;
    let mut longest = (0, false);
    for task in &selection.tasks {
        let settings = GenerationConfig::from_kwargs(&task.generation_kwargs)
            .with_context(|| format!("task {}", task.name))
            .map_err(usage)?;
        longest = longest.max((settings.max_gen_toks, settings.max_gen_toks_is_default));
    }
    anyhow::ensure!(
        longest.0 > 0,
        usage(anyhow::anyhow!("--tasks: no task in it"))
    );
    Ok(longest)
}

fn to_json(
    args: &Args,
    name: &str,
    device: &DeviceLimit,
    plan: &Plan,
    forecast: &Forecast,
) -> serde_json::Value {
    json!({
        "model": args.model.display().to_string(),
        "device": name,
        "device_memory_bytes": device.memory_bytes,
        "device_bytes_per_s": device.bytes_per_s,
        "device_flops": device.flops,
        "dtype": plan.compute_type.name(),
        "prompt_tokens": plan.prompt_tokens,
        "answer_tokens": plan.answer_tokens,
        "weight_bytes": forecast.weight_bytes,
        "activation_bytes": forecast.activation_bytes,
        "kv_bytes_per_token": forecast.kv_bytes_per_token,
        "kv_bytes": forecast.kv_bytes,
        "fitting_sequences": forecast.fitting_sequences,
        "concurrency": forecast.concurrency,
        "share": args.share,
        "limit": forecast.at_limit.map(|rates| json!({
            "prefill_tokens_per_s": rates.prefill_tokens_per_s,
            "decode_tokens_per_s": rates.decode_tokens_per_s,
            "decode_is_memory_bound": rates.is_memory_bound,
        })),
        "answers": args.answers,
        "expected_seconds": args
            .answers
            .and_then(|answers| forecast.seconds(plan, answers, args.share)),
    })
}

fn to_text(
    args: &Args,
    name: &str,
    device: &DeviceLimit,
    plan: &Plan,
    forecast: &Forecast,
) -> String {
    let mut lines = vec![
        format!(
            "device       {name}: {}, reads {:.0} GB/s, {:.1} TFLOP/s",
            human_bytes(device.memory_bytes),
            device.bytes_per_s / 1e9,
            device.flops / 1e12
        ),
        format!(
            "sequences    {} tokens of prompt and up to {} of answer",
            plan.prompt_tokens, plan.answer_tokens
        ),
        format!("weights      {}", human_bytes(forecast.weight_bytes)),
        format!("activations  {}", human_bytes(forecast.activation_bytes)),
        format!(
            "KV cache     {} per 1000 tokens; {} are left for it, {} sequences of full length",
            human_bytes(1000 * forecast.kv_bytes_per_token),
            human_bytes(forecast.kv_bytes),
            forecast.fitting_sequences
        ),
    ];
    if let Some(rates) = forecast.at_limit {
        let waits = if rates.is_memory_bound {
            "memory"
        } else {
            "multiplications"
        };
        lines.push(format!(
            "in flight    {} sequences{}; decoding waits for {waits}",
            forecast.concurrency,
            match plan.concurrency - forecast.concurrency {
                0 => String::new(),
                _ => format!(" of the {} asked for", plan.concurrency),
            }
        ));
        for (label, share) in [("at the limit", 1.0), ("expected", args.share)] {
            lines.push(format!(
                "{label:<12} prefill {:.0} tokens/s, decoding {:.0} tokens/s",
                rates.prefill_tokens_per_s * share,
                rates.decode_tokens_per_s * share
            ));
        }
    }
    let answers = args.answers.unwrap_or(0);
    if let Some(seconds) = forecast
        .seconds(plan, answers, args.share)
        .filter(|s| *s > 0.0)
    {
        lines.push(format!(
            "run          {answers} answers of full length in {:.1} min",
            seconds / 60.0
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphics_processors_have_names() {
        assert_eq!(named_device("RTX-4090").unwrap().name, "4090");
        assert_eq!(named_device("H100").unwrap().name, "h100");
        let message = named_device("voodoo").unwrap_err();
        assert!(message.contains("--device-bandwidth"), "{message}");
    }
}
