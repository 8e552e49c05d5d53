//! GGUF files of any shape without a tokenizer, for what only looks at tensors.

use std::path::Path;

use micota::formats::{DType, GgufSplit, GgufValue, GgufWriter, PlannedTensor};
use micota::random::CounterRng;

/// The sizes of a decoder, in the words of `config.json`.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// `general.architecture`.
    pub(crate) architecture: &'static str,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
}

impl Sizes {
    pub(crate) fn small(architecture: &'static str) -> Self {
        Self {
            architecture,
            hidden: 256,
            intermediate: 256,
            layers: 2,
            heads: 4,
            key_heads: 2,
            vocab: 40,
            tied: false,
        }
    }

    /// Names and shapes, outermost first.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, middle) = (self.hidden, self.intermediate);
        let kv = hidden / self.heads * self.key_heads;
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), vec![self.vocab, hidden]),
            ("output_norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.tied {
            tensors.push(("output.weight".to_owned(), vec![self.vocab, hidden]));
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                tensors.push((format!("blk.{layer}.{name}"), shape));
            };
            add("attn_norm.weight", vec![hidden]);
            add("ffn_norm.weight", vec![hidden]);
            add("attn_output.weight", vec![hidden, hidden]);
            add("ffn_down.weight", vec![hidden, middle]);
            if self.architecture == "phi3" {
                add("attn_qkv.weight", vec![hidden + 2 * kv, hidden]);
                add("ffn_up.weight", vec![2 * middle, hidden]);
            } else {
                add("attn_q.weight", vec![hidden, hidden]);
                add("attn_k.weight", vec![kv, hidden]);
                add("attn_v.weight", vec![kv, hidden]);
                add("ffn_gate.weight", vec![middle, hidden]);
                add("ffn_up.weight", vec![middle, hidden]);
            }
        }
        tensors
    }

    pub(crate) fn pairs(&self) -> Vec<(String, GgufValue)> {
        let own = |key: &str, value: GgufValue| (format!("{}.{key}", self.architecture), value);
        let u32 = |value: usize| GgufValue::U32(value as u32);
        let text = |text: &str| GgufValue::String(text.to_owned());
        vec![
            ("general.architecture".to_owned(), text(self.architecture)),
            ("general.file_type".to_owned(), GgufValue::U32(1)),
            own("block_count", u32(self.layers)),
            own("context_length", u32(256)),
            own("embedding_length", u32(self.hidden)),
            own("feed_forward_length", u32(self.intermediate)),
            own("attention.head_count", u32(self.heads)),
            own("attention.head_count_kv", u32(self.key_heads)),
            own("attention.layer_norm_rms_epsilon", GgufValue::F32(1e-6)),
            own("rope.dimension_count", u32(self.hidden / self.heads)),
            ("general.name".to_owned(), text("after the others")),
        ]
    }

    /// Writes the model: matrices in `dtype` with what `bytes` gives for a tensor's name and
    /// number of bytes, vectors in F32.
    pub(crate) fn write(
        &self,
        path: &Path,
        dtype: DType,
        mut bytes: impl FnMut(&str, DType, usize) -> Vec<u8>,
    ) {
        let planned: Vec<_> = self
            .tensors()
            .into_iter()
            .map(|(name, shape)| PlannedTensor {
                dtype: if shape.len() > 1 { dtype } else { DType::F32 },
                name,
                shape,
            })
            .collect();
        let writer =
            GgufWriter::create(path, &self.pairs(), planned.clone(), GgufSplit::default()).unwrap();
        for tensor in planned {
            let size = tensor.dtype.tensor_bytes(&tensor.shape).unwrap();
            let data = bytes(&tensor.name, tensor.dtype, size);
            writer.write_at(&tensor.name, 0, &data).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Writes the model with reproducible random values in F16 or F32.
    pub(crate) fn write_random(&self, path: &Path, dtype: DType, seed: u64) {
        let mut tensor = 0;
        self.write(path, dtype, |_, dtype, size| {
            tensor += 1;
            let stream = CounterRng::from_parts(&[seed, tensor]);
            // A sum of uniforms has tails, as weights have.
            let value = |i: usize| {
                let i = 3 * i as u128;
                let sum: f64 = (0..3).map(|k| stream.uniform(i + k)).sum();
                (0.1 * (sum - 1.5)) as f32
            };
            match dtype {
                DType::F32 => (0..size / 4).flat_map(|i| value(i).to_le_bytes()).collect(),
                DType::F16 => (0..size / 2)
                    .flat_map(|i| half::f16::from_f32(value(i)).to_le_bytes())
                    .collect(),
                other => panic!("no random values in {other}"),
            }
        });
    }
}
