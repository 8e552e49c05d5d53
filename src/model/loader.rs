//! A checkpoint bound to its decoder: every weight found, its shape and type verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::families;
use super::names::{IGNORED_IN_LAYERS, TensorNames};
use super::planned::stacked_shape;
use super::weight::{LayerWeight, RowOrder, Weight, WeightId};
use super::{DecoderSpec, ModelError};
use crate::formats::{Checkpoint, DType, TensorView};
use crate::kernels::quant::BlockType;

/// A decoder and its weights, memory-mapped. Cheap to share; nothing is read until asked for.
#[derive(Debug)]
pub struct Model {
    /// What the decoder computes.
    pub spec: DecoderSpec,
    checkpoint: Arc<Checkpoint>,
    bound: BTreeMap<WeightId, Bound>,
}

/// Where a weight lies: rows of a tensor.
#[derive(Debug)]
struct Bound {
    tensor: String,
    block_type: BlockType,
    first_row: usize,
    rows: usize,
    cols: usize,
    order: RowOrder,
    offset: f32,
}

impl Model {
    /// Recognises the architecture, reads its configuration and finds every weight.
    ///
    /// # Errors
    /// The architecture is not supported, a value of the configuration makes no sense, or a tensor
    /// is missing, of another shape, of an unreadable type, or unknown; the message names it.
    pub fn from_checkpoint(checkpoint: Arc<Checkpoint>) -> Result<Self, ModelError> {
        let (mut spec, names) = families::describe(&checkpoint)?;
        spec.validate()?;
        let mut binder = Binder {
            checkpoint: &checkpoint,
            names,
            spec: &spec,
            bound: BTreeMap::new(),
        };
        binder.bind_ends()?;
        for layer in 0..spec.num_hidden_layers {
            binder.bind_layer(layer)?;
        }
        binder.refuse_unknown_parts()?;
        let bound = binder.bound;
        spec.tie_word_embeddings = !bound.contains_key(&WeightId::Head);
        Ok(Self {
            spec,
            checkpoint,
            bound,
        })
    }

    /// The checkpoint below.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// A weight, or `None` where the decoder has no such part. A tied head is the embedding.
    pub fn weight(&self, id: WeightId) -> Option<Weight<'_>> {
        let id = match id {
            WeightId::Head if self.spec.tie_word_embeddings => WeightId::Embedding,
            id => id,
        };
        let bound = self.bound.get(&id)?;
        let tensor = self.checkpoint.tensor(&bound.tensor);
        let data = tensor.expect("bound when it was loaded").data;
        let row_bytes = bound.block_type.row_bytes(bound.cols);
        let row_bytes = row_bytes.expect("verified when it was bound");
        Some(Weight {
            data: &data[bound.first_row * row_bytes..][..bound.rows * row_bytes],
            block_type: bound.block_type,
            rows: bound.rows,
            cols: bound.cols,
            order: bound.order,
            offset: bound.offset,
        })
    }

    /// A weight of a layer.
    pub fn layer_weight(&self, layer: usize, weight: LayerWeight) -> Option<Weight<'_>> {
        self.weight(WeightId::Layer(layer, weight))
    }

    /// Every weight that is stored, once: a tied head is not among them.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, Weight<'_>)> {
        self.bound
            .keys()
            .filter_map(|id| Some((*id, self.weight(*id)?)))
    }

    /// Elements of all weights, a tied head counted once.
    pub fn num_parameters(&self) -> u64 {
        let elements = |(_, weight): (_, Weight<'_>)| weight.rows() as u64 * weight.cols() as u64;
        self.weights().map(elements).sum()
    }

    /// Bytes of the stored weights by the type that they are stored in, largest share first.
    pub fn stored_bytes(&self) -> Vec<(BlockType, u64)> {
        let of_type = |block_type| {
            let weights = self.weights().map(|(_, weight)| weight);
            let bytes = weights
                .filter(|weight| weight.block_type() == block_type)
                .map(|weight| weight.num_bytes() as u64);
            (block_type, bytes.sum())
        };
        let mut stored: Vec<(BlockType, u64)> = BlockType::ALL.map(of_type).to_vec();
        stored.retain(|(_, bytes)| *bytes > 0);
        stored.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        stored
    }
}

/// Finds the weights of one checkpoint.
struct Binder<'a> {
    checkpoint: &'a Checkpoint,
    names: &'static TensorNames,
    spec: &'a DecoderSpec,
    bound: BTreeMap<WeightId, Bound>,
}

impl Binder<'_> {
    /// Embedding, final norm and head.
    fn bind_ends(&mut self) -> Result<(), ModelError> {
        let matrix = [self.spec.vocab_size, self.spec.hidden_size];
        let (names, spec) = (self.names, self.spec);
        let embedding = self.whole(names.embedding, &matrix, 0.0)?;
        self.bound.insert(WeightId::Embedding, embedding);
        let norm = self.whole(names.final_norm, &[spec.hidden_size], names.norm_offset)?;
        self.bound.insert(WeightId::FinalNorm, norm);
        if !spec.tie_word_embeddings || self.has_head_of_its_own() {
            let head = self.whole(names.head, &matrix, 0.0)?;
            self.bound.insert(WeightId::Head, head);
        }
        Ok(())
    }

    /// A tensor that is one weight.
    fn whole(&self, name: &str, shape: &[usize], offset: f32) -> Result<Bound, ModelError> {
        let block_type = self.verify(name, shape)?;
        let (rows, cols) = match shape {
            [rows, cols] => (*rows, *cols),
            _ => (1, shape.iter().product()),
        };
        Ok(Bound {
            tensor: name.to_owned(),
            block_type,
            first_row: 0,
            rows,
            cols,
            order: RowOrder::AsStored,
            offset,
        })
    }

    /// Whether a checkpoint whose configuration ties the head stores one with other contents all
    /// the same: the stored one counts then, as in transformers 5 and llama.cpp.
    fn has_head_of_its_own(&self) -> bool {
        let stored = |name| self.checkpoint.tensor(name);
        match (stored(self.names.head), stored(self.names.embedding)) {
            (Some(head), Some(embedding)) => {
                head.dtype != embedding.dtype || head.data != embedding.data
            }
            _ => false,
        }
    }

    fn bind_layer(&mut self, layer: usize) -> Result<(), ModelError> {
        for (part, weights) in self.names.layer {
            if weights.iter().any(|weight| !weight.is_in(self.spec)) {
                continue;
            }
            let tensor = format!("{}{layer}.{part}", self.names.layer_prefix);
            let shape = stacked_shape(weights, self.spec);
            let block_type = self.verify(&tensor, &shape)?;
            let mut first_row = 0;
            for weight in *weights {
                let (rows, cols) = weight.shape(self.spec);
                let bound = Bound {
                    tensor: tensor.clone(),
                    block_type,
                    first_row,
                    rows,
                    cols,
                    order: self.row_order(*weight),
                    offset: if weight.is_norm() {
                        self.names.norm_offset
                    } else {
                        0.0
                    },
                };
                self.bound.insert(WeightId::Layer(layer, *weight), bound);
                first_row += rows;
            }
        }
        Ok(())
    }

    fn row_order(&self, weight: LayerWeight) -> RowOrder {
        if self.names.interleaved && matches!(weight, LayerWeight::Q | LayerWeight::K) {
            RowOrder::Interleaved {
                head_dim: self.spec.head_dim,
            }
        } else {
            RowOrder::AsStored
        }
    }

    /// Checks that a tensor is there, has this shape, and is stored in whole readable rows.
    fn verify(&self, name: &str, shape: &[usize]) -> Result<BlockType, ModelError> {
        let tensor = self
            .checkpoint
            .tensor(name)
            .ok_or_else(|| ModelError::MissingTensor {
                tensor: name.to_owned(),
                family: self.spec.family,
            })?;
        if tensor.shape != shape {
            return Err(ModelError::Shape {
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.to_vec(),
            });
        }
        block_type(&tensor)
    }

    /// A tensor inside a layer that nothing above took would be ignored silently and the results
    /// would be another model's.
    fn refuse_unknown_parts(&self) -> Result<(), ModelError> {
        for tensor in self.checkpoint.tensor_names() {
            let Some(rest) = tensor.strip_prefix(self.names.layer_prefix) else {
                continue;
            };
            let Some((layer, part)) = rest.split_once('.') else {
                continue;
            };
            let is_layer = layer
                .parse::<usize>()
                .is_ok_and(|layer| layer < self.spec.num_hidden_layers);
            let takes = |(name, weights): &(&str, &[LayerWeight])| {
                *name == part && weights.iter().all(|weight| weight.is_in(self.spec))
            };
            let known = IGNORED_IN_LAYERS.contains(&part) || self.names.layer.iter().any(takes);
            if !(is_layer && known) {
                return Err(ModelError::UnexpectedTensor {
                    tensor: tensor.to_owned(),
                    family: self.spec.family,
                });
            }
        }
        Ok(())
    }
}

/// How a tensor's rows are read.
pub(super) fn block_type(tensor: &TensorView<'_>) -> Result<BlockType, ModelError> {
    Ok(match tensor.dtype {
        DType::F32 => BlockType::F32,
        DType::F16 => BlockType::F16,
        DType::BF16 => BlockType::BF16,
        DType::Q4_0 => BlockType::Q4_0,
        DType::Q4_1 => BlockType::Q4_1,
        DType::Q5_0 => BlockType::Q5_0,
        DType::Q5_1 => BlockType::Q5_1,
        DType::Q8_0 => BlockType::Q8_0,
        DType::Q2_K => BlockType::Q2K,
        DType::Q3_K => BlockType::Q3K,
        DType::Q4_K => BlockType::Q4K,
        DType::Q5_K => BlockType::Q5K,
        DType::Q6_K => BlockType::Q6K,
        DType::Q8_K => BlockType::Q8K,
        found => {
            let readable: Vec<_> = BlockType::ALL.iter().map(|t| t.name()).collect();
            return Err(ModelError::StoredType {
                tensor: tensor.name.to_owned(),
                found,
                readable: readable.join(", "),
            });
        }
    })
}
