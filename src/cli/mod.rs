//! The command line: the only room that knows clap, and the only one that prints.
//!
//! One file per subcommand. Each lowers its flags twice: clap's struct is parsed without touching
//! the disk, then resolved once into the configuration that the rooms below take. Results go to
//! stdout, progress and messages to stderr.
//!
//! To add a subcommand: one file here with a `clap::Args` struct and a `run` function, one variant
//! in `Command`, one arm in `Command::run`.

mod bench;
mod compare;
mod completions;
mod convert;
mod data;
mod data_make;
mod doctor;
mod engine_args;
mod eval;
mod exit;
mod export;
mod generate;
mod grade;
mod imatrix;
mod inspect;
mod interrupt;
mod log;
mod merge;
mod model_source;
mod notice;
mod plan;
mod progress;
mod prompting;
mod quantities;
mod quantize;
mod tasks;
mod train;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;

/// What the help of `micota` and of `micota eval` ends with.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the run failed; 2 wrong usage, configuration, task or data; 3 finished, but a
gate failed (--max-truncated, compare finds the second run worse), or
grade's judge did; 130 interrupted, nothing lost.

Diagnostics: RUST_LOG=micota=debug, or --verbosity DEBUG where lm_eval has it.";

/// Evaluate, merge, convert and train small mathematical reasoners.
#[derive(Parser)]
#[command(name = "micota", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Eval(Box<eval::Args>),
    Generate(generate::Args),
    Grade(grade::Args),
    Compare(compare::Args),
    Tasks(Box<tasks::Args>),
    Merge(Box<merge::Args>),
    Convert(convert::Args),
    Quantize(Box<quantize::Args>),
    Imatrix(Box<imatrix::Args>),
    Inspect(inspect::Args),
    Train(train::Args),
    Export(export::Args),
    Data(data::Args),
    Bench(bench::Args),
    Plan(plan::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

impl Command {
    /// `--verbosity`, where the command has it.
    fn verbosity(&self) -> Option<&str> {
        match self {
            Self::Eval(args) => args.verbosity(),
            _ => None,
        }
    }

    fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Train(args) => train::run(&args),
            Self::Export(args) => export::run(&args),
            Self::Data(args) => data::run(&args),
            Self::Eval(args) => eval::run(&args),
            Self::Tasks(args) => tasks::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Convert(args) => convert::run(&args),
            Self::Quantize(args) => quantize::run(*args),
            Self::Imatrix(args) => imatrix::run(&args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Grade(args) => grade::run(&args),
            Self::Compare(args) => compare::run(&args),
            Self::Plan(args) => plan::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Completions(args) => completions::run(&args),
            Self::Generate(args) => generate::run(&args),
            Self::Merge(args) => merge::run(*args),
        }
    }
}

/// Runs `micota` with the given arguments (the program's name first) and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match eval::expand_config(args.into_iter().collect()) {
        Ok(args) => args,
        Err(error) => return exit::report(Err(error)),
    };
    match Cli::try_parse_from(args) {
        Ok(cli) => {
            let started = log::start(cli.command.verbosity());
            exit::report(started.and_then(|()| cli.command.run()))
        }
        Err(error) => exit::report_usage(&error),
    }
}

/// Runs `micota-eval`, which is `micota eval` under the name that people type.
pub fn run_eval(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| "micota".into());
    run([program, "eval".into()].into_iter().chain(args))
}
