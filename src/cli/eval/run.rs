//! One evaluation, from flags to files.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::model_args::ModelArgs;
use super::observer::Display;
use super::prepare::Prepared;
use super::subject::Subject;
use super::{Listing, RunArgs, prepare, report};
use crate::cli::exit::{Exit, usage};
use crate::cli::notice::notice;
use crate::cli::prompting;
use crate::durable::{Journal, JournalError};
use crate::engine::{Device, Tokenizer};
use crate::eval::audit::short_budget_warning;
use crate::eval::hashes::text_hash;
use crate::eval::naming::model_name_of_args;
use crate::eval::plan::PlannedTask;
use crate::eval::prepare::{PlanOptions, plan};
use crate::eval::results::{Group, GroupMetric, Manifest, RunInfo};
use crate::eval::run::{AtEnd, Ended, JournalPlace, Run, journal_in};
use crate::eval::{EvalError, Generator, python_json};
use crate::task::{GroupConfig, Overrides, parse_kwargs};

/// Sampling seed where neither task nor command line has one: the reference's default.
const DEFAULT_SAMPLING_SEED: u64 = 1234;

/// Runs the command.
pub(super) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    if let Some(what) = Listing::asked_as_tasks(&args.source.tasks) {
        return report::list(what, &args.source.include_path);
    }
    let log_samples = args.output.log_samples || args.output.predict_only;
    if log_samples && args.output.output_path.is_none() {
        return Err(usage(anyhow::anyhow!(
            "--log_samples and --predict_only write files: add --output_path FOLDER"
        )));
    }
    prepare::say_without_effect(&args.compatibility);
    let model = ModelArgs::new(&args.model, &args.model_args)?;
    model.notes.iter().for_each(|note| notice(note));
    let model_name = model_name_of_args(&model.text);
    prepare::check_output(&args.output, model_name)?;
    let seeds = prepare::seeds(&args.generation.seed)?;
    let max_num_seqs = prepare::max_num_seqs(&args.generation)?.or(model.max_num_seqs);
    let choice = prepare::doc_choice(&args.generation)?;
    let overrides = overrides(args, &model)?;
    let prepared = prepare::prepare(&args.source, &overrides)?;
    prepare::check_chosen(&prepared, &choice)?;
    if args.compatibility.check_integrity {
        prepare::check_integrity(&prepared)?;
    }
    if args.output.show_config {
        report::show_config(&prepared);
    }
    let subject = Subject::open(&model, &args.engine, max_num_seqs)?;
    let template = subject.chat_template(&args.prompt)?;
    if let Some(tokenizer) = subject.tokenizer().filter(|_| template.is_none()) {
        prompting::say_unused_template(tokenizer);
    }
    let mut prompt = args.prompt.options(template.as_ref())?;
    prompt.fewshot_seed = seeds[3].unwrap_or(prompt.fewshot_seed);
    prompt.chat_options.enable_thinking = model.enable_thinking;
    prompt.chat_options.arguments = model.chat_template_args.clone();
    let is_gemma = model.server.is_none() && model.pretrained.to_lowercase().contains("gemma");
    let options = PlanOptions {
        prompt,
        choice,
        seed: model.seed.or(seeds[2]).unwrap_or(DEFAULT_SAMPLING_SEED),
        add_bos: model.add_bos_token.unwrap_or(is_gemma),
        default_max_gen_toks: model.max_gen_toks,
        think_end: model.think_end_token.clone(),
    };
    let tasks = plan_all(&prepared, &options, &subject)?;
    if args.output.write_out {
        report::write_out(&tasks);
    }
    let info = run_info(args, &model, &options, &overrides, seeds, &subject);
    let settings = settings(&tasks, &subject, options.seed);
    let journal = journal_place(args, &info, &settings);
    tracing::debug!("journal: {}", journal.path.display());
    if args.output.no_resume {
        Journal::discard(&journal.path)?;
    }
    let manifest = manifest(&settings, &tasks, &subject);
    let run_facts = subject.run_facts();
    let eos_text = subject.eos_text();
    let mut generator = subject.generator(&tasks);
    let run = Run {
        groups: groups(&prepared.groups, &tasks),
        tasks,
        info: info.clone(),
        eos_text,
        settings,
        output_path: args.output.output_path.clone(),
        log_samples,
        predict_only: args.output.predict_only,
        journal,
    };
    execute(run, &mut *generator, (manifest, run_facts), args, &info)
}

/// Plans every task, and says what the user should know about each.
fn plan_all(
    prepared: &Prepared,
    options: &PlanOptions<'_>,
    subject: &Subject,
) -> anyhow::Result<Vec<PlannedTask>> {
    let mut tasks = Vec::with_capacity(prepared.tasks.len());
    for (task, data) in &prepared.tasks {
        let check = |request: &_| subject.check(request);
        let (task, notes) = plan(task, data, options, subject.encoder(), &check).map_err(usage)?;
        notes.iter().for_each(|note| notice(note));
        let budget = task.params.max_gen_toks;
        if let Some(warning) =
            short_budget_warning(&task.name, budget, task.max_gen_toks_is_default)
        {
            notice(&warning);
        }
        if let Some(tokenizer) = subject.tokenizer() {
            say_missing_bos(&task, tokenizer);
        }
        tasks.push(task);
    }
    Ok(tasks)
}

fn execute(
    run: Run,
    generator: &mut dyn Generator,
    (manifest, run_facts): (Manifest, Map<String, Value>),
    args: &RunArgs,
    info: &RunInfo,
) -> anyhow::Result<Exit> {
    let budgets: Vec<(String, usize)> = run
        .tasks
        .iter()
        .map(|task| (task.name.clone(), task.params.max_gen_toks))
        .collect();
    let open = match run.open() {
        Err(EvalError::Journal(error @ JournalError::Settings { .. })) => return Err(usage(error)),
        opened => opened?,
    };
    let resumed = open.num_resumed();
    if resumed > 0 {
        notice(&format!(
            "{resumed} answers are there from an earlier run; going on"
        ));
    }
    let mut display = Display::new();
    let begin = Instant::now();
    let ended = open.finish(generator, &mut display, &date, &|generator| {
        let mut manifest = manifest.clone();
        manifest.insert(
            "run".to_owned(),
            timings(&run_facts, generator, resumed, begin),
        );
        manifest
    });
    display.finish();
    let written = match ended? {
        Ended::Interrupted { done, total } => {
            notice(&format!(
                "interrupted: {done} of {total} answers are kept; the same command goes on"
            ));
            return Ok(Exit::Interrupted);
        }
        Ended::Finished(written) => written,
    };
    report::audit(&written, &budgets);
    report::uploads(&args.compatibility, &written)?;
    if args.output.predict_only {
        written
            .files
            .iter()
            .for_each(|file| notice(&format!("wrote {}", file.display())));
        return Ok(Exit::Done);
    }
    report::results(&written, info, args.output.json)?;
    Ok(report::gate(&written, args.output.max_truncated))
}

/// `--gen_kwargs`, `--num_fewshot` and the model's arguments, which the reference records in each
/// task's metadata.
fn overrides(args: &RunArgs, model: &ModelArgs) -> anyhow::Result<Overrides> {
    let mut gen_kwargs = Map::new();
    for text in &args.generation.gen_kwargs {
        gen_kwargs.extend(parse_kwargs(text).context("--gen_kwargs").map_err(usage)?);
    }
    let mut metadata = prepare::metadata(&args.source)?;
    metadata.extend(model.parsed.clone());
    Ok(Overrides {
        num_fewshot: args.prompt.num_fewshot,
        gen_kwargs,
        metadata,
    })
}

fn say_missing_bos(task: &PlannedTask, tokenizer: &Tokenizer) {
    let tokenised = task
        .docs
        .iter()
        .filter(|doc| !doc.prompt_token_ids.is_empty());
    let without = tokenised.filter(|doc| doc.bos_count == 0).count();
    if tokenizer.adds_bos() && without > 0 {
        notice(&format!(
            "{}: {without} prompts carry no BOS token, as in the reference, though the tokenizer \
             would add one; --model_args add_bos_token=True adds it",
            task.name
        ));
    }
}

fn run_info(
    args: &RunArgs,
    model: &ModelArgs,
    options: &PlanOptions<'_>,
    overrides: &Overrides,
    seeds: [Option<u64>; 4],
    subject: &Subject,
) -> RunInfo {
    let batch_size = &args.generation.batch_size;
    let gen_kwargs_text = args.generation.gen_kwargs.join(",");
    RunInfo {
        model: model.backend.clone(),
        model_args: model.text.clone(),
        model_name: model_name_of_args(&model.text).to_owned(),
        batch_size: batch_size.as_str().into(),
        device: args.engine.device().map(Device::to_string),
        use_cache: args
            .output
            .use_cache
            .as_ref()
            .map(|path| path.display().to_string()),
        limit: args.generation.limit,
        gen_kwargs: overrides.gen_kwargs.clone(),
        gen_kwargs_text: Some(gen_kwargs_text).filter(|text| !text.is_empty()),
        num_fewshot: args.prompt.num_fewshot,
        seeds,
        system_instruction: options.prompt.system_instruction.map(str::to_owned),
        fewshot_as_multiturn: options.prompt.fewshot_as_multiturn,
        chat_template: options
            .prompt
            .chat_template
            .map(|template| template.source().to_owned()),
        tokenizer: subject.tokenizer_facts(),
    }
}

/// Everything that an answer depends on.
fn settings(tasks: &[PlannedTask], subject: &Subject, seed: u64) -> Map<String, Value> {
    let tasks = tasks
        .iter()
        .map(|task| (task.name.clone(), Value::Object(task.fingerprint())));
    let tasks: Map<String, Value> = tasks.collect();
    let mut settings = Map::new();
    settings.insert(
        "micota_version".to_owned(),
        env!("CARGO_PKG_VERSION").into(),
    );
    settings.extend(subject.settings());
    settings.insert("seed".to_owned(), seed.into());
    settings.insert("tasks".to_owned(), Value::Object(tasks));
    settings
}

fn manifest(settings: &Map<String, Value>, tasks: &[PlannedTask], subject: &Subject) -> Manifest {
    let versions = tasks
        .iter()
        .map(|task| (task.name.clone(), task.version.clone()));
    let mut manifest = Manifest::new();
    manifest.insert("reproduces".to_owned(), json!("lm_eval 0.4.9"));
    manifest.extend(subject.identity());
    let pairs = [
        ("task_versions", Value::Object(versions.collect())),
        (
            "settings_sha",
            json!(text_hash(&python_json::object_to_indented(settings))),
        ),
        ("settings", Value::Object(settings.clone())),
    ];
    manifest.extend(pairs.map(|(key, value)| (key.to_owned(), value)));
    manifest
}

fn timings(
    machine: &Map<String, Value>,
    generator: &dyn Generator,
    resumed: usize,
    begin: Instant,
) -> Value {
    let load = generator.load();
    let seconds = begin.elapsed().as_secs_f64();
    let mut facts = machine.clone();
    let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
    put("resumed_answers", resumed.into());
    put("seconds", seconds.into());
    put("generated_tokens", load.generated_tokens.into());
    put("prefill_tokens", load.prefill_tokens.into());
    let rate = load.generated_tokens as f64 / seconds.max(1e-9);
    put("generated_tokens_per_s", rate.into());
    facts.extend(generator.statistics());
    Value::Object(facts)
}

fn groups(groups: &[GroupConfig], tasks: &[PlannedTask]) -> Vec<Group> {
    let planned = |name: &&String| tasks.iter().any(|task| task.name == **name);
    groups
        .iter()
        .map(|group| Group {
            name: group.name.clone(),
            alias: group.alias.clone().unwrap_or_else(|| group.name.clone()),
            version: group.metadata.get("version").cloned().unwrap_or_default(),
            tasks: group.members.iter().filter(planned).cloned().collect(),
            metrics: group
                .aggregate_metric_list
                .iter()
                .flat_map(|metric| {
                    metric.filter_list.iter().map(|filter| GroupMetric {
                        metric: metric.metric.clone(),
                        filter: filter.clone(),
                        weight_by_size: metric.weight_by_size,
                    })
                })
                .collect(),
        })
        .collect()
}

fn journal_place(args: &RunArgs, info: &RunInfo, settings: &Map<String, Value>) -> JournalPlace {
    if let Some(path) = &args.output.use_cache {
        return JournalPlace {
            path: path.clone(),
            at_end: AtEnd::Keep,
        };
    }
    if let Some(output_path) = &args.output.output_path {
        return JournalPlace {
            path: journal_in(output_path, &info.model_name),
            at_end: AtEnd::MoveToOutput,
        };
    }
    let sha = text_hash(&python_json::object_to_indented(settings));
    JournalPlace {
        path: state_folder().join(format!("{}.jsonl", &sha[..32])),
        at_end: AtEnd::Remove,
    }
}

/// Where journals of runs without an output folder lie: the XDG state folder.
fn state_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = set("XDG_STATE_HOME").map(PathBuf::from);
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("micota/journals")
}

/// The date in file names: local time, ISO with microseconds, `:` replaced by `-`.
fn date(time: SystemTime) -> String {
    let local = chrono::DateTime::<chrono::Local>::from(time);
    local.format("%Y-%m-%dT%H-%M-%S%.6f").to_string()
}
