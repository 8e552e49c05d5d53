//! What a task is, once its file has been read: every default filled in, every name resolved.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::builtin::{Gold, ProcessDocs, ProcessResults};
use super::gen_kwargs;
use super::template::TextTemplate;

/// A task: where its documents come from, how they become prompts, how responses are scored.
#[derive(Clone, Debug)]
pub struct TaskConfig {
    /// The name in results, file names and `--tasks`.
    pub name: String,
    /// What tables show instead of the name.
    pub alias: Option<String>,
    /// Tags it can be selected by.
    pub tags: Vec<String>,
    /// Its file, or `builtin:NAME` for one that the program carries.
    pub source: Arc<str>,
    /// Where its documents come from.
    pub dataset: DatasetConfig,
    /// What turns rows into documents; `None` leaves them as they are.
    pub process_docs: Option<ProcessDocs>,
    /// The question.
    pub doc_to_text: TextTemplate,
    /// The reference answer that is logged, hashed, and shown in few-shot examples.
    pub doc_to_target: TextTemplate,
    /// The grader that takes the place of filters and metrics; `None` uses these.
    pub process_results: Option<ProcessResults>,
    /// Text before everything else, itself a template over the document.
    pub description: Option<TextTemplate>,
    /// Between an example's text and its target.
    pub target_delimiter: String,
    /// After each example.
    pub fewshot_delimiter: String,
    /// Where examples come from and how they are drawn.
    pub fewshot: FewshotConfig,
    /// Examples before each question.
    pub num_fewshot: usize,
    /// What is measured, in the file's order.
    pub metric_list: Vec<MetricConfig>,
    /// The task's own generation settings, overridden ones included; see
    /// [`GenerationConfig`](super::GenerationConfig) for their typed form.
    pub generation_kwargs: Map<String, Value>,
    /// Responses per document.
    pub repeats: usize,
    /// Filter pipelines; empty means one named `none` that takes the first response.
    pub filter_list: Vec<FilterPipeline>,
    /// Text that the response is made to start with.
    pub gen_prefix: Option<TextTemplate>,
    /// Free data, `version` among them.
    pub metadata: Map<String, Value>,
    /// The configuration as results files show it: reference key order, defaults filled in, nulls
    /// dropped, hooks by the name of their built-in.
    pub effective: Map<String, Value>,
    /// What the user should know about how the file was read, a sentence each.
    pub notes: Vec<String>,
    /// Whether the file says `num_fewshot: 0`, which the command line never overrides.
    pub(super) zero_shot_only: bool,
}

/// Where documents come from.
#[derive(Clone, Debug, Default)]
pub struct DatasetConfig {
    /// `json` or `parquet` with `data_files`, a named set (`gsm8k`, `aime24`, ...), or the id of a
    /// data set on the Hugging Face hub.
    pub path: String,
    /// The configuration of a hub data set.
    pub name: Option<String>,
    /// Local files by split.
    pub data_files: Vec<(String, Vec<String>)>,
    /// The folder of the task's file, the second place where `data_files` are looked for.
    pub folder: Option<PathBuf>,
    /// A revision of a hub data set.
    pub revision: Option<String>,
    /// Split names.
    pub training_split: Option<String>,
    /// As `training_split`.
    pub validation_split: Option<String>,
    /// As `training_split`.
    pub test_split: Option<String>,
    /// As `training_split`.
    pub fewshot_split: Option<String>,
}

impl DatasetConfig {
    /// The split whose documents are evaluated: test, else validation.
    pub fn evaluated_split(&self) -> Option<&str> {
        let split = self.test_split.as_ref().or(self.validation_split.as_ref());
        split.map(String::as_str)
    }

    /// The split that examples are drawn from: few-shot, else training, validation, test.
    pub fn example_split(&self) -> Option<&str> {
        self.fewshot_split
            .as_ref()
            .or(self.training_split.as_ref())
            .or(self.validation_split.as_ref())
            .or(self.test_split.as_ref())
            .map(String::as_str)
    }
}

/// How few-shot examples are chosen.
#[derive(Clone, Debug, Default)]
pub struct FewshotConfig {
    /// The order of drawing.
    pub sampler: Sampler,
    /// Examples written in the task's file, instead of a split.
    pub samples: Option<Vec<Map<String, Value>>>,
    /// The examples' own text, where it differs from the question's.
    pub doc_to_text: Option<TextTemplate>,
    /// The examples' own target.
    pub doc_to_target: Option<TextTemplate>,
}

/// The order in which few-shot examples are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampler {
    /// At random for each document, from one generator per task.
    #[default]
    Random,
    /// The first ones, for every document.
    FirstN,
}

/// One entry of `metric_list`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricConfig {
    /// Its name: `exact_match`, or what the task's `process_results` reports.
    pub name: String,
    /// How scores of documents become one number.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Everything else in the entry, such as `ignore_case`.
    pub options: Map<String, Value>,
}

/// How scores become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Sum over count.
    Mean,
}

/// One entry of `filter_list`: a named pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterPipeline {
    /// The name in `metric,filter`.
    pub name: String,
    /// Its steps, in order.
    pub steps: Vec<FilterStep>,
}

/// One step of a filter pipeline. Names and argument names are known to exist; the `grade` room
/// gives them their meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterStep {
    /// `regex`, `take_first`, ...
    pub function: String,
    /// Its arguments, such as `regex_pattern`.
    pub arguments: Map<String, Value>,
}

/// A group: tasks reported together.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The name in results and `--tasks`.
    pub name: String,
    /// What tables show instead of the name.
    pub alias: Option<String>,
    /// Names of tasks, groups or tags, as the file lists them.
    pub members: Vec<String>,
    /// Metrics over the members' metrics; empty means none.
    pub aggregate_metric_list: Vec<AggregateMetric>,
    /// Free data, `version` among them.
    pub metadata: Map<String, Value>,
    /// Its file, or `builtin:NAME`.
    pub source: Arc<str>,
}

/// One entry of a group's `aggregate_metric_list`.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateMetric {
    /// The members' metric.
    pub metric: String,
    /// How members' values become one.
    pub aggregation: Aggregation,
    /// Whether a member counts by its number of documents.
    pub weight_by_size: bool,
    /// The filters it is computed for.
    pub filter_list: Vec<String>,
}

/// What a command line changes in every task.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--num_fewshot`.
    pub num_fewshot: Option<usize>,
    /// `--gen_kwargs`.
    pub gen_kwargs: Map<String, Value>,
    /// `--metadata` and the model's arguments, which the reference records there.
    pub metadata: Map<String, Value>,
}

impl TaskConfig {
    /// Applies what the command line says.
    pub fn apply(&mut self, overrides: &Overrides) {
        match overrides.num_fewshot {
            Some(num_fewshot) if self.zero_shot_only && num_fewshot > 0 => {
                self.notes.push(format!(
                    "num_fewshot stays 0, as the task asks (--num_fewshot {num_fewshot} ignored)"
                ));
            }
            Some(num_fewshot) => self.num_fewshot = num_fewshot,
            None => {}
        }
        gen_kwargs::merge(&mut self.generation_kwargs, &overrides.gen_kwargs);
        for (key, value) in &overrides.metadata {
            self.metadata.insert(key.clone(), value.clone());
        }
        let metadata = self.metadata.clone();
        self.show("num_fewshot", self.num_fewshot.into());
        self.show("generation_kwargs", self.generation_kwargs.clone().into());
        if !metadata.is_empty() {
            self.show("metadata", metadata.into());
        }
    }

    /// Sets a key of [`Self::effective`] in its place, or last.
    fn show(&mut self, key: &str, value: Value) {
        self.effective.insert(key.to_owned(), value);
    }

    /// `metadata.version` as results show it; 0 where there is none.
    pub fn version(&self) -> Value {
        let version = self.metadata.get("version").cloned();
        version.unwrap_or_else(|| Value::from(0.0))
    }

    /// What tables call the task.
    pub fn display_name(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }

    /// Where a document's gold answer stands.
    pub fn gold(&self) -> Gold {
        self.process_docs.map_or(Gold::Target, ProcessDocs::gold)
    }
}
