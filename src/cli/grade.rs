//! `micota grade`: grades logs of answers again, without a model.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use comfy_table::Table;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::exit::{Exit, usage};
use crate::durable::{AtomicFile, write_atomic};
use crate::eval::judge::{
    CheckedSample, DEFAULT_TEMPLATE, EndpointJudge, Judge, JudgePrompt, SeedFiles, strict_verdict,
};
use crate::eval::log_reader::{LogReader, RawRow, sample_logs};
use crate::eval::naming;
use crate::eval::regrade::{
    FieldNames, GradedRow, LoggedSample, Regrader, Rule, Tally, document_key, votes,
};
use crate::grade::boxed::Variant;
use crate::grade::stats;
use crate::task::{ProcessResults, Registry};

/// Confidence of the printed intervals.
const CONFIDENCE: f64 = 0.95;
/// The environment variable that holds the judge's API key.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";

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
    /// Where the verdicts go, one line per row in input order [default: grades.jsonl beside the log]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Every run in a folder, not only the newest of each task
    #[arg(long)]
    all_runs: bool,
    /// Prints the summary as JSON
    #[arg(long)]
    json: bool,
    /// Asks a judge about answers that the rule calls wrong: base URL of an OpenAI-compatible
    /// server, such as http://localhost:8000/v1 (key: OPENAI_API_KEY)
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge_url: Option<String>,
    /// The judge's model name
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// A file with the judge's prompt: {problem}, {gold} and {extracted} are filled in
    #[arg(long, value_name = "FILE")]
    judge_template: Option<PathBuf>,
}

/// A log and how it is graded.
struct Log {
    path: PathBuf,
    task: String,
    rule: Rule,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start that many threads")?;
    }
    let logs = logs(args).map_err(usage)?;
    let judge = match (&args.judge_url, &args.judge_model) {
        (Some(url), Some(model)) => Some(EndpointJudge::new(
            url,
            model,
            std::env::var(KEY_VARIABLE).ok(),
        )),
        _ => None,
    };
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
    let mut grading = Grading {
        names: FieldNames {
            response: args.response_field.clone(),
            gold: args.gold_field.clone(),
            problem: args.problem_field.clone(),
            id: args.id_field.clone(),
        },
        regrader: Regrader::new()?,
        several: logs.len() > 1,
        judge,
        template,
        tallies: BTreeMap::new(),
        checked: Vec::new(),
    };
    let mut file = AtomicFile::create(&out)?;
    let mut seed_files = Vec::new();
    for log in &logs {
        grading.grade_log(log, &mut file)?;
        if grading.judge.is_some() {
            let checked = std::mem::take(&mut grading.checked);
            let files = SeedFiles::new(&checked).texts(&log.task);
            seed_files.extend(files.map(|(name, text)| (log.path.with_file_name(name), text)));
        }
    }
    file.commit()?;
    for (path, text) in &seed_files {
        write_atomic(path, text.as_bytes())?;
    }
    let summary = summary(&grading.tallies);
    let summary_path = out.with_extension("summary.json");
    write_atomic(
        &summary_path,
        serde_json::to_string_pretty(&summary)?.as_bytes(),
    )?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        write!(stdout, "{}", tables(&grading.tallies))?;
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
    Ok(Exit::Done)
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

/// Task and filter.
type Column = (String, Option<String>);

struct Grading {
    names: FieldNames,
    regrader: Regrader,
    several: bool,
    judge: Option<EndpointJudge>,
    template: String,
    tallies: BTreeMap<Column, Tally>,
    checked: Vec<CheckedSample>,
}

/// A graded row with what the next stages need.
struct Done {
    row: GradedRow,
    document: Option<u64>,
    checked: Option<CheckedSample>,
}

impl Grading {
    /// Grades a log batch by batch: parsing and grading in parallel, writing in order.
    fn grade_log(&mut self, log: &Log, out: &mut impl Write) -> anyhow::Result<()> {
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
            self.ask_judge(&mut done)?;
            let lines: Vec<String> = done
                .par_iter()
                .map(|done| serde_json::to_string(&done.row))
                .collect::<Result<_, _>>()?;
            for (line, done) in lines.iter().zip(done) {
                writeln!(out, "{line}")?;
                let column = (log.task.clone(), done.row.filter.clone());
                self.tallies
                    .entry(column)
                    .or_default()
                    .add(&done.row, done.document);
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
        let sample = fields.and_then(|row| LoggedSample::from_row(&row, &self.names, &log.task));
        let mut done = match sample {
            Ok(sample) => {
                let boxed = matches!(log.rule, Rule::Boxed(_));
                let checked = match (&self.judge, sample.responses.first()) {
                    (Some(_), Some(response)) if boxed => {
                        let problem = sample.problem.as_deref().unwrap_or_default();
                        Some(CheckedSample::new(number, problem, &sample.gold, response))
                    }
                    _ => None,
                };
                Done {
                    row: self.regrader.grade(&sample, &log.task, log.rule),
                    document: document_key(&sample),
                    checked,
                }
            }
            Err(problem) => Done {
                row: GradedRow::unreadable(&log.task, problem),
                document: None,
                checked: None,
            },
        };
        done.row.row = number;
        if self.several {
            done.row.file = Some(log.path.display().to_string());
        }
        done
    }

    /// Sends the answers that the rule calls wrong to the judge, and fills in its verdicts.
    fn ask_judge(&mut self, done: &mut [Done]) -> anyhow::Result<()> {
        let Some(judge) = &mut self.judge else {
            return Ok(());
        };
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
        let replies = judge.replies(&prompts)?;
        for (done, reply) in asked.into_iter().zip(&replies) {
            done.row.judge = Some(strict_verdict(reply));
            if let Some(checked) = &mut done.checked {
                checked.settle(reply);
            }
        }
        Ok(())
    }
}

/// The values of k for which every document has enough samples: 1, 2, 4, ... and the least count.
fn sample_counts(tally: &Tally) -> Vec<usize> {
    let least = tally.documents.values().map(Vec::len).min().unwrap_or(0);
    let most = tally.documents.values().map(Vec::len).max().unwrap_or(0);
    if most < 2 {
        return Vec::new();
    }
    let mut counts: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2))
        .take_while(|&k| k < least)
        .collect();
    counts.push(least);
    counts
}

/// pass@k, maj@k and avg@k of one grader, each a mean over documents with its standard error.
fn repeated(tally: &Tally, k: usize, symbolic: bool) -> [(String, Option<f64>, Option<f64>); 3] {
    let documents: Vec<_> = tally
        .documents
        .values()
        .map(|marks| votes(marks, symbolic))
        .collect();
    let estimate = |name: &str, of: &dyn Fn(&[stats::Vote]) -> Option<f64>| {
        let values: Vec<f64> = documents.iter().filter_map(|votes| of(votes)).collect();
        (
            format!("{name}@{k}"),
            stats::mean(&values),
            stats::mean_stderr(&values),
        )
    };
    let correct = |votes: &[stats::Vote]| votes.iter().map(|v| v.correct).collect::<Vec<bool>>();
    [
        estimate("pass", &|votes| {
            let right = votes.iter().filter(|vote| vote.correct).count();
            stats::pass_at_k(votes.len(), right, k)
        }),
        estimate("maj", &|votes| {
            stats::maj_at_k(votes, k).map(|right| f64::from(u8::from(right)))
        }),
        estimate("avg", &|votes| stats::avg_at_k(&correct(votes), k)),
    ]
}

fn accuracy(correct: usize, responses: usize) -> Value {
    if responses == 0 {
        return Value::Null;
    }
    let interval = stats::wilson(correct, responses, CONFIDENCE);
    json!({
        "value": correct as f64 / responses as f64,
        "wilson_95": [interval.low, interval.high],
    })
}

fn summary(tallies: &BTreeMap<Column, Tally>) -> Value {
    let mut tasks = Vec::new();
    for ((task, filter), tally) in tallies {
        let mut repeats = Map::new();
        for k in sample_counts(tally) {
            for (grader, symbolic) in [("legacy", false), ("symbolic", true)] {
                for (name, value, stderr) in repeated(tally, k, symbolic) {
                    repeats.insert(
                        format!("{name},{grader}"),
                        json!({"value": value, "stderr": stderr}),
                    );
                }
            }
        }
        let logged = match tally.logged {
            0 => Value::Null,
            n => json!(tally.logged_correct as f64 / n as f64),
        };
        tasks.push(json!({
            "task": task,
            "filter": filter,
            "legacy": accuracy(tally.legacy, tally.responses),
            "symbolic": accuracy(tally.symbolic, tally.responses),
            "logged": logged,
            "counts": tally,
            "repeated_samples": repeats,
        }));
    }
    json!({ "schema": 1, "tasks": tasks })
}

fn tables(tallies: &BTreeMap<Column, Tally>) -> String {
    let mut scores = Table::new();
    scores.load_style(comfy_table::presets::ASCII_MARKDOWN);
    scores.set_header([
        "task",
        "filter",
        "responses",
        "logged",
        "legacy",
        "symbolic",
        "95% (symbolic)",
        "judge",
    ]);
    let mut differences = Table::new();
    differences.load_style(comfy_table::presets::ASCII_MARKDOWN);
    differences.set_header([
        "task",
        "filter",
        "both right",
        "only legacy",
        "only symbolic",
        "both wrong",
        "log differs",
        "no answer",
        "unparsable",
        "over limit",
        "legacy errors",
        "unreadable rows",
    ]);
    let mut repeats = Table::new();
    repeats.load_style(comfy_table::presets::ASCII_MARKDOWN);
    repeats.set_header(["task", "metric", "legacy", "stderr", "symbolic", "stderr"]);
    let share = |count: usize, of: usize| match of {
        0 => "-".to_owned(),
        of => format!("{:.4}", count as f64 / of as f64),
    };
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
    for ((task, filter), tally) in tallies {
        let filter = filter.as_deref().unwrap_or("-");
        let interval = stats::wilson(tally.symbolic, tally.responses, CONFIDENCE);
        scores.add_row([
            task.clone(),
            filter.to_owned(),
            tally.responses.to_string(),
            share(tally.logged_correct, tally.logged),
            share(tally.legacy, tally.responses),
            share(tally.symbolic, tally.responses),
            format!("{:.4} to {:.4}", interval.low, interval.high),
            match tally.judged {
                0 => "-".to_owned(),
                n => format!("{} of {n} asked", tally.judged_correct),
            },
        ]);
        let counts = [
            tally.both,
            tally.legacy_only,
            tally.symbolic_only,
            tally.neither,
            tally.logged_differently,
            tally.no_answer,
            tally.unparsable,
            tally.over_limit,
            tally.legacy_errors,
            tally.unreadable_rows,
        ];
        let cells = [task.clone(), filter.to_owned()].into_iter();
        differences.add_row(cells.chain(counts.iter().map(usize::to_string)));
        for k in sample_counts(tally) {
            let (legacy, symbolic) = (repeated(tally, k, false), repeated(tally, k, true));
            for ((name, value, stderr), (_, other, other_stderr)) in
                legacy.into_iter().zip(symbolic)
            {
                repeats.add_row([
                    task.clone(),
                    name,
                    number(value),
                    number(stderr),
                    number(other),
                    number(other_stderr),
                ]);
            }
        }
    }
    let mut text = format!("{scores}\n\n{differences}\n");
    if repeats.row_count() > 0 {
        text.push_str(&format!("\n{repeats}\n"));
    }
    text
}
