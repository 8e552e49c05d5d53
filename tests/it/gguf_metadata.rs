//! GGUF metadata that no decoder can have, refused by key or tensor.

use std::collections::BTreeMap;
use std::sync::Arc;

use micota::formats::{
    Checkpoint, DType, GgufArray, GgufSplit, GgufValue, GgufWriter, PlannedTensor,
};
use micota::model::{Model, ModelError, RopeScaling};

/// A one-layer Llama in the making.
struct GgufModel {
    pairs: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, Vec<usize>>,
}

impl GgufModel {
    fn new() -> Self {
        let text = |text: &str| GgufValue::String(text.to_owned());
        let pairs = [
            ("general.architecture", text("llama")),
            ("llama.block_count", GgufValue::U32(1)),
            ("llama.context_length", GgufValue::U32(128)),
            ("llama.embedding_length", GgufValue::U32(8)),
            ("llama.feed_forward_length", GgufValue::U32(12)),
            ("llama.attention.head_count", GgufValue::U32(2)),
            ("llama.attention.head_count_kv", GgufValue::U32(1)),
            (
                "llama.attention.layer_norm_rms_epsilon",
                GgufValue::F32(1e-5),
            ),
            ("llama.rope.freq_base", GgufValue::F32(10000.0)),
            ("llama.rope.dimension_count", GgufValue::U32(4)),
        ];
        let tensors = [
            ("token_embd.weight", vec![10, 8]),
            ("output_norm.weight", vec![8]),
            ("blk.0.attn_norm.weight", vec![8]),
            ("blk.0.attn_q.weight", vec![8, 8]),
            ("blk.0.attn_k.weight", vec![4, 8]),
            ("blk.0.attn_v.weight", vec![4, 8]),
            ("blk.0.attn_output.weight", vec![8, 8]),
            ("blk.0.ffn_norm.weight", vec![8]),
            ("blk.0.ffn_gate.weight", vec![12, 8]),
            ("blk.0.ffn_up.weight", vec![12, 8]),
            ("blk.0.ffn_down.weight", vec![8, 12]),
        ];
        Self {
            pairs: pairs.map(|(key, value)| (key.to_owned(), value)).into(),
            tensors: tensors.map(|(name, shape)| (name.to_owned(), shape)).into(),
        }
    }

    /// Writes the file, every element 1, and loads it.
    fn load(&self) -> Result<Model, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let planned = self.tensors.iter().map(|(name, shape)| PlannedTensor {
            name: name.clone(),
            dtype: DType::F32,
            shape: shape.clone(),
        });
        let pairs: Vec<_> = self.pairs.clone().into_iter().collect();
        let split = GgufSplit::default();
        let writer = GgufWriter::create(&path, &pairs, planned.collect(), split).unwrap();
        for (name, shape) in &self.tensors {
            let ones = 1f32.to_le_bytes().repeat(shape.iter().product());
            writer.write_at(name, 0, &ones).unwrap();
        }
        writer.finish().unwrap();
        Model::from_checkpoint(Arc::new(Checkpoint::open(&path).unwrap()))
    }

    fn with(mut self, key: &str, value: GgufValue) -> Self {
        self.pairs.insert(key.to_owned(), value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.pairs.remove(key);
        self
    }

    fn with_tensor(mut self, name: &str, shape: &[usize]) -> Self {
        self.tensors.insert(name.to_owned(), shape.to_vec());
        self
    }
}

#[test]
fn the_plain_file_loads_with_a_tied_head() {
    let spec = GgufModel::new().load().unwrap().spec;
    assert_eq!((spec.vocab_size, spec.head_dim), (10, 4));
    assert!(spec.tie_word_embeddings);
    let untied = GgufModel::new().with_tensor("output.weight", &[10, 8]);
    assert!(!untied.load().unwrap().spec.tie_word_embeddings);
}

#[test]
fn metadata_that_makes_no_sense_is_named() {
    let new = GgufModel::new;
    let count = |n| GgufValue::U32(n);
    let cases = [
        (
            new().with("general.architecture", GgufValue::String("rwkv".into())),
            "architecture rwkv",
        ),
        (
            new().without("llama.block_count"),
            "llama.block_count is missing",
        ),
        (
            new().with("llama.block_count", count(0)),
            "llama.block_count is missing",
        ),
        (
            new().with("llama.block_count", count(u32::MAX)),
            "num_hidden_layers is 4294967295",
        ),
        (
            new().with("llama.block_count", count(2)),
            "blk.1.attn_norm.weight is missing",
        ),
        (
            new().with("llama.attention.head_count", count(3)),
            "llama.embedding_length is 8",
        ),
        (
            new().with("llama.attention.head_count", count(4)),
            "rotary_dim is 4",
        ),
        (
            new().with("llama.attention.head_count_kv", count(2)),
            "blk.0.attn_k.weight has shape",
        ),
        (
            new().with(
                "llama.attention.head_count_kv",
                GgufValue::Array(GgufArray::U32(vec![1, 1])),
            ),
            "llama.attention.head_count_kv",
        ),
        (
            new().with(
                "llama.attention.layer_norm_rms_epsilon",
                GgufValue::F32(f32::NAN),
            ),
            "llama.attention.layer_norm_rms_epsilon is NaN",
        ),
        (
            new().with("llama.rope.freq_base", GgufValue::F32(-1.0)),
            "llama.rope.freq_base is -1",
        ),
        (
            new().with("llama.rope.dimension_count", count(5)),
            "rotary_dim is 5",
        ),
        (
            new().with("llama.context_length", count(u32::MAX)),
            "max_position_embeddings is",
        ),
        (
            new().with("llama.attention.value_length", count(8)),
            "llama.attention.value_length is 8",
        ),
        (
            new().with("llama.rope.scaling.type", GgufValue::String("ntk".into())),
            "llama.rope.scaling.type = ntk is not supported",
        ),
        (
            new().with(
                "llama.rope.scaling.type",
                GgufValue::String("linear".into()),
            ),
            "llama.rope.scaling.factor is missing",
        ),
        (
            new().with_tensor("rope_freqs.weight", &[3]),
            "rope_freqs is a list of 3",
        ),
        (
            new().with_tensor("rope_freqs.weight", &[1 << 13]),
            "rope_freqs.weight has shape [8192]",
        ),
        (
            new().with_tensor("blk.0.attn_q.bias", &[8]),
            "blk.0.attn_q.bias has no place",
        ),
        (
            new().with_tensor("blk.0.ffn_gate_exps.weight", &[2, 12, 8]),
            "ffn_gate_exps",
        ),
        (
            new().with_tensor("output_norm.weight", &[2, 4]),
            "output_norm.weight has shape [2, 4]",
        ),
    ];
    for (model, expected) in cases {
        let text = model.load().unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
    }
}

#[test]
fn factors_per_frequency_come_from_a_tensor() {
    let spec = GgufModel::new()
        .with_tensor("rope_freqs.weight", &[2])
        .load()
        .unwrap()
        .spec;
    let divisors = vec![1.0, 1.0];
    assert_eq!(spec.rope[0].scaling, RopeScaling::Factors { divisors });
}
