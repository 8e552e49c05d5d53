//! `micota data make`: training data from one or several teachers.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::engine::{SamplingParams, Tokenizer};
use crate::eval::Generator;
use crate::eval::client::Client;
use crate::eval::endpoint::{Endpoint, EndpointGenerator, Wire};
use crate::eval::make::{
    Accept, Filters, Make, MakeJob, MakeProgress, Problem, Statistics, read_problems,
};
use crate::formats::Checkpoint;
use crate::task::{ChatOptions, ChatTemplate, Message};

use super::engine_args::EngineArgs;
use super::exit::{Exit, usage};
use super::interrupt::Interrupt;
use super::model_source::ModelSource;
use super::notice::notice;
use super::progress::{ProgressDisplay, Snapshot};

/// Sample solutions of problems, keep the right ones, and write them as training data.
///
/// IN has a problem and its answer in each row. Each model solves every problem `--n` times; both
/// graders compare with the answer; what is finished, right, of a fitting length and new is written
/// as JSON records (instruction, output, answer, resp_answer, and where each comes from), with
/// statistics beside it. Killed at any time, the same command goes on where it was; with other
/// filters it samples nothing again.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Problems, JSON or one JSON object per line.
    #[arg(long, value_name = "IN")]
    problems: PathBuf,
    /// A teacher: a folder, a GGUF file, a hub id, or a model behind an OpenAI-compatible server as
    /// http://HOST/v1#NAME; several take turns.
    #[arg(long, required = true, value_name = "MODEL")]
    model: Vec<String>,
    /// Requests to a server that are under way at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    num_concurrent: u16,
    /// The environment variable that holds the server's key.
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    api_key_env: String,
    /// Seconds after which a request to a server has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    server_timeout: u64,
    /// The data to write.
    #[arg(long, value_name = "OUT.json")]
    out: PathBuf,
    /// The column of the problem [default: problem, question or instruction].
    #[arg(long, value_name = "NAME")]
    problem_column: Option<String>,
    /// The column of the answer.
    #[arg(long, value_name = "NAME", default_value = "answer")]
    answer_column: String,
    /// What is asked for, on a line of its own behind the problem.
    #[arg(
        long,
        default_value = "Please reason step by step, and put your final answer within \\boxed{}."
    )]
    suffix: String,
    /// Text of a system message.
    #[arg(long, conflicts_with = "raw_prompt")]
    system: Option<String>,
    /// Ask without the model's chat template, as MiCoTA's own scripts do.
    #[arg(long)]
    raw_prompt: bool,
    /// Only the first problems.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Samples per problem and model.
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// New tokens per sample, at most.
    #[arg(long = "max_gen_toks", alias = "max-gen-toks", default_value_t = 16384)]
    max_gen_toks: usize,
    /// 0 takes the most likely token; needed above 0 for --n above 1.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the most likely tokens that reach this probability together.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Same seed, same solutions.
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Whose verdict makes a solution right.
    #[arg(long, value_enum, default_value_t = Judge::Either)]
    accept: Judge,
    /// Keep solutions that used up their budget.
    #[arg(long)]
    keep_unfinished: bool,
    /// Fewest tokens of a solution.
    #[arg(long, default_value_t = 0)]
    min_tokens: usize,
    /// Most tokens of a solution.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Keep the same text twice.
    #[arg(long)]
    keep_duplicates: bool,
    /// Solutions of a problem, at most.
    #[arg(long, value_name = "N")]
    per_problem: Option<usize>,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Attempts after the first that a request to a server gets.
const RETRIES: u32 = 3;

/// Who solves the problems.
enum Teacher {
    /// A model in our engine.
    Model(ModelSource),
    /// A model behind a server.
    Server(Endpoint),
}

impl Teacher {
    fn find(name: &str, args: &Args) -> anyhow::Result<Self> {
        if !(name.starts_with("http://") || name.starts_with("https://")) {
            return Ok(Self::Model(ModelSource::find(name)?));
        }
        let parts = name.rsplit_once('#').filter(|(_, model)| !model.is_empty());
        let (base_url, model) = parts.ok_or_else(|| {
            usage(anyhow::anyhow!(
                "--model {name}: which of the server's models? Expected http://HOST/v1#NAME"
            ))
        })?;
        let wire = if args.raw_prompt {
            Wire::Text
        } else {
            Wire::Chat
        };
        Ok(Self::Server(Endpoint {
            url: wire.url(base_url),
            model: model.to_owned(),
            wire,
            num_concurrent: args.num_concurrent.into(),
        }))
    }

    /// What decides the bits of its solutions: not where a server is.
    fn identity(&self, args: &Args) -> anyhow::Result<Value> {
        Ok(match self {
            Self::Model(source) => {
                let checkpoint = Checkpoint::open(source.path()).map_err(usage)?;
                json!({
                    "fingerprint": checkpoint.fingerprint(),
                    "compute_type": args.engine.options().compute_type.to_string(),
                })
            }
            Self::Server(endpoint) => json!({
                "served_model": endpoint.model,
                "wire": endpoint.wire.name(),
            }),
        })
    }

    /// Ready to be asked: what answers, the prompts' tokens, and the tokens that end an answer.
    fn open(&self, args: &Args, problems: &[Problem]) -> anyhow::Result<Opened> {
        match self {
            Self::Model(source) => {
                let loaded = args.engine.load(source.path())?;
                Ok(Opened {
                    prompts: prompts(args, problems, &loaded.tokenizer)?,
                    stop_token_ids: loaded.tokenizer.eos_token_ids().to_vec(),
                    generator: Box::new(loaded.engine),
                })
            }
            Self::Server(endpoint) => {
                let key = std::env::var(&args.api_key_env).ok();
                let key = key.filter(|key| !key.trim().is_empty());
                let timeout = Duration::from_secs(args.server_timeout.max(1));
                let client = Client::new(key, timeout, RETRIES);
                let texts = problems.iter().enumerate().map(|(index, problem)| {
                    let text = match endpoint.wire {
                        Wire::Chat => json!(chat(args, problem)).to_string(),
                        Wire::Text | Wire::Tokens => problem.instruction.clone(),
                    };
                    (index as u64, text)
                });
                let texts = texts.collect();
                Ok(Opened {
                    generator: Box::new(EndpointGenerator::new(&client, endpoint.clone(), texts)),
                    // The server makes tokens, and knows where answers end.
                    prompts: vec![Vec::new(); problems.len()],
                    stop_token_ids: Vec::new(),
                })
            }
        }
    }
}

/// A teacher that can be asked.
struct Opened {
    generator: Box<dyn Generator>,
    prompts: Vec<Vec<u32>>,
    stop_token_ids: Vec<u32>,
}

/// A problem as messages.
fn chat(args: &Args, problem: &Problem) -> Vec<Value> {
    let system = args.system.iter().map(|text| ("system", text));
    let all = system.chain([("user", &problem.instruction)]);
    all.map(|(role, content)| json!({"role": role, "content": content}))
        .collect()
}

/// Graders.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Judge {
    /// The last box by the Hendrycks MATH string rules.
    Boxed,
    /// Mathematical equality.
    Symbolic,
    /// One of the two.
    Either,
    /// Both.
    Both,
    /// Nobody: wrong solutions are kept as well.
    Any,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.n == 0 {
        return Err(usage(anyhow::anyhow!("--n: expected at least 1, found 0")));
    }
    if args.n > 1 && args.temperature == 0.0 {
        return Err(usage(anyhow::anyhow!(
            "--n {}: without --temperature all samples of a problem are the same",
            args.n
        )));
    }
    let column = args.problem_column.as_deref();
    let problems = read_problems(
        &args.problems,
        column,
        &args.answer_column,
        &args.suffix,
        args.limit,
    );
    let teachers = args.model.iter().map(|model| Teacher::find(model, args));
    let teachers = teachers.collect::<Result<Vec<_>, _>>()?;
    let mut make = Make::open(job(args, &teachers, problems.map_err(usage)?)?)?;
    let interrupt = Interrupt::listen();
    for (index, teacher) in teachers.iter().enumerate() {
        if !make.needs(index) {
            continue;
        }
        let mut opened = teacher.open(args, make.problems())?;
        let mut display = ProgressDisplay::new();
        let flow = make.solve(
            index,
            &mut *opened.generator,
            &opened.prompts,
            &opened.stop_token_ids,
            &mut |progress| {
                display.update(&snapshot(&progress));
                if interrupt.is_set() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        display.finish();
        if flow?.is_break() {
            notice("interrupted; the same command goes on from there");
            return Ok(Exit::Interrupted);
        }
    }
    let statistics = make.finish()?;
    report(&statistics, &mut std::io::stdout().lock())?;
    Ok(Exit::Done)
}

fn job(args: &Args, teachers: &[Teacher], problems: Vec<Problem>) -> anyhow::Result<MakeJob> {
    let teachers = args.model.iter().zip(teachers).map(|(name, teacher)| {
        let identity = teacher.identity(args)?;
        let name = match teacher {
            Teacher::Model(_) => name,
            Teacher::Server(endpoint) => &endpoint.model,
        };
        let identity = identity.as_object().cloned().unwrap_or_default();
        Ok((name.clone(), identity))
    });
    let teachers = teachers.collect::<anyhow::Result<Vec<_>>>()?;
    let prompting = json!({
        "micota_version": env!("CARGO_PKG_VERSION"),
        "raw_prompt": args.raw_prompt,
        "system": args.system,
    });
    Ok(MakeJob {
        problems,
        teachers,
        params: SamplingParams {
            max_gen_toks: args.max_gen_toks,
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            n: args.n,
            seed: args.seed,
            ..SamplingParams::default()
        },
        prompting: prompting
            .as_object()
            .cloned()
            .unwrap_or_else(Map::<String, Value>::new),
        filters: Filters {
            accept: match args.accept {
                Judge::Boxed => Accept::Boxed,
                Judge::Symbolic => Accept::Symbolic,
                Judge::Either => Accept::Either,
                Judge::Both => Accept::Both,
                Judge::Any => Accept::Any,
            },
            keep_unfinished: args.keep_unfinished,
            min_tokens: args.min_tokens,
            max_tokens: args.max_tokens.unwrap_or(usize::MAX),
            keep_duplicates: args.keep_duplicates,
            per_problem: args.per_problem,
        },
        output: args.out.clone(),
    })
}

/// Every problem's tokens: through the chat template, or as plain text.
fn prompts(
    args: &Args,
    problems: &[Problem],
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<Vec<u32>>> {
    if args.raw_prompt {
        let encode = |problem: &Problem| Ok(tokenizer.encode(&problem.instruction, true)?);
        return problems.iter().map(encode).collect();
    }
    let source = tokenizer.chat_template();
    let source = source.context("the model has no chat template; ask it with --raw-prompt")?;
    let template = ChatTemplate::new(source, &tokenizer.special_tokens())?;
    let encode = |problem: &Problem| {
        let mut messages = Vec::new();
        if let Some(system) = &args.system {
            messages.push(Message::new("system", system.clone()));
        }
        messages.push(Message::new("user", problem.instruction.clone()));
        let text = template.render(&messages, &ChatOptions::default())?;
        Ok(tokenizer.encode(&text, false)?)
    };
    problems.iter().map(encode).collect()
}

fn snapshot(progress: &MakeProgress) -> Snapshot {
    let MakeProgress {
        done,
        total,
        resumed,
        load,
    } = progress;
    Snapshot::new(*done, *total, *resumed, load)
}

fn report(statistics: &Statistics, out: &mut impl Write) -> std::io::Result<()> {
    let Statistics {
        problems,
        samples,
        kept,
        problems_solved,
        tokens,
        ..
    } = statistics;
    writeln!(
        out,
        "kept {kept} of {samples} solutions; {problems_solved} of {problems} problems have one"
    )?;
    writeln!(
        out,
        "right: {} by the boxed rule, {} by mathematical equality",
        statistics.boxed_correct, statistics.symbolic_correct
    )?;
    for (name, count) in [
        ("without room in the context", statistics.refused),
        ("unfinished", statistics.unfinished),
        ("without an answer", statistics.no_answer),
        ("wrong", statistics.wrong),
        ("too short", statistics.too_short),
        ("too long", statistics.too_long),
        ("repeated", statistics.duplicates),
        ("more than asked for", statistics.surplus),
    ] {
        if count > 0 {
            writeln!(out, "left out, {name}: {count}")?;
        }
    }
    if *kept > 0 {
        writeln!(
            out,
            "tokens of kept solutions: mean {:.0}, median {}, 90% up to {}, longest {}",
            tokens.mean, tokens.median, tokens.p90, tokens.longest
        )?;
    }
    if statistics.kept_by_model.len() > 1 {
        for (model, count) in &statistics.kept_by_model {
            writeln!(out, "by {model}: {count}")?;
        }
    }
    Ok(())
}
