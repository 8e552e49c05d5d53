//! The results file: lm-evaluation-harness's keys in their order, then one key of ours, `micota`.
//!
//! Pinned by `golden/lmeval`. What ours holds: intervals, repeated-sample estimates, the audit and
//! the manifest (see [`Manifest`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::grade::stats::{self, GroupMember};
use crate::grade::symbolic;

use super::audit::Audit;
use super::hashes::text_hash;
use super::naming::sanitize_model_name;
use super::plan::GradedTask;
use super::python_json;

/// The harness whose behaviour and file layout are repeated.
const REFERENCE_VERSION: &str = "0.4.9";
/// Its default; no metric of ours is bootstrapped, so it is only recorded.
const BOOTSTRAP_ITERS: u32 = 100_000;
/// Confidence of the intervals.
const CONFIDENCE: f64 = 0.95;

/// What the command line said, as a results file records it.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// `--model` as given.
    pub model: String,
    /// `--model_args` as given; for a path given as `--model`, `pretrained=PATH`.
    pub model_args: String,
    /// The model's name in file names.
    pub model_name: String,
    /// `--batch_size` as given.
    pub batch_size: Value,
    /// `--device`.
    pub device: Option<String>,
    /// `--use_cache`.
    pub use_cache: Option<String>,
    /// `--limit`.
    pub limit: Option<f64>,
    /// `--gen_kwargs`, parsed; empty when absent.
    pub gen_kwargs: Map<String, Value>,
    /// `--gen_kwargs` as given.
    pub gen_kwargs_text: Option<String>,
    /// `--num_fewshot`.
    pub num_fewshot: Option<usize>,
    /// `--seed`: python, numpy, torch, few-shot.
    pub seeds: [Option<u64>; 4],
    /// `--system_instruction`.
    pub system_instruction: Option<String>,
    /// `--fewshot_as_multiturn`.
    pub fewshot_as_multiturn: bool,
    /// The chat template's source, when one is applied.
    pub chat_template: Option<String>,
    /// `tokenizer_*`, `eot_token_id` and `max_length` of the model.
    pub tokenizer: Map<String, Value>,
}

/// Where a number comes from: everything that could change it. Free-form, because every engine
/// says something else about itself.
pub type Manifest = Map<String, Value>;

/// A group of tasks, reported together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What tables show.
    pub alias: String,
    /// `metadata.version`.
    pub version: Value,
    /// Names of the tasks in it.
    pub tasks: Vec<String>,
    /// What it aggregates.
    pub metrics: Vec<GroupMetric>,
}

/// One metric of a group.
#[derive(Clone, Debug)]
pub struct GroupMetric {
    /// The members' metric.
    pub metric: String,
    /// The filter it is taken from.
    pub filter: String,
    /// Whether a member counts by its number of documents.
    pub weight_by_size: bool,
}

/// When a run started and ended.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The first start, kept through resumption.
    pub started: SystemTime,
    /// The end.
    pub ended: SystemTime,
}

/// A task's graded answers with what was derived from them.
#[derive(Clone, Debug)]
pub struct Finished<'p> {
    /// The answers.
    pub graded: &'p GradedTask<'p>,
    /// Its entry of `task_hashes`; `None` when no samples are logged.
    pub task_hash: Option<String>,
    /// What the score does not show.
    pub audit: Audit,
}

/// Builds the results file. `tasks` are in the order of their names.
pub fn build(
    info: &RunInfo,
    tasks: &[Finished<'_>],
    groups: &[Group],
    manifest: Manifest,
    clock: Clock,
) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    let by_task = |of: &dyn Fn(&Finished<'_>) -> Value| -> Value {
        let entries = tasks
            .iter()
            .map(|task| (task.graded.task.name.clone(), of(task)));
        Value::Object(entries.collect())
    };
    // The reference fills these two in the order in which it ran, which is the reverse.
    let by_task_reversed = |of: &dyn Fn(&Finished<'_>) -> Option<Value>| -> Value {
        let entries = tasks.iter().rev();
        let entries = entries.filter_map(|task| Some((task.graded.task.name.clone(), of(task)?)));
        Value::Object(entries.collect())
    };
    let group_scores: Map<String, Value> = groups
        .iter()
        .map(|group| (group.name.clone(), group_scores(group, tasks)))
        .collect();
    let has_groups = groups.iter().any(|group| !group.metrics.is_empty());
    put("results", with_groups(groups, &group_scores, tasks));
    if has_groups {
        put("groups", Value::Object(group_scores));
    }
    put("group_subtasks", subtasks(groups, tasks));
    put(
        "configs",
        by_task(&|task| Value::Object(task.graded.task.config.clone())),
    );
    put("versions", versions(groups, tasks));
    put(
        "n-shot",
        by_task(&|task| task.graded.task.num_fewshot.into()),
    );
    put("higher_is_better", higher_is_better(groups, tasks));
    put("n-samples", by_task_reversed(&|task| Some(n_samples(task))));
    put("config", config(info));
    put("git_hash", Value::Null);
    put("date", seconds(clock.started).into());
    put("pretty_env_info", environment().into());
    put("transformers_version", Value::Null);
    put("lm_eval_version", REFERENCE_VERSION.into());
    put("upper_git_hash", Value::Null);
    for (key, value) in &info.tokenizer {
        put(key, value.clone());
    }
    let hashes = by_task_reversed(&|task| task.task_hash.clone().map(Value::from));
    put("task_hashes", hashes);
    put("model_source", info.model.as_str().into());
    put("model_name", info.model_name.as_str().into());
    put(
        "model_name_sanitized",
        sanitize_model_name(&info.model_name).into(),
    );
    put("system_instruction", info.system_instruction.clone().into());
    let sha = |text: &Option<String>| Value::from(text.as_deref().map(text_hash));
    put("system_instruction_sha", sha(&info.system_instruction));
    put("fewshot_as_multiturn", info.fewshot_as_multiturn.into());
    put("chat_template", info.chat_template.clone().into());
    put("chat_template_sha", sha(&info.chat_template));
    put("start_time", seconds(clock.started).into());
    put("end_time", seconds(clock.ended).into());
    let total = seconds(clock.ended) - seconds(clock.started);
    put(
        "total_evaluation_time_seconds",
        python_json::float_repr(total).into(),
    );
    put("micota", ours(tasks, manifest));
    out
}

/// The line that the reference prints above the table.
pub fn headline(info: &RunInfo) -> String {
    let none = || "None".to_owned();
    let limit = info.limit.map_or_else(none, python_json::float_repr);
    let num_fewshot = info.num_fewshot.map_or_else(none, |k| k.to_string());
    let gen_kwargs = info.gen_kwargs_text.clone().unwrap_or_else(none);
    let batch_size = match &info.batch_size {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!(
        "{} ({}), gen_kwargs: ({gen_kwargs}), limit: {limit}, num_fewshot: {num_fewshot}, \
         batch_size: {batch_size}",
        info.model, info.model_args
    )
}

/// One column of a task: a metric under a filter, document by document.
struct Column<'a> {
    metric: &'a str,
    filter: &'a str,
    filter_index: usize,
    values: Vec<f64>,
}

impl Column<'_> {
    fn key(&self) -> String {
        format!("{},{}", self.metric, self.filter)
    }

    fn stderr_key(&self) -> String {
        format!("{}_stderr,{}", self.metric, self.filter)
    }
}

fn columns<'a>(graded: &'a GradedTask<'_>) -> Vec<Column<'a>> {
    let mut columns = Vec::new();
    for (filter_index, filter) in graded.task.grading.filters.iter().enumerate() {
        for (metric_index, metric) in graded.task.grading.metric_names().into_iter().enumerate() {
            let values = graded.docs.iter();
            let values = values.map(|doc| {
                let (_, value) = &doc.grades[filter_index].metrics[metric_index];
                value.as_f64().unwrap_or_default()
            });
            columns.push(Column {
                metric,
                filter: &filter.name,
                filter_index,
                values: values.collect(),
            });
        }
    }
    columns
}

fn number_or_na(value: Option<f64>) -> Value {
    value.map_or_else(|| "N/A".into(), Value::from)
}

fn task_scores(graded: &GradedTask<'_>, alias: &str) -> Value {
    let mut scores = Map::new();
    scores.insert("alias".to_owned(), alias.into());
    for column in columns(graded) {
        let mean = number_or_na(stats::mean(&column.values));
        scores.insert(column.key(), mean);
        let stderr = number_or_na(stats::mean_stderr(&column.values));
        scores.insert(column.stderr_key(), stderr);
    }
    Value::Object(scores)
}

/// Each group before its members, whose names are indented; then the tasks of no group.
fn with_groups(
    groups: &[Group],
    group_scores: &Map<String, Value>,
    tasks: &[Finished<'_>],
) -> Value {
    let mut results = Map::new();
    for group in groups {
        results.insert(group.name.clone(), group_scores[&group.name].clone());
        for task in members(group, tasks) {
            let alias = format!(" - {}", task.graded.task.alias);
            let scores = task_scores(task.graded, &alias);
            results.insert(task.graded.task.name.clone(), scores);
        }
    }
    for task in tasks {
        let name = &task.graded.task.name;
        if !results.contains_key(name) {
            let scores = task_scores(task.graded, &task.graded.task.alias);
            results.insert(name.clone(), scores);
        }
    }
    Value::Object(results)
}

fn members<'f, 'p>(
    group: &'f Group,
    tasks: &'f [Finished<'p>],
) -> impl Iterator<Item = &'f Finished<'p>> {
    let in_group = |task: &&Finished<'_>| group.tasks.contains(&task.graded.task.name);
    tasks.iter().filter(in_group)
}

fn group_scores(group: &Group, tasks: &[Finished<'_>]) -> Value {
    let mut scores = Map::new();
    scores.insert("alias".to_owned(), group.alias.as_str().into());
    for GroupMetric {
        metric,
        filter,
        weight_by_size,
    } in &group.metrics
    {
        let mut values = Vec::new();
        for task in members(group, tasks) {
            let columns = columns(task.graded);
            let mut columns = columns.iter();
            let column = columns.find(|c| c.metric == metric && c.filter == filter);
            if let Some(column) = column
                && let Some(mean) = stats::mean(&column.values)
            {
                values.push(GroupMember {
                    mean,
                    stderr: stats::mean_stderr(&column.values),
                    size: column.values.len(),
                });
            }
        }
        let mean = number_or_na(stats::group_mean(&values, *weight_by_size));
        scores.insert(format!("{metric},{filter}"), mean);
        let stderr = number_or_na(stats::group_stderr(&values));
        scores.insert(format!("{metric}_stderr,{filter}"), stderr);
    }
    Value::Object(scores)
}

fn subtasks(groups: &[Group], tasks: &[Finished<'_>]) -> Value {
    let groups = groups
        .iter()
        .map(|group| (group.name.clone(), json!(group.tasks)));
    let tasks = tasks
        .iter()
        .map(|task| (task.graded.task.name.clone(), json!([])));
    Value::Object(groups.chain(tasks).collect())
}

fn versions(groups: &[Group], tasks: &[Finished<'_>]) -> Value {
    let tasks = tasks.iter().map(|task| {
        let task = task.graded.task;
        (task.name.clone(), task.version.clone())
    });
    let groups = groups
        .iter()
        .map(|group| (group.name.clone(), group.version.clone()));
    Value::Object(groups.chain(tasks).collect())
}

fn higher_is_better(groups: &[Group], tasks: &[Finished<'_>]) -> Value {
    let of_task = |task: &Finished<'_>| -> Value {
        let metrics = task.graded.task.higher_is_better.iter();
        Value::Object(
            metrics
                .map(|(name, better)| (name.clone(), (*better).into()))
                .collect(),
        )
    };
    let of_group = |group: &Group| {
        let mut merged = Map::new();
        for task in members(group, tasks) {
            if let Value::Object(metrics) = of_task(task) {
                merged.extend(metrics);
            }
        }
        (group.name.clone(), Value::Object(merged))
    };
    let groups = groups.iter().map(of_group);
    let tasks = tasks
        .iter()
        .map(|task| (task.graded.task.name.clone(), of_task(task)));
    Value::Object(groups.chain(tasks).collect())
}

fn n_samples(task: &Finished<'_>) -> Value {
    json!({
        "original": task.graded.task.num_docs_in_split,
        "effective": task.graded.docs.len(),
    })
}

fn config(info: &RunInfo) -> Value {
    let gen_kwargs = if info.gen_kwargs.is_empty() {
        Value::Null
    } else {
        Value::Object(info.gen_kwargs.clone())
    };
    let [random_seed, numpy_seed, torch_seed, fewshot_seed] = info.seeds;
    json!({
        "model": info.model,
        "model_args": info.model_args,
        "batch_size": info.batch_size,
        "batch_sizes": [],
        "device": info.device,
        "use_cache": info.use_cache,
        "limit": info.limit,
        "bootstrap_iters": BOOTSTRAP_ITERS,
        "gen_kwargs": gen_kwargs,
        "random_seed": random_seed,
        "numpy_seed": numpy_seed,
        "torch_seed": torch_seed,
        "fewshot_seed": fewshot_seed,
    })
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_micros() as f64 / 1e6
}

fn environment() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "micota {} on {} {}, {threads} CPU threads available",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

fn ours(tasks: &[Finished<'_>], manifest: Manifest) -> Value {
    let of_tasks: Map<String, Value> = tasks
        .iter()
        .map(|task| {
            let block = json!({
                "scores": extra_scores(task.graded),
                "audit": task.audit,
            });
            (task.graded.task.name.clone(), block)
        })
        .collect();
    json!({"layout": 1, "manifest": manifest, "tasks": of_tasks})
}

/// Per `metric,filter`: a Wilson interval where scores are 0 or 1, and estimates over repeated
/// samples where there are any.
fn extra_scores(graded: &GradedTask<'_>) -> Value {
    let mut scores = Map::new();
    scores.extend(symbolic_scores(graded));
    let first_metric = graded.task.grading.metric_names().first().copied();
    for column in columns(graded) {
        let mut block = Map::new();
        let is_binary = column.values.iter().all(|value| [0.0, 1.0].contains(value));
        if is_binary && !column.values.is_empty() {
            let correct = column.values.iter().filter(|value| **value == 1.0).count();
            let interval = stats::wilson(correct, column.values.len(), CONFIDENCE);
            block.insert("wilson_95".to_owned(), json!([interval.low, interval.high]));
        }
        if graded.task.repeats() > 1 && first_metric == Some(column.metric) {
            block.extend(repeated(graded, column.filter_index));
        }
        scores.insert(column.key(), Value::Object(block));
    }
    Value::Object(scores)
}

/// The symbolic verdict on the first response, as a score of its own: `math_equal,none`.
fn symbolic_scores(graded: &GradedTask<'_>) -> Option<(String, Value)> {
    let first = graded.docs.iter().map(|doc| doc.symbolic.first());
    let correct: Option<Vec<bool>> = first.map(|grade| Some(grade?.correct)).collect();
    let correct = correct.filter(|correct| !correct.is_empty())?;
    let values: Vec<f64> = correct.iter().copied().map(f64::from).collect();
    let num_correct = correct.iter().filter(|correct| **correct).count();
    let interval = stats::wilson(num_correct, correct.len(), CONFIDENCE);
    let block = json!({
        "value": number_or_na(stats::mean(&values)),
        "stderr": number_or_na(stats::mean_stderr(&values)),
        "wilson_95": [interval.low, interval.high],
    });
    Some((format!("{},none", symbolic::METRIC), block))
}

/// pass@k, avg@k and maj@k with their standard errors over documents, for k = 1, 2, 4, ... and
/// the number of repeats.
fn repeated(graded: &GradedTask<'_>, filter_index: usize) -> Map<String, Value> {
    let n = graded.task.repeats();
    let mut ks: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2))
        .take_while(|k| *k < n)
        .collect();
    ks.push(n);
    let grades = || graded.docs.iter().map(|doc| &doc.grades[filter_index]);
    let mut block = Map::new();
    for k in ks {
        let mut put = |name: &str, values: Option<Vec<f64>>| {
            if let Some(values) = values {
                let mean = number_or_na(stats::mean(&values));
                let stderr = number_or_na(stats::mean_stderr(&values));
                block.insert(
                    format!("{name}@{k}"),
                    json!({"value": mean, "stderr": stderr}),
                );
            }
        };
        let correct = |grade: &super::grading::FilterGrade| -> Vec<bool> {
            grade
                .responses
                .iter()
                .map(|response| response.correct)
                .collect()
        };
        let pass = grades().map(|grade| {
            let correct = correct(grade);
            let num_correct = correct.iter().filter(|correct| **correct).count();
            stats::pass_at_k(correct.len(), num_correct, k)
        });
        put("pass", pass.collect());
        put(
            "avg",
            grades()
                .map(|grade| stats::avg_at_k(&correct(grade), k))
                .collect(),
        );
        let maj = grades().map(|grade| stats::maj_at_k(&grade.votes(), k).map(f64::from));
        put("maj", maj.collect());
    }
    block
}
