//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT names and stores them: which layers
//! get one, how it starts, and the two files that it lives in.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::TrainError;
use super::decoder::Adapter;
use super::recipe::Recipe;
use super::tensors;
use crate::formats::read_json_object;
use crate::model::DecoderSpec;
use crate::random::CounterRng;

/// What PEFT puts before a module's name.
pub const PREFIX: &str = "base_model.model.";
/// The adapter's tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What they mean.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The linear layers of a decoder layer, below `model.layers.N.`.
const LINEARS: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// What `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank of every adapter.
    pub rank: usize,
    /// Scale times rank (or times its root).
    pub alpha: f64,
    /// Share of inputs that a step drops.
    pub dropout: f64,
    /// Ends of module paths, sorted.
    pub target_modules: Vec<String>,
    /// Whether the scale is `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Modules that are trained in full and saved with the adapter.
    pub modules_to_save: Vec<String>,
}

impl AdapterConfig {
    /// The adapter that a recipe asks for. `all` stands for every linear layer but the head.
    pub fn from_recipe(recipe: &Recipe) -> Self {
        let mut target_modules = recipe.lora_target.0.clone();
        if target_modules.iter().any(|target| target == "all") {
            let last = |path: &&str| path.rsplit('.').next().unwrap_or(path).to_owned();
            target_modules = LINEARS.iter().map(last).collect();
        }
        target_modules.sort();
        target_modules.dedup();
        Self {
            rank: recipe.lora_rank,
            alpha: recipe.alpha(),
            dropout: recipe.lora_dropout,
            target_modules,
            use_rslora: recipe.use_rslora,
            modules_to_save: recipe.additional_target.0.clone(),
        }
    }

    /// Reads `adapter_config.json` of a folder.
    ///
    /// # Errors
    /// It is missing, not PEFT's, or asks for something that is not plain LoRA.
    pub fn read(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(CONFIG_FILE);
        let fail = |reason: String| TrainError::Data {
            path: path.clone(),
            reason,
        };
        let config = read_json_object(&path)?
            .ok_or_else(|| fail("no such file; expected a folder that PEFT has written".into()))?;
        let config = Value::Object(config);
        if config["peft_type"]
            .as_str()
            .is_some_and(|kind| kind != "LORA")
        {
            return Err(fail(format!(
                "peft_type: expected LORA, found {}",
                config["peft_type"]
            )));
        }
        for key in [
            "use_dora",
            "fan_in_fan_out",
            "lora_bias",
            "rank_pattern",
            "alpha_pattern",
        ] {
            let asks = match &config[key] {
                Value::Bool(on) => *on,
                Value::Object(patterns) => !patterns.is_empty(),
                _ => false,
            };
            if asks {
                return Err(fail(format!("{key} is not supported")));
            }
        }
        let texts = |key: &str| -> Vec<String> {
            let items = config[key].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let rank = config["r"]
            .as_u64()
            .filter(|rank| (1..1 << 20).contains(rank));
        let alpha = config["lora_alpha"].as_f64();
        let (Some(rank), Some(alpha)) = (rank, alpha) else {
            return Err(fail("r or lora_alpha is missing or no number".into()));
        };
        let mut target_modules = texts("target_modules");
        if target_modules.is_empty() {
            return Err(fail("target_modules: expected a list of names".into()));
        }
        target_modules.sort();
        Ok(Self {
            rank: rank as usize,
            alpha,
            dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
            target_modules,
            use_rslora: config["use_rslora"].as_bool().unwrap_or(false),
            modules_to_save: texts("modules_to_save"),
        })
    }

    /// The factor of `B(A(x))`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The file's contents, as PEFT 0.18 writes them for a plain adapter.
    pub fn to_json(&self, base_model: &str) -> Value {
        let alpha = if self.alpha.fract() == 0.0 {
            json!(self.alpha as i64)
        } else {
            json!(self.alpha)
        };
        let modules_to_save = if self.modules_to_save.is_empty() {
            Value::Null
        } else {
            json!(self.modules_to_save)
        };
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base_model,
            "bias": "none",
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": alpha,
            "lora_bias": false,
            "lora_dropout": self.dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": modules_to_save,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        })
    }

    /// The module paths that get an adapter, in the model's order.
    ///
    /// # Errors
    /// A target names no linear layer of the model; the text says which there are.
    pub fn modules(&self, spec: &DecoderSpec) -> Result<Vec<String>, String> {
        let layers = 0..spec.num_hidden_layers;
        let mut all: Vec<String> = layers
            .flat_map(|layer| {
                LINEARS
                    .iter()
                    .map(move |name| format!("model.layers.{layer}.{name}"))
            })
            .collect();
        if !spec.tie_word_embeddings {
            all.push("lm_head".into());
        }
        let matches = |path: &str, target: &str| {
            path.strip_suffix(target)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        for target in &self.target_modules {
            if !all.iter().any(|path| matches(path, target)) {
                return Err(format!(
                    "lora_target: {target} is no linear layer of this model; expected all, or some \
                     of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj{}",
                    if spec.tie_word_embeddings {
                        ""
                    } else {
                        ", lm_head"
                    }
                ));
            }
        }
        let wanted = |path: &String| {
            let mut targets = self.target_modules.iter();
            targets.any(|target| matches(path, target))
        };
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// The weights that are trained in full beside the adapters, by name.
    ///
    /// # Errors
    /// A module has no weight in the model, or is a tied embedding: it would come untied.
    pub fn full_weights(
        &self,
        spec: &DecoderSpec,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for module in &self.modules_to_save {
            if spec.tie_word_embeddings && (module == "embed_tokens" || module == "lm_head") {
                return Err(format!(
                    "additional_target: {module} is tied to the head or embedding of this model"
                ));
            }
            let before = found.len();
            found.extend(weights.keys().filter(|name| {
                let path = name
                    .rsplit_once('.')
                    .map_or(name.as_str(), |(path, _)| path);
                path.strip_suffix(module.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }));
            if found.len() == before {
                return Err(format!(
                    "additional_target: the model has no module {module}"
                ));
            }
        }
        Ok(found.into_iter().cloned().collect())
    }
}

/// Starting adapters: A uniform in ±1/sqrt(in_features) (Kaiming with a = √5, as PEFT), B zero.
/// A layer's values depend on the seed and its path alone.
///
/// # Errors
/// A target is no layer of the model, or the device cannot hold the adapters.
pub fn fresh(
    config: &AdapterConfig,
    spec: &DecoderSpec,
    weights: &BTreeMap<String, Tensor>,
    seed: u64,
) -> Result<BTreeMap<String, Adapter>, TrainError> {
    let modules = config.modules(spec).map_err(TrainError::Setting)?;
    let mut adapters = BTreeMap::new();
    for path in modules {
        let weight = weights.get(&format!("{path}.weight"));
        let weight = weight.ok_or_else(|| TrainError::Setting(format!("no weight of {path}")))?;
        let (outputs, inputs) = weight.dims2()?;
        let bound = 1.0 / (inputs as f64).sqrt();
        let rng = generator(seed, &path);
        let a: Vec<f32> = (0..(config.rank * inputs) as u128)
            .map(|i| (bound * (2.0 * rng.uniform(i) - 1.0)) as f32)
            .collect();
        let a = Tensor::from_vec(a, (config.rank, inputs), &Device::Cpu)?;
        let b = Tensor::zeros(
            (outputs, config.rank),
            candle_core::DType::F32,
            &Device::Cpu,
        )?;
        let adapter = Adapter {
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            scale: config.scale(),
        };
        adapters.insert(path, adapter);
    }
    Ok(adapters)
}

/// Numbers that depend on the seed and a name.
pub(super) fn generator(seed: u64, name: &str) -> CounterRng {
    let digest = Sha256::digest(name.as_bytes());
    let key = digest[..8]
        .iter()
        .fold(0u64, |key, byte| key << 8 | u64::from(*byte));
    CounterRng::from_parts(&[seed, key])
}

/// Puts the tensors of an adapter file into `adapters`, which it must fit one by one, and returns
/// those that replace whole weights.
///
/// # Errors
/// The file cannot be read, or a tensor is missing, unknown, or of another shape.
pub fn load_tensors(
    path: &Path,
    adapters: &BTreeMap<String, Adapter>,
) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let fail = |reason: String| TrainError::Data {
        path: path.to_owned(),
        reason,
    };
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in tensors::read(path)? {
        let short = name.strip_prefix(PREFIX);
        let short = short.ok_or_else(|| {
            fail(format!(
                "tensor {name}: expected a name that begins with {PREFIX}"
            ))
        })?;
        tensors.insert(short.replace(".default.weight", ".weight"), tensor);
    }
    for (module, adapter) in adapters {
        for (part, var) in [("lora_A", &adapter.a), ("lora_B", &adapter.b)] {
            let name = format!("{module}.{part}.weight");
            let tensor = tensors
                .remove(&name)
                .ok_or_else(|| fail(format!("no tensor {PREFIX}{name}")))?;
            if tensor.dims() != var.as_tensor().dims() {
                return Err(fail(format!(
                    "tensor {name} has shape {:?}, expected {:?}",
                    tensor.dims(),
                    var.as_tensor().dims()
                )));
            }
            var.set(&tensor)?;
        }
    }
    if let Some(name) = tensors.keys().find(|name| name.contains(".lora_")) {
        return Err(fail(format!("tensor {name} belongs to no target module")));
    }
    Ok(tensors)
}

/// `W + scale * B A`, in f32.
///
/// # Errors
/// A tensor operation fails.
pub fn merged(weight: &Tensor, adapter: &Adapter) -> Result<Tensor, TrainError> {
    let change = adapter.b.as_tensor().matmul(adapter.a.as_tensor())?;
    Ok((weight + (change * adapter.scale)?)?.detach())
}

/// An adapter's configuration, its matrices by layer, and the weights that it replaces whole.
pub type OpenAdapter = (
    AdapterConfig,
    BTreeMap<String, Adapter>,
    BTreeMap<String, Tensor>,
);

/// The adapter's two files read into a configuration and adapters over the model's layers, and
/// the weights that it replaces.
///
/// # Errors
/// A file is missing, malformed, or does not fit the model.
pub fn open(
    folder: &Path,
    spec: &DecoderSpec,
    weights: &BTreeMap<String, Tensor>,
) -> Result<OpenAdapter, TrainError> {
    let config = AdapterConfig::read(folder)?;
    let adapters = fresh(&config, spec, weights, 0)?;
    let replaced = load_tensors(&folder.join(WEIGHTS_FILE), &adapters)?;
    for (name, tensor) in &replaced {
        let fits = weights
            .get(name)
            .is_some_and(|weight| weight.dims() == tensor.dims());
        if !fits {
            return Err(TrainError::Data {
                path: folder.join(WEIGHTS_FILE),
                reason: format!(
                    "tensor {name} {:?} fits no weight of the model",
                    tensor.dims()
                ),
            });
        }
    }
    Ok((config, adapters, replaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_comes_back_from_its_file() {
        let config = AdapterConfig {
            rank: 4,
            alpha: 12.0,
            dropout: 0.1,
            target_modules: vec!["k_proj".into(), "q_proj".into()],
            use_rslora: true,
            modules_to_save: vec!["norm".into()],
        };
        let folder = tempfile::tempdir().unwrap();
        let text = config.to_json("base").to_string();
        std::fs::write(folder.path().join(CONFIG_FILE), text).unwrap();
        assert_eq!(AdapterConfig::read(folder.path()).unwrap(), config);
        assert_eq!(config.scale(), 6.0);
    }

    #[test]
    fn what_is_not_plain_lora_is_refused_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONFIG_FILE);
        for (text, key) in [
            (r#"{"peft_type": "IA3"}"#, "peft_type"),
            (r#"{"r": 2, "lora_alpha": 2, "use_dora": true}"#, "use_dora"),
            (
                r#"{"r": 2, "lora_alpha": 2, "rank_pattern": {"q": 1}}"#,
                "rank_pattern",
            ),
            (
                r#"{"r": 0, "lora_alpha": 2, "target_modules": ["q"]}"#,
                "r or lora_alpha",
            ),
            (r#"{"r": 2, "lora_alpha": 2}"#, "target_modules"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = AdapterConfig::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
