//! The decoder's hand-written gradients against candle's automatic ones of the plain formulas, for
//! every family that is trained: what the golden runs do not cover is covered here.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use micota::model::spec_from_config;
use micota::train::decoder::{Adapter, Batch, Decoder, Dropout};
use micota::train::init;
use micota::train::optimizer::Gradients;
use serde_json::{Value, json};

/// A model in plain operations of candle.
struct Plain<'a> {
    config: &'a Value,
    weights: &'a BTreeMap<String, Var>,
    adapters: &'a BTreeMap<String, Adapter>,
}

impl Plain<'_> {
    fn number(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.weights[name].as_tensor()
    }

    fn norm(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let eps = self.config["rms_norm_eps"].as_f64().unwrap();
        let normed = x.broadcast_div(&(mean + eps)?.sqrt()?)?;
        normed.broadcast_mul(self.weight(&format!("{path}.weight")))
    }

    fn linear(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        let mut y = x.matmul(&self.weight(&format!("{path}.weight")).t()?)?;
        if let Some(bias) = self.weights.get(&format!("{path}.bias")) {
            y = y.broadcast_add(bias.as_tensor())?;
        }
        if let Some(adapter) = self.adapters.get(path) {
            let low = x.matmul(&adapter.a.as_tensor().t()?)?;
            y = (y + (low.matmul(&adapter.b.as_tensor().t()?)? * adapter.scale)?)?;
        }
        Ok(y)
    }

    /// One head of one sequence, `[length, head_dim]`, turned by the rows' positions.
    fn rotated(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let half = x.dim(1)? / 2;
        let theta = self.config["rope_theta"].as_f64().unwrap();
        let angle =
            |position: &u32, i: usize| f64::from(*position) * theta.powf(-(i as f64) / half as f64);
        let table = |f: fn(f64) -> f64| {
            let rows = positions.iter();
            let values: Vec<f32> = rows
                .flat_map(|position| (0..half).map(move |i| f(angle(position, i)) as f32))
                .collect();
            Tensor::from_vec(values, (positions.len(), half), &Device::Cpu)
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let (a, b) = (x.narrow(1, 0, half)?, x.narrow(1, half, half)?);
        let first = ((&a * &cos)? - (&b * &sin)?)?;
        let second = ((&b * &cos)? + (&a * &sin)?)?;
        Tensor::cat(&[first, second], 1)
    }

    fn attention(&self, x: &Tensor, path: &str, batch: &Batch) -> Result<Tensor> {
        let (heads, kv_heads) = (
            self.number("num_attention_heads"),
            self.number("num_key_value_heads"),
        );
        let q = self.linear(x, &format!("{path}.q_proj"))?;
        let k = self.linear(x, &format!("{path}.k_proj"))?;
        let v = self.linear(x, &format!("{path}.v_proj"))?;
        let d = q.dim(1)? / heads;
        let window = self.config["sliding_window"].as_u64();
        let mut sequences = Vec::new();
        let length = batch.input_ids[0].len();
        for (index, segments) in batch.segments.iter().enumerate() {
            let positions = &batch.position_ids[index];
            let part = |all: &Tensor, head: usize| -> Result<Tensor> {
                all.narrow(0, index * length, length)?
                    .narrow(1, head * d, d)
            };
            let prepared = |all: &Tensor, head: usize, name: &str| -> Result<Tensor> {
                let mut own = part(all, head)?;
                let norm = format!("{path}.{name}_norm");
                if self.weights.contains_key(&format!("{norm}.weight")) {
                    own = self.norm(&own, &norm)?;
                }
                self.rotated(&own, positions)
            };
            let sees = |i: usize, j: usize| {
                j <= i
                    && segments[i] == segments[j]
                    && window.is_none_or(|window| i - j < window as usize)
            };
            let mask: Vec<f32> = (0..length * length)
                .map(|at| {
                    if sees(at / length, at % length) {
                        0.0
                    } else {
                        -1e9
                    }
                })
                .collect();
            let mask = Tensor::from_vec(mask, (length, length), &Device::Cpu)?;
            let mut outputs = Vec::new();
            for head in 0..heads {
                let kv = head * kv_heads / heads;
                let (q, k) = (prepared(&q, head, "q")?, prepared(&k, kv, "k")?);
                let scores = ((q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))? + &mask)?;
                let max = scores.max_keepdim(1)?.detach();
                let exponentials = scores.broadcast_sub(&max)?.exp()?;
                let sums = exponentials.sum_keepdim(1)?;
                let probabilities = exponentials.broadcast_div(&sums)?;
                outputs.push(probabilities.matmul(&part(&v, kv)?)?);
            }
            sequences.push(Tensor::cat(&outputs, 1)?);
        }
        let attended = Tensor::cat(&sequences, 0)?;
        self.linear(&attended, &format!("{path}.o_proj"))
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let ids: Vec<u32> = batch.input_ids.concat();
        let table = self.weight("model.embed_tokens.weight");
        let mut x = table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for layer in 0..self.number("num_hidden_layers") {
            let path = format!("model.layers.{layer}");
            let normed = self.norm(&x, &format!("{path}.input_layernorm"))?;
            x = (&x + self.attention(&normed, &format!("{path}.self_attn"), batch)?)?;
            let normed = self.norm(&x, &format!("{path}.post_attention_layernorm"))?;
            let gate = self.linear(&normed, &format!("{path}.mlp.gate_proj"))?;
            let up = self.linear(&normed, &format!("{path}.mlp.up_proj"))?;
            let silu = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
            x = (&x + self.linear(&(silu * up)?, &format!("{path}.mlp.down_proj"))?)?;
        }
        let head = if self.weights.contains_key("lm_head.weight") {
            "lm_head"
        } else {
            "model.embed_tokens"
        };
        let logits = self.linear(&self.norm(&x, "model.norm")?, head)?;
        let max = logits.max_keepdim(1)?.detach();
        let sums = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(1)?;
        let losses = logits.broadcast_sub(&(sums.log()? + max)?)?.neg()?;
        let vocab_size = self.number("vocab_size");
        let mut chosen = Vec::new();
        for row in &batch.labels {
            for next in 1..=row.len() {
                let mut one_hot = vec![0.0f32; vocab_size];
                if let Some(label) = row.get(next).copied().flatten() {
                    one_hot[label as usize] = 1.0;
                }
                chosen.extend(one_hot);
            }
        }
        let chosen = Tensor::from_vec(chosen, losses.shape(), &Device::Cpu)?;
        (losses * chosen)?.sum_all()
    }
}

/// Two packs: one of three rows, one of a row and padding.
fn batch() -> Batch {
    let length = 24;
    let token = |row: usize, t: usize| ((row * 31 + t * 7 + t * t) % 29) as u32;
    let segments = [
        (0..length).map(|t| 1 + (t / 9) as u32).collect::<Vec<_>>(),
        (0..length).map(|t| u32::from(t < 17)).collect(),
    ];
    let input_ids: Vec<Vec<u32>> = (0..2)
        .map(|row| (0..length).map(|t| token(row, t)).collect())
        .collect();
    let labels = input_ids.iter().zip(&segments).map(|(ids, segments)| {
        let tokens = ids.iter().zip(segments).enumerate();
        tokens
            .map(|(t, (id, segment))| (*segment > 0 && t % 4 != 1).then_some(*id))
            .collect()
    });
    Batch {
        labels: labels.collect(),
        position_ids: vec![
            (0..length as u32).map(|t| t % 9).collect(),
            (0..length as u32).collect(),
        ],
        segments: segments.to_vec(),
        input_ids,
    }
}

fn config(family: &str, extra: &Value) -> Value {
    let mut config = json!({
        "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "model_type": family, "tie_word_embeddings": false,
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares the gradients of `trained` (all weights where there are no adapters).
fn compare(config: &Value, with_adapters: bool) {
    let spec = spec_from_config(config).unwrap();
    // Norms of one and biases of zero would hide mistakes.
    let disturbed = |name: &str, weight: &Tensor| {
        let shift = Tensor::from_vec(
            (0..weight.elem_count())
                .map(|i| 0.1 * ((i + name.len()) as f32).sin())
                .collect(),
            weight.shape(),
            &Device::Cpu,
        );
        Var::from_tensor(&(weight + shift.unwrap()).unwrap()).unwrap()
    };
    let weights: BTreeMap<String, Var> = init::random(&spec, 0.1, 5)
        .unwrap()
        .iter()
        .map(|(name, weight)| (name.clone(), disturbed(name, weight)))
        .collect();
    let matrix = |rows: usize, columns: usize| {
        let zeros = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
        disturbed("adapter", &zeros)
    };
    let adapter = |path: &str| {
        let (outputs, inputs) = weights[&format!("{path}.weight")].dims2().unwrap();
        Adapter {
            a: matrix(3, inputs),
            b: matrix(outputs, 3),
            scale: 1.7,
        }
    };
    let paths = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
    ];
    let paths = if with_adapters { &paths[..] } else { &[] };
    let adapters = || {
        paths
            .iter()
            .map(|path| ((*path).to_owned(), adapter(path)))
            .collect()
    };
    let (own, plain) = (adapters(), adapters());
    let model = Plain {
        config,
        weights: &weights,
        adapters: &plain,
    };
    let batch = batch();
    let loss = model.loss(&batch).unwrap();
    let store = loss.backward().unwrap();
    let mut expected: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    if with_adapters {
        for (path, adapter) in &plain {
            for (part, var) in [("A", &adapter.a), ("B", &adapter.b)] {
                let gradient = values(store.get(var.as_tensor()).unwrap());
                expected.insert(format!("{path}.lora_{part}.weight"), gradient);
            }
        }
    } else {
        for (name, var) in &weights {
            let gradient = values(store.get(var.as_tensor()).expect(name));
            expected.insert(name.clone(), gradient);
        }
    }
    let tensors: BTreeMap<String, Tensor> = weights
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
        .collect();
    let loss = f64::from(loss.to_scalar::<f32>().unwrap());
    let mut own = Some(own);
    for recompute in [false, true] {
        let adapters = own.take().unwrap_or_else(|| {
            paths
                .iter()
                .map(|path| ((*path).to_owned(), adapter(path)))
                .collect()
        });
        let decoder = Decoder::new(
            spec.clone(),
            tensors.clone(),
            adapters,
            DType::F32,
            recompute,
        );
        let sizes = expected
            .iter()
            .map(|(name, values)| (name.clone(), values.len()));
        let mut gradients = Gradients::of(sizes);
        let found = decoder
            .backward(&batch, 1.0, Dropout::default(), &mut gradients)
            .unwrap();
        assert!((found / loss - 1.0).abs() < 1e-5, "{found} for {loss}");
        let forward = decoder.loss_sum(&batch).unwrap();
        assert!((forward - found).abs() < 1e-9 * found.abs());
        for (name, expected) in &expected {
            let found = gradients.values(name).expect(name);
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (f - e).abs() < 2e-5 * norm + 1e-6,
                    "{} {name}[{i}]: {f} for {e}",
                    config["model_type"]
                );
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_plain_formulas() {
    for (family, extra) in [
        ("qwen2", json!({"tie_word_embeddings": true})),
        ("qwen3", json!({"head_dim": 6})),
        ("llama", json!({})),
        ("mistral", json!({"sliding_window": 5})),
    ] {
        compare(&config(family, &extra), false);
    }
}

#[test]
fn gradients_of_adapters_are_those_of_the_plain_formulas() {
    compare(&config("qwen2", &json!({})), true);
}
