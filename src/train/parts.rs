//! What a run starts from: the model's weights and adapters, and which of them are trained.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;

use super::adapter::{self, AdapterConfig};
use super::recipe::{FinetuningType, Recipe};
use super::trainer::Trained;
use super::{TrainError, init};
use crate::formats::{Checkpoint, read_json_object};
use crate::model::{DecoderSpec, Model, spec_from_config};

/// Families whose decoder has gradients here.
const TRAINABLE: &[&str] = &["qwen2", "qwen3", "llama", "mistral"];

/// What the model is and what is trained of it.
pub(super) struct Parts {
    pub(super) spec: DecoderSpec,
    pub(super) weights: BTreeMap<String, Tensor>,
    pub(super) trained: Trained,
    pub(super) adapter: Option<AdapterConfig>,
    /// Tells one starting point from another.
    pub(super) fingerprint: String,
}

impl Parts {
    /// Loads, or makes, what a recipe starts from.
    ///
    /// # Errors
    /// A model or an adapter is missing, does not fit, or cannot be trained here.
    pub(super) fn load(recipe: &Recipe) -> Result<Self, TrainError> {
        let folder = recipe.model_name_or_path.as_path();
        let trainable = |spec: &DecoderSpec| {
            let known = TRAINABLE.join(", ");
            let found = spec.family;
            let message =
                format!("model_name_or_path: expected a model of {known} to train, found {found}");
            TRAINABLE
                .contains(&found)
                .then_some(())
                .ok_or(TrainError::Setting(message))
        };
        if recipe.train_from_scratch {
            let (spec, std) = untrained(folder)?;
            trainable(&spec)?;
            return Ok(Parts {
                weights: init::random(&spec, std, recipe.seed)?,
                fingerprint: format!("from scratch, seed {}", recipe.seed),
                spec,
                trained: Trained::Full,
                adapter: None,
            });
        }
        let checkpoint = Arc::new(Checkpoint::open(folder)?);
        let mut fingerprint = checkpoint.fingerprint().to_owned();
        let model = Model::from_checkpoint(checkpoint)?;
        trainable(&model.spec)?;
        let mut weights = init::from_model(&model)?;
        let spec = model.spec;
        if recipe.finetuning_type == FinetuningType::Full {
            return Ok(Parts {
                spec,
                weights,
                trained: Trained::Full,
                adapter: None,
                fingerprint,
            });
        }
        let mut earlier: Vec<&String> = recipe.adapter_name_or_path.0.iter().collect();
        let continued = if recipe.create_new_adapter {
            None
        } else {
            earlier.pop()
        };
        for path in earlier {
            fold(Path::new(path), &spec, &mut weights)?;
            fingerprint.push_str(&format!(" + {path}"));
        }
        let (config, adapters) = match continued {
            Some(path) => {
                let (config, adapters, replaced) = adapter::open(Path::new(path), &spec, &weights)?;
                weights.extend(replaced);
                fingerprint.push_str(&format!(" + {path}"));
                (config, adapters)
            }
            None => {
                let config = AdapterConfig::from_recipe(recipe);
                let adapters = adapter::fresh(&config, &spec, &weights, recipe.seed)?;
                (config, adapters)
            }
        };
        if let Some(path) = &recipe.adapter_init {
            adapter::load_tensors(path, &adapters)?;
        }
        let whole = config
            .full_weights(&spec, &weights)
            .map_err(TrainError::Setting)?;
        Ok(Parts {
            spec,
            weights,
            trained: Trained::Adapters {
                adapters,
                weights: whole,
            },
            adapter: Some(config),
            fingerprint,
        })
    }
}

/// Merges an adapter into the weights.
fn fold(
    path: &Path,
    spec: &DecoderSpec,
    weights: &mut BTreeMap<String, Tensor>,
) -> Result<(), TrainError> {
    let (_, adapters, replaced) = adapter::open(path, spec, weights)?;
    weights.extend(replaced);
    for (module, adapter) in &adapters {
        if let Some(weight) = weights.get_mut(&format!("{module}.weight")) {
            *weight = adapter::merged(weight, adapter)?;
        }
    }
    Ok(())
}

/// Shape and initial spread of a model that is trained from nothing.
fn untrained(folder: &Path) -> Result<(DecoderSpec, f64), TrainError> {
    let path = folder.join("config.json");
    let config = read_json_object(&path)?.ok_or_else(|| TrainError::Data {
        path: path.clone(),
        reason: "no such file; training from scratch takes the model's shape from it".into(),
    })?;
    let std = config.get("initializer_range").and_then(Value::as_f64);
    let spec = spec_from_config(&Value::Object(config))?;
    Ok((spec, std.unwrap_or(0.02)))
}
