//! A whole run: journal, generation, grading, files.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::durable::Journal;

use super::execute::{Observer, Outcome, execute};
use super::naming::OutputFiles;
use super::output::{Report, Written, write};
use super::plan::PlannedTask;
use super::results::{Group, Manifest, RunInfo};
use super::{EvalError, Generator};

/// A run that is planned: nothing of it depends on how fast or in what order it runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// The tasks, in the order of their names.
    pub tasks: Vec<PlannedTask>,
    /// Groups among them.
    pub groups: Vec<Group>,
    /// What the command line said.
    pub info: RunInfo,
    /// The text of the model's EOS token.
    pub eos_text: Option<String>,
    /// Everything that an answer depends on; a journal of other settings is refused.
    pub settings: Map<String, Value>,
    /// `--output_path`.
    pub output_path: Option<PathBuf>,
    /// Whether samples are logged.
    pub log_samples: bool,
    /// Whether only responses are wanted, no results.
    pub predict_only: bool,
    /// Where finished answers are kept while the run goes on.
    pub journal: JournalPlace,
}

/// Where a run's journal lies, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPlace {
    /// The file.
    pub path: PathBuf,
    /// What happens when the run is finished.
    pub at_end: AtEnd,
}

/// What becomes of the journal of a finished run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It stays, and answers the same run again (`--use_cache`).
    Keep,
    /// It moves beside the results, under their date.
    MoveToOutput,
    /// It goes: without an output folder nothing is kept.
    Remove,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// All answers are graded and all files written.
    Finished(Box<Written>),
    /// The observer ended it; the same run goes on from `done` of `total` answers.
    Interrupted {
        /// Answers in the journal.
        done: usize,
        /// Answers of the run.
        total: usize,
    },
}

/// A run whose journal is open: its settings were accepted and its folder can be written.
#[derive(Debug)]
pub struct OpenRun {
    run: Run,
    journal: Journal,
    finished: Vec<super::record::SampleRecord>,
}

impl Run {
    /// Opens the journal, making its folder. Comes before anything expensive.
    ///
    /// # Errors
    /// The journal is locked, damaged, of other settings, or its folder cannot be written.
    pub fn open(self) -> Result<OpenRun, EvalError> {
        let (journal, finished) = Journal::open(&self.journal.path, &self.settings)?;
        Ok(OpenRun {
            run: self,
            journal,
            finished,
        })
    }
}

impl OpenRun {
    /// Answers that an earlier process finished.
    pub fn num_resumed(&self) -> usize {
        self.finished.len()
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Generates what is missing, grades, writes the files, and ends the journal.
    ///
    /// `date` turns the time of the first start into the date in file names; `manifest` is asked
    /// at the end, when the engine knows its rates.
    ///
    /// # Errors
    /// Generation fails or a file cannot be written; finished answers stay in the journal.
    pub fn finish(
        self,
        generator: &mut dyn Generator,
        observer: &mut dyn Observer,
        date: &dyn Fn(std::time::SystemTime) -> String,
        manifest: &dyn Fn(&dyn Generator) -> Manifest,
    ) -> Result<Ended, EvalError> {
        let Self {
            run,
            mut journal,
            finished,
        } = self;
        let jobs = run.tasks.iter().flat_map(PlannedTask::jobs).collect();
        let answers = match execute(jobs, finished, &mut journal, generator, observer)? {
            Outcome::Finished(answers) => answers,
            Outcome::Interrupted { done, total } => {
                return Ok(Ended::Interrupted { done, total });
            }
        };
        let files = run
            .output_path
            .as_deref()
            .map(|path| OutputFiles::new(path, &run.info.model_name, &date(journal.created())));
        let report = Report {
            tasks: &run.tasks,
            groups: &run.groups,
            info: &run.info,
            answers: &answers,
            eos_text: run.eos_text.as_deref(),
            log_samples: run.log_samples,
            predict_only: run.predict_only,
            manifest: manifest(generator),
            started: journal.created(),
        };
        let written = write(report, files.as_ref())?;
        match (run.journal.at_end, &files) {
            (AtEnd::MoveToOutput, Some(files)) => journal.finish_as(&files.journal())?,
            (AtEnd::Keep | AtEnd::MoveToOutput, _) => drop(journal),
            (AtEnd::Remove, _) => journal.remove()?,
        }
        Ok(Ended::Finished(Box::new(written)))
    }
}

/// The journal of an unfinished run in its output folder.
pub fn journal_in(output_path: &Path, model_name: &str) -> PathBuf {
    OutputFiles::new(output_path, model_name, "")
        .folder()
        .join("journal.jsonl")
}
