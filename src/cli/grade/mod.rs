//! `micota grade`: grades logs of answers again, without a model. A judge may be asked beside.

mod judge;
mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::engine_args::EngineArgs;
use super::exit::{Exit, usage};
use super::notice::notice;
use crate::durable::{AtomicFile, write_atomic};
use crate::eval::judge::{
    CheckedSample, DEFAULT_TEMPLATE, JudgeJournal, JudgePrompt, SeedFiles, gsm8k_summary,
    strict_verdict,
};
use crate::eval::log_reader::{LogReader, RawRow, sample_logs};
use crate::eval::naming;
use crate::eval::regrade::{
    FieldNames, GradedRow, LoggedSample, Regrader, Rule, Tally, document_key,
};
use crate::grade::boxed::Variant;
use crate::task::{ProcessResults, Registry, python};

/// Grade logged answers again: by the reference's rule, by mathematical equality, by a judge.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Logs: samples_*.jsonl of lm-evaluation-harness, folders of them (the newest run counts),
    /// training data as a JSON list, or any JSONL, CSV or Parquet file with named fields
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// The task by whose rule to grade; taken from the log's name where it has one
    #[arg(long)]
    task: Option<String>,
    /// The field that holds the response
    #[arg(long, value_name = "NAME")]
    response_field: Option<String>,
    /// The field that holds the gold answer
    #[arg(long, value_name = "NAME")]
    gold_field: Option<String>,
    /// The field that holds the problem; also tells documents apart
    #[arg(long, value_name = "NAME")]
    problem_field: Option<String>,
    /// The field that tells documents apart, for pass@k over repeated samples
    #[arg(long, value_name = "NAME")]
    id_field: Option<String>,
    /// A field of the rows, or of their documents, such as level: rows are also scored apart by it
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Where the verdicts go, one line per row in input order [default: grades.jsonl beside the log]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Every run in a folder, not only the newest of each task
    #[arg(long)]
    all_runs: bool,
    /// Prints the summary as JSON
    #[arg(long)]
    json: bool,
    /// Asks a judge about answers that the rule calls wrong: a Hugging Face folder or GGUF file, or
    /// with --judge-url the model's name there. Its verdict is a column of its own
    #[arg(long, alias = "judge_model", value_name = "PATH|NAME")]
    judge_model: Option<String>,
    /// Base URL of the judge's OpenAI-compatible server, such as http://localhost:8000/v1 (key:
    /// OPENAI_API_KEY)
    #[arg(
        long,
        alias = "judge_url",
        value_name = "URL",
        requires = "judge_model"
    )]
    judge_url: Option<String>,
    /// A file with the judge's prompt: {problem}, {gold} and {extracted} are filled in
    #[arg(
        long,
        alias = "judge_template",
        value_name = "FILE",
        requires = "judge_model"
    )]
    judge_template: Option<PathBuf>,
    /// Of a local judge; --threads are the grader's as well
    #[command(flatten)]
    engine: EngineArgs,
}

/// A log and how it is graded.
struct Log {
    path: PathBuf,
    task: String,
    rule: Rule,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(threads) = args.engine.threads() {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start that many threads")?;
    }
    let logs = logs(args).map_err(usage)?;
    let template = match &args.judge_template {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| path.display().to_string())
            .map_err(usage)?,
        None => DEFAULT_TEMPLATE.to_owned(),
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| logs[0].path.with_file_name("grades.jsonl"));
    if logs.iter().any(|log| log.path == out) {
        return Err(usage(anyhow::anyhow!(
            "--out {} is one of the logs",
            out.display()
        )));
    }
    let mut local = judge::load_local(args)?;
    let mut judge = judge::open(args, local.as_mut(), &template, &out)?;
    let mut grading = Grading {
        names: FieldNames {
            response: args.response_field.clone(),
            gold: args.gold_field.clone(),
            problem: args.problem_field.clone(),
            id: args.id_field.clone(),
        },
        regrader: Regrader::new()?,
        several: logs.len() > 1,
        by: args.by.clone(),
        judges: judge.is_some(),
        template,
        tallies: BTreeMap::new(),
        checked: Vec::new(),
    };
    let mut file = AtomicFile::create(&out)?;
    let mut seed_files = Vec::new();
    for log in &logs {
        grading.grade_log(log, judge.as_mut(), &mut file)?;
        let checked = std::mem::take(&mut grading.checked);
        let judged = judge
            .as_ref()
            .is_some_and(|judge| judge.failure().is_none());
        if judged && matches!(log.rule, Rule::Boxed(_)) {
            let files = SeedFiles::new(&checked).texts(&log.task);
            seed_files.extend(files.map(|(name, text)| (log.path.with_file_name(name), text)));
        }
    }
    if let Some(name) = &args.by
        && !grading.tallies.keys().any(|column| column.part.is_some())
    {
        return Err(usage(anyhow::anyhow!("--by {name}: no row has it")));
    }
    file.commit()?;
    if judge.is_some() {
        seed_files.extend(gsm8k_files(args)?);
    }
    for (path, text) in &seed_files {
        write_atomic(path, text.as_bytes())?;
    }
    let summary = report::summary(&grading.tallies);
    let summary_path = out.with_extension("summary.json");
    write_atomic(
        &summary_path,
        serde_json::to_string_pretty(&summary)?.as_bytes(),
    )?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        write!(stdout, "{}", report::tables(&grading.tallies))?;
        writeln!(
            stdout,
            "verdicts: {}\nsummary: {}",
            out.display(),
            summary_path.display()
        )?;
        for (path, _) in &seed_files {
            writeln!(stdout, "judge: {}", path.display())?;
        }
    }
    match judge {
        None => Ok(Exit::Done),
        Some(judge) => end_of_judge(judge),
    }
}

/// A judge that failed costs its own column, not the others; the exit code says that it did.
fn end_of_judge(judge: JudgeJournal<'_>) -> anyhow::Result<Exit> {
    let Some(failure) = judge.failure() else {
        judge.finish()?;
        return Ok(Exit::Done);
    };
    notice(&format!(
        "{failure}\nthe verdicts of both graders are written, those of the judge only as far as it came; \
         the seed's files of unfinished logs are not. The same command asks only what is left"
    ));
    Ok(Exit::GateFailed)
}

/// The seed's gsm8k summaries of the folders among the logs that hold results of it.
fn gsm8k_files(args: &Args) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for folder in args.logs.iter().filter(|path| path.is_dir()) {
        let mut results = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with("results") || !path.is_file() {
                continue;
            }
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let parsed = serde_json::from_slice(&text).with_context(|| path.display().to_string());
            results.push((name.into_owned(), parsed?));
        }
        results.sort_by(|(a, _), (b, _)| a.cmp(b));
        files.extend(gsm8k_summary(&results).map(|(name, text)| (folder.join(name), text)));
    }
    Ok(files)
}

/// The logs that the arguments name, with their tasks.
fn logs(args: &Args) -> anyhow::Result<Vec<Log>> {
    let mut logs = Vec::new();
    for path in &args.logs {
        let paths = match path.is_dir() {
            true => sample_logs(path, args.all_runs)?,
            false => vec![path.clone()],
        };
        for path in paths {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let task = match (&args.task, naming::task_of_samples_file(&name)) {
                (Some(task), _) => task.clone(),
                (None, Some(task)) => task.to_owned(),
                (None, None) if path.extension().is_some_and(|e| e == "json") => {
                    // The seed's training data is graded as its filter does.
                    "rejection_filter".to_owned()
                }
                (None, None) => bail!(
                    "{}: the name does not say which task it is (samples_TASK_DATE.jsonl); add --task",
                    path.display()
                ),
            };
            let rule = Rule::of_task(&task).or_else(|| rule_of_shipped(&task));
            let rule = rule.with_context(|| {
                format!(
                    "no grading rule for task {task}; there are rules for tasks whose names begin with \
                     AIME, AMC, Olympiad, hendrycks_math, minerva_math, math, rejection_filter, gsm8k, \
                     svamp, and for the tasks that `micota tasks` lists; name the one that fits with --task"
                )
            })?;
            logs.push(Log { path, task, rule });
        }
    }
    Ok(logs)
}

/// The rule of a task that the program carries, by the grader that its file names.
fn rule_of_shipped(task: &str) -> Option<Rule> {
    let registry = Registry::load(&[]).ok()?;
    let selection = registry.resolve(&[task.to_owned()]).ok()?;
    match selection.tasks.first()?.process_results? {
        ProcessResults::BoxedTrimmed => Some(Rule::Boxed(Variant::Trimmed)),
        ProcessResults::BoxedPlain | ProcessResults::MathEqual => Some(Rule::Boxed(Variant::Plain)),
        ProcessResults::NumberLast => Some(Rule::Number),
    }
}

/// What is scored together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Column {
    task: String,
    filter: Option<String>,
    /// The rows whose field has this value (`level=1`), where it is not all of them.
    part: Option<String>,
}

impl Column {
    /// The task, and which part of its rows.
    fn name(&self) -> String {
        match &self.part {
            Some(part) => format!("{} {part}", self.task),
            None => self.task.clone(),
        }
    }
}

struct Grading {
    names: FieldNames,
    regrader: Regrader,
    several: bool,
    /// The field that rows are also scored apart by.
    by: Option<String>,
    /// Whether answers are noted for a judge.
    judges: bool,
    template: String,
    tallies: BTreeMap<Column, Tally>,
    checked: Vec<CheckedSample>,
}

/// A graded row with what the next stages need.
struct Done {
    row: GradedRow,
    document: Option<u64>,
    checked: Option<CheckedSample>,
    part: Option<String>,
}

impl Grading {
    /// Grades a log batch by batch: parsing and grading in parallel, writing in order.
    fn grade_log(
        &mut self,
        log: &Log,
        mut judge: Option<&mut JudgeJournal<'_>>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut reader = LogReader::open(&log.path)?;
        let mut number = 0;
        let terminal = std::io::stderr().is_terminal();
        loop {
            let batch = reader.next_batch()?;
            if batch.is_empty() {
                break;
            }
            let first = number;
            number += batch.len();
            let this = &*self;
            let rows: Vec<(usize, RawRow)> = (first..).zip(batch).collect();
            let mut done: Vec<Done> = rows
                .into_par_iter()
                .map(|(row, raw)| this.grade_row(log, row, raw))
                .collect();
            if let Some(judge) = judge.as_deref_mut() {
                self.ask_judge(judge, &mut done);
            }
            let lines: Vec<String> = done
                .par_iter()
                .map(|done| serde_json::to_string(&done.row))
                .collect::<Result<_, _>>()?;
            for (line, done) in lines.iter().zip(done) {
                writeln!(out, "{line}")?;
                let all = Column {
                    task: log.task.clone(),
                    filter: done.row.filter.clone(),
                    part: None,
                };
                let part = done.part.map(|part| Column {
                    part: Some(part),
                    ..all.clone()
                });
                for column in [Some(all), part].into_iter().flatten() {
                    let tally = self.tallies.entry(column).or_default();
                    tally.add(&done.row, done.document);
                }
                self.checked.extend(done.checked);
            }
            if terminal {
                // A line that nobody can read must not stop the grading.
                let _ = write!(std::io::stderr(), "\r{}: {number} rows", log.path.display());
            }
        }
        if terminal {
            let _ = writeln!(std::io::stderr());
        }
        Ok(())
    }

    fn grade_row(&self, log: &Log, number: usize, raw: RawRow) -> Done {
        let fields: Result<Map<String, Value>, String> = raw.into_fields();
        let part = fields.as_ref().ok().and_then(|row| self.part(row));
        let sample = fields.and_then(|row| LoggedSample::from_row(&row, &self.names, &log.task));
        let mut done = match sample {
            Ok(sample) => {
                let boxed = matches!(log.rule, Rule::Boxed(_));
                let checked = match (self.judges, sample.responses.first()) {
                    (true, Some(response)) if boxed => {
                        let problem = sample.problem.as_deref().unwrap_or_default();
                        Some(CheckedSample::new(number, problem, &sample.gold, response))
                    }
                    _ => None,
                };
                Done {
                    row: self.regrader.grade(&sample, &log.task, log.rule),
                    document: document_key(&sample),
                    checked,
                    part,
                }
            }
            Err(problem) => Done {
                row: GradedRow::unreadable(&log.task, problem),
                document: None,
                checked: None,
                part,
            },
        };
        done.row.row = number;
        if self.several {
            done.row.file = Some(log.path.display().to_string());
        }
        done
    }

    /// The part of the rows that a row belongs to.
    fn part(&self, row: &Map<String, Value>) -> Option<String> {
        let name = self.by.as_ref()?;
        let in_document = || row.get("doc")?.get(name);
        let value = row.get(name).or_else(in_document)?;
        Some(format!("{name}={}", python::text(value)))
    }

    /// Sends the answers that the rule calls wrong to the judge, and fills in its verdicts.
    fn ask_judge(&self, judge: &mut JudgeJournal<'_>, done: &mut [Done]) {
        let mut asked: Vec<&mut Done> = Vec::new();
        let mut prompts: Vec<JudgePrompt> = Vec::new();
        for done in done {
            let prompt = done
                .checked
                .as_ref()
                .and_then(|checked| checked.prompt(&self.template));
            if let Some(prompt) = prompt {
                prompts.push(prompt);
                asked.push(done);
            }
        }
        let replies = judge.ask(&prompts);
        for (done, reply) in asked.into_iter().zip(&replies) {
            let Some(reply) = reply else {
                continue;
            };
            done.row.judge = Some(strict_verdict(reply));
            if let Some(checked) = &mut done.checked {
                checked.settle(reply);
            }
        }
    }
}
