//! Finding a task's data: the data folder of the command line first, then the task's own files,
//! then the Hugging Face hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::builtin::ProcessDocs;
use super::config::TaskConfig;
use super::document::{Document, Origin, Row, field_names};
use super::error::{NoData, TaskError};
use super::hub_files;
use super::sets::{self, DataSet, HubId};
use crate::hub::{Hub, RepoKind};
use crate::rows;

/// File extensions of data, in the order in which they are looked for.
const EXTENSIONS: [&str; 4] = ["jsonl", "json", "parquet", "csv"];

/// Where data may come from.
#[derive(Clone, Debug, Default)]
pub struct DataSources {
    /// `--data-dir` or `MICOTA_DATA`: a folder laid out as `SET/SPLIT.jsonl`, or a single file.
    pub data_dir: Option<PathBuf>,
    /// The hub; `None` never asks it.
    pub hub: Option<Hub>,
}

/// A task's data.
#[derive(Clone, Debug, Default)]
pub struct TaskData {
    /// The documents of the evaluated split, processed.
    pub documents: Vec<Document>,
    /// The documents that few-shot examples are drawn from; empty for a zero-shot task.
    pub examples: Vec<Document>,
    /// The files that the documents were read from.
    pub files: Vec<PathBuf>,
}

impl DataSources {
    /// The data folder of the command line, and the hub behind it.
    pub fn new(data_dir: Option<PathBuf>, hub: Option<Hub>) -> Self {
        Self { data_dir, hub }
    }

    /// Loads the documents of a task, and its examples where it wants any.
    ///
    /// # Errors
    /// No data (the message names the file or id and both ways to provide it), files that cannot
    /// be read, rows without a field that the task's `process_docs` reads.
    pub fn load(&self, task: &TaskConfig) -> Result<TaskData, TaskError> {
        let split = task.dataset.evaluated_split().unwrap_or("test");
        let (documents, files) = self.split(task, split)?;
        let examples = if task.num_fewshot == 0 {
            Vec::new()
        } else {
            self.examples(task, split, &documents)?
        };
        Ok(TaskData {
            documents,
            examples,
            files,
        })
    }

    /// The few-shot split, else the samples in the task's file, else another split.
    fn examples(
        &self,
        task: &TaskConfig,
        evaluated: &str,
        documents: &[Document],
    ) -> Result<Vec<Document>, TaskError> {
        if task.dataset.fewshot_split.is_none()
            && let Some(samples) = &task.fewshot.samples
        {
            let file: Arc<Path> = Arc::from(Path::new(&*task.source));
            let numbered = samples.iter().cloned().enumerate();
            return Ok(numbered
                .map(|(index, fields)| Document {
                    fields,
                    origin: Origin {
                        file: file.clone(),
                        line: index + 1,
                    },
                })
                .collect());
        }
        match task.dataset.example_split() {
            Some(split) if split != evaluated => Ok(self.split(task, split)?.0),
            _ => Ok(documents.to_vec()),
        }
    }

    fn split(
        &self,
        task: &TaskConfig,
        split: &str,
    ) -> Result<(Vec<Document>, Vec<PathBuf>), TaskError> {
        let Located { files, shape } = self.locate(task, split)?;
        let mut rows: Vec<Row> = Vec::new();
        for path in &files {
            let file: Arc<Path> = Arc::from(path.as_path());
            rows.extend(rows::read(path)?.into_iter().map(|(line, fields)| {
                let file = file.clone();
                (Origin { file, line }, fields)
            }));
        }
        let rows = shape.apply(rows)?;
        if rows.is_empty() {
            return Err(TaskError::Data {
                path: files.first().cloned().unwrap_or_default(),
                line: None,
                problem: format!("no rows for split `{split}` of task {}", task.name),
            });
        }
        let documents = rows
            .into_iter()
            .map(|(origin, fields)| processed(task, fields, origin));
        Ok((documents.collect::<Result<_, _>>()?, files))
    }

    /// The files of a split, or an error that names all that was looked for.
    fn locate(&self, task: &TaskConfig, split: &str) -> Result<Located, TaskError> {
        let mut tried = Vec::new();
        match &self.data_dir {
            Some(file) if file.is_file() => return Ok(Located::raw(vec![file.clone()])),
            Some(dir) => {
                if let Some(found) = in_data_dir(dir, task, split, &mut tried) {
                    return Ok(found);
                }
            }
            None => tried.push("no --data-dir and no MICOTA_DATA given".to_owned()),
        }
        if let Some(found) = own_files(task, self.data_dir.as_deref(), split, &mut tried) {
            return Ok(found);
        }
        if let Some(found) = self.on_hub(task, split, &mut tried)? {
            return Ok(found);
        }
        let known = Known::of(&task.dataset.path);
        let id = known.hub_id(&task.dataset.path);
        Err(TaskError::NoData(Box::new(NoData {
            task: task.name.clone(),
            split: split.to_owned(),
            dataset: task.dataset.path.clone(),
            tried,
            local: match task
                .dataset
                .data_files
                .iter()
                .find(|(name, _)| name == split)
            {
                Some((_, files)) => files.join(" and "),
                None => format!(
                    "{}/{}.jsonl",
                    known.folder(&task.dataset.path),
                    known.local_split(split)
                ),
            },
            remote: match id {
                Some(id) => format!(
                    "let it be downloaded as {id} from the Hugging Face hub (network, and no \
                     HF_HUB_OFFLINE)"
                ),
                None => "correct the paths in the task's file".to_owned(),
            },
        })))
    }

    /// Brings a split from the hub. `None`, with the reason in `tried`, where the hub cannot.
    fn on_hub(
        &self,
        task: &TaskConfig,
        split: &str,
        tried: &mut Vec<String>,
    ) -> Result<Option<Located>, TaskError> {
        let known = Known::of(&task.dataset.path);
        let (Some(id), Some(hub)) = (known.hub_id(&task.dataset.path), &self.hub) else {
            return Ok(None);
        };
        let revision = task.dataset.revision.as_deref();
        let name = task.dataset.name.as_deref();
        let (configs, splits, shape) = match &known {
            Known::Set(set) if split == "test" => {
                let configs = set.hub.configs.iter().map(|config| Some(*config)).collect();
                (configs, set.hub.test_splits.to_vec(), Shape::Ours(set))
            }
            Known::Set(set) => {
                let configs = set.hub.configs.iter().map(|config| Some(*config)).collect();
                (configs, vec![split], Shape::Ours(set))
            }
            Known::Id(_) | Known::No => (vec![name], vec![split], Shape::AsIs),
        };
        let listing = match hub.list(RepoKind::Dataset, id, revision) {
            Ok(listing) => listing,
            Err(error) => {
                tried.push(error.to_string());
                return Ok(None);
            }
        };
        let mut files = Vec::new();
        for config in configs {
            for split in &splits {
                let names = match hub_files::choose(&listing.files, config, split) {
                    Ok(names) => names,
                    Err(reason) => {
                        tried.push(format!("{id} on the hub: {reason}"));
                        return Ok(None);
                    }
                };
                for name in names {
                    let path = hub.file(RepoKind::Dataset, id, revision, &name);
                    files.push(path.map_err(|source| TaskError::Hub {
                        task: task.name.clone(),
                        source: Box::new(source),
                    })?);
                }
            }
        }
        Ok(Some(Located { files, shape }))
    }
}

/// Files with rows, and the shape to give them.
struct Located {
    files: Vec<PathBuf>,
    shape: Shape,
}

impl Located {
    fn raw(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            shape: Shape::AsIs,
        }
    }
}

/// What is done to rows before the task sees them.
enum Shape {
    AsIs,
    /// Rows of the hub become those of a named set.
    Ours(&'static DataSet),
    /// Rows of a named set become those that the hub has under an id.
    Hub(&'static HubId),
}

impl Shape {
    fn apply(self, rows: Vec<Row>) -> Result<Vec<Row>, TaskError> {
        match self {
            Self::AsIs => Ok(rows),
            Self::Hub(id) => {
                let shaped = rows
                    .into_iter()
                    .map(|(origin, row)| (origin, id.hub_shape(row)));
                Ok(shaped.collect())
            }
            Self::Ours(set) => {
                set.hub
                    .rows(rows)
                    .map_err(|(origin, field, names)| TaskError::Field {
                        origin: origin.to_string(),
                        field: field.to_owned(),
                        reader: format!("the data set {} (from {})", set.name, set.hub.id),
                        found: format!("the row has {names}"),
                    })
            }
        }
    }
}

/// What is known about a `dataset_path`.
enum Known {
    Set(&'static DataSet),
    Id(&'static HubId),
    No,
}

impl Known {
    fn of(path: &str) -> Self {
        match (sets::by_name(path), sets::by_hub_id(path)) {
            (Some(set), _) => Self::Set(set),
            (None, Some(id)) => Self::Id(id),
            (None, None) => Self::No,
        }
    }

    /// The set's folder under the data folder.
    fn folder<'a>(&self, path: &'a str) -> &'a str
    where
        'static: 'a,
    {
        match self {
            Self::Set(set) => set.name,
            Self::Id(id) => id.set,
            Self::No => path,
        }
    }

    /// The id under which the hub has it, if it may be there at all.
    fn hub_id<'a>(&self, path: &'a str) -> Option<&'a str>
    where
        'static: 'a,
    {
        match self {
            Self::Set(set) => Some(set.hub.id),
            Self::Id(id) => Some(id.id),
            Self::No => (!is_format(path)).then_some(path),
        }
    }

    /// The local name of a split: a hub set whose only split is `train` is our `test`.
    fn local_split<'a>(&self, split: &'a str) -> &'a str {
        match self {
            Self::Id(id) if id.test_split == split && split != "test" => "test",
            _ => split,
        }
    }
}

/// Looks for a named set, or a known hub id, under the data folder.
fn in_data_dir(
    dir: &Path,
    task: &TaskConfig,
    split: &str,
    tried: &mut Vec<String>,
) -> Option<Located> {
    if is_format(&task.dataset.path) {
        return None;
    }
    let known = Known::of(&task.dataset.path);
    let folder = known.folder(&task.dataset.path);
    let split = known.local_split(split);
    let own_name = dir.file_name().is_some_and(|name| name == folder);
    let mut bases = vec![dir.join(folder).join(split)];
    if own_name {
        bases.push(dir.join(split));
    }
    if split == "test" {
        bases.push(dir.join(folder));
    }
    for base in bases {
        for extension in EXTENSIONS {
            // Not `with_extension`: a hub name may hold a dot.
            let path = PathBuf::from(format!("{}.{extension}", base.display()));
            if path.is_file() {
                let shape = match known {
                    Known::Id(id) => Shape::Hub(id),
                    Known::Set(_) | Known::No => Shape::AsIs,
                };
                let files = vec![path];
                return Some(Located { files, shape });
            }
        }
        tried.push(format!("no {}.jsonl (or .json, .parquet)", base.display()));
    }
    None
}

/// Whether a `dataset_path` names a file format rather than a data set.
fn is_format(path: &str) -> bool {
    matches!(path, "json" | "parquet")
}

/// The task's own `data_files`: from the working directory, beside the task's file, or below the
/// data folder of the command line.
fn own_files(
    task: &TaskConfig,
    data_dir: Option<&Path>,
    split: &str,
    tried: &mut Vec<String>,
) -> Option<Located> {
    let dataset = &task.dataset;
    let Some((_, names)) = dataset.data_files.iter().find(|(name, _)| name == split) else {
        if !dataset.data_files.is_empty() {
            let splits: Vec<&str> = dataset.data_files.iter().map(|(s, _)| s.as_str()).collect();
            tried.push(format!("`data_files` has the splits {}", splits.join(", ")));
        }
        return None;
    };
    let mut files = Vec::new();
    for name in names {
        let folders = [Some(Path::new("")), dataset.folder.as_deref(), data_dir];
        let mut places = folders
            .into_iter()
            .flatten()
            .map(|folder| folder.join(name));
        match places.find(|path| path.is_file()) {
            Some(path) => files.push(path),
            None => {
                tried.push(format!("no file {name} (`data_files` of {})", task.source));
                return None;
            }
        }
    }
    (!files.is_empty()).then(|| Located::raw(files))
}

/// Turns a row into a document by the task's `process_docs`.
fn processed(
    task: &TaskConfig,
    mut fields: Map<String, Value>,
    origin: Origin,
) -> Result<Document, TaskError> {
    let Some(process) = task.process_docs else {
        return Ok(Document { fields, origin });
    };
    let wrong = |field: &str, found: String| TaskError::Field {
        origin: origin.to_string(),
        field: field.to_owned(),
        reader: format!("{} of task {}", ProcessDocs::name(process), task.name),
        found,
    };
    if let Some(missing) = process
        .fields()
        .iter()
        .find(|field| !fields.contains_key(**field))
    {
        return Err(wrong(
            missing,
            format!("the row has {}", field_names(&fields)),
        ));
    }
    process
        .apply(&mut fields)
        .map_err(|(field, found)| wrong(field, found))?;
    Ok(Document { fields, origin })
}
