//! A checkpoint's weights in a device's memory, copied as they are stored where the device can
//! multiply with that.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::engine::backends::cpu::ComputeType;
use crate::engine::demand::held_as;
use crate::kernels::quant::{BlockType, half_floats};
use crate::model::{LayerWeight, Model, Rope, Weight, WeightId};

use super::device::Backend;
use super::memory::{self, Purpose};
use super::tensor::{Context, Element, Tensor};

/// Bytes that are put together before they are sent to the device.
const STAGING_BYTES: usize = 16 << 20;

/// The weights of one layer. Shapes as in [`LayerWeight`], fastest dimension first.
pub(super) struct LayerTensors {
    pub(super) attn_norm: Tensor,
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    /// Of queries, keys and values.
    pub(super) biases: Option<[Tensor; 3]>,
    /// Of query and of key heads.
    pub(super) head_norms: Option<[Tensor; 2]>,
    pub(super) output: Tensor,
    pub(super) post_attn_norm: Option<Tensor>,
    pub(super) ffn_norm: Tensor,
    pub(super) gate: Tensor,
    pub(super) up: Tensor,
    pub(super) down: Tensor,
    pub(super) post_ffn_norm: Option<Tensor>,
}

/// One rotary embedding: an angle's divisor per pair, and what multiplies cosine and sine.
pub(super) struct RopeTensor {
    pub(super) divisors: Tensor,
    pub(super) magnitude: f32,
}

/// What follows the last layer.
pub(super) struct HeadTensors {
    pub(super) norm: Tensor,
    pub(super) matrix: Tensor,
}

/// Everything that stays on the device, the embedding excepted: its rows come from the checkpoint.
pub(super) struct Weights {
    /// Of the device's layers.
    pub(super) layers: Vec<LayerTensors>,
    pub(super) ropes: Vec<RopeTensor>,
    /// Where the device has the last layer.
    pub(super) head: Option<HeadTensors>,
    pub(super) num_bytes: u64,
    /// Bytes of the matrices by the name of the type that they are held in.
    pub(super) held: BTreeMap<&'static str, u64>,
}

impl Weights {
    /// Copies the weights of `layers` to the device, and the head if the last one is among them.
    ///
    /// # Errors
    /// The device lacks the memory, or cannot multiply with any form of a weight.
    pub(super) fn upload(
        backend: &Backend,
        model: &Model,
        compute_type: ComputeType,
        max_model_len: usize,
        layers: Range<usize>,
    ) -> Result<Self, String> {
        let spec = &model.spec;
        let has_head = layers.end == spec.num_hidden_layers;
        let mut loader = Loader {
            backend,
            model,
            compute_type,
            context: Context::new(layers.len() * LayerWeight::ALL.len() + spec.rope.len() + 2),
            placed: Vec::new(),
        };
        let ropes: Vec<Rope> = spec
            .rope
            .iter()
            .map(|rope| Rope::new(rope, max_model_len))
            .collect();
        let rope = |rope: &Rope| RopeTensor {
            divisors: loader
                .context
                .tensor(Element::F32, [rope.inverse_frequencies().len(), 1, 1, 1]),
            magnitude: rope.attention_factor(),
        };
        let rope_tensors: Vec<RopeTensor> = ropes.iter().map(rope).collect();
        let layers = layers
            .map(|layer| loader.layer(layer))
            .collect::<Result<_, _>>()?;
        let head = match has_head {
            true => Some(HeadTensors {
                norm: loader.place(WeightId::FinalNorm)?,
                matrix: loader.place(WeightId::Head)?,
            }),
            false => None,
        };
        memory::allocate(backend, &loader.context, Purpose::Weights)?;
        for (rope, tensor) in ropes.iter().zip(&rope_tensors) {
            let divisors: Vec<f32> = rope.inverse_frequencies().iter().map(|f| 1.0 / f).collect();
            memory::write(&tensor.divisors, 0, &divisors);
        }
        let mut num_bytes = 0;
        let mut held = BTreeMap::new();
        for (id, tensor) in &loader.placed {
            num_bytes += tensor.num_bytes() as u64;
            let weight = weight(model, *id);
            let form = send(&weight, tensor);
            if weight.rows() > 1 {
                *held.entry(form.name()).or_default() += tensor.num_bytes() as u64;
            }
        }
        Ok(Self {
            layers,
            ropes: rope_tensors,
            head,
            num_bytes,
            held,
        })
    }
}

/// Describes tensors before there is memory for them.
struct Loader<'a> {
    backend: &'a Backend,
    model: &'a Model,
    compute_type: ComputeType,
    context: Context,
    placed: Vec<(WeightId, Tensor)>,
}

impl Loader<'_> {
    fn layer(&mut self, layer: usize) -> Result<LayerTensors, String> {
        let (qkv_bias, qk_norm, post_norms) = {
            let spec = &self.model.spec;
            (spec.qkv_bias, spec.qk_norm, spec.post_norms)
        };
        let mut get = |role| self.place(WeightId::Layer(layer, role));
        Ok(LayerTensors {
            attn_norm: get(LayerWeight::AttnNorm)?,
            q: get(LayerWeight::Q)?,
            k: get(LayerWeight::K)?,
            v: get(LayerWeight::V)?,
            biases: match qkv_bias {
                true => Some([
                    get(LayerWeight::QBias)?,
                    get(LayerWeight::KBias)?,
                    get(LayerWeight::VBias)?,
                ]),
                false => None,
            },
            head_norms: match qk_norm {
                true => Some([get(LayerWeight::QNorm)?, get(LayerWeight::KNorm)?]),
                false => None,
            },
            output: get(LayerWeight::O)?,
            post_attn_norm: match post_norms {
                true => Some(get(LayerWeight::PostAttnNorm)?),
                false => None,
            },
            ffn_norm: get(LayerWeight::FfnNorm)?,
            gate: get(LayerWeight::Gate)?,
            up: get(LayerWeight::Up)?,
            down: get(LayerWeight::Down)?,
            post_ffn_norm: match post_norms {
                true => Some(get(LayerWeight::PostFfnNorm)?),
                false => None,
            },
        })
    }

    /// Describes a weight in the first form that the device can multiply with.
    fn place(&mut self, id: WeightId) -> Result<Tensor, String> {
        let weight = weight(self.model, id);
        let is_vector = weight.rows() == 1;
        let held = held_as(weight.block_type(), is_vector, self.compute_type);
        let forms = [held, BlockType::F16, BlockType::F32];
        let usable = |form: &BlockType| is_vector || self.can_multiply(*form, &weight);
        let form = forms.into_iter().find(usable).ok_or_else(|| {
            format!(
                "{} multiplies with none of {}, F16 and F32",
                self.backend.info().name,
                held.name()
            )
        })?;
        let shape = [weight.cols(), weight.rows(), 1, 1];
        let tensor = self.context.tensor(Element::Stored(form), shape);
        self.placed.push((id, tensor.clone()));
        Ok(tensor)
    }

    fn can_multiply(&self, form: BlockType, weight: &Weight<'_>) -> bool {
        let probe = Context::new(3);
        let shape = [weight.cols(), weight.rows(), 1, 1];
        let matrix = probe.tensor(Element::Stored(form), shape);
        let rows = probe.tensor(Element::F32, [weight.cols(), 2, 1, 1]);
        self.backend.supports(&probe.mul_mat(&matrix, &rows))
    }
}

/// A weight that the model's specification says is there.
pub(super) fn weight(model: &Model, id: WeightId) -> Weight<'_> {
    model
        .weight(id)
        .expect("a model has every weight of its specification")
}

/// Copies a weight to its tensor, a stretch of rows at a time, and returns what it is held in.
fn send(weight: &Weight<'_>, tensor: &Tensor) -> BlockType {
    let Element::Stored(form) = tensor.element() else {
        unreachable!("weights are of a stored type");
    };
    let as_stored = form == weight.block_type() && weight.offset() == 0.0;
    let row_bytes = tensor.element().row_bytes(weight.cols());
    let stretch = (STAGING_BYTES / row_bytes).clamp(1, weight.rows());
    let mut bytes = vec![0; stretch * row_bytes];
    let mut values = vec![0.0; weight.cols()];
    for first in (0..weight.rows()).step_by(stretch) {
        let rows = first..weight.rows().min(first + stretch);
        let staged = &mut bytes[..rows.len() * row_bytes];
        for (row, bytes) in rows.zip(staged.chunks_exact_mut(row_bytes)) {
            if as_stored {
                bytes.copy_from_slice(weight.row_bytes(row));
                continue;
            }
            weight.read_row(row, &mut values);
            match form {
                BlockType::F16 => half_floats::f32_to_f16(&values, bytes),
                BlockType::BF16 => half_floats::f32_to_bf16(&values, bytes),
                BlockType::F32 => half_floats::f32_to_bytes(&values, bytes),
                form => unreachable!("no weight is converted to {}", form.name()),
            }
        }
        memory::write(tensor, first * row_bytes, staged);
    }
    form
}
