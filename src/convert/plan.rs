//! Which tensors are written, under which names and types, and what is done to their values.

use super::config::Config;
use super::llama3::Llama3Scaling;
use super::options::FileType;
use super::{ConvertError, Family, metadata};
use crate::formats::{Checkpoint, DType, PlannedTensor, TensorView};

/// What is done to a tensor's values on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// Nothing.
    None,
    /// The rows of each head go from the half-split rotary order to the interleaved one.
    Interleave {
        /// Rows of a head.
        head_dim: usize,
    },
    /// The inverse of `Interleave`.
    Deinterleave {
        /// Rows of a head.
        head_dim: usize,
    },
    /// A constant is added to each element.
    Add(f32),
}

/// One tensor of the output.
pub(super) struct PlannedJob<'a> {
    pub(super) planned: PlannedTensor,
    pub(super) content: Content<'a>,
}

/// Where its values come from.
pub(super) enum Content<'a> {
    /// A tensor of the source.
    Source {
        view: TensorView<'a>,
        transform: Transform,
    },
    /// Computed from the configuration.
    Computed(Vec<f32>),
}

/// Buffers that old checkpoints store and no model needs.
const IGNORED_SUFFIXES: &[&str] = &[
    ".rotary_emb.inv_freq",
    ".attention.masked_bias",
    ".attention.bias",
];

/// The output's tensors, in the source's order, those computed from the configuration first.
pub(super) fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    family: Family,
    config: &Config<'_>,
    file_type: FileType,
) -> Result<Vec<PlannedJob<'a>>, ConvertError> {
    let mut jobs: Vec<PlannedJob<'a>> = computed(family, config)?;
    for view in checkpoint.tensors() {
        if IGNORED_SUFFIXES
            .iter()
            .any(|suffix| view.name.ends_with(suffix))
        {
            continue;
        }
        let unknown = || ConvertError::UnknownTensor {
            path: checkpoint.path().to_owned(),
            tensor: view.name.to_owned(),
            family: family.architecture(),
        };
        let name = family.gguf_tensor_name(view.name).ok_or_else(unknown)?;
        let transform = transform(checkpoint, family, config, &view)?;
        let planned = PlannedTensor {
            dtype: element_type(&name, view.shape, file_type.dtype),
            shape: view.shape.to_vec(),
            name,
        };
        let content = Content::Source { view, transform };
        jobs.push(PlannedJob { planned, content });
    }
    Ok(jobs)
}

/// Vectors, norms and everything that is not a weight stay in single precision; so do block types
/// give way to half precision where a row is not a whole number of blocks.
fn element_type(name: &str, shape: &[usize], wanted: DType) -> DType {
    let small = shape.len() <= 1 || name.ends_with("_norm.weight") || !name.ends_with(".weight");
    if small {
        return DType::F32;
    }
    let row = shape.last().copied().unwrap_or(1);
    if row.is_multiple_of(wanted.block_size()) {
        wanted
    } else {
        DType::F16
    }
}

fn transform(
    checkpoint: &Checkpoint,
    family: Family,
    config: &Config<'_>,
    view: &TensorView<'_>,
) -> Result<Transform, ConvertError> {
    let part = view.name.rsplit('.').nth(1).unwrap_or_default();
    if view.name.ends_with("norm.weight") && family.norm_offset() != 0.0 {
        return Ok(Transform::Add(family.norm_offset()));
    }
    let heads = match part {
        "q_proj" if family.interleaves_heads() => config.u32("num_attention_heads")?,
        "k_proj" if family.interleaves_heads() => config.num_key_value_heads()?,
        _ => return Ok(Transform::None),
    };
    let head_dim = head_rows(view.shape, heads as usize).ok_or_else(|| ConvertError::Shape {
        path: checkpoint.path().to_owned(),
        tensor: view.name.to_owned(),
        shape: view.shape.to_vec(),
        what: format!("{heads} heads of an even size"),
    })?;
    Ok(Transform::Interleave { head_dim })
}

/// Rows per head, if the rows divide into heads of an even size.
pub(super) fn head_rows(shape: &[usize], heads: usize) -> Option<usize> {
    let rows = shape.first()?;
    let head_dim = rows.checked_div(heads)?;
    (head_dim * heads == *rows && head_dim > 0 && head_dim.is_multiple_of(2)).then_some(head_dim)
}

/// Tensors that the configuration gives: the divisors of rotary frequencies.
fn computed<'a>(family: Family, config: &Config<'_>) -> Result<Vec<PlannedJob<'a>>, ConvertError> {
    let job = |name: &str, values: Vec<f32>| PlannedJob {
        planned: PlannedTensor {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: vec![values.len()],
        },
        content: Content::Computed(values),
    };
    if family.interleaves_heads() && config.rope_type() == Some("llama3") {
        let scaling = Llama3Scaling::of_config(config);
        let divisors = scaling.divisors(config.head_dim()?);
        return Ok(vec![job("rope_freqs.weight", divisors)]);
    }
    if family != Family::Phi3 {
        return Ok(Vec::new());
    }
    let expected = metadata::phi3_rotary_dim(config)? as usize / 2;
    let mut jobs = Vec::new();
    for (key, name) in [
        ("long_factor", "rope_factors_long.weight"),
        ("short_factor", "rope_factors_short.weight"),
    ] {
        let Some(factors) = config.rope_f32s(key) else {
            continue;
        };
        if factors.len() != expected {
            return Err(config.error(
                key,
                "one factor per rotating pair",
                &format!("{} for {expected} pairs", factors.len()),
            ));
        }
        jobs.push(job(name, factors));
    }
    if jobs.len() == 1 {
        return Err(config.error(
            "rope_scaling",
            "long_factor and short_factor",
            "one of them",
        ));
    }
    Ok(jobs)
}
