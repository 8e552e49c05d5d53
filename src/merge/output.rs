//! The output folder: complete or absent.
//!
//! Everything is written into a hidden folder beside the output and renamed at the end. A merge
//! that was killed leaves that folder behind; the next one into the same place removes it, unless
//! a living process holds its lock.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::MergeError;
use crate::durable::{free_bytes, write_atomic};

/// Room for everything besides the tensors.
const SPARE_BYTES: u64 = 64 << 20;

/// Names of files that a merge writes; a folder that holds nothing else may be replaced.
const OWN_FILES: &[&str] = &[
    "README.md",
    "mergekit_config.yml",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "vocab.json",
];

/// Tokenizer files that are copied from the donor as they are.
pub(crate) const TOKENIZER_FILES: &[&str] = &[
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
/// Kept whatever happens to the tokenizer.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// An output folder under construction.
pub(crate) struct OutputFolder {
    target: PathBuf,
    partial: PathBuf,
    /// Holds the lock on `partial`.
    _lock: File,
    done: bool,
}

impl OutputFolder {
    /// Checks that the output can be written, without writing anything.
    pub(crate) fn check(target: &Path, bytes: u64) -> Result<(), MergeError> {
        let fail = |problem: String| MergeError::Output {
            path: target.to_owned(),
            problem,
        };
        if target.file_name().is_none() {
            return Err(fail("is no name for a new folder".to_owned()));
        }
        if target.exists() && !target.is_dir() {
            return Err(fail("is a file; name a folder".to_owned()));
        }
        if let Some(foreign) = foreign_file(target).map_err(|e| MergeError::io(target, e))? {
            return Err(fail(format!(
                "holds {foreign}, which no merge has written; name a new folder or move it away"
            )));
        }
        let free = free_bytes(target).map_err(|e| MergeError::io(target, e))?;
        let needed = bytes.saturating_add(SPARE_BYTES);
        if free < needed {
            return Err(fail(format!(
                "the merge needs {} MB, and {} MB are free there",
                needed / 1_000_000,
                free / 1_000_000
            )));
        }
        Ok(())
    }

    /// Starts the folder, after [`OutputFolder::check`].
    pub(crate) fn create(target: &Path) -> Result<Self, MergeError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let partial = parent.join(format!(".{name}.merging"));
        let io = |error| MergeError::io(&partial, error);
        std::fs::create_dir_all(&partial).map_err(io)?;
        let lock = File::open(&partial).map_err(io)?;
        if lock.try_lock().is_err() {
            return Err(MergeError::Output {
                path: target.to_owned(),
                problem: "another merge is writing there".to_owned(),
            });
        }
        // What an interrupted merge has left.
        for entry in std::fs::read_dir(&partial).map_err(io)? {
            let path = entry.map_err(io)?.path();
            std::fs::remove_file(&path).map_err(|e| MergeError::io(&path, e))?;
        }
        Ok(Self {
            target: target.to_owned(),
            partial,
            _lock: lock,
            done: false,
        })
    }

    /// The folder to write into.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> Result<(), MergeError> {
        let path = self.partial.join(name);
        write_atomic(&path, contents).map_err(|e| MergeError::io(&path, e))
    }

    /// Copies a file of a model, if the model has it.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<(), MergeError> {
        let path = from.join(name);
        if !path.is_file() {
            return Ok(());
        }
        let contents = std::fs::read(&path).map_err(|e| MergeError::io(&path, e))?;
        self.write(name, &contents)
    }

    /// Puts the folder in its place; an earlier merge there is replaced.
    pub(crate) fn finish(mut self) -> Result<(), MergeError> {
        let io = |error| MergeError::io(&self.target, error);
        if self.target.exists() {
            let name = self
                .target
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let old = self.target.with_file_name(format!(".{name}.replaced"));
            if old.exists() {
                std::fs::remove_dir_all(&old).map_err(io)?;
            }
            std::fs::rename(&self.target, &old).map_err(io)?;
            std::fs::rename(&self.partial, &self.target).map_err(io)?;
            std::fs::remove_dir_all(&old).map_err(io)?;
        } else {
            std::fs::rename(&self.partial, &self.target).map_err(io)?;
        }
        let parent = self.partial.parent().unwrap_or(Path::new("."));
        File::open(parent).and_then(|f| f.sync_all()).map_err(io)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.done {
            // The error that led here is the one worth reporting.
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

/// The first entry of a folder that no merge writes.
fn foreign_file(folder: &Path) -> std::io::Result<Option<String>> {
    if !folder.exists() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name.starts_with("model-") && name.ends_with(".safetensors");
        let own = OWN_FILES.contains(&name.as_str())
            || TOKENIZER_FILES.contains(&name.as_str())
            || name == GENERATION_CONFIG
            || shard;
        if !own || !entry.file_type()?.is_file() {
            return Ok(Some(name));
        }
    }
    // A folder of weights without the recipe beside them may be someone's model.
    let merged = folder.join("mergekit_config.yml").exists();
    let empty = std::fs::read_dir(folder)?.next().is_none();
    Ok((!merged && !empty).then(|| "a model without mergekit_config.yml".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_merge_leaves_nothing_and_a_finished_one_replaces() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let folder = OutputFolder::create(&target).unwrap();
        folder.write("config.json", b"{}").unwrap();
        assert!(OutputFolder::create(&target).is_err(), "locked");
        drop(folder);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        for contents in ["1", "2"] {
            OutputFolder::check(&target, 10).unwrap();
            let folder = OutputFolder::create(&target).unwrap();
            folder
                .write("mergekit_config.yml", contents.as_bytes())
                .unwrap();
            folder.finish().unwrap();
            let written = std::fs::read_to_string(target.join("mergekit_config.yml"));
            assert_eq!(written.unwrap(), contents);
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn foreign_files_and_impossible_sizes_are_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(OutputFolder::check(&root.path().join("new"), u64::MAX).is_err());
        std::fs::write(root.path().join("thesis.tex"), b"").unwrap();
        let error = OutputFolder::check(root.path(), 1).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
    }
}
