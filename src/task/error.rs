//! What can go wrong between a task's name and its prompts. Nothing here is fatal to the program:
//! each variant holds what a message needs to name the place, the finding and the way out.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::hub::HubError;
use crate::rows::RowsError;
use crate::yaml::{Place, YamlError};

/// An error of the `task` room.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file is not YAML, or is YAML beyond the limits.
    #[error(transparent)]
    Syntax(#[from] YamlError),
    /// A key that no task, group, metric or filter has.
    #[error("{place}: unknown key `{key}` in {owner}{}", hint(nearest))]
    UnknownKey {
        /// Where the key stands.
        place: Place,
        /// The key.
        key: String,
        /// What it was found in, such as "a task".
        owner: &'static str,
        /// Known keys that look like it.
        nearest: Vec<String>,
    },
    /// A value of the wrong type or outside its range.
    #[error("{place}: `{key}` expects {expected}, found {found}")]
    BadValue {
        /// Where the value stands.
        place: Place,
        /// The key it belongs to.
        key: String,
        /// What is expected, in words.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A built-in, metric, filter, sampler or aggregation that does not exist.
    #[error("{place}: unknown {kind} `{name}`{}; known: {}", hint(nearest), known.join(", "))]
    UnknownName {
        /// Where the name stands.
        place: Place,
        /// What kind of thing it should be.
        kind: &'static str,
        /// The name.
        name: String,
        /// Known names that look like it.
        nearest: Vec<String>,
        /// All names there are.
        known: Vec<&'static str>,
    },
    /// A Python function that no built-in is known to replace.
    #[error(
        "{place}: `{key}: !function {function}` is Python, which micota does not run, and no \
         built-in is known for this task; write `{key}: builtin:NAME` with one of: {}",
        known.join(", ")
    )]
    PythonFunction {
        /// Where the tag stands.
        place: Place,
        /// The key it belongs to.
        key: String,
        /// The function as written.
        function: String,
        /// The built-ins of this kind.
        known: Vec<&'static str>,
    },
    /// Something that the reference harness has and this program deliberately lacks.
    #[error("{place}: {what}")]
    Unsupported {
        /// Where it is asked for.
        place: Place,
        /// What, and what to do instead.
        what: String,
    },
    /// A key without which the file means nothing.
    #[error("{file}: {owner} needs the key `{key}`")]
    MissingKey {
        /// The file.
        file: String,
        /// What lacks it.
        owner: &'static str,
        /// The key.
        key: &'static str,
    },
    /// `include` refers to itself, or goes too deep.
    #[error("{place}: `include` of {included}: {problem}")]
    Include {
        /// Where the include stands.
        place: Place,
        /// What it names.
        included: String,
        /// Why not.
        problem: String,
    },
    /// No task, group or tag has this name.
    #[error("unknown task `{pattern}`{}{}", hint(nearest), note(unreadable))]
    UnknownTask {
        /// What was asked for.
        pattern: String,
        /// Names that look like it.
        nearest: Vec<String>,
        /// Task files under the include paths that could not be read, with the reason.
        unreadable: Vec<String>,
    },
    /// Two tasks differ only in case and the name given fits both or neither exactly.
    #[error("`{pattern}` fits {}: write one of them exactly", candidates.join(" and "))]
    AmbiguousTask {
        /// What was asked for.
        pattern: String,
        /// The names it fits.
        candidates: Vec<String>,
    },
    /// A group that contains itself.
    #[error("{file}: group `{group}` contains itself")]
    GroupCycle {
        /// The group's file.
        file: String,
        /// The group.
        group: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `--gen_kwargs` or a task's `generation_kwargs` cannot be used.
    #[error("generation settings: {0}")]
    GenKwargs(String),
    /// There is no data for a task.
    #[error("{0}")]
    NoData(Box<NoData>),
    /// A data file that cannot be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A data file that does not hold rows.
    #[error("{}{}: {problem}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A row lacks a field that its task reads.
    #[error("{origin}: field `{field}` expected by {reader}, {found}")]
    Field {
        /// File and line (or row) of the document.
        origin: String,
        /// The field.
        field: String,
        /// Who reads it.
        reader: String,
        /// What is there instead.
        found: String,
    },
    /// A template of a task does not parse.
    #[error("{place}: `{key}`: {message}")]
    Template {
        /// Where the template stands.
        place: Place,
        /// Its key.
        key: String,
        /// What the template engine says.
        message: String,
    },
    /// A template of a task fails on a document.
    #[error("{origin}: `{key}` of task {task}: {message}")]
    Render {
        /// File and line (or row) of the document.
        origin: String,
        /// The template's key.
        key: String,
        /// The task.
        task: String,
        /// What the template engine says.
        message: String,
    },
    /// A chat template does not parse or refuses the messages.
    #[error("chat template: {0}")]
    Chat(String),
    /// The hub could not provide a file.
    #[error("task {task}: {source}")]
    Hub {
        /// The task.
        task: String,
        /// Why.
        source: Box<HubError>,
    },
    /// Few-shot examples cannot be drawn.
    #[error("task {task}: {problem}")]
    Fewshot {
        /// The task.
        task: String,
        /// Why, with numbers.
        problem: String,
    },
}

/// What was looked for when a task's data was not found.
#[derive(Debug)]
pub struct NoData {
    /// The task.
    pub task: String,
    /// The split.
    pub split: String,
    /// The data set's name or id.
    pub dataset: String,
    /// What was looked for and why it did not do, a line each.
    pub tried: Vec<String>,
    /// The file that would do, seen from the data folder.
    pub local: String,
    /// How the hub could provide it.
    pub remote: String,
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (task, split, dataset) = (&self.task, &self.split, &self.dataset);
        writeln!(f, "task {task}: no data for split `{split}` of {dataset}")?;
        for tried in &self.tried {
            writeln!(f, "  {tried}")?;
        }
        let (local, remote) = (&self.local, &self.remote);
        write!(
            f,
            "either put {local} into a folder given by --data-dir DIR (or MICOTA_DATA=DIR), or {remote}"
        )
    }
}

fn hint(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
    format!(", did you mean {}?", names.join(" or "))
}

fn note(unreadable: &[String]) -> String {
    match unreadable {
        [] => String::new(),
        [first, rest @ ..] => format!(
            "\n{} file(s) of the include paths could not be read: {first}{}",
            unreadable.len(),
            if rest.is_empty() { "" } else { "; ..." }
        ),
    }
}

/// Names a reader may have meant: within a third of the word's length, best first, three at most.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let lower = word.to_lowercase();
    let mut scored: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| {
            let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
            (distance, name)
        })
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(1))
        .collect();
    scored.sort_unstable();
    scored.dedup();
    let best = scored.into_iter().take(3);
    best.map(|(_, name)| name.to_owned()).collect()
}
