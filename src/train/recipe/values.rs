//! Kinds of values that keys of a recipe have.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinetuningType {
    /// Every weight.
    Full,
    /// Low-rank adapters over frozen weights.
    Lora,
}

/// What happens to a row of more than `cutoff_len` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// It loses its end, as in LLaMA-Factory.
    Cut,
    /// It is left out.
    Drop,
    /// The run does not start.
    Error,
}

/// When something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Never.
    No,
    /// Every so many steps.
    Steps,
    /// At the end of every pass over the data.
    Epoch,
}

/// Where a run starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Resume {
    /// As LLaMA-Factory: from the newest checkpoint of `output_dir` where there is one, unless
    /// `overwrite_output_dir` is set.
    Auto,
    /// From the beginning.
    Fresh,
    /// From the newest checkpoint of `output_dir`, which must have one.
    Newest,
    /// From this checkpoint.
    From(PathBuf),
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Flag(bool),
            Path(PathBuf),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Flag(true) => Self::Newest,
            Written::Flag(false) => Self::Fresh,
            Written::Path(path) => Self::From(path),
        })
    }
}

/// Texts separated by commas, or a YAML list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct List(pub Vec<String>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Items(Vec<String>),
        }
        let items = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.split(',').map(str::to_owned).collect(),
            Written::Items(items) => items,
        };
        let items = items.iter().map(|item| item.trim().to_owned());
        Ok(Self(items.filter(|item| !item.is_empty()).collect()))
    }
}
