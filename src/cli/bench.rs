//! `micota bench`: how fast a model runs on this machine, next to what the machine allows.

#[cfg(feature = "ggml")]
mod on_device;

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::exit::{Exit, usage};
use super::model_source::ModelSource;
use crate::engine::Device;
use crate::engine::backends::cpu::{
    ComputeType, CpuOptions, CpuRunner, KvType, MachineLimit, Measurement, Quantize, Workload,
    blocks_of, measure,
};
use crate::formats::Checkpoint;
use crate::kernels::cpu::Isa;
use crate::model::Model;

/// Measure prefill and decoding of a model, next to what this machine allows
#[derive(clap::Args)]
pub(super) struct Args {
    /// A model folder, GGUF file or hub name; MODEL+ADAPTER folds an adapter in
    model: String,
    /// What weights are held and multiplied in: bf16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: ComputeType,
    /// Weights that are held as integers: auto (as in the file), none, int8,
    /// int8-32 or int8-row
    #[arg(long, default_value = "auto")]
    quantize: Quantize,
    /// What keys and values are held in: auto (as computed), bf16 or int8
    #[arg(long, alias = "kv_dtype", default_value = "auto")]
    kv_dtype: KvType,
    /// Where the model runs: cpu, ggml-cpu, cuda, vulkan or metal, with a number as in cuda:1 or
    /// several as in cuda:0,1
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Instruction set of the kernels [default: the best that the CPU has]
    #[arg(long)]
    kernels: Option<Isa>,
    /// Sequences decoded together, as in 1,8,64
    #[arg(long, alias = "batch-sizes", value_delimiter = ',', default_values_t = [1, 8, 32, 64])]
    batch_sizes: Vec<usize>,
    /// Tokens that each sequence holds already while it is decoded, as in 128,1024
    #[arg(long, value_delimiter = ',', default_values_t = [128, 1024])]
    contexts: Vec<usize>,
    /// Prompt lengths to prefill, as in 512,2048
    #[arg(long, value_delimiter = ',', default_values_t = [512])]
    prompts: Vec<usize>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Positions per KV block while measuring: the engine's own default.
const BLOCK_SIZE: usize = 32;

/// What to time: every prompt length, then every batch size at every context.
fn workloads(args: &Args) -> anyhow::Result<Vec<Workload>> {
    let counts = [&args.batch_sizes, &args.prompts];
    if counts.into_iter().flatten().any(|count| *count == 0) || args.threads == Some(0) {
        return Err(usage(anyhow::anyhow!(
            "batch sizes, prompt lengths and threads are at least 1"
        )));
    }
    let prefill = args.prompts.iter().map(|rows| Workload {
        num_sequences: 1,
        rows_per_sequence: *rows,
        context: 0,
    });
    let decode = args.contexts.iter().flat_map(|context| {
        args.batch_sizes.iter().map(|num_sequences| Workload {
            num_sequences: *num_sequences,
            rows_per_sequence: 1,
            context: *context,
        })
    });
    Ok(prefill.chain(decode).collect())
}

/// Blocks of the largest of them, and positions of the longest.
fn largest(workloads: &[Workload]) -> (usize, usize) {
    let blocks = workloads.iter().map(|w| blocks_of(*w, BLOCK_SIZE)).max();
    let longest = workloads.iter().map(|w| w.context + w.rows_per_sequence);
    (blocks.unwrap_or(1), longest.max().unwrap_or(1))
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let workloads = workloads(args)?;
    #[cfg(feature = "ggml")]
    {
        let devices = args.device.find()?;
        if !devices.is_empty() {
            return on_device::run(args, devices, &workloads);
        }
    }
    #[cfg(not(feature = "ggml"))]
    args.device.check()?;
    let (num_blocks, max_model_len) = largest(&workloads);
    let options = CpuOptions {
        compute_type: args.dtype,
        quantize: args.quantize,
        kv_type: args.kv_dtype,
        threads: match args.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()?.get(),
        },
        isa: args.kernels.unwrap_or_else(Isa::detect),
        block_size: BLOCK_SIZE,
        num_blocks,
        max_model_len,
    };
    let source = ModelSource::find(&args.model)?;
    let checkpoint = Checkpoint::open(source.path())?;
    let model = Arc::new(Model::from_checkpoint(Arc::new(checkpoint))?);
    let limit = MachineLimit::measure(&options, Some(&model))?;
    let start = Instant::now();
    let mut runner = CpuRunner::load(&model, &options)?;
    let load_s = start.elapsed().as_secs_f64();
    let mut report = Report::new(args, &options, &limit, &runner, load_s);
    report.head()?;
    for workload in workloads {
        let measurement = measure(&mut runner, &model, &options, &limit, workload)?;
        report.row(&measurement)?;
    }
    report.finish()?;
    Ok(Exit::Done)
}

/// Prints rows as they come, or everything at the end as JSON.
struct Report {
    json: Option<serde_json::Value>,
    limit: MachineLimit,
    title: String,
}

impl Report {
    fn new(
        args: &Args,
        options: &CpuOptions,
        limit: &MachineLimit,
        runner: &CpuRunner,
        load_s: f64,
    ) -> Self {
        let json = args.json.then(|| {
            json!({
                "model": args.model,
                "dtype": options.compute_type.name(),
                "quantize": options.quantize.name(),
                "kv_dtype": options.kv_type.held(options.compute_type),
                "weights_held": runner.storage().held,
                "kernels": options.isa.name(),
                "threads": options.threads,
                "peak_gflops": limit.flops / 1e9,
                "read_gb_per_s": limit.bytes_per_s / 1e9,
                "load_s": load_s,
                "weight_bytes": runner.weight_bytes(),
                "measurements": [],
            })
        });
        let held: Vec<_> = runner.storage().held.keys().copied().collect();
        let title = format!(
            "{}: {} in {}, KV in {}, {} threads; packed {:.2} GB in {load_s:.1} s\n\
             machine limit: {:.0} GFLOP/s, reads {:.1} GB/s",
            args.model,
            options.isa,
            held.join(" and "),
            options.kv_type.held(options.compute_type),
            options.threads,
            runner.weight_bytes() as f64 / 1e9,
            limit.flops / 1e9,
            limit.bytes_per_s / 1e9,
        );
        Self {
            json,
            limit: *limit,
            title,
        }
    }

    fn head(&self) -> anyhow::Result<()> {
        if self.json.is_none() {
            let columns =
                "phase    sequences  context  tokens/s  ms/step  GFLOP/s   GB/s  of limit";
            print(&format!("{}\n{columns}", self.title))?;
        }
        Ok(())
    }

    fn row(&mut self, measurement: &Measurement) -> anyhow::Result<()> {
        let workload = &measurement.workload;
        let (phase, context) = if workload.rows_per_sequence > 1 {
            ("prefill", workload.rows_per_sequence)
        } else {
            ("decode", workload.context)
        };
        let seconds = measurement.step_time.as_secs_f64();
        if let Some(json) = &mut self.json {
            let row = json!({
                "phase": phase,
                "num_sequences": workload.num_sequences,
                "context": context,
                "tokens_per_s": measurement.tokens_per_s,
                "step_s": seconds,
                "gflops": measurement.flops / seconds / 1e9,
                "gb_per_s": measurement.bytes / seconds / 1e9,
                "share_of_limit": measurement.share_of_limit,
                "share_of_peak_flops": measurement.flops / seconds / self.limit.flops,
            });
            json["measurements"]
                .as_array_mut()
                .context("a list from the start")?
                .push(row);
            return Ok(());
        }
        print(&format!(
            "{phase:<8} {:>9} {context:>8} {:>9.1} {:>8.2} {:>8.0} {:>6.1} {:>8.0}%",
            workload.num_sequences,
            measurement.tokens_per_s,
            seconds * 1e3,
            measurement.flops / seconds / 1e9,
            measurement.bytes / seconds / 1e9,
            100.0 * measurement.share_of_limit
        ))
    }

    fn finish(&self) -> anyhow::Result<()> {
        match &self.json {
            Some(json) => print(&serde_json::to_string_pretty(json)?),
            None => Ok(()),
        }
    }
}

fn print(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to stdout")
}
