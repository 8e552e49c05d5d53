//! From graded answers to files: samples first, results last, each complete or absent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::durable::write_atomic;

use super::EvalError;
use super::audit::Audit;
use super::execute::Answers;
use super::naming::OutputFiles;
use super::plan::{GradedTask, PlannedTask};
use super::python_json;
use super::results::{self, Clock, Finished, Group, Manifest, RunInfo};
use super::samples;

/// A run's answers and everything about it that its files show.
#[derive(Clone, Debug)]
pub struct Report<'r> {
    /// The tasks, in the order of their names.
    pub tasks: &'r [PlannedTask],
    /// Groups among them.
    pub groups: &'r [Group],
    /// What the command line said.
    pub info: &'r RunInfo,
    /// Every answer.
    pub answers: &'r Answers,
    /// The text of the EOS token.
    pub eos_text: Option<&'r str>,
    /// Whether samples are logged (and hashed).
    pub log_samples: bool,
    /// Whether grading is left to somebody else: samples without a results table.
    pub predict_only: bool,
    /// Where the numbers come from.
    pub manifest: Manifest,
    /// When the run first started.
    pub started: SystemTime,
}

/// What a finished run leaves.
#[derive(Clone, Debug)]
pub struct Written {
    /// The results, as they stand in the results file.
    pub results: Map<String, Value>,
    /// What the scores do not show, by task.
    pub audits: Vec<(String, Audit)>,
    /// Files written, the results file last.
    pub files: Vec<PathBuf>,
}

/// Grades all answers, writes the files (where there is an `output`), and returns what is in them.
///
/// # Errors
/// A file cannot be written. Files that were there before are as they were.
pub fn write(report: Report<'_>, output: Option<&OutputFiles>) -> Result<Written, EvalError> {
    let graded = report.tasks.iter().map(|task| task.grade(report.answers));
    let graded: Vec<GradedTask<'_>> = graded.collect();
    let mut files = Vec::new();
    let mut finished = Vec::with_capacity(graded.len());
    for task in &graded {
        let samples = report.log_samples.then(|| samples::write(task));
        if let (Some(output), Some(samples)) = (output, &samples) {
            let path = output.samples(&task.task.name);
            write_file(&path, &samples.text)?;
            files.push(path);
        }
        finished.push(Finished {
            graded: task,
            task_hash: samples.map(|samples| samples.task_hash),
            audit: Audit::of(task, report.eos_text),
        });
    }
    let clock = Clock {
        started: report.started,
        ended: SystemTime::now(),
    };
    let results = results::build(
        report.info,
        &finished,
        report.groups,
        report.manifest,
        clock,
    );
    if let Some(output) = output.filter(|_| !report.predict_only) {
        let path = output.results();
        let text = python_json::to_indented(&Value::Object(results.clone()));
        write_file(&path, &text)?;
        files.push(path);
    }
    let audits = finished.iter();
    let audits = audits.map(|task| (task.graded.task.name.clone(), task.audit.clone()));
    Ok(Written {
        results,
        audits: audits.collect(),
        files,
    })
}

fn write_file(path: &Path, text: &str) -> Result<(), EvalError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = make_folder(folder).and_then(|()| write_atomic(path, text.as_bytes()));
    written.map_err(|source| EvalError::Write {
        path: path.to_owned(),
        source,
    })
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)
}
