//! Where a model is: the one reading of `--model` that all commands share.
//!
//! A name is a folder with safetensors, a GGUF file, a LoRA adapter's folder (whose configuration
//! names its base), or a hub repository `OWNER/NAME`, each with `@REVISION` where it comes from the
//! hub and `+ADAPTER` where an adapter is to be folded in: `base@v2+adapter`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, anyhow, bail};
use serde_json::json;
use tempfile::TempDir;

use super::exit::usage;
use super::notice::notice;
use super::prompting::hub;
use crate::convert::{FolderOptions, to_folder};
use crate::formats::{Checkpoint, Source, read_json_object};
use crate::merge::{Fetch, Merge, MergeOptions, Randomness, Recipe};

const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A model on this machine, to be opened at [`ModelSource::path`].
///
/// What was made for it (an adapter folded in, a GGUF file as a folder) stands in the folder for
/// temporary files and goes when this is dropped.
#[derive(Debug)]
pub(super) struct ModelSource {
    path: PathBuf,
    made: Option<TempDir>,
}

impl ModelSource {
    /// Finds what a user names.
    ///
    /// # Errors
    /// There is no such file, folder or repository, an adapter does not fit its base, or the disk
    /// has no room for what must be made.
    pub(super) fn find(name: &str) -> anyhow::Result<Self> {
        Self::find_at(name, None, None)
    }

    /// As [`Self::find`], with a revision and an adapter that were named apart.
    pub(super) fn find_at(
        name: &str,
        revision: Option<&str>,
        adapter: Option<&str>,
    ) -> anyhow::Result<Self> {
        let (base, in_name) = match name.split_once('+') {
            Some((base, adapter)) if !Path::new(name).exists() => (base, Some(adapter)),
            _ => (name, None),
        };
        let base = locate(base, revision)?;
        if let Some(adapter) = adapter.or(in_name) {
            return fold(&base, &locate(adapter, None)?);
        }
        if is_adapter(&base) {
            let named = base_of(&base)?;
            let located = locate(&named, None)
                .or_else(|error| {
                    let beside = base.join(&named);
                    if beside.exists() {
                        Ok(beside)
                    } else {
                        Err(error)
                    }
                })
                .with_context(|| format!("the base of the adapter {}", base.display()))?;
            return fold(&located, &base);
        }
        Ok(Self {
            path: base,
            made: None,
        })
    }

    /// Where the model is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the model was made for this run and goes with it.
    pub(super) fn is_temporary(&self) -> bool {
        self.made.is_some()
    }

    /// The model as a folder with safetensors, for what cannot work on a GGUF file.
    pub(super) fn into_folder(self) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(&self.path)?;
        if matches!(checkpoint.source(), Source::HuggingFace { .. }) {
            return Ok(self);
        }
        notice(&format!(
            "{} is taken as a folder of safetensors",
            self.path.display()
        ));
        let made = temporary()?;
        let path = made.path().join("model");
        to_folder(&checkpoint, &path, &FolderOptions::default(), &|_| {})?;
        Ok(Self {
            path,
            made: Some(made),
        })
    }
}

/// Gives the merger folders for hub repositories and GGUF files.
pub(super) fn fetch() -> Box<Fetch> {
    let kept = Mutex::new(Vec::new());
    Box::new(move |name, revision| {
        let found = ModelSource::find_at(name, revision, None)
            .and_then(|source| {
                if is_adapter(&source.path) {
                    return Ok(source);
                }
                source.into_folder()
            })
            .map_err(|error| format!("{error:#}"))?;
        let path = found.path.clone();
        // A poisoned lock only means that another thread has failed, which is told there.
        kept.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(found);
        Ok(path)
    })
}

/// A path, or what the hub brings.
fn locate(name: &str, revision: Option<&str>) -> anyhow::Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let (id, revision) = match name.rsplit_once('@') {
        Some((id, own)) => (id, Some(own)),
        None => (name, revision),
    };
    let looks_like_id = id.split('/').count() == 2
        && !id.starts_with(['.', '/', '~'])
        && !id.ends_with('/')
        && Path::new(id)
            .extension()
            .is_none_or(|found| found != "gguf");
    if !looks_like_id {
        return Err(usage(anyhow!(
            "--model {name}: no such file or folder, and no hub name (OWNER/NAME) either"
        )));
    }
    hub().model(id, revision).with_context(|| {
        format!("--model {name}: not a path here, so it was looked for on the hub")
    })
}

fn is_adapter(path: &Path) -> bool {
    path.join(ADAPTER_CONFIG).exists() && !path.join(CONFIG).exists()
}

/// The base that an adapter's configuration names.
fn base_of(adapter: &Path) -> anyhow::Result<String> {
    let path = adapter.join(ADAPTER_CONFIG);
    let config = read_json_object(&path)?.unwrap_or_default();
    let base = config.get("base_model_name_or_path");
    let base = base
        .and_then(|base| base.as_str())
        .filter(|base| !base.is_empty());
    base.map(str::to_owned).with_context(|| {
        format!(
            "{}: base_model_name_or_path names no model; name it yourself: --model BASE+{}",
            path.display(),
            adapter.display()
        )
    })
}

/// The base with the adapter folded in, as a folder of its own.
fn fold(base: &Path, adapter: &Path) -> anyhow::Result<ModelSource> {
    if !adapter.join(ADAPTER_CONFIG).exists() {
        bail!(
            "{}: expected an adapter with {ADAPTER_CONFIG}",
            adapter.display()
        );
    }
    notice(&format!(
        "folding the adapter {} into {}",
        adapter.display(),
        base.display()
    ));
    let base = ModelSource {
        path: base.to_owned(),
        made: None,
    }
    .into_folder()?;
    // Names that no path has, so that any path may stand behind them.
    let recipe = json!({
        "merge_method": "passthrough",
        "models": [{ "model": "micota:base+micota:adapter" }],
    });
    let recipe = Recipe::parse(&recipe.to_string(), false)?;
    let (base_path, adapter_path) = (base.path.clone(), adapter.to_owned());
    let options = MergeOptions {
        randomness: Randomness::Counter(0),
        shard_bytes: 5_000_000_000,
        copy_tokenizer: true,
        write_card: false,
        allow_crimes: false,
        truncate_embeddings: false,
        lenient: false,
        lora_dtype: None,
        threads: None,
        fetch: Box::new(move |name, _| match name {
            "micota:base" => Ok(base_path.clone()),
            "micota:adapter" => Ok(adapter_path.clone()),
            other => Err(format!("{other} is no part of this")),
        }),
    };
    let merge = Merge::prepare(&recipe, options)?;
    for warning in &merge.warnings {
        notice(&format!("warning: {warning}"));
    }
    let made = temporary()?;
    let path = made.path().join("model");
    merge.write(&path, &|_| {})?;
    Ok(ModelSource {
        path,
        made: Some(made),
    })
}

fn temporary() -> anyhow::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("micota-")
        .tempdir()
        .context("no temporary folder (TMPDIR says where)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nothing_is_refused() {
        for name in ["./none", "none", "a/b/c", "none.gguf", "owner/none.gguf"] {
            let error = ModelSource::find(name).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("OWNER/NAME"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_adapter_without_a_base_says_how_to_name_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ADAPTER_CONFIG), "{}").unwrap();
        let name = folder.path().to_str().unwrap();
        let error = ModelSource::find(name).unwrap_err().to_string();
        assert!(error.contains("--model BASE+"), "{error}");
    }
}
