//! What a model takes: weights, KV cache, and how many sequences that leaves room for.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::quantities::{grouped, human_bytes};
use crate::engine::{ComputeType, EngineOptions, MemoryDemand, plan};
use crate::kernels::cpu::KvShape;
use crate::model::Model;

/// The length of sequence that rooms are counted in beside the full context: a question and a
/// reasoned answer.
const TYPICAL_LEN: u64 = 2048;

/// A model's sizes, and what it takes in each compute type.
#[derive(Serialize)]
pub(super) struct ModelNeeds {
    path: PathBuf,
    family: &'static str,
    parameters: u64,
    layers: usize,
    hidden_size: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    context: usize,
    stored: Vec<Stored>,
    compute: Vec<Compute>,
}

/// Weights on the disk.
#[derive(Serialize)]
struct Stored {
    r#type: String,
    bytes: u64,
}

/// Memory when run in one type.
#[derive(Serialize)]
struct Compute {
    r#type: &'static str,
    weight_bytes: u64,
    kv_bytes_per_token: u64,
    pool: Pool,
}

/// The KV pool under the given flags and with the memory available now.
#[derive(Serialize)]
#[serde(untagged)]
enum Pool {
    Holds {
        bytes: u64,
        tokens: u64,
        max_model_len: u64,
    },
    DoesNotFit {
        reason: String,
    },
}

impl ModelNeeds {
    pub(super) fn of(path: &Path, model: &Model, options: &EngineOptions) -> Self {
        let spec = &model.spec;
        let stored = model.stored_bytes().into_iter();
        let types = [ComputeType::Bf16, ComputeType::F32];
        Self {
            path: path.to_owned(),
            family: spec.family,
            parameters: model.num_parameters(),
            layers: spec.num_hidden_layers,
            hidden_size: spec.hidden_size,
            heads: spec.num_attention_heads,
            key_value_heads: spec.num_key_value_heads,
            head_dim: spec.head_dim,
            vocab_size: spec.vocab_size,
            context: spec.max_position_embeddings,
            stored: stored
                .map(|(block_type, bytes)| Stored {
                    r#type: block_type.name().to_owned(),
                    bytes,
                })
                .collect(),
            compute: types.map(|t| Compute::of(model, t, options)).into(),
        }
    }

    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let stored: Vec<String> = self
            .stored
            .iter()
            .map(|stored| format!("{} in {}", human_bytes(stored.bytes), stored.r#type))
            .collect();
        let shape = format!(
            "{} layers of {}, {} heads of {} over {} of keys and values, vocabulary of {}",
            self.layers,
            grouped(self.hidden_size as u64),
            self.heads,
            self.head_dim,
            self.key_value_heads,
            grouped(self.vocab_size as u64),
        );
        let mut lines = vec![
            ("model", self.path.display().to_string()),
            (
                "family",
                format!("{}, {} parameters", self.family, grouped(self.parameters)),
            ),
            ("shape", shape),
            ("stored", stored.join(", ")),
            (
                "context",
                format!("{} tokens", grouped(self.context as u64)),
            ),
        ];
        lines.extend(self.compute.iter().map(|c| (c.r#type, c.line())));
        lines
    }
}

impl Compute {
    fn of(model: &Model, compute_type: ComputeType, options: &EngineOptions) -> Self {
        let options = EngineOptions {
            compute_type,
            ..options.clone()
        };
        let demand = MemoryDemand::on_cpu(
            model,
            compute_type,
            options.quantize,
            options.kv_type,
            KvShape::BLOCK_SIZE_STEP,
        );
        let pool = match plan(model, &options) {
            Ok(plan) => Pool::Holds {
                bytes: plan.kv_bytes,
                tokens: plan.kv_tokens,
                max_model_len: plan.max_model_len as u64,
            },
            Err(error) => Pool::DoesNotFit {
                reason: error.to_string(),
            },
        };
        Self {
            r#type: compute_type.name(),
            weight_bytes: demand.weight_bytes,
            kv_bytes_per_token: demand.block_bytes / KvShape::BLOCK_SIZE_STEP as u64,
            pool,
        }
    }

    fn line(&self) -> String {
        let needs = format!(
            "weights {}, KV cache {} per token",
            human_bytes(self.weight_bytes),
            human_bytes(self.kv_bytes_per_token)
        );
        match &self.pool {
            Pool::Holds {
                bytes,
                tokens,
                max_model_len,
            } => {
                let lengths = [TYPICAL_LEN, *max_model_len];
                // A typical answer beyond the context is not on offer.
                let lengths = lengths.into_iter().filter(|len| len <= max_model_len);
                let rooms: Vec<String> = lengths
                    .map(|len| format!("{} sequences of {}", grouped(tokens / len), grouped(len)))
                    .collect();
                format!(
                    "{needs}; the pool of {} holds {} tokens: {}",
                    human_bytes(*bytes),
                    grouped(*tokens),
                    rooms.join(", "),
                )
            }
            Pool::DoesNotFit { reason } => format!("{needs}; {reason}"),
        }
    }
}
