//! Checkpoints that do not fit their configuration, refused by tensor; fused and tied weights.

use micota::kernels::quant::BlockType;
use micota::model::{LayerWeight, Model, WeightId, reference_forward};
use serde_json::{Value, json};

use crate::random_model::{FAMILIES, RandomModel, small_config};

fn random(model_type: &str, changes: Value) -> RandomModel {
    RandomModel::new(small_config(model_type, &changes), 7)
}

fn refusal(model: &RandomModel) -> String {
    model.load().unwrap_err().to_string()
}

fn logits(model: &Model) -> Vec<f32> {
    reference_forward(model, &[5, 17, 60, 3, 5, 95, 0], 7).logits
}

#[test]
fn every_family_loads_and_computes_finite_logits() {
    for (model_type, _) in FAMILIES {
        let model = random(model_type, json!({"sliding_window": 4}))
            .load()
            .unwrap();
        let logits = logits(&model);
        assert_eq!(logits.len(), 7 * 96);
        assert!(logits.iter().all(|x| x.is_finite()), "{model_type}");
        let spread = logits.iter().fold(0f32, |a, b| a.max(b.abs()));
        assert!((0.1..1e3).contains(&spread), "{model_type}: {spread}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for (model_type, _) in FAMILIES {
        let full = random(model_type, json!({}));
        for name in full.tensors.keys() {
            let mut model = random(model_type, json!({}));
            model.tensors.remove(name);
            let text = refusal(&model);
            assert!(text.contains(name) && text.contains("missing"), "{text}");
        }
    }
}

#[test]
fn a_wrong_shape_is_named_with_both() {
    let mut model = random("llama", json!({}));
    let name = "model.layers.1.self_attn.k_proj.weight";
    let (shape, values) = model.tensors.get_mut(name).unwrap();
    shape[0] = 16;
    values.truncate(16 * 32);
    let text = refusal(&model);
    assert_eq!(
        text,
        format!("tensor {name} has shape [16, 32], expected [32, 32]")
    );
}

#[test]
fn a_configuration_of_other_sizes_is_caught_by_the_tensors() {
    let changes = [
        ("vocab_size", 97),
        ("hidden_size", 48),
        ("intermediate_size", 49),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 8),
        ("num_hidden_layers", 4),
        ("num_hidden_layers", 2),
    ];
    for (model_type, _) in FAMILIES {
        for (key, value) in changes {
            let mut model = random(model_type, json!({}));
            model.config[key] = value.into();
            let text = refusal(&model);
            assert!(text.starts_with("tensor "), "{model_type} {key}: {text}");
        }
    }
}

#[test]
fn a_part_of_a_layer_that_would_be_ignored_is_refused() {
    let mut model = random("llama", json!({}));
    let bias = "model.layers.0.self_attn.q_proj.bias".to_owned();
    model.tensors.insert(bias, (vec![64], vec![0.0; 64]));
    let text = refusal(&model);
    assert!(
        text.contains("q_proj.bias has no place in a llama decoder"),
        "{text}"
    );
}

#[test]
fn buffers_that_old_checkpoints_carry_are_passed_over() {
    let mut model = random("llama", json!({}));
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    model.tensors.insert(buffer, (vec![8], vec![0.0; 8]));
    model.load().unwrap();
}

#[test]
fn fused_projections_are_the_separate_ones() {
    let llama = random("llama", json!({}));
    let mut phi = RandomModel::new(small_config("phi3", &json!({})), 1);
    for (name, tensor) in &mut phi.tensors {
        let parts: &[&str] = match name.rsplit_once("_proj") {
            Some((_, _)) if name.contains("qkv") => &["q_proj", "k_proj", "v_proj"],
            Some((_, _)) if name.contains("gate_up") => &["gate_proj", "up_proj"],
            _ => &[""],
        };
        let whole = if name.contains("qkv") {
            "qkv_proj"
        } else {
            "gate_up_proj"
        };
        tensor.1 = parts
            .iter()
            .flat_map(|part| llama.tensors[&name.replace(whole, part)].1.clone())
            .collect();
    }
    assert_eq!(logits(&phi.load().unwrap()), logits(&llama.load().unwrap()));
}

#[test]
fn a_tied_head_is_the_embedding_unless_another_is_stored() {
    let tied = random("qwen2", json!({"tie_word_embeddings": true}))
        .load()
        .unwrap();
    assert!(tied.spec.tie_word_embeddings);
    let (head, embedding) = (
        tied.weight(WeightId::Head),
        tied.weight(WeightId::Embedding),
    );
    assert_eq!(head.unwrap().to_vec(), embedding.unwrap().to_vec());
    assert!(tied.weights().all(|(id, _)| id != WeightId::Head));

    let mut same = random("qwen2", json!({}));
    same.config["tie_word_embeddings"] = true.into();
    let embedding = same.tensors["model.embed_tokens.weight"].clone();
    let head = same.tensors.insert("lm_head.weight".to_owned(), embedding);
    assert!(same.load().unwrap().spec.tie_word_embeddings);

    let mut own = random("qwen2", json!({}));
    own.config["tie_word_embeddings"] = true.into();
    let own = own.load().unwrap();
    assert!(!own.spec.tie_word_embeddings);
    assert_eq!(
        own.weight(WeightId::Head).unwrap().to_vec(),
        head.unwrap().1
    );
}

#[test]
fn weights_that_a_family_lacks_are_none() {
    let model = random("llama", json!({})).load().unwrap();
    assert!(model.layer_weight(0, LayerWeight::QBias).is_none());
    assert!(model.layer_weight(3, LayerWeight::Q).is_none());
    let q = model.layer_weight(2, LayerWeight::Q).unwrap();
    assert_eq!((q.rows(), q.cols(), q.num_bytes()), (64, 32, 64 * 32 * 4));
}

#[test]
fn parameters_and_bytes_count_every_stored_tensor_once() {
    for tied in [false, true] {
        let random = random("qwen2", json!({"tie_word_embeddings": tied}));
        let count: usize = random
            .tensors
            .values()
            .map(|(_, values)| values.len())
            .sum();
        let model = random.load().unwrap();
        assert_eq!(model.num_parameters(), count as u64);
        assert_eq!(model.stored_bytes(), [(BlockType::F32, 4 * count as u64)]);
    }
}
