//! The weights that training starts from: a model's, or random ones of a configuration, under
//! their Hugging Face names.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use candle_core::{Device, Tensor};

use super::TrainError;
use super::adapter::generator;
use crate::model::{DecoderSpec, LayerWeight, Model, WeightId};

/// Every weight of a model in f32. A tied head is not listed.
///
/// # Errors
/// The device cannot hold them.
pub fn from_model(model: &Model) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let mut weights = BTreeMap::new();
    for (id, weight) in model.weights() {
        let name = tensor_name(id);
        let shape = shape(&name, weight.rows(), weight.cols());
        weights.insert(
            name,
            Tensor::from_vec(weight.to_vec(), shape, &Device::Cpu)?,
        );
    }
    Ok(weights)
}

/// Random weights as transformers initialises them: normal with `std` for matrices and embeddings,
/// ones for norms, zeros for biases. A tensor's values depend on the seed and its name alone.
///
/// # Errors
/// The device cannot hold them.
pub fn random(
    spec: &DecoderSpec,
    std: f64,
    seed: u64,
) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let table = (spec.vocab_size, spec.hidden_size);
    let mut shapes = vec![
        (WeightId::Embedding, table),
        (WeightId::FinalNorm, (1, spec.hidden_size)),
    ];
    if !spec.tie_word_embeddings {
        shapes.push((WeightId::Head, table));
    }
    for layer in 0..spec.num_hidden_layers {
        let present = LayerWeight::ALL.iter().filter(|weight| weight.is_in(spec));
        shapes.extend(present.map(|weight| (WeightId::Layer(layer, *weight), weight.shape(spec))));
    }
    let mut weights = BTreeMap::new();
    for (id, (rows, cols)) in shapes {
        let name = tensor_name(id);
        let values = if name.ends_with("norm.weight") {
            vec![1.0; rows * cols]
        } else if name.ends_with(".bias") {
            vec![0.0; rows * cols]
        } else {
            normal(&name, seed, std, rows * cols)
        };
        let shape = shape(&name, rows, cols);
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(weights)
}

/// Norms and biases are vectors in a checkpoint; everything else keeps its two dimensions.
fn shape(name: &str, rows: usize, cols: usize) -> Vec<usize> {
    if name.ends_with("norm.weight") || name.ends_with(".bias") {
        vec![rows * cols]
    } else {
        vec![rows, cols]
    }
}

/// The name of a weight in a Hugging Face checkpoint of the families that are trained here.
fn tensor_name(id: WeightId) -> String {
    let (layer, weight) = match id {
        WeightId::Embedding => return "model.embed_tokens.weight".into(),
        WeightId::Head => return "lm_head.weight".into(),
        WeightId::FinalNorm => return "model.norm.weight".into(),
        WeightId::Layer(layer, weight) => (layer, weight),
    };
    let name = match weight {
        LayerWeight::AttnNorm => "input_layernorm.weight",
        LayerWeight::Q => "self_attn.q_proj.weight",
        LayerWeight::QBias => "self_attn.q_proj.bias",
        LayerWeight::K => "self_attn.k_proj.weight",
        LayerWeight::KBias => "self_attn.k_proj.bias",
        LayerWeight::V => "self_attn.v_proj.weight",
        LayerWeight::VBias => "self_attn.v_proj.bias",
        LayerWeight::O => "self_attn.o_proj.weight",
        LayerWeight::QNorm => "self_attn.q_norm.weight",
        LayerWeight::KNorm => "self_attn.k_norm.weight",
        LayerWeight::PostAttnNorm | LayerWeight::PostFfnNorm => {
            unreachable!("no family that is trained here norms its outputs")
        }
        LayerWeight::FfnNorm => "post_attention_layernorm.weight",
        LayerWeight::Gate => "mlp.gate_proj.weight",
        LayerWeight::Up => "mlp.up_proj.weight",
        LayerWeight::Down => "mlp.down_proj.weight",
    };
    format!("model.layers.{layer}.{name}")
}

/// Normal values by the Box-Muller transform.
fn normal(name: &str, seed: u64, std: f64, count: usize) -> Vec<f32> {
    let rng = generator(seed, name);
    (0..count as u128)
        .map(|i| {
            let radius = (-2.0 * (1.0 - rng.uniform(2 * i)).ln()).sqrt();
            (std * radius * (TAU * rng.uniform(2 * i + 1)).cos()) as f32
        })
        .collect()
}
