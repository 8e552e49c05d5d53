//! The tensors that a configuration calls for, for checkpoints that are not there yet.

use serde_json::Value;

use super::families::spec_and_names;
use super::{DecoderSpec, LayerWeight, ModelError};
use crate::formats::{DType, PlannedTensor};

/// Names and shapes of every tensor that a Hugging Face checkpoint with this `config.json` holds,
/// all of type `dtype`.
///
/// # Errors
/// The architecture is not supported, or a value makes no sense.
pub fn planned_tensors(config: &Value, dtype: DType) -> Result<Vec<PlannedTensor>, ModelError> {
    let (spec, names) = spec_and_names(config)?;
    let tensor = |name: &str, shape: &[usize]| PlannedTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let matrix = [spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![
        tensor(names.embedding, &matrix),
        tensor(names.final_norm, &[spec.hidden_size]),
    ];
    if !spec.tie_word_embeddings {
        tensors.push(tensor(names.head, &matrix));
    }
    for layer in 0..spec.num_hidden_layers {
        for (part, weights) in names.layer {
            if !weights.iter().all(|weight| weight.is_in(&spec)) {
                continue;
            }
            let name = format!("{}{layer}.{part}", names.layer_prefix);
            tensors.push(tensor(&name, &stacked_shape(weights, &spec)));
        }
    }
    Ok(tensors)
}

/// The shape of a tensor that holds `weights`, at least one, stacked in their order.
pub(super) fn stacked_shape(weights: &[LayerWeight], spec: &DecoderSpec) -> Vec<usize> {
    let rows = weights.iter().map(|weight| weight.shape(spec).0).sum();
    let cols = weights[0].shape(spec).1;
    match weights[0].is_vector() {
        true => vec![cols],
        false => vec![rows, cols],
    }
}
