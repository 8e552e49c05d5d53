//! `micota eval` (and `micota-eval`): lm_eval's command line on our own engine.

mod config_file;
mod model_args;
mod observer;
mod prepare;
mod report;
mod run;
mod server_args;
mod subject;

use std::path::PathBuf;

use clap::Subcommand;

use super::engine_args::EngineArgs;
use super::exit::Exit;
use super::prompting::PromptArgs;

pub(super) use config_file::expand as expand_config;

/// Evaluate a model: tasks in, graded samples and a results table out.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Evaluate a model (the default)
    #[command(args_override_self = true)]
    Run(Box<RunArgs>),
    /// List what can be evaluated
    Ls {
        /// What to list
        #[arg(value_enum, default_value_t = Listing::Tasks)]
        what: Listing,
        /// Folders with more task files
        #[arg(long = "include_path", alias = "include-path", value_delimiter = ',')]
        include_path: Vec<PathBuf>,
    },
    /// Read tasks and their data completely, without a model
    Validate {
        #[command(flatten)]
        source: SourceArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Listing {
    Tasks,
    Groups,
    Subtasks,
    Tags,
}

impl Listing {
    /// lm_eval 0.4.9's way to ask: `--tasks list`, `list_groups`, `list_subtasks`, `list_tags`.
    fn asked_as_tasks(tasks: &[String]) -> Option<Self> {
        match tasks {
            [only] => match only.as_str() {
                "list" => Some(Self::Tasks),
                "list_groups" => Some(Self::Groups),
                "list_subtasks" => Some(Self::Subtasks),
                "list_tags" => Some(Self::Tags),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Which tasks, and where they and their data are.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Tasks")]
struct SourceArgs {
    /// Tasks: names in any case, wildcards, tags, groups, YAML files or folders; `list` lists them
    #[arg(long, short = 't', num_args = 1.., value_name = "TASKS")]
    tasks: Vec<String>,
    /// Folders with more task files; they replace shipped tasks of the same name
    #[arg(long = "include_path", alias = "include-path", value_delimiter = ',')]
    include_path: Vec<PathBuf>,
    /// Data folder (SET/SPLIT.jsonl) or file
    #[arg(
        long = "data-dir",
        alias = "data_dir",
        value_name = "PATH",
        env = "MICOTA_DATA"
    )]
    data_dir: Option<PathBuf>,
    /// JSON object recorded with every task
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

/// A whole run.
#[derive(clap::Args)]
struct RunArgs {
    /// YAML file with these flags as keys; the command line wins
    #[arg(long, short = 'C', value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model directory, GGUF file or Hub name; hf, vllm, ... with --model_args pretrained=; or
    /// local-completions, local-chat-completions with --model_args base_url=,model=
    #[arg(long, short = 'M', default_value = "hf")]
    model: String,
    /// k=v,k=v or JSON, as for lm_eval's hf, vllm and local-completions models
    #[arg(long = "model_args", alias = "model-args", short = 'a', num_args = 1.., value_name = "ARGS")]
    model_args: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    compatibility: CompatibilityArgs,
}

/// Which documents are asked, and how.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Generation")]
struct GenerationArgs {
    /// k=v,k=v or JSON over each task's own: max_gen_toks, temperature, top_p, until, ...
    #[arg(long = "gen_kwargs", alias = "gen-kwargs", num_args = 1.., value_name = "KWARGS")]
    gen_kwargs: Vec<String>,
    /// Only the first N documents of each task; below 1, this share of them
    #[arg(long, short = 'L', value_name = "N|SHARE", conflicts_with = "samples")]
    limit: Option<f64>,
    /// Only these documents: JSON {"TASK": [ids]} or a file that holds it
    #[arg(long, short = 'E', value_name = "JSON")]
    samples: Option<String>,
    /// Sequences in flight at most, or auto: as many as the KV cache takes
    #[arg(
        long = "batch_size",
        alias = "batch-size",
        short = 'b',
        default_value = "auto"
    )]
    batch_size: String,
    /// Upper bound of --batch_size auto
    #[arg(long = "max_batch_size", alias = "max-batch-size", value_name = "N")]
    max_batch_size: Option<usize>,
    /// Seeds: python,numpy,torch,fewshot; one value for all; None for none
    #[arg(long, default_value = "0,1234,1234,1234")]
    seed: String,
}

/// What is written where.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Folder for results and samples, or a .json file
    #[arg(
        long = "output_path",
        alias = "output-path",
        short = 'o',
        value_name = "PATH"
    )]
    output_path: Option<PathBuf>,
    /// Write every sample
    #[arg(long = "log_samples", alias = "log-samples", short = 's')]
    log_samples: bool,
    /// Generate and log samples, do not report scores
    #[arg(long = "predict_only", alias = "predict-only", short = 'x')]
    predict_only: bool,
    /// Print the results file's JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Forget what an unfinished run of this output has finished, and start over
    #[arg(long = "no-resume", alias = "no_resume")]
    no_resume: bool,
    /// Keep answers in this file and reuse them in the same run
    #[arg(
        long = "use_cache",
        alias = "use-cache",
        short = 'c',
        value_name = "FILE"
    )]
    use_cache: Option<PathBuf>,
    /// Print the first document of each task as the model will see it
    #[arg(long = "write_out", alias = "write-out", short = 'w')]
    write_out: bool,
    /// Print the configuration of each task
    #[arg(long = "show_config", alias = "show-config")]
    show_config: bool,
    /// End with code 3 when more than this share of answers was cut off, 0 to 1
    #[arg(long = "max-truncated", value_name = "SHARE")]
    max_truncated: Option<f64>,
}

/// Flags of lm_eval that need something this program does not have; each says so.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Accepted for lm_eval")]
struct CompatibilityArgs {
    /// Prompts are rendered in milliseconds and never cached
    #[arg(long = "cache_requests", alias = "cache-requests")]
    cache_requests: Option<String>,
    /// Validate every document, prompt and gold answer of the tasks, also of those that are not asked
    #[arg(long = "check_integrity", alias = "check-integrity")]
    check_integrity: bool,
    /// Diagnostics: CRITICAL, ERROR (both: results and errors only), WARNING, INFO or DEBUG
    #[arg(long, short = 'v', value_name = "LEVEL")]
    verbosity: Option<String>,
    /// There is no Python here to trust
    #[arg(long = "trust_remote_code", alias = "trust-remote-code")]
    trust_remote_code: bool,
    /// There is no Python here to run
    #[arg(long = "confirm_run_unsafe_code", alias = "confirm-run-unsafe-code")]
    confirm_run_unsafe_code: bool,
    /// Not uploaded; written as a file beside the results
    #[arg(long = "wandb_args", alias = "wandb-args", num_args = 0.., value_name = "ARGS")]
    wandb_args: Option<Vec<String>>,
    /// Not uploaded; written as a file beside the results
    #[arg(long = "wandb_config_args", alias = "wandb-config-args", num_args = 0.., value_name = "ARGS")]
    wandb_config_args: Option<Vec<String>>,
    /// Not uploaded; written as a file beside the results
    #[arg(long = "trackio_args", alias = "trackio-args", num_args = 0.., value_name = "ARGS")]
    trackio_args: Option<Vec<String>>,
    /// Not uploaded; written as a file beside the results
    #[arg(long = "hf_hub_log_args", alias = "hf-hub-log-args", num_args = 0.., value_name = "ARGS")]
    hf_hub_log_args: Option<Vec<String>>,
}

impl Args {
    /// `--verbosity`, wherever it was given.
    pub(super) fn verbosity(&self) -> Option<&str> {
        let run = match &self.action {
            Some(Action::Run(run)) => run,
            Some(Action::Ls { .. } | Action::Validate { .. }) | None => &self.run,
        };
        run.compatibility.verbosity.as_deref()
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.action {
        None => run::run(&args.run),
        Some(Action::Run(args)) => run::run(args),
        Some(Action::Ls { what, include_path }) => report::list(*what, include_path),
        Some(Action::Validate { source }) => prepare::validate(source),
    }
}
