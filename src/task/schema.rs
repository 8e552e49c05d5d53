//! Reading a task or group file: from a YAML tree to a [`TaskConfig`], every key known, every
//! value of its type, every name resolved, every error with its place.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::builtin::{Hook, ProcessDocs, ProcessResults, replacement};
use super::config::{
    AggregateMetric, Aggregation, DatasetConfig, FewshotConfig, FilterPipeline, FilterStep,
    GroupConfig, MetricConfig, Sampler, TaskConfig,
};
use super::error::{TaskError, nearest};
use super::python;
use super::template::TextTemplate;
use crate::yaml::{Data, Entry, Node, Place};

/// Responses per document. The reference's largest task asks for 64.
const MAX_REPEATS: usize = 4096;
/// Few-shot examples per question. A prompt with more fits no context.
const MAX_NUM_FEWSHOT: usize = 1024;

/// Keys of a task, in the order in which results show them.
const TASK_KEYS: [&str; 33] = [
    "task",
    "task_alias",
    "tag",
    "group",
    "include",
    "custom_dataset",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "process_docs",
    "doc_to_text",
    "doc_to_target",
    "unsafe_code",
    "doc_to_choice",
    "process_results",
    "use_prompt",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "num_fewshot",
    "metric_list",
    "output_type",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "gen_prefix",
];
const METADATA: &str = "metadata";

const GROUP_KEYS: [&str; 7] = [
    "group",
    "group_alias",
    "task",
    "aggregate_metric_list",
    "metadata",
    "include",
    "tag",
];

/// Keys of the reference that need what this program deliberately lacks.
const UNSUPPORTED: [(&str, &str); 6] = [
    (
        "class",
        "tasks written as Python classes are not run; write the task as YAML",
    ),
    (
        "custom_dataset",
        "data sets built by a Python function are not run; give `dataset_path: json` and data_files",
    ),
    (
        "use_prompt",
        "promptsource is not built in; write the prompt as doc_to_text",
    ),
    (
        "doc_to_choice",
        "multiple-choice tasks are not run; micota evaluates generated text",
    ),
    (
        "doc_to_image",
        "images are not supported; micota evaluates text",
    ),
    (
        "doc_to_audio",
        "audio is not supported; micota evaluates text",
    ),
];

/// Metrics over filtered responses. With `process_results` the built-in reports the same names.
const METRICS: [&str; 2] = ["exact_match", "math_equal"];

/// Filters and the arguments of each.
const FILTERS: [(&str, &[&str]); 8] = [
    ("regex", &["regex_pattern", "group_select", "fallback"]),
    ("take_first", &[]),
    ("take_first_k", &["k"]),
    ("majority_vote", &[]),
    ("lowercase", &[]),
    ("uppercase", &[]),
    ("map", &["mapping_dict", "default_value"]),
    ("remove_whitespace", &[]),
];

/// A file's content with its includes merged in, as the schema reads it.
pub(super) struct Source {
    /// The file as the user knows it, or `builtin:NAME`.
    pub(super) name: Arc<str>,
    /// The folder of the file, where it is one.
    pub(super) folder: Option<PathBuf>,
    /// Top-level entries, includes merged.
    pub(super) entries: Vec<Entry>,
}

/// What a file defines.
pub(super) enum Definition {
    /// A task by its name.
    Task(String),
    /// A group by its name.
    Group(String),
    /// Neither: a fragment for others to include.
    Fragment,
}

impl Source {
    /// What the file defines, judged by its `task` and `group` keys alone.
    pub(super) fn definition(&self) -> Definition {
        match (
            self.get("task").map(|n| &n.data),
            self.get("group").map(|n| &n.data),
        ) {
            (Some(Data::Text(name)), _) => Definition::Task(name.clone()),
            (Some(Data::List(_)), Some(Data::Text(name))) => Definition::Group(name.clone()),
            _ => Definition::Fragment,
        }
    }

    /// The tags it can be selected by; a task's old-style `group` counts as one.
    pub(super) fn tags(&self) -> Vec<String> {
        let keys = [self.get("tag"), self.get("group")];
        let nodes = keys.into_iter().flatten();
        nodes.flat_map(texts_or_nothing).collect()
    }

    /// The files named by `include`.
    ///
    /// # Errors
    /// A value that is neither text nor a list of texts.
    pub(super) fn includes(&self) -> Result<Vec<String>, TaskError> {
        self.texts("include")
    }

    fn get(&self, key: &str) -> Option<&Node> {
        let found = self.entries.iter().find(|entry| entry.key == key);
        found
            .map(|entry| &entry.value)
            .filter(|node| !is_null(node))
    }

    fn check_keys(&self, known: &[&str], owner: &'static str) -> Result<(), TaskError> {
        for entry in &self.entries {
            if let Some((_, what)) = UNSUPPORTED.iter().find(|(key, _)| *key == entry.key)
                && !is_null(&entry.value)
            {
                return Err(TaskError::Unsupported {
                    place: entry.place.clone(),
                    what: format!("`{}`: {what}", entry.key),
                });
            }
            let unsupported = UNSUPPORTED.iter().any(|(key, _)| *key == entry.key);
            if !unsupported && !known.contains(&entry.key.as_str()) && entry.key != METADATA {
                return Err(unknown_key(entry, owner, known));
            }
        }
        Ok(())
    }

    fn text(&self, key: &str) -> Result<Option<String>, TaskError> {
        self.get(key).map(|node| text(key, node)).transpose()
    }

    fn text_or(&self, key: &str, default: &str) -> Result<String, TaskError> {
        Ok(self.text(key)?.unwrap_or_else(|| default.to_owned()))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, TaskError> {
        self.get(key)
            .map_or(Ok(Vec::new()), |node| texts(key, node))
    }

    fn template(&self, key: &'static str) -> Result<Option<TextTemplate>, TaskError> {
        self.get(key).map(|node| template(key, node)).transpose()
    }

    fn count(&self, key: &str, default: usize, max: usize) -> Result<usize, TaskError> {
        let Some(node) = self.get(key) else {
            return Ok(default);
        };
        let found = match &node.data {
            Data::Number(number) => number.as_u64(),
            _ => None,
        };
        found
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number <= max)
            .ok_or_else(|| bad(key, node, &format!("a whole number from 0 to {max}")))
    }

    fn mapping(&self, key: &str) -> Result<Map<String, Value>, TaskError> {
        let Some(node) = self.get(key) else {
            return Ok(Map::new());
        };
        match node.to_json() {
            Value::Object(map) => Ok(map),
            _ => Err(bad(key, node, "a mapping")),
        }
    }

    fn require<T>(
        &self,
        value: Option<T>,
        owner: &'static str,
        key: &'static str,
    ) -> Result<T, TaskError> {
        value.ok_or_else(|| TaskError::MissingKey {
            file: self.name.to_string(),
            owner,
            key,
        })
    }

    /// Reads the file as a task.
    ///
    /// # Errors
    /// Unknown keys and names, wrong types, missing keys, things that are not supported.
    pub(super) fn task(&self) -> Result<TaskConfig, TaskError> {
        self.check_keys(&TASK_KEYS, "a task")?;
        let mut notes = Vec::new();
        let name = self.require(self.text("task")?, "a task", "task")?;
        self.texts("tag")?;
        self.texts("group")?;
        self.output_type()?;
        let process_docs = self.hook::<ProcessDocs>(&name, &mut notes)?;
        let process_results = self.hook::<ProcessResults>(&name, &mut notes)?;
        let fewshot_delimiter = self.text_or("fewshot_delimiter", "\n\n")?;
        let num_fewshot = self.count("num_fewshot", 0, MAX_NUM_FEWSHOT)?;
        if self.get("group").is_some() {
            notes.push("`group` in a task is read as `tag`, which is its present name".to_owned());
        }
        let repeats = self.count("repeats", 1, MAX_REPEATS)?;
        if repeats == 0
            && let Some(node) = self.get("repeats")
        {
            return Err(bad("repeats", node, "a whole number of at least 1"));
        }
        let generation_kwargs = self.generation_kwargs(&fewshot_delimiter)?;
        let mut task = TaskConfig {
            alias: self.text("task_alias")?,
            tags: self.tags(),
            source: self.name.clone(),
            dataset: self.dataset()?,
            process_docs,
            doc_to_text: self.require(self.template("doc_to_text")?, "a task", "doc_to_text")?,
            doc_to_target: match self.template("doc_to_target")? {
                Some(template) => template,
                None => return Err(self.missing("doc_to_target")),
            },
            process_results,
            description: self
                .template("description")?
                .filter(|t| !t.source().is_empty()),
            target_delimiter: self.text_or("target_delimiter", " ")?,
            fewshot_delimiter,
            fewshot: self.fewshot()?,
            num_fewshot,
            metric_list: self.metric_list(process_results)?,
            generation_kwargs,
            repeats,
            filter_list: self.filter_list()?,
            gen_prefix: self.template("gen_prefix")?,
            metadata: self.mapping(METADATA)?,
            effective: Map::new(),
            notes,
            zero_shot_only: self.get("num_fewshot").is_some() && num_fewshot == 0,
            name,
        };
        task.effective = self.effective(&task);
        Ok(task)
    }

    fn missing(&self, key: &'static str) -> TaskError {
        TaskError::MissingKey {
            file: self.name.to_string(),
            owner: "a task",
            key,
        }
    }

    /// Reads the file as a group.
    ///
    /// # Errors
    /// As [`Self::task`].
    pub(super) fn group(&self) -> Result<GroupConfig, TaskError> {
        self.check_keys(&GROUP_KEYS, "a group")?;
        let owner = "a group";
        let name = self.require(self.text("group")?, owner, "group")?;
        let members = self.require(self.get("task"), owner, "task")?;
        if let Data::List(items) = &members.data
            && let Some(item) = items.iter().find(|item| matches!(item.data, Data::Map(_)))
        {
            return Err(TaskError::Unsupported {
                place: item.place.clone(),
                what: "a task written inside a group is not read; give it a file of its own (with \
                       `include` for what it shares) and name it here"
                    .to_owned(),
            });
        }
        Ok(GroupConfig {
            members: texts("task", members)?,
            name,
            alias: self.text("group_alias")?,
            aggregate_metric_list: self.aggregate_metrics()?,
            metadata: self.mapping(METADATA)?,
            source: self.name.clone(),
        })
    }

    fn output_type(&self) -> Result<(), TaskError> {
        let Some(node) = self.get("output_type") else {
            return Ok(());
        };
        let known = ["generate_until"];
        let others = ["loglikelihood", "loglikelihood_rolling", "multiple_choice"];
        let name = text("output_type", node)?;
        if others.contains(&name.as_str()) {
            return Err(TaskError::Unsupported {
                place: node.place.clone(),
                what: format!("`output_type: {name}` is not run; micota runs generate_until"),
            });
        }
        known_name(&name, node, "output type", &known).map(|_| ())
    }

    fn hook<H: Hook>(&self, task: &str, notes: &mut Vec<String>) -> Result<Option<H>, TaskError> {
        let Some(node) = self.get(H::KEY) else {
            return Ok(None);
        };
        let known: Vec<&'static str> = H::all().iter().map(|(name, _)| *name).collect();
        let name = match (&node.data, node.tag.as_deref()) {
            (Data::Text(name), tag) if tag.is_none() || tag == Some("!function") => name.trim(),
            _ => return Err(bad(H::KEY, node, "`builtin:NAME`")),
        };
        if node.tag.is_none() {
            let name = known_name(name, node, H::KIND, &known)?;
            let found = H::all().iter().find(|(other, _)| *other == name);
            return Ok(found.map(|(_, hook)| *hook));
        }
        let folder = self.folder.as_ref().and_then(|folder| folder.file_name());
        let folder = folder.map(|folder| folder.to_string_lossy().into_owned());
        let names: Vec<&str> = [Some(task), folder.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        let Some(hook) = replacement::<H>(name, &names) else {
            return Err(TaskError::PythonFunction {
                place: node.place.clone(),
                key: H::KEY.to_owned(),
                function: name.to_owned(),
                known,
            });
        };
        let builtin = H::all().iter().find(|(_, other)| *other == hook);
        let builtin = builtin.map_or("", |(name, _)| *name);
        notes.push(format!("`{}: !function {name}` runs as {builtin}", H::KEY));
        Ok(Some(hook))
    }

    fn dataset(&self) -> Result<DatasetConfig, TaskError> {
        let path = self.require(self.text("dataset_path")?, "a task", "dataset_path")?;
        let mut dataset = DatasetConfig {
            path,
            name: self.text("dataset_name")?,
            folder: self.folder.clone(),
            training_split: self.text("training_split")?,
            validation_split: self.text("validation_split")?,
            test_split: self.text("test_split")?,
            fewshot_split: self.text("fewshot_split")?,
            ..DatasetConfig::default()
        };
        if dataset.evaluated_split().is_none() {
            return Err(self.missing("test_split"));
        }
        let Some(kwargs) = self.get("dataset_kwargs") else {
            return Ok(dataset);
        };
        let Data::Map(entries) = &kwargs.data else {
            return Err(bad("dataset_kwargs", kwargs, "a mapping"));
        };
        for entry in entries {
            match entry.key.as_str() {
                "data_files" => dataset.data_files = data_files(&entry.value, &dataset)?,
                "revision" => dataset.revision = Some(text("revision", &entry.value)?),
                // No Python, no token from a task file, no cache of its own: nothing to set.
                "trust_remote_code" | "streaming" | "cache_dir" | "num_proc" | "metadata" => {}
                _ => {
                    let known = ["data_files", "revision", "trust_remote_code"];
                    return Err(unknown_key(entry, "dataset_kwargs", &known));
                }
            }
        }
        Ok(dataset)
    }

    fn generation_kwargs(&self, fewshot_delimiter: &str) -> Result<Map<String, Value>, TaskError> {
        let mut kwargs = self.mapping("generation_kwargs")?;
        if let Some(temperature) = kwargs.get_mut("temperature")
            && let Some(number) = temperature.as_f64()
        {
            // The reference converts here, and only here: see the shown `0.0` in its results.
            *temperature = Value::from(number);
        }
        let absent = self.get("generation_kwargs").is_none();
        if kwargs.get("until").is_none_or(Value::is_null) {
            kwargs.insert("until".to_owned(), Value::from(vec![fewshot_delimiter]));
        }
        if absent {
            kwargs.insert("do_sample".to_owned(), Value::from(false));
            kwargs.insert("temperature".to_owned(), Value::from(0));
        }
        Ok(kwargs)
    }

    fn fewshot(&self) -> Result<FewshotConfig, TaskError> {
        let mut config = FewshotConfig::default();
        let Some(node) = self.get("fewshot_config") else {
            return Ok(config);
        };
        let Data::Map(entries) = &node.data else {
            return Err(bad("fewshot_config", node, "a mapping"));
        };
        for entry in entries {
            let value = &entry.value;
            if is_null(value) {
                continue;
            }
            match entry.key.as_str() {
                "sampler" => {
                    let name = text("sampler", value)?;
                    let name = known_name(&name, value, "sampler", &["default", "first_n"])?;
                    config.sampler = match name {
                        "first_n" => Sampler::FirstN,
                        _ => Sampler::Random,
                    };
                }
                "samples" => config.samples = Some(samples(value)?),
                "doc_to_text" => config.doc_to_text = Some(template("doc_to_text", value)?),
                "doc_to_target" => config.doc_to_target = Some(template("doc_to_target", value)?),
                _ => {
                    let known = ["sampler", "samples", "doc_to_text", "doc_to_target"];
                    return Err(unknown_key(entry, "fewshot_config", &known));
                }
            }
        }
        Ok(config)
    }

    fn metric_list(&self, results: Option<ProcessResults>) -> Result<Vec<MetricConfig>, TaskError> {
        let Some(node) = self.get("metric_list") else {
            let entry = MetricConfig {
                name: "exact_match".to_owned(),
                aggregation: Aggregation::Mean,
                higher_is_better: true,
                options: Map::new(),
            };
            return Ok(vec![entry]);
        };
        let mut metrics = Vec::new();
        for item in list("metric_list", node)? {
            let entries = mapping_of("metric_list", item)?;
            let mut metric = MetricConfig {
                name: String::new(),
                aggregation: Aggregation::Mean,
                higher_is_better: true,
                options: Map::new(),
            };
            for entry in entries {
                let value = &entry.value;
                match entry.key.as_str() {
                    "metric" => {
                        let name = text("metric", value)?;
                        // Reported by the built-in, so a reference file may list its own names.
                        metric.name = match results {
                            Some(_) => name,
                            None => known_name(&name, value, "metric", &METRICS)?.to_owned(),
                        };
                    }
                    "aggregation" => metric.aggregation = aggregation(value)?,
                    "higher_is_better" => metric.higher_is_better = boolean(&entry.key, value)?,
                    _ => {
                        metric_option(entry)?;
                        metric.options.insert(entry.key.clone(), value.to_json());
                    }
                }
            }
            if metric.name.is_empty() {
                return Err(bad("metric_list", item, "the key `metric`"));
            }
            metrics.push(metric);
        }
        Ok(metrics)
    }

    fn filter_list(&self) -> Result<Vec<FilterPipeline>, TaskError> {
        let Some(node) = self.get("filter_list") else {
            return Ok(Vec::new());
        };
        let mut pipelines: Vec<FilterPipeline> = Vec::new();
        for item in list("filter_list", node)? {
            let mut name = None;
            let mut steps = Vec::new();
            for entry in mapping_of("filter_list", item)? {
                match entry.key.as_str() {
                    "name" => name = Some(text("name", &entry.value)?),
                    "filter" => {
                        for step in list("filter", &entry.value)? {
                            steps.push(filter_step(step)?);
                        }
                    }
                    _ => return Err(unknown_key(entry, "filter_list", &["name", "filter"])),
                }
            }
            let Some(name) = name else {
                return Err(bad("filter_list", item, "the key `name`"));
            };
            if pipelines.iter().any(|other| other.name == name) {
                return Err(bad("filter_list", item, "a name that no other filter has"));
            }
            pipelines.push(FilterPipeline { name, steps });
        }
        Ok(pipelines)
    }

    fn aggregate_metrics(&self) -> Result<Vec<AggregateMetric>, TaskError> {
        let Some(node) = self.get("aggregate_metric_list") else {
            return Ok(Vec::new());
        };
        let items = match &node.data {
            Data::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut metrics = Vec::new();
        for item in items {
            let mut metric = AggregateMetric {
                metric: String::new(),
                aggregation: Aggregation::Mean,
                weight_by_size: true,
                filter_list: vec!["none".to_owned()],
            };
            for entry in mapping_of("aggregate_metric_list", item)? {
                let value = &entry.value;
                match entry.key.as_str() {
                    "metric" => metric.metric = text("metric", value)?,
                    "aggregation" => metric.aggregation = aggregation(value)?,
                    "weight_by_size" => metric.weight_by_size = boolean(&entry.key, value)?,
                    "filter_list" => metric.filter_list = texts("filter_list", value)?,
                    _ => {
                        let known = ["metric", "aggregation", "weight_by_size", "filter_list"];
                        return Err(unknown_key(entry, "aggregate_metric_list", &known));
                    }
                }
            }
            if metric.metric.is_empty() {
                return Err(bad("aggregate_metric_list", item, "the key `metric`"));
            }
            metrics.push(metric);
        }
        Ok(metrics)
    }

    /// The configuration as results show it.
    fn effective(&self, task: &TaskConfig) -> Map<String, Value> {
        let mut shown = Map::new();
        for key in TASK_KEYS.into_iter().chain([METADATA]) {
            let value = match key {
                "include" | "group" => continue,
                "tag" if task.tags.is_empty() => continue,
                "tag" => Value::from(task.tags.clone()),
                "process_docs" => task.process_docs.map_or(Value::Null, |d| d.name().into()),
                "process_results" => task
                    .process_results
                    .map_or(Value::Null, |r| r.name().into()),
                "unsafe_code" | "should_decontaminate" => {
                    self.get(key).map_or(Value::Bool(false), Node::to_json)
                }
                "description" => self.get(key).map_or_else(|| "".into(), Node::to_json),
                "target_delimiter" => task.target_delimiter.clone().into(),
                "fewshot_delimiter" => task.fewshot_delimiter.clone().into(),
                "num_fewshot" => task.num_fewshot.into(),
                "metric_list" => self
                    .get(key)
                    .map_or_else(default_metric_list, Node::to_json),
                "output_type" => "generate_until".into(),
                "generation_kwargs" => task.generation_kwargs.clone().into(),
                "repeats" => task.repeats.into(),
                _ => self.get(key).map_or(Value::Null, Node::to_json),
            };
            if !value.is_null() {
                shown.insert(key.to_owned(), value);
            }
        }
        shown
    }
}

fn default_metric_list() -> Value {
    serde_json::json!([
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": true}
    ])
}

/// Options of `exact_match`; the reference passes any other to a Python function.
fn metric_option(entry: &Entry) -> Result<(), TaskError> {
    let value = &entry.value;
    match entry.key.as_str() {
        "ignore_case" | "ignore_punctuation" | "ignore_numbers" => {
            boolean(&entry.key, value).map(|_| ())
        }
        "regexes_to_ignore" if is_null(value) => Ok(()),
        "regexes_to_ignore" => texts(&entry.key, value).map(|_| ()),
        // Read by nobody in the reference either, yet present in its own files.
        "multi_target" | "hf_evaluate" => Ok(()),
        _ => {
            let known = [
                "metric",
                "aggregation",
                "higher_is_better",
                "ignore_case",
                "ignore_punctuation",
                "ignore_numbers",
                "regexes_to_ignore",
            ];
            Err(unknown_key(entry, "metric_list", &known))
        }
    }
}

fn filter_step(node: &Node) -> Result<FilterStep, TaskError> {
    let entries = mapping_of("filter", node)?;
    let Some(function) = entries.iter().find(|entry| entry.key == "function") else {
        return Err(bad("filter", node, "the key `function`"));
    };
    let name = text("function", &function.value)?;
    if name == "custom" {
        return Err(TaskError::Unsupported {
            place: function.value.place.clone(),
            what: "`function: custom` runs Python; use the named filters".to_owned(),
        });
    }
    let names = FILTERS.map(|(name, _)| name);
    known_name(&name, &function.value, "filter", &names)?;
    let known = FILTERS.iter().find(|(other, _)| *other == name);
    let known = known.map_or(&[][..], |(_, arguments)| arguments);
    let mut arguments = Map::new();
    for entry in entries.iter().filter(|entry| entry.key != "function") {
        if !known.contains(&entry.key.as_str()) {
            return Err(unknown_key(entry, "this filter", known));
        }
        check_argument(entry)?;
        arguments.insert(entry.key.clone(), entry.value.to_json());
    }
    Ok(FilterStep {
        function: name,
        arguments,
    })
}

fn check_argument(entry: &Entry) -> Result<(), TaskError> {
    let (key, value) = (entry.key.as_str(), &entry.value);
    let whole = |data: &Data| matches!(data, Data::Number(n) if n.is_i64() || n.is_u64());
    match key {
        "group_select" if !whole(&value.data) => Err(bad(key, value, "a whole number")),
        "k" if !matches!(&value.data, Data::Number(n) if n.as_u64().is_some_and(|k| k > 0)) => {
            Err(bad(key, value, "a whole number of at least 1"))
        }
        "regex_pattern" | "fallback" => text(key, value).map(|_| ()),
        "mapping_dict" if !matches!(value.data, Data::Map(_)) => Err(bad(key, value, "a mapping")),
        _ => Ok(()),
    }
}

/// `data_files`: one text or list (all splits read it), or a mapping from split to these.
fn data_files(
    node: &Node,
    dataset: &DatasetConfig,
) -> Result<Vec<(String, Vec<String>)>, TaskError> {
    if let Data::Map(entries) = &node.data {
        let files = entries.iter();
        return files
            .map(|entry| Ok((entry.key.clone(), texts("data_files", &entry.value)?)))
            .collect();
    }
    // The reference calls the one split of a plain list "train".
    let files = texts("data_files", node)?;
    let splits = [
        dataset.test_split.as_ref(),
        dataset.validation_split.as_ref(),
        dataset.training_split.as_ref(),
        dataset.fewshot_split.as_ref(),
    ];
    if splits.into_iter().flatten().any(|split| split != "train") {
        return Err(bad(
            "data_files",
            node,
            "a mapping from split to file (a plain list is the split `train`)",
        ));
    }
    Ok(vec![("train".to_owned(), files)])
}

fn samples(node: &Node) -> Result<Vec<Map<String, Value>>, TaskError> {
    if node.tag.is_some() {
        return Err(TaskError::PythonFunction {
            place: node.place.clone(),
            key: "samples".to_owned(),
            function: node.to_json().as_str().unwrap_or_default().to_owned(),
            known: vec!["a list of documents"],
        });
    }
    let mut samples = Vec::new();
    for item in list("samples", node)? {
        match item.to_json() {
            Value::Object(sample) => samples.push(sample),
            _ => return Err(bad("samples", item, "a mapping")),
        }
    }
    Ok(samples)
}

fn aggregation(node: &Node) -> Result<Aggregation, TaskError> {
    let name = text("aggregation", node)?;
    known_name(&name, node, "aggregation", &["mean"])?;
    Ok(Aggregation::Mean)
}

fn template(key: &'static str, node: &Node) -> Result<TextTemplate, TaskError> {
    let source = text(key, node)?;
    TextTemplate::new(&source).map_err(|message| TaskError::Template {
        place: node.place.clone(),
        key: key.to_owned(),
        message,
    })
}

fn is_null(node: &Node) -> bool {
    matches!(node.data, Data::Null)
}

/// Text without a tag. `!function` here means Python for a value that has no built-ins.
fn text(key: &str, node: &Node) -> Result<String, TaskError> {
    match (&node.data, &node.tag) {
        (Data::Text(text), None) => Ok(text.clone()),
        (Data::Text(function), Some(tag)) => Err(TaskError::Unsupported {
            place: node.place.clone(),
            what: format!(
                "`{key}: {tag} {function}` is Python, which micota does not run; write a template"
            ),
        }),
        // `version: 1` style slips: a number where a name stands is read as its text.
        (Data::Number(number), _) if key.ends_with("_name") => Ok(number.to_string()),
        _ => Err(bad(key, node, "text")),
    }
}

fn texts(key: &str, node: &Node) -> Result<Vec<String>, TaskError> {
    match &node.data {
        Data::List(items) => items.iter().map(|item| text(key, item)).collect(),
        _ => text(key, node).map(|text| vec![text]),
    }
}

fn texts_or_nothing(node: &Node) -> Vec<String> {
    texts("tag", node).unwrap_or_default()
}

fn boolean(key: &str, node: &Node) -> Result<bool, TaskError> {
    match node.data {
        Data::Bool(value) => Ok(value),
        _ => Err(bad(key, node, "true or false")),
    }
}

fn list<'a>(key: &str, node: &'a Node) -> Result<&'a [Node], TaskError> {
    match &node.data {
        Data::List(items) => Ok(items),
        _ => Err(bad(key, node, "a list")),
    }
}

fn mapping_of<'a>(key: &str, node: &'a Node) -> Result<&'a [Entry], TaskError> {
    match &node.data {
        Data::Map(entries) => Ok(entries),
        _ => Err(bad(key, node, "a list of mappings")),
    }
}

fn bad(key: &str, node: &Node, expected: &str) -> TaskError {
    let found = match &node.data {
        Data::List(_) | Data::Map(_) | Data::Null => node.kind().to_owned(),
        _ => {
            let shown: String = python::repr(&node.to_json()).chars().take(60).collect();
            format!("{} ({shown})", node.kind())
        }
    };
    TaskError::BadValue {
        place: node.place.clone(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}

fn unknown_key(entry: &Entry, owner: &'static str, known: &[&str]) -> TaskError {
    TaskError::UnknownKey {
        place: entry.place.clone(),
        key: entry.key.clone(),
        owner,
        nearest: nearest(&entry.key, known.iter().copied()),
    }
}

fn known_name<'a>(
    name: &str,
    node: &Node,
    kind: &'static str,
    known: &[&'a str],
) -> Result<&'a str, TaskError>
where
    'a: 'static,
{
    let found = known.iter().find(|other| **other == name);
    found.copied().ok_or_else(|| TaskError::UnknownName {
        place: node.place.clone(),
        kind,
        name: name.to_owned(),
        nearest: nearest(name, known.iter().copied()),
        known: known.to_vec(),
    })
}

/// Where a key of a file stands, for errors about combinations of files.
pub(super) fn place_of(source: &Source, key: &str) -> Option<Place> {
    let entry = source.entries.iter().find(|entry| entry.key == key)?;
    Some(entry.value.place.clone())
}
