//! Hugging Face folders with random weights, made in the test: one per family, any configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use micota::formats::Checkpoint;
use micota::model::{Model, ModelError};
use micota::random::CounterRng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// A checkpoint in the making: its configuration, and its tensors by name with shape and values.
pub(crate) struct RandomModel {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// The architecture's class of each supported `model_type`.
pub(crate) const FAMILIES: [(&str, &str); 6] = [
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
];

/// A small configuration of the family, with the keys of `changes` on top.
pub(crate) fn small_config(model_type: &str, changes: &Value) -> Value {
    let class = FAMILIES.iter().find(|(name, _)| *name == model_type);
    let mut config = json!({
        "model_type": model_type, "architectures": [class.unwrap().1], "vocab_size": 96,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "sliding_window": null,
        "tie_word_embeddings": false, "query_pre_attn_scalar": 16,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

impl RandomModel {
    /// Fills every tensor that the configuration calls for with reproducible random values.
    pub(crate) fn new(config: Value, seed: u64) -> Self {
        let mut model = Self {
            config,
            tensors: BTreeMap::new(),
        };
        for (name, shape) in model.shapes() {
            let count: usize = shape.iter().product();
            let is_norm = name.ends_with("norm.weight");
            let stream = CounterRng::from_parts(&[seed, model.tensors.len() as u64]);
            // Norms near their neutral value, matrices of a size that keeps activations moderate.
            let gemma = model.config["model_type"] == "gemma3_text";
            let (center, width) = match (is_norm, gemma) {
                (true, false) => (1.0, 0.4),
                (true, true) => (0.0, 0.4),
                (false, _) => (0.0, 0.7),
            };
            let value = |i| center + width * (2.0 * stream.uniform(i) as f32 - 1.0);
            let values = (0..count as u128).map(value).collect();
            model.tensors.insert(name, (shape, values));
        }
        model
    }

    fn size(&self, key: &str) -> usize {
        usize::try_from(self.config[key].as_u64().unwrap()).unwrap()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.size("hidden_size");
        let matrix = vec![self.size("vocab_size"), hidden];
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), matrix.clone()),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if self.config["tie_word_embeddings"] == false {
            shapes.push(("lm_head.weight".to_owned(), matrix));
        }
        for layer in 0..self.size("num_hidden_layers") {
            let named = self.layer_shapes().into_iter();
            shapes
                .extend(named.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)));
        }
        shapes
    }

    fn layer_shapes(&self) -> Vec<(&'static str, Vec<usize>)> {
        let (hidden, middle) = (self.size("hidden_size"), self.size("intermediate_size"));
        let dim = self.size("head_dim");
        let q = self.size("num_attention_heads") * dim;
        let kv = self.size("num_key_value_heads") * dim;
        let family = self.config["model_type"].as_str().unwrap();
        let mut shapes = vec![
            ("input_layernorm.weight", vec![hidden]),
            ("self_attn.o_proj.weight", vec![hidden, q]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.down_proj.weight", vec![hidden, middle]),
        ];
        if family == "phi3" {
            shapes.push(("self_attn.qkv_proj.weight", vec![q + 2 * kv, hidden]));
            shapes.push(("mlp.gate_up_proj.weight", vec![2 * middle, hidden]));
        } else {
            shapes.push(("self_attn.q_proj.weight", vec![q, hidden]));
            shapes.push(("self_attn.k_proj.weight", vec![kv, hidden]));
            shapes.push(("self_attn.v_proj.weight", vec![kv, hidden]));
            shapes.push(("mlp.gate_proj.weight", vec![middle, hidden]));
            shapes.push(("mlp.up_proj.weight", vec![middle, hidden]));
        }
        if family == "qwen2" {
            shapes.push(("self_attn.q_proj.bias", vec![q]));
            shapes.push(("self_attn.k_proj.bias", vec![kv]));
            shapes.push(("self_attn.v_proj.bias", vec![kv]));
        }
        if matches!(family, "qwen3" | "gemma3_text") {
            shapes.push(("self_attn.q_norm.weight", vec![dim]));
            shapes.push(("self_attn.k_norm.weight", vec![dim]));
        }
        if family == "gemma3_text" {
            shapes.push(("pre_feedforward_layernorm.weight", vec![hidden]));
            shapes.push(("post_feedforward_layernorm.weight", vec![hidden]));
        }
        shapes
    }

    /// Writes `config.json` and `model.safetensors` (F32).
    pub(crate) fn write(&self, folder: &Path) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let bytes = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let data: Vec<_> = self.tensors.values().map(|(_, v)| bytes(v)).collect();
        let views = self
            .tensors
            .iter()
            .zip(&data)
            .map(|((name, (shape, _)), data)| {
                (
                    name,
                    TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
                )
            });
        let file: PathBuf = folder.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }

    /// Writes it to a temporary folder and loads it; the mapping outlives the folder.
    pub(crate) fn load(&self) -> Result<Model, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        Model::from_checkpoint(Arc::new(Checkpoint::open(folder.path()).unwrap()))
    }
}
