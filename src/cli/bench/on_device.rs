//! The same on a device of ggml's, or on several: what a step takes, what of it is not the device's
//! own work, what gathering blocks costs, and what the step takes where blocks need no gathering.

use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Args, BLOCK_SIZE, largest, print};
use crate::cli::exit::Exit;
use crate::cli::model_source::ModelSource;
use crate::cli::quantities::human_bytes;
use crate::engine::StepInput;
use crate::engine::backends::cpu::{Workload, step_input, step_time};
use crate::engine::backends::ggml::{DeviceInfo, GgmlOptions, GgmlRunner};
use crate::formats::Checkpoint;
use crate::model::Model;

pub(super) fn run(
    args: &Args,
    devices: Vec<DeviceInfo>,
    workloads: &[Workload],
) -> anyhow::Result<Exit> {
    let (num_blocks, max_model_len) = largest(workloads);
    let sequences = workloads.iter().map(|w| w.num_sequences).max();
    let rows = workloads
        .iter()
        .map(|w| w.num_sequences * w.rows_per_sequence);
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let name = |of: fn(&DeviceInfo) -> &String| -> String {
        let names: Vec<&str> = devices.iter().map(|info| of(info).as_str()).collect();
        names.join(" then ")
    };
    let (names, descriptions) = (name(|info| &info.name), name(|info| &info.description));
    let options = GgmlOptions {
        devices,
        compute_type: args.dtype,
        threads,
        block_size: BLOCK_SIZE,
        num_blocks,
        max_model_len,
        max_num_seqs: sequences.unwrap_or(1),
        max_num_batched_tokens: rows.max().unwrap_or(1),
        attention: None,
    };
    let source = ModelSource::find(&args.model)?;
    let checkpoint = Checkpoint::open(source.path())?;
    let model = Arc::new(Model::from_checkpoint(Arc::new(checkpoint))?);
    let mut runner = GgmlRunner::load(&model, &options)?;
    let mut rows = Vec::new();
    if !args.json {
        print(&format!(
            "{}: on {} ({}), attention {:?}; weights {}, activations {}\n\
             phase    sequences  context  tokens/s  ms/step  host ms  transfer ms  gather ms  in place ms",
            args.model,
            names,
            descriptions,
            runner.attention(),
            human_bytes(runner.weight_bytes()),
            human_bytes(runner.activation_bytes()),
        ))?;
    }
    for workload in workloads {
        let row = Row::measure(&mut runner, *workload)?;
        if args.json {
            rows.push(row.to_json());
        } else {
            print(&row.to_text())?;
        }
    }
    if args.json {
        let report = json!({
            "model": args.model,
            "device": names,
            "description": descriptions,
            "dtype": args.dtype.name(),
            "threads": threads,
            "attention": format!("{:?}", runner.attention()),
            "weight_bytes": runner.weight_bytes(),
            "activation_bytes": runner.activation_bytes(),
            "measurements": rows,
        });
        print(&serde_json::to_string_pretty(&report).context("cannot write the report")?)?;
    }
    Ok(Exit::Done)
}

/// One timed step over blocks that lie apart, in seconds.
struct Row {
    workload: Workload,
    step: f64,
    /// Laying out and embedding, on average.
    host: f64,
    /// Inputs and logits, on average.
    transfer: f64,
    /// Gathering the blocks of every layer, by itself.
    gather: f64,
    /// The same step over blocks that follow one another; none where it gathers all the same.
    in_place: Option<f64>,
}

impl Row {
    fn measure(runner: &mut GgmlRunner, workload: Workload) -> anyhow::Result<Self> {
        let in_one_piece = step_input(runner, workload)?;
        let input = scattered(&in_one_piece);
        let before = runner.times();
        let step = step_time(runner, &input)?;
        let after = runner.times();
        let steps = (after.num_steps - before.num_steps) as f64;
        let in_place = step_time(runner, &in_one_piece)?;
        let is_in_place = runner.times().num_groups_in_place > after.num_groups_in_place;
        Ok(Self {
            workload,
            in_place: is_in_place.then_some(in_place.as_secs_f64()),
            step: step.as_secs_f64(),
            host: (after.prepare - before.prepare).as_secs_f64() / steps,
            transfer: (after.transfer - before.transfer).as_secs_f64() / steps,
            gather: runner.gather_time(&input)?.as_secs_f64(),
        })
    }

    /// The phase, its context, and tokens per second.
    fn facts(&self) -> (&'static str, usize, f64) {
        let workload = &self.workload;
        let rows = (workload.num_sequences * workload.rows_per_sequence) as f64;
        let (phase, context) = if workload.rows_per_sequence > 1 {
            ("prefill", workload.rows_per_sequence)
        } else {
            ("decode", workload.context)
        };
        (phase, context, rows / self.step)
    }

    fn to_text(&self) -> String {
        let (phase, context, tokens_per_s) = self.facts();
        let in_place = match self.in_place {
            Some(seconds) => format!("{:.2}", seconds * 1e3),
            None => "-".to_owned(),
        };
        format!(
            "{phase:<8} {:>9} {context:>8} {tokens_per_s:>9.1} {:>8.2} {:>8.3} {:>12.3} {:>10.3} \
             {in_place:>12}",
            self.workload.num_sequences,
            self.step * 1e3,
            self.host * 1e3,
            self.transfer * 1e3,
            self.gather * 1e3
        )
    }

    fn to_json(&self) -> Value {
        let (phase, context, tokens_per_s) = self.facts();
        json!({
            "phase": phase,
            "num_sequences": self.workload.num_sequences,
            "context": context,
            "tokens_per_s": tokens_per_s,
            "step_s": self.step,
            "host_s": self.host,
            "transfer_s": self.transfer,
            "gather_s": self.gather,
            "in_place_s": self.in_place,
        })
    }
}

/// The same step with the blocks of each sequence in the opposite order, as they may lie after a
/// while. What they hold is the same in all.
fn scattered(input: &StepInput) -> StepInput {
    let mut input = input.clone();
    for sequence in &mut input.sequences {
        sequence.block_table.reverse();
    }
    input
}
