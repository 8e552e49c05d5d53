//! How each weight matrix is held: as floats, or as integers of 8 or 4 bits.
//!
//! Decided from the checkpoint and one option, before anything is packed, so that memory can be
//! planned and the user told.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::kernels::cpu::{Bf16, F32, IntFormat, Operand};
use crate::model::{LayerWeight, Model, Weight, WeightId};

use super::ComputeType;
use super::weights::weight;

/// Which weights are held, and multiplied, as integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// Those that the checkpoint holds so (quantised GGUF files), when computing in bfloat16.
    #[default]
    Auto,
    /// None: quantised blocks are widened.
    None,
    /// All, in 8 bits with a scale for each 128 inputs.
    Int8,
    /// All, in 8 bits with a scale for each 32 inputs: slower and more exact.
    Int8By32,
    /// All, in 8 bits with a scale for each output: faster and less exact.
    Int8PerRow,
}

impl Quantize {
    const ALL: [Self; 5] = [
        Self::Auto,
        Self::None,
        Self::Int8,
        Self::Int8By32,
        Self::Int8PerRow,
    ];

    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Int8By32 => "int8-32",
            Self::Int8PerRow => "int8-row",
        }
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quantize {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| {
            format!(
                "unknown way `{name}` to quantise; known: {}",
                known.join(", ")
            )
        })
    }
}

/// How the matrices of a model are held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    compute_type: ComputeType,
    quantize: Quantize,
}

impl Storage {
    pub(super) fn new(compute_type: ComputeType, quantize: Quantize) -> Self {
        Self {
            compute_type,
            quantize,
        }
    }

    /// A format whose groups activations have where they meet integer weights.
    pub(super) fn int_format(self) -> IntFormat {
        match self.quantize {
            Quantize::Int8 => IntFormat::Int8Wide,
            Quantize::Int8PerRow => IntFormat::Int8PerRow,
            // The groups of ggml's blocks are one size.
            Quantize::Auto | Quantize::None | Quantize::Int8By32 => IntFormat::Int8,
        }
    }

    /// The format of one packed matrix that `parts` become together; `None` for floats.
    pub(super) fn format(self, parts: &[Weight<'_>]) -> Option<IntFormat> {
        match (self.quantize, self.compute_type) {
            (Quantize::Int8, _) => Some(IntFormat::Int8Wide),
            (Quantize::Int8By32, _) => Some(IntFormat::Int8),
            (Quantize::Int8PerRow, _) => Some(IntFormat::Int8PerRow),
            (Quantize::None, _) | (Quantize::Auto, ComputeType::F32) => None,
            (Quantize::Auto, ComputeType::Bf16) => {
                let formats = parts.iter().map(|part| IntFormat::of(part.block_type()));
                let formats: Option<Vec<_>> = formats.collect();
                let widest = |a: IntFormat, b: IntFormat| {
                    [IntFormat::Int8, IntFormat::Int4Affine, IntFormat::Int4]
                        .into_iter()
                        .find(|format| *format == a || *format == b)
                        .unwrap_or(a)
                };
                formats.and_then(|formats| formats.into_iter().reduce(widest))
            }
        }
    }

    /// Bytes of a packed matrix.
    fn bytes(self, parts: &[Weight<'_>], outputs: usize) -> usize {
        let inputs = parts[0].cols();
        match (self.format(parts), self.compute_type) {
            (Some(format), _) => format.bytes(outputs, inputs),
            (None, ComputeType::Bf16) => float_bytes::<Bf16>(outputs, inputs),
            (None, ComputeType::F32) => float_bytes::<F32>(outputs, inputs),
        }
    }

    /// Bytes of all packed matrices.
    pub(super) fn weight_bytes(self, model: &Model) -> u64 {
        let mut bytes = 0;
        for_each_matrix(model, |parts, outputs| {
            bytes += self.bytes(parts, outputs) as u64;
        });
        bytes
    }

    /// Whether more bytes of weights are integers than floats.
    pub(super) fn is_mostly_ints(self, model: &Model) -> bool {
        let (mut ints, mut all) = (0, 0);
        for_each_matrix(model, |parts, outputs| {
            let bytes = self.bytes(parts, outputs);
            all += bytes;
            ints += if self.format(parts).is_some() {
                bytes
            } else {
                0
            };
        });
        2 * ints > all
    }

    /// What is held in which way, and which blocks were not taken as they are.
    pub(super) fn summary(self, model: &Model) -> StorageSummary {
        let mut summary = StorageSummary::default();
        for_each_matrix(model, |parts, outputs| {
            let format = self.format(parts);
            let name = format.map_or(self.compute_type.name(), IntFormat::name);
            let bytes = self.bytes(parts, outputs) as u64;
            *summary.held.entry(name).or_default() += bytes;
            let Some(format) = format else { return };
            for part in parts {
                let block_type = part.block_type();
                if block_type.is_quantised() && !format.takes(block_type) {
                    let tensors = summary
                        .requantised
                        .entry((block_type.name(), format.name()));
                    *tensors.or_default() += 1;
                }
            }
        });
        summary
    }
}

/// How a model's weights are held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageSummary {
    /// Bytes by the name of a format.
    pub held: BTreeMap<&'static str, u64>,
    /// Tensors of a block type that no format holds as it is, by the names of both.
    pub requantised: BTreeMap<(&'static str, &'static str), usize>,
}

/// Calls `body` with the parts of each packed matrix and the outputs of its panels.
fn for_each_matrix(model: &Model, mut body: impl FnMut(&[Weight<'_>], usize)) {
    for layer in 0..model.spec.num_hidden_layers {
        let get = |role| weight(model, WeightId::Layer(layer, role));
        let qkv = [LayerWeight::Q, LayerWeight::K, LayerWeight::V].map(get);
        body(&qkv, qkv.iter().map(Weight::rows).sum());
        let gated = [LayerWeight::Gate, LayerWeight::Up].map(get);
        body(&gated, 2 * gated[0].rows().next_multiple_of(16));
        for role in [LayerWeight::O, LayerWeight::Down] {
            body(&[get(role)], get(role).rows());
        }
    }
    let head = weight(model, WeightId::Head);
    body(&[head], head.rows());
}

/// Bytes of a packed matrix of floats: outputs come in panels of sixteen, inputs in whole words.
fn float_bytes<O: Operand>(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(16) * inputs.div_ceil(O::PER_WORD) * size_of::<O::Word>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for choice in Quantize::ALL {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert_eq!(
            "int4".parse::<Quantize>().unwrap_err(),
            "unknown way `int4` to quantise; known: auto, none, int8, int8-32, int8-row"
        );
    }
}
