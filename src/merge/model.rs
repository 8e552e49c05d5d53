//! The models of a recipe, opened: configuration, tensors, adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::adapter::Adapter;
use super::architecture::Architecture;
use super::dtype::{FloatType, float_type};
use super::error::MergeError;
use super::recipe::{Location, ModelRef};
use super::tensor::Stored;
use crate::formats::{Checkpoint, Source};

/// An opened model.
pub(crate) struct Model {
    /// As the recipe names it.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: Map<String, Value>,
    pub(crate) architecture: &'static Architecture,
    pub(crate) num_layers: usize,
    pub(crate) adapter: Option<Adapter>,
    /// The type that a folded model is kept in.
    pub(crate) folded_dtype: Option<FloatType>,
}

/// All models of a recipe, each opened once, in the order in which they are first named.
#[derive(Default)]
pub(crate) struct Models {
    models: Vec<Model>,
    by_name: BTreeMap<String, usize>,
}

impl Models {
    /// The index of a model, which is opened if it has not been named before.
    pub(crate) fn open(
        &mut self,
        model: &ModelRef,
        options: &OpenOptions<'_>,
    ) -> Result<usize, MergeError> {
        if let Some(index) = self.by_name.get(&model.text) {
            return Ok(*index);
        }
        let index = self.models.len();
        self.models.push(Model::open(model, options)?);
        self.by_name.insert(model.text.clone(), index);
        Ok(index)
    }

    pub(crate) fn get(&self, index: usize) -> &Model {
        &self.models[index]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Model> {
        self.models.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.models.len()
    }
}

/// Gives the local folder of a hub repository (and revision), or one made of a GGUF file, or says
/// why it cannot.
pub type Fetch = dyn Fn(&str, Option<&str>) -> Result<PathBuf, String> + Send + Sync;

/// How models are found and adapted.
pub(crate) struct OpenOptions<'a> {
    /// Gives the local folder of a hub repository.
    pub(crate) fetch: &'a Fetch,
    pub(crate) lora_dtype: Option<FloatType>,
}

impl Model {
    fn open(model: &ModelRef, options: &OpenOptions<'_>) -> Result<Self, MergeError> {
        let name = &model.text;
        let parts = model.parts();
        let folder = locate(name, &parts.model, options)?;
        let checkpoint =
            Checkpoint::open(&folder).map_err(|e| MergeError::model(name, e.to_string()))?;
        let Source::HuggingFace { config, .. } = checkpoint.source() else {
            return Err(MergeError::model(
                name,
                "is a GGUF file; merging needs a Hugging Face folder with safetensors",
            ));
        };
        let config = config.as_object().cloned().unwrap_or_default();
        let architecture = architecture(name, &config)?;
        let num_layers = config
            .get("num_hidden_layers")
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=MAX_LAYERS).contains(n))
            .ok_or_else(|| {
                let problem = format!("config.json: num_hidden_layers must be 1 to {MAX_LAYERS}");
                MergeError::model(name, problem)
            })?;
        let adapter = match &parts.adapter {
            Some(location) => Some(Adapter::open(name, &locate(name, location, options)?)?),
            None => None,
        };
        let mut this = Self {
            name: name.clone(),
            folder,
            checkpoint,
            config,
            architecture,
            num_layers,
            adapter,
            folded_dtype: None,
        };
        if let Some(adapter) = &this.adapter {
            adapter.check_targets(&this)?;
            this.folded_dtype = Some(match options.lora_dtype {
                Some(dtype) => dtype,
                None => this.config_dtype().unwrap_or(FloatType::F32),
            });
        }
        Ok(this)
    }

    /// The type that `config.json` states, in either spelling.
    pub(crate) fn config_dtype(&self) -> Option<FloatType> {
        let name = self.config.get("dtype").or(self.config.get("torch_dtype"));
        FloatType::from_name(name?.as_str()?)
    }

    /// `vocab_size` of the configuration.
    pub(crate) fn vocab_size(&self) -> Option<usize> {
        let size = self.config.get("vocab_size")?.as_u64()?;
        usize::try_from(size).ok()
    }

    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.checkpoint.tensor(tensor).is_some() || self.replacement(tensor).is_some()
    }

    fn replacement(&self, tensor: &str) -> Option<crate::formats::TensorView<'_>> {
        self.adapter.as_ref()?.replacement(tensor)
    }

    /// A tensor's shape and elements, the adapter not folded in.
    pub(crate) fn stored(&self, tensor: &str) -> Result<(&[usize], Stored<'_>), MergeError> {
        let view = self
            .replacement(tensor)
            .or_else(|| self.checkpoint.tensor(tensor));
        let view = view.ok_or_else(|| MergeError::MissingTensor {
            model: self.name.clone(),
            tensor: tensor.to_owned(),
            architecture: self.architecture.name,
        })?;
        let dtype = float_type(view.dtype).ok_or_else(|| {
            let problem = format!("tensor {tensor} is stored as {}, not as floats", view.dtype);
            MergeError::model(&self.name, problem)
        })?;
        let stored = Stored {
            bytes: view.data,
            dtype,
            through: self.folded_dtype,
        };
        Ok((view.shape, stored))
    }
}

/// More layers than any model has; a larger count is a damaged file.
const MAX_LAYERS: usize = 10_000;

fn architecture(
    name: &str,
    config: &Map<String, Value>,
) -> Result<&'static Architecture, MergeError> {
    let found = config
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str)
        .ok_or_else(|| MergeError::model(name, "config.json names no architecture"))?;
    Architecture::by_name(found).ok_or_else(|| {
        let known = Architecture::names();
        let problem = format!("architecture {found} is not supported; supported are {known}");
        MergeError::model(name, problem)
    })
}

fn locate(
    model: &str,
    location: &Location,
    options: &OpenOptions<'_>,
) -> Result<PathBuf, MergeError> {
    let path = Path::new(&location.path);
    if path.exists() && path.extension().is_none_or(|found| found != "gguf") {
        return Ok(path.to_owned());
    }
    let revision = location.revision.as_deref();
    (options.fetch)(&location.path, revision).map_err(|problem| MergeError::model(model, problem))
}
