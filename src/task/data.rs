//! Finding a task's data: a local folder first, then the task's own files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::builtin::ProcessDocs;
use super::config::TaskConfig;
use super::document::{Document, Origin, field_names};
use super::error::{NoData, TaskError};
use super::rows::{self, EXTENSIONS};
use super::sets::{self, DataSet, HubId};

/// Where data may come from.
#[derive(Clone, Debug, Default)]
pub struct DataSources {
    /// `--data-dir` or `MICOTA_DATA`: a folder laid out as `SET/SPLIT.jsonl`, or a single file.
    pub data_dir: Option<PathBuf>,
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
        let found = self.locate(task, split)?;
        let mut documents = Vec::new();
        for path in &found.files {
            let file: Arc<Path> = Arc::from(path.as_path());
            for (line, fields) in rows::read(path)? {
                let fields = match found.shape {
                    Some(id) => id.hub_shape(fields),
                    None => fields,
                };
                let origin = Origin {
                    file: file.clone(),
                    line,
                };
                documents.push(processed(task, fields, origin)?);
            }
        }
        if documents.is_empty() {
            let path = found.files.first().cloned().unwrap_or_default();
            return Err(TaskError::Data {
                path,
                line: None,
                problem: format!("no rows for split `{split}` of task {}", task.name),
            });
        }
        Ok((documents, found.files))
    }

    /// The files of a split, or an error that names all that was looked for.
    fn locate(&self, task: &TaskConfig, split: &str) -> Result<Located, TaskError> {
        let mut tried = Vec::new();
        if let Some(dir) = &self.data_dir {
            if dir.is_file() {
                return Ok(Located::raw(vec![dir.clone()]));
            }
            if let Some(found) = in_data_dir(dir, task, split, &mut tried) {
                return Ok(found);
            }
        }
        if let Some(found) = own_files(task, split, &mut tried)? {
            return Ok(found);
        }
        let known = Known::of(&task.dataset.path);
        let folder = match &known {
            Known::Set(set) => set.name.to_owned(),
            Known::Id(id) => id.set.to_owned(),
            Known::No => task
                .dataset
                .path
                .rsplit('/')
                .next()
                .unwrap_or("")
                .to_owned(),
        };
        if tried.is_empty() {
            tried.push("no --data-dir and no MICOTA_DATA given".to_owned());
        }
        Err(TaskError::NoData(Box::new(NoData {
            task: task.name.clone(),
            split: split.to_owned(),
            dataset: task.dataset.path.clone(),
            tried,
            local: format!("{folder}/{}.jsonl", known.local_split(split)),
            remote: "download it with the Hugging Face hub".to_owned(),
        })))
    }
}

/// Files with rows, and the shape to give them.
struct Located {
    files: Vec<PathBuf>,
    shape: Option<&'static HubId>,
}

impl Located {
    fn raw(files: Vec<PathBuf>) -> Self {
        Self { files, shape: None }
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
    let known = Known::of(&task.dataset.path);
    let (folder, shape) = match &known {
        Known::Set(set) => (set.name, None),
        Known::Id(id) => (id.set, Some(*id)),
        Known::No => (task.dataset.path.as_str(), None),
    };
    if matches!(folder, "json" | "parquet" | "csv" | "text") {
        return None;
    }
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
                let files = vec![path];
                return Some(Located { files, shape });
            }
        }
        tried.push(format!("no {}.jsonl (or .json, .parquet)", base.display()));
    }
    None
}

/// The task's own `data_files`: as they stand (from the working directory), beside the task's
/// file, or under the data folder of the command line is not asked for here.
fn own_files(
    task: &TaskConfig,
    split: &str,
    tried: &mut Vec<String>,
) -> Result<Option<Located>, TaskError> {
    let dataset = &task.dataset;
    let Some((_, names)) = dataset.data_files.iter().find(|(name, _)| name == split) else {
        if !dataset.data_files.is_empty() {
            let splits: Vec<&str> = dataset.data_files.iter().map(|(s, _)| s.as_str()).collect();
            tried.push(format!("`data_files` has the splits {}", splits.join(", ")));
        }
        return Ok(None);
    };
    let mut files = Vec::new();
    for name in names {
        let places = [
            Some(PathBuf::from(name)),
            dataset.folder.as_ref().map(|f| f.join(name)),
        ];
        let mut places = places.into_iter().flatten();
        match places.find(|path| path.is_file()) {
            Some(path) => files.push(path),
            None => {
                tried.push(format!("no file {name} (data_files of {})", task.source));
                return Ok(None);
            }
        }
    }
    Ok((!files.is_empty()).then(|| Located::raw(files)))
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
