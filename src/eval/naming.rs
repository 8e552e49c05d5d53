//! Names of output files, as lm-evaluation-harness forms them, so that its readers find them.

use std::path::{Path, PathBuf};

/// Where a run's files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFiles {
    folder: PathBuf,
    /// What stands before `_{date}.json` in the results file's name.
    stem: String,
    date: String,
}

impl OutputFiles {
    /// From `--output_path`: a path that ends in `.json` names the results file (the date is put
    /// before its ending) and its folder; any other path is a folder that gets one per model.
    pub fn new(output_path: &Path, model_name: &str, date: &str) -> Self {
        let is_json = output_path.extension().is_some_and(|e| e == "json");
        let (folder, stem) = if is_json {
            let stem = output_path.file_stem().unwrap_or_default();
            let folder = output_path.parent().unwrap_or(Path::new(""));
            (folder.to_owned(), stem.to_string_lossy().into_owned())
        } else {
            let folder = output_path.join(sanitize_model_name(model_name));
            (folder, "results".to_owned())
        };
        let date = date.to_owned();
        Self { folder, stem, date }
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The results file.
    pub fn results(&self) -> PathBuf {
        self.folder
            .join(format!("{}_{}.json", self.stem, self.date))
    }

    /// A task's samples file.
    pub fn samples(&self, task: &str) -> PathBuf {
        let task = task.replace('/', "__");
        self.folder
            .join(format!("samples_{task}_{}.jsonl", self.date))
    }

    /// The journal of a finished run, beside its results.
    pub fn journal(&self) -> PathBuf {
        self.folder.join(format!("journal_{}.jsonl", self.date))
    }
}

/// The task of a samples file, from its name: `samples_{task}_{date}.jsonl`.
pub fn task_of_samples_file(name: &str) -> Option<&str> {
    let stem = name.strip_prefix("samples_")?.strip_suffix(".jsonl")?;
    let (task, date) = stem.rsplit_once('_')?;
    date.starts_with(|c: char| c.is_ascii_digit())
        .then_some(task)
}

/// Replaces every run of characters that a file name cannot hold by `__`: `saves/model` becomes
/// `saves__model`.
pub fn sanitize_model_name(name: &str) -> String {
    const FORBIDDEN: &str = "\"<>:/\\|?*[]";
    let mut out = String::with_capacity(name.len());
    let mut in_run = false;
    for c in name.chars() {
        if !FORBIDDEN.contains(c) {
            out.push(c);
        } else if !in_run {
            out.push_str("__");
        }
        in_run = FORBIDDEN.contains(c);
    }
    out
}

/// The model's name in `--model_args` text: the value of the first present of these keys, by
/// substring search and up to the next comma, as the reference finds it; empty without any.
pub fn model_name_of_args(model_args: &str) -> &str {
    const KEYS: [&str; 6] = [
        "peft=",
        "delta=",
        "pretrained=",
        "model=",
        "path=",
        "engine=",
    ];
    for key in KEYS {
        if let Some((_, value)) = model_args.split_once(key) {
            return value.split(',').next().unwrap_or_default();
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gets_one_per_model_and_a_json_path_its_own_name() {
        let date = "2025-07-01T12-00-00.000000";
        let files = OutputFiles::new(Path::new("out"), "saves/model", date);
        assert_eq!(
            files.results(),
            Path::new("out/saves__model/results_2025-07-01T12-00-00.000000.json")
        );
        assert_eq!(
            files.samples("AIME"),
            Path::new("out/saves__model/samples_AIME_2025-07-01T12-00-00.000000.jsonl")
        );
        let files = OutputFiles::new(Path::new("out/mine.json"), "saves/model", date);
        assert_eq!(
            files.results(),
            Path::new("out/mine_2025-07-01T12-00-00.000000.json")
        );
        assert_eq!(files.folder(), Path::new("out"));
    }

    #[test]
    fn names_are_sanitised_run_by_run() {
        assert_eq!(sanitize_model_name("a/b//c:[d]"), "a__b__c__d__");
        assert_eq!(sanitize_model_name("/abs"), "__abs");
    }

    #[test]
    fn the_model_is_found_in_its_arguments() {
        assert_eq!(
            model_name_of_args("pretrained=saves/m,dtype=auto"),
            "saves/m"
        );
        assert_eq!(model_name_of_args("pretrained=a,peft=b"), "b");
        assert_eq!(model_name_of_args("base_model=x"), "x");
        assert_eq!(model_name_of_args("dtype=auto"), "");
    }
}
