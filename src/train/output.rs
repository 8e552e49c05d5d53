//! The files of a trained model or adapter: weights as trained (f32), and what describes them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::TrainError;
use super::adapter::{self, AdapterConfig};
use super::layout::Layout;
use super::log::write_json;
use super::optimizer::Parameter;
use super::tensors;
use crate::durable::write_atomic;
use crate::formats::{Tokenizer, read_json_object};

/// The weights of a fully trained model.
pub(super) const MODEL_FILE: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Tokenizer files of the starting model that go on unchanged.
const COPIED: &[&str] = &[
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.json",
    CHAT_TEMPLATE,
];

/// What is written beside the weights, the same in every checkpoint.
pub(super) struct Companions {
    base: PathBuf,
    adapter: Option<AdapterConfig>,
    files: Vec<(&'static str, Value)>,
    chat_template: Option<String>,
}

impl Companions {
    /// Works out the files for a model trained from `base` in a layout whose turns end with
    /// `eos`: that token becomes the tokenizer's EOS and one of those that end a generation, and a
    /// tokenizer without a padding token gets it as that too, as LLaMA-Factory does.
    ///
    /// # Errors
    /// A file of the starting model is malformed.
    pub(super) fn new(
        base: &Path,
        layout: &Layout,
        tokenizer: &Tokenizer,
        eos: &str,
        adapter: Option<AdapterConfig>,
    ) -> Result<Self, TrainError> {
        let eos_id = tokenizer.id(eos);
        let pad_id = tokenizer.pad_token_id().or(eos_id);
        let mut files = Vec::new();
        if let Some(mut config) = read_json_object(&base.join(TOKENIZER_CONFIG))? {
            if tokenizer.eos_token() != Some(eos) {
                config.insert("eos_token".into(), json!(eos));
            }
            if tokenizer.pad_token().is_none() {
                config.insert("pad_token".into(), json!(eos));
            }
            files.push((TOKENIZER_CONFIG, Value::Object(config)));
        }
        if adapter.is_none() {
            if let Some(mut config) = read_json_object(&base.join(CONFIG))? {
                let dtype = if config.contains_key("torch_dtype") {
                    "torch_dtype"
                } else {
                    "dtype"
                };
                config.insert(dtype.into(), json!("float32"));
                if let Some(id) = eos_id {
                    config.insert("eos_token_id".into(), json!(id));
                }
                if let Some(id) = pad_id {
                    config.insert("pad_token_id".into(), json!(id));
                }
                files.push((CONFIG, Value::Object(config)));
            }
            let generation = read_json_object(&base.join(GENERATION_CONFIG))?;
            let mut generation = generation.unwrap_or_default();
            add_eos(&mut generation, eos_id);
            files.push((GENERATION_CONFIG, Value::Object(generation)));
        }
        let has_own = tokenizer.chat_template().is_some();
        let named = layout.named();
        let named = named.filter(|named| named.replaces_chat_template || !has_own);
        let bos = tokenizer.bos_token().unwrap_or("");
        let chat_template = named.map(|named| named.to_jinja(bos, eos));
        Ok(Self {
            base: base.to_owned(),
            adapter,
            files,
            chat_template,
        })
    }

    /// Writes weights and companions into `folder`, which exists.
    ///
    /// # Errors
    /// A file cannot be copied or written.
    pub(super) fn write(&self, folder: &Path, parameters: &[Parameter]) -> Result<(), TrainError> {
        for name in COPIED {
            let source = self.base.join(name);
            let replaced = *name == CHAT_TEMPLATE && self.chat_template.is_some();
            if replaced || !source.exists() {
                continue;
            }
            let contents = fs::read(&source).map_err(|error| TrainError::Io {
                path: source.clone(),
                error,
            })?;
            write_file(&folder.join(name), &contents)?;
        }
        if let Some(template) = &self.chat_template {
            write_file(&folder.join(CHAT_TEMPLATE), template.as_bytes())?;
        }
        for (name, contents) in &self.files {
            let mut contents = contents.clone();
            if *name == TOKENIZER_CONFIG
                && self.chat_template.is_some()
                && let Some(config) = contents.as_object_mut()
            {
                config.remove("chat_template");
            }
            write_json(&folder.join(name), &contents)?;
        }
        if let Some(adapter) = &self.adapter {
            let config = adapter.to_json(&self.base.to_string_lossy());
            write_json(&folder.join(adapter::CONFIG_FILE), &config)?;
        }
        write_weights(&folder.join(self.weights_file()), &self.named(parameters))
    }

    /// Whether the trained model gets a chat template made from the layout.
    pub(super) fn replaces_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// The name of the file that holds the weights.
    pub(super) fn weights_file(&self) -> &'static str {
        match self.adapter {
            Some(_) => adapter::WEIGHTS_FILE,
            None => MODEL_FILE,
        }
    }

    /// The parameters under the names that they have in files.
    pub(super) fn named<'a>(&self, parameters: &'a [Parameter]) -> Vec<(String, &'a Parameter)> {
        let prefix = match self.adapter {
            Some(_) => adapter::PREFIX,
            None => "",
        };
        parameters
            .iter()
            .map(|parameter| (format!("{prefix}{}", parameter.name), parameter))
            .collect()
    }
}

fn write_weights(path: &Path, named: &[(String, &Parameter)]) -> Result<(), TrainError> {
    let tensors: Vec<_> = named
        .iter()
        .map(|(name, parameter)| (name.clone(), parameter.var.as_tensor()))
        .collect();
    tensors::write(path, &tensors)
}

fn write_file(path: &Path, contents: &[u8]) -> Result<(), TrainError> {
    write_atomic(path, contents).map_err(|error| TrainError::Io {
        path: path.to_owned(),
        error,
    })
}

/// Puts an id first among those that end a generation.
fn add_eos(config: &mut Map<String, Value>, id: Option<u32>) {
    let Some(id) = id else { return };
    let mut ids = vec![json!(id)];
    match config.get("eos_token_id") {
        Some(Value::Array(before)) => ids.extend(
            before
                .iter()
                .filter(|b| **b != ids[0])
                .cloned()
                .collect::<Vec<_>>(),
        ),
        Some(Value::Number(before)) if json!(before) != ids[0] => ids.push(json!(before)),
        _ => {}
    }
    config.insert("eos_token_id".into(), Value::Array(ids));
}
