//! The output's `config.json`: the donor's, with what the merge has changed put right.

use serde_json::{Map, Value, json};

use super::architecture::Part;
use super::layout::Layout;
use super::model::Models;
use super::plan::TensorPlan;
use super::recipe::Recipe;

/// The corrected configuration, and what is worth saying about it.
pub(crate) struct OutputConfig {
    pub(crate) config: Map<String, Value>,
    pub(crate) notes: Vec<String>,
}

/// Corrects layer count, vocabulary size, type and tying. With `keep_tying`, a head of the output's
/// own leaves `tie_word_embeddings` as it was: the reference's bug.
pub(crate) fn output_config(
    recipe: &Recipe,
    layout: &Layout<'_>,
    models: &Models,
    tensors: &[TensorPlan],
    keep_tying: bool,
) -> OutputConfig {
    let donor = models.get(layout.donor);
    let mut config = donor.config.clone();
    let mut notes = Vec::new();
    config.insert("num_hidden_layers".into(), json!(layout.num_layers));
    if config.contains_key("layer_types") {
        let types = layer_types(layout, models);
        config.insert("layer_types".into(), types);
    }
    if let Some(dtype) = recipe.out_dtype.or(recipe.dtype) {
        let key = match config.contains_key("dtype") {
            true => "dtype",
            false => "torch_dtype",
        };
        config.insert(key.into(), json!(dtype.name()));
    }
    let rows = |part: Part| tensors.iter().find(|t| t.part == part).map(|t| t.shape[0]);
    if let Some(rows) = rows(Part::Embedding) {
        if let Some(before) = donor.vocab_size().filter(|before| *before != rows) {
            notes.push(format!(
                "vocab_size: {before} in {}, {rows} in the output",
                donor.name
            ));
        }
        config.insert("vocab_size".into(), json!(rows));
    }
    let head = rows(Part::Head).is_some();
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
    if head && tied != Some(false) && !keep_tying {
        notes.push(
            "the output has its own lm_head, so tie_word_embeddings is set to false \
             (the reference leaves it, and loaders then drop the merged head)"
                .to_owned(),
        );
        config.insert("tie_word_embeddings".into(), json!(false));
    }
    OutputConfig { config, notes }
}

/// Each output layer's type is that of the layer it is made from (of the slice's first input).
fn layer_types(layout: &Layout<'_>, models: &Models) -> Value {
    let mut types = Vec::new();
    for slice in &layout.slices {
        let source = &slice.sources[0];
        let own = models.get(source.model).config.get("layer_types");
        let donor = own.or(models.get(layout.donor).config.get("layer_types"));
        for layer in source.first_layer..source.first_layer + slice.len {
            let known = donor.and_then(|types| types.get(layer)).cloned();
            types.push(known.unwrap_or_else(|| json!("full_attention")));
        }
    }
    Value::Array(types)
}
