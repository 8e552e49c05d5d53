//! `micota generate`: many prompts through the engine, one line of output each.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::engine::{LoadedModel, SamplingParams, Tokenizer};
use crate::eval::Generator as _;
use crate::eval::generate::{
    GenerateJob, GenerateOutcome, GenerateSummary, PromptLine, PromptSource, TokenisedPrompt,
    generate, read_prompts,
};
use crate::task::{ChatOptions, ChatTemplate};

use super::engine_args::EngineArgs;
use super::exit::{Exit, usage};
use super::model_source::ModelSource;
use super::notice::notice;
use super::progress::{ProgressDisplay, Snapshot};

/// Continue every prompt of a file
///
/// A line of IN is a JSON object with one of `prompt` (text), `messages` (for the model's chat
/// template) or `prompt_token_ids`. OUT gets one line each, in the same order, when all is done.
/// Killed at any time, the same command goes on where it was.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder, GGUF file or hub name of the model; MODEL+ADAPTER folds an adapter in
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Prompts, one JSON object per line
    #[arg(long, value_name = "IN.jsonl")]
    prompts: PathBuf,
    /// Where the answers go, one JSON object per line
    #[arg(long, value_name = "OUT.jsonl")]
    out: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// How tokens are chosen.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling", rename_all = "snake_case")]
struct SamplingArgs {
    /// New tokens per sample, at most
    #[arg(long, alias = "max-gen-toks", default_value_t = 256)]
    max_gen_toks: usize,
    /// 0 takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep this many most likely tokens; 0 keeps all
    #[arg(long, alias = "top-k", default_value_t = 0)]
    top_k: usize,
    /// Keep the most likely tokens that reach this probability together
    #[arg(long, alias = "top-p", default_value_t = 1.0)]
    top_p: f32,
    /// Drop tokens less likely than this times the most likely one
    #[arg(long, alias = "min-p", default_value_t = 0.0)]
    min_p: f32,
    /// Above 1 makes tokens of prompt and answer less likely
    #[arg(long, alias = "repetition-penalty", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// A text that ends the answer and is cut off with all behind it; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Go on when the model ends its answer, until the budget is used up
    #[arg(long, alias = "ignore-eos")]
    ignore_eos: bool,
    /// Samples per prompt
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Write log-probabilities, with this many of the most likely tokens each
    #[arg(long)]
    logprobs: Option<usize>,
    /// Same seed, same answers
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    fn params(&self, tokenizer: &Tokenizer) -> SamplingParams {
        SamplingParams {
            max_gen_toks: self.max_gen_toks,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            stop: self.stop.clone(),
            stop_token_ids: if self.ignore_eos {
                Vec::new()
            } else {
                tokenizer.eos_token_ids().to_vec()
            },
            n: self.n,
            logprobs: self.logprobs,
            seed: self.seed,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let lines = read_prompts(&args.prompts).map_err(usage)?;
    let source = ModelSource::find(&args.model)?;
    let mut loaded = args.engine.load(source.path())?;
    let prompts = tokenise(&lines, &args.prompts, &loaded.tokenizer).map_err(usage)?;
    let params = args.sampling.params(&loaded.tokenizer);
    let job = GenerateJob {
        input: &args.prompts,
        output: &args.out,
        params: &params,
        identity: identity(&loaded),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("cannot listen for interrupts")?;
    let mut display = ProgressDisplay::new();
    let summary = generate(
        &mut loaded.engine,
        &prompts,
        &job,
        &mut |engine, progress| {
            let (done, total, resumed) = (progress.done, progress.total, progress.resumed);
            display.update(&Snapshot::new(done, total, resumed, &engine.load()));
            if interrupted.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    display.finish();
    match summary? {
        GenerateOutcome::Finished(summary) => {
            report(&summary, &loaded, args);
            Ok(Exit::Done)
        }
        GenerateOutcome::Interrupted { done, total } => {
            notice(&format!(
                "interrupted with {done} of {total} samples done; the same command goes on from there"
            ));
            Ok(Exit::Interrupted)
        }
    }
}

/// What decides the bits beside prompts and sampling.
fn identity(loaded: &LoadedModel) -> Map<String, Value> {
    let info = &loaded.info;
    let pairs = [
        ("micota_version", json!(env!("CARGO_PKG_VERSION"))),
        ("model_fingerprint", json!(info.fingerprint)),
        ("compute_type", json!(info.compute_name())),
        ("weights", json!(info.weights_name())),
        ("kv_dtype", json!(info.kv_name())),
        ("device", json!(info.device)),
        ("engine", json!(info.executor.name())),
        ("kernels", json!(info.kernels)),
    ];
    let pairs = pairs.into_iter();
    pairs.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Turns every line into what the model sees.
fn tokenise(
    lines: &[PromptLine],
    path: &Path,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<TokenisedPrompt>> {
    let needs_template = |line: &PromptLine| matches!(line.source, PromptSource::Messages(_));
    let template = if lines.iter().any(needs_template) {
        let source = tokenizer.chat_template().context(
            "the model has no chat template, which `messages` need; give `prompt` instead",
        )?;
        Some(ChatTemplate::new(source, &tokenizer.special_tokens())?)
    } else {
        None
    };
    let tokenised = lines.iter().map(|line| {
        let token_ids = token_ids(&line.source, template.as_ref(), tokenizer)
            .with_context(|| format!("{}:{}", path.display(), line.line))?;
        Ok(TokenisedPrompt {
            line: line.line,
            id: line.id.clone(),
            token_ids,
        })
    });
    tokenised.collect()
}

fn token_ids(
    source: &PromptSource,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<u32>> {
    match source {
        PromptSource::TokenIds(token_ids) => Ok(token_ids.clone()),
        PromptSource::Text(text) => {
            // A BOS that the text spells out is not put before it a second time.
            let has_bos = tokenizer
                .bos_token()
                .is_some_and(|bos| text.starts_with(bos));
            Ok(tokenizer.encode(text, !has_bos)?)
        }
        PromptSource::Messages(messages) => {
            let template = template.context("a template was compiled for the first messages")?;
            let text = template.render(messages, &ChatOptions::default())?;
            Ok(tokenizer.encode(&text, false)?)
        }
    }
}

/// Says in words how it went, and what to do about what went wrong.
fn report(summary: &GenerateSummary, loaded: &LoadedModel, args: &Args) {
    let statistics = loaded.engine.statistics();
    let busy = statistics.scheduling_time + statistics.runner_time + statistics.sampling_time;
    let rate = statistics.generated_tokens as f64 / busy.as_secs_f64().max(1e-9);
    notice(&format!(
        "{} samples in {}: {} tokens generated in {:.1} s, {rate:.0} tok/s{}",
        summary.samples,
        args.out.display(),
        statistics.generated_tokens,
        busy.as_secs_f64(),
        match summary.resumed {
            0 => String::new(),
            resumed => format!("; {resumed} were there from an earlier run"),
        }
    ));
    notice(&format!(
        "prompts: {} tokens, {} of them shared; {} preemptions; engine overhead {:.1}% of the time",
        statistics.prompt_tokens,
        statistics.prefix_hit_tokens,
        statistics.preemptions,
        100.0 * (busy - statistics.runner_time).as_secs_f64() / busy.as_secs_f64().max(1e-9),
    ));
    if statistics.draft_tokens > 0 {
        notice(&format!(
            "guessed ahead: {} of {} tokens came true; {} steps in all",
            statistics.accepted_draft_tokens, statistics.draft_tokens, statistics.steps,
        ));
    }
    if summary.truncated > 0 {
        notice(&format!(
            "{} of {} samples used up their budget; raise --max_gen_toks for whole answers",
            summary.truncated, summary.samples
        ));
    }
    if statistics.clamped_requests > 0 {
        notice(&format!(
            "{} prompts had less room than --max_gen_toks {} in the context of {}",
            statistics.clamped_requests,
            args.sampling.max_gen_toks,
            loaded.info.config.max_model_len
        ));
    }
    if summary.refused > 0 {
        notice(&format!(
            "{} prompts are longer than the context of {} tokens; their lines have `error`",
            summary.refused, loaded.info.config.max_model_len
        ));
    }
}
