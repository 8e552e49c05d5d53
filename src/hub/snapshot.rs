//! A whole model: the files that a loader needs, and no others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::{Hub, Listing, RepoKind};
use super::error::HubError;

/// Files beside the weights that a loader may read.
const SMALL_FILES: [&str; 14] = [
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "README.md",
];
const WEIGHTS: &str = "model.safetensors";
/// The weights of a LoRA adapter, which has no others.
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a shard index. The largest published ones have 10 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

impl Hub {
    /// Brings a model to this machine: a folder with its configuration, tokenizer and safetensors
    /// weights (an adapter's if that is all), or its one GGUF file where it has no safetensors.
    ///
    /// # Errors
    /// As [`Hub::file`]; no weights that can be read; several GGUF files to choose from.
    pub fn model(&self, id: &str, revision: Option<&str>) -> Result<PathBuf, HubError> {
        let listing = self.list(RepoKind::Model, id, revision)?;
        let weights = self.weights(id, revision, &listing)?;
        if let [gguf] = weights.as_slice()
            && is_gguf(gguf)
        {
            return self.file(RepoKind::Model, id, revision, gguf);
        }
        let small = SMALL_FILES
            .iter()
            .filter(|name| listing.files.iter().any(|f| f == *name));
        let mut folder = None;
        for name in small.map(|name| (*name).to_owned()).chain(weights) {
            let path = self.file(RepoKind::Model, id, revision, &name)?;
            folder = path.parent().map(Path::to_owned);
        }
        folder.ok_or_else(|| HubError::NoModel {
            id: id.to_owned(),
            problem: "the repository is empty".to_owned(),
        })
    }

    fn weights(
        &self,
        id: &str,
        revision: Option<&str>,
        listing: &Listing,
    ) -> Result<Vec<String>, HubError> {
        let has = |name: &str| listing.files.iter().any(|file| file == name);
        if has(INDEX) {
            let index = self.file(RepoKind::Model, id, revision, INDEX)?;
            let mut files = shards(id, &index)?;
            files.push(INDEX.to_owned());
            return Ok(files);
        }
        for weights in [WEIGHTS, ADAPTER_WEIGHTS] {
            if has(weights) {
                return Ok(vec![weights.to_owned()]);
            }
        }
        let ggufs: Vec<&String> = listing.files.iter().filter(|file| is_gguf(file)).collect();
        let problem = match ggufs.as_slice() {
            [one] => return Ok(vec![(*one).clone()]),
            [] => format!(
                "neither {WEIGHTS} nor a GGUF file among {} files (PyTorch .bin files are not read)",
                listing.files.len()
            ),
            several => {
                let names: Vec<&str> = several.iter().take(8).map(|name| name.as_str()).collect();
                format!(
                    "{} GGUF files, download one and give its path: {}",
                    several.len(),
                    names.join(", ")
                )
            }
        };
        Err(HubError::NoModel {
            id: id.to_owned(),
            problem,
        })
    }
}

fn is_gguf(file: &str) -> bool {
    file.to_lowercase().ends_with(".gguf")
}

/// The files that a shard index names.
fn shards(id: &str, index: &Path) -> Result<Vec<String>, HubError> {
    let io = |source| HubError::Io {
        path: index.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(index).map_err(io)?.len();
    let broken = |problem: String| HubError::NoModel {
        id: id.to_owned(),
        problem: format!("{INDEX}: {problem}"),
    };
    if bytes > MAX_INDEX_BYTES {
        return Err(broken(format!("{bytes} bytes, at most {MAX_INDEX_BYTES}")));
    }
    let text = std::fs::read(index).map_err(io)?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| broken("no `weight_map`".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(names.into_iter().map(str::to_owned).collect())
}
