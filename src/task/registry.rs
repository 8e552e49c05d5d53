//! Finding tasks by what people type: names, wildcards, tags, groups, files, folders.
//!
//! The registry knows every file's name and tags from the start, but reads a task fully only when
//! it is asked for: an include path may hold hundreds of files that this program cannot run, and
//! that is nobody's error until one of them is named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{GroupConfig, TaskConfig};
use super::error::{TaskError, nearest};
use super::schema::{Definition, Source, place_of};
use super::shipped::{ALIASES, SHIPPED};
use crate::yaml::{self, Data, Entry, Repeated};

/// Bytes of one task file. The reference's longest (with inline examples) has 100 KB.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Includes inside includes.
const MAX_INCLUDE_DEPTH: usize = 16;
/// Files that one task may be put together from.
const MAX_INCLUDED_FILES: usize = 64;
/// Folders inside folders of an include path.
const MAX_FOLDER_DEPTH: usize = 16;
/// Task files under all include paths. The reference ships 14,000.
const MAX_FILES: usize = 100_000;

/// The name that includes a shipped task's file: `include: builtin:NAME`.
const BUILTIN: &str = "builtin:";

/// All tasks and groups that can be asked for.
pub struct Registry {
    tasks: BTreeMap<String, Source>,
    groups: BTreeMap<String, Source>,
    /// Task names by tag.
    tags: BTreeMap<String, BTreeSet<String>>,
    /// Files of the include paths that are not readable YAML, with the reason.
    unreadable: Vec<String>,
}

/// What a list of patterns stands for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Each task once, by name in byte order (upper case first).
    pub tasks: Vec<TaskConfig>,
    /// The groups among the patterns and inside these, by name in byte order.
    pub groups: Vec<GroupConfig>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEntry {
    /// The name.
    pub name: String,
    /// Other names that it answers to.
    pub aliases: Vec<&'static str>,
    /// Tags it can be selected by.
    pub tags: Vec<String>,
    /// Its file, or `builtin:NAME`.
    pub source: Arc<str>,
    /// Whether it is a group of tasks.
    pub is_group: bool,
}

impl Registry {
    /// Indexes the shipped tasks and every `.yaml` file under `include_paths`; a file takes the
    /// place of a shipped task of the same name, and later paths of earlier ones.
    ///
    /// # Errors
    /// An include path that cannot be read. Files in it that are not task files are skipped; those
    /// that are not YAML are remembered for the error about an unknown task.
    pub fn load(include_paths: &[PathBuf]) -> Result<Self, TaskError> {
        let mut registry = Self {
            tasks: BTreeMap::new(),
            groups: BTreeMap::new(),
            tags: BTreeMap::new(),
            unreadable: Vec::new(),
        };
        for (name, _) in SHIPPED {
            let file = File::Shipped(name);
            registry.insert(read(&file)?);
        }
        for path in include_paths {
            let mut files = Vec::new();
            collect(path, 0, &mut files)?;
            for path in files {
                match read(&File::Path(path)) {
                    Ok(source) => {
                        registry.insert(source);
                    }
                    Err(error) => registry.unreadable.push(error.to_string()),
                }
            }
        }
        registry.index_tags();
        Ok(registry)
    }

    fn index_tags(&mut self) {
        self.tags.clear();
        for (name, source) in &self.tasks {
            for tag in source.tags() {
                self.tags.entry(tag).or_default().insert(name.clone());
            }
        }
    }

    /// Adds a source under its name and returns that name; fragments are not added.
    fn insert(&mut self, source: Source) -> Option<String> {
        let (map, name) = match source.definition() {
            Definition::Task(name) => (&mut self.tasks, name),
            Definition::Group(name) => (&mut self.groups, name),
            Definition::Fragment => return None,
        };
        map.insert(name.clone(), source);
        Some(name)
    }

    /// Everything that can be asked for, tasks first, by name.
    pub fn entries(&self) -> Vec<TaskEntry> {
        let entry = |(name, source): (&String, &Source), is_group| TaskEntry {
            name: name.clone(),
            aliases: ALIASES
                .iter()
                .filter(|(_, of)| of == name)
                .map(|(alias, _)| *alias)
                .collect(),
            tags: source
                .tags()
                .into_iter()
                .filter(|tag| tag != name)
                .collect(),
            source: source.name.clone(),
            is_group,
        };
        let tasks = self.tasks.iter().map(|pair| entry(pair, false));
        tasks
            .chain(self.groups.iter().map(|pair| entry(pair, true)))
            .collect()
    }

    /// The tags and how many tasks each selects.
    pub fn tags(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tags
            .iter()
            .map(|(tag, names)| (tag.as_str(), names.len()))
    }

    /// Reads the tasks that `patterns` stand for. A pattern is a name (in any case), a wildcard
    /// (`*`, `?`, `[abc]`), a tag, a group, a `.yaml` file, or a folder of these; a text may hold
    /// several, separated by commas.
    ///
    /// # Errors
    /// A pattern that fits nothing, with the nearest names, and whatever a file is refused for.
    pub fn resolve(&self, patterns: &[String]) -> Result<Selection, TaskError> {
        let mut chosen = Chosen::default();
        for pattern in patterns.iter().flat_map(|pattern| pattern.split(',')) {
            let pattern = pattern.trim();
            if !pattern.is_empty() {
                self.choose(pattern, &mut chosen)?;
            }
        }
        let mut selection = Selection {
            tasks: Vec::new(),
            groups: chosen.groups.into_values().collect(),
        };
        for name in chosen.tasks {
            let source = chosen.files.get(&name).or_else(|| self.tasks.get(&name));
            let source = source.expect("a chosen name comes from one of these maps");
            selection.tasks.push(source.task()?);
        }
        Ok(selection)
    }

    fn choose(&self, pattern: &str, chosen: &mut Chosen) -> Result<(), TaskError> {
        if pattern.contains(['*', '?', '[']) && !Path::new(pattern).exists() {
            return self.choose_wildcard(pattern, chosen);
        }
        let alias = ALIASES
            .iter()
            .find(|(alias, _)| alias.eq_ignore_ascii_case(pattern));
        let name = match alias {
            Some((alias, _)) if self.tasks.contains_key(*alias) => *alias,
            Some((_, name)) => *name,
            None => pattern,
        };
        if let Some(name) = self.known(name)? {
            return self.choose_name(&name, chosen, &mut Vec::new());
        }
        let path = Path::new(pattern);
        if path.is_file() {
            return self.choose_file(path.to_owned(), chosen);
        }
        if path.is_dir() {
            let mut files = Vec::new();
            collect(path, MAX_FOLDER_DEPTH, &mut files)?;
            return files
                .into_iter()
                .try_for_each(|file| self.choose_file(file, chosen));
        }
        Err(self.unknown(pattern))
    }

    /// The exact name behind a name in any case: of a task, else a group, else a tag.
    fn known(&self, name: &str) -> Result<Option<String>, TaskError> {
        let names = || {
            self.tasks
                .keys()
                .chain(self.groups.keys())
                .chain(self.tags.keys())
        };
        if names().any(|other| other == name) {
            return Ok(Some(name.to_owned()));
        }
        let lower = name.to_lowercase();
        let mut fitting: Vec<&String> = names().filter(|n| n.to_lowercase() == lower).collect();
        fitting.dedup();
        match fitting.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some((*one).clone())),
            several => Err(TaskError::AmbiguousTask {
                pattern: name.to_owned(),
                candidates: several.iter().map(|name| (*name).clone()).collect(),
            }),
        }
    }

    fn choose_name(
        &self,
        name: &str,
        chosen: &mut Chosen,
        within: &mut Vec<String>,
    ) -> Result<(), TaskError> {
        if self.tasks.contains_key(name) {
            chosen.tasks.insert(name.to_owned());
            return Ok(());
        }
        if let Some(source) = self.groups.get(name) {
            return self.choose_group(source, chosen, within);
        }
        if let Some(names) = self.tags.get(name) {
            chosen.tasks.extend(names.iter().cloned());
            return Ok(());
        }
        Err(self.unknown(name))
    }

    fn choose_group(
        &self,
        source: &Source,
        chosen: &mut Chosen,
        within: &mut Vec<String>,
    ) -> Result<(), TaskError> {
        let mut group = source.group()?;
        if within.contains(&group.name) {
            return Err(TaskError::GroupCycle {
                file: source.name.to_string(),
                group: group.name,
            });
        }
        within.push(group.name.clone());
        let mut members = Vec::new();
        for member in &group.members {
            let Some(name) = self.known(member)? else {
                return Err(self.unknown(member));
            };
            match self.tags.get(&name) {
                Some(names)
                    if !self.tasks.contains_key(&name) && !self.groups.contains_key(&name) =>
                {
                    members.extend(names.iter().cloned());
                }
                _ => members.push(name.clone()),
            }
            self.choose_name(&name, chosen, within)?;
        }
        within.pop();
        let mut seen = BTreeSet::new();
        members.retain(|member| seen.insert(member.clone()));
        group.members = members;
        chosen.groups.insert(group.name.clone(), group);
        Ok(())
    }

    fn choose_wildcard(&self, pattern: &str, chosen: &mut Chosen) -> Result<(), TaskError> {
        let Some(wildcard) = wildcard(pattern) else {
            return Err(self.unknown(pattern));
        };
        let names = self
            .tasks
            .keys()
            .chain(self.groups.keys())
            .chain(self.tags.keys());
        let names: BTreeSet<&String> = names.filter(|name| wildcard.is_match(name)).collect();
        if names.is_empty() {
            return Err(self.unknown(pattern));
        }
        let mut names = names.into_iter();
        names.try_for_each(|name| self.choose_name(name, chosen, &mut Vec::new()))
    }

    fn choose_file(&self, path: PathBuf, chosen: &mut Chosen) -> Result<(), TaskError> {
        let source = read(&File::Path(path))?;
        match source.definition() {
            Definition::Task(name) => {
                chosen.tasks.insert(name.clone());
                chosen.files.insert(name, source);
                Ok(())
            }
            Definition::Group(_) => self.choose_group(&source, chosen, &mut Vec::new()),
            Definition::Fragment => Err(TaskError::MissingKey {
                file: source.name.to_string(),
                owner: "a task file",
                key: "task",
            }),
        }
    }

    fn unknown(&self, pattern: &str) -> TaskError {
        let names = self
            .tasks
            .keys()
            .chain(self.groups.keys())
            .chain(self.tags.keys());
        let names = names
            .map(String::as_str)
            .chain(ALIASES.map(|(alias, _)| alias));
        TaskError::UnknownTask {
            pattern: pattern.to_owned(),
            nearest: nearest(pattern, names),
            unreadable: self.unreadable.clone(),
        }
    }
}

#[derive(Default)]
struct Chosen {
    tasks: BTreeSet<String>,
    groups: BTreeMap<String, GroupConfig>,
    /// Tasks read from files named in a pattern.
    files: BTreeMap<String, Source>,
}

/// A shell wildcard over the whole name, in any case.
fn wildcard(pattern: &str) -> Option<regex::Regex> {
    let mut expression = String::from("(?is)^");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => match rest
                .split_once(']')
                .filter(|(set, _)| !set.is_empty() && *set != "!")
            {
                Some((set, tail)) => {
                    let (negated, set) = match set.strip_prefix('!') {
                        Some(set) => ("^", set),
                        None => ("", set),
                    };
                    // `-` keeps its meaning of a range.
                    let set = regex::escape(set).replace("\\-", "-");
                    expression.push_str(&format!("[{negated}{set}]"));
                    rest = tail;
                }
                None => expression.push_str("\\["),
            },
            c => expression.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    regex::Regex::new(&expression).ok()
}

/// A task file: one that the program carries, or one on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum File {
    Shipped(&'static str),
    Path(PathBuf),
}

impl File {
    fn name(&self) -> String {
        match self {
            Self::Shipped(name) => format!("{BUILTIN}{name}"),
            Self::Path(path) => path.display().to_string(),
        }
    }

    fn text(&self) -> Result<String, TaskError> {
        match self {
            Self::Shipped(name) => {
                let found = SHIPPED.iter().find(|(other, _)| other == name);
                Ok(found.map_or("", |(_, text)| *text).to_owned())
            }
            Self::Path(path) => {
                let io = |source| TaskError::Io {
                    path: path.clone(),
                    source,
                };
                let bytes = std::fs::metadata(path).map_err(io)?.len();
                if bytes > MAX_FILE_BYTES {
                    let problem =
                        format!("{bytes} bytes, a task file has at most {MAX_FILE_BYTES}");
                    return Err(io(std::io::Error::other(problem)));
                }
                std::fs::read_to_string(path).map_err(io)
            }
        }
    }

    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Shipped(_) => None,
            Self::Path(path) => path.parent().map(Path::to_owned),
        }
    }

    /// The file that an `include` names, seen from this one.
    fn included(&self, name: &str) -> Option<Self> {
        if let Some(name) = name.strip_prefix(BUILTIN) {
            let found = SHIPPED.iter().find(|(other, _)| *other == name);
            return found.map(|(name, _)| Self::Shipped(name));
        }
        let folder = self.folder().unwrap_or_default();
        Some(Self::Path(folder.join(name)))
    }
}

/// Reads a file and what it includes.
fn read(file: &File) -> Result<Source, TaskError> {
    let mut num_files = 0;
    let mut entries = entries(file, &mut Vec::new(), &mut num_files)?;
    entries.retain(|entry| entry.key != "include");
    Ok(Source {
        name: Arc::from(file.name()),
        folder: file.folder(),
        entries,
    })
}

/// The top-level entries of a file over those of its includes: the file overrides all, and of a
/// list of includes the earlier override the later.
fn entries(
    file: &File,
    within: &mut Vec<File>,
    num_files: &mut usize,
) -> Result<Vec<Entry>, TaskError> {
    let root = yaml::parse(&file.name(), &file.text()?, Repeated::Replaces)?;
    let own = match root.data {
        Data::Map(entries) => entries,
        Data::Null => Vec::new(),
        _ => {
            return Err(TaskError::BadValue {
                found: root.kind().to_owned(),
                place: root.place,
                key: "a task file".to_owned(),
                expected: "a mapping at its top".to_owned(),
            });
        }
    };
    let source = Source {
        name: Arc::from(file.name()),
        folder: None,
        entries: own,
    };
    let includes = source.includes()?;
    let mut merged: Vec<Entry> = Vec::new();
    within.push(file.clone());
    for name in includes.iter().rev() {
        let refuse = |problem: String| TaskError::Include {
            place: place_of(&source, "include").unwrap_or_else(|| root.place.clone()),
            included: name.clone(),
            problem,
        };
        let Some(next) = file.included(name) else {
            return Err(refuse("no shipped task has this name".to_owned()));
        };
        *num_files += 1;
        if within.contains(&next) {
            return Err(refuse("a file cannot include itself".to_owned()));
        }
        if within.len() > MAX_INCLUDE_DEPTH || *num_files > MAX_INCLUDED_FILES {
            return Err(refuse(format!(
                "more than {MAX_INCLUDE_DEPTH} levels or {MAX_INCLUDED_FILES} files"
            )));
        }
        let included = match entries(&next, within, num_files) {
            Err(TaskError::Io { path, source }) => {
                return Err(refuse(format!("{}: {source}", path.display())));
            }
            other => other?,
        };
        override_with(&mut merged, included);
    }
    within.pop();
    override_with(&mut merged, source.entries);
    Ok(merged)
}

fn override_with(base: &mut Vec<Entry>, over: Vec<Entry>) {
    for entry in over {
        match base.iter_mut().find(|other| other.key == entry.key) {
            Some(slot) => *slot = entry,
            None => base.push(entry),
        }
    }
}

/// The `.yaml` files of a folder and its subfolders, in byte order of their paths.
fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), TaskError> {
    let io = |source| TaskError::Io {
        path: folder.to_owned(),
        source,
    };
    let listing = std::fs::read_dir(folder).map_err(io)?;
    let mut entries = listing.collect::<Result<Vec<_>, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they may lead back.
        if entry.file_type().map_err(io)?.is_dir() {
            if depth < MAX_FOLDER_DEPTH {
                collect(&path, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            if files.len() == MAX_FILES {
                let problem = format!("more than {MAX_FILES} task files");
                return Err(io(std::io::Error::other(problem)));
            }
            files.push(path);
        }
    }
    Ok(())
}
