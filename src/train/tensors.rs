//! The values of candle's tensors for the kernels, and named tensors in safetensors files: read as
//! f32 whatever they are stored as, written as f32.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{
    CpuStorage, Device, InplaceOp1, Layout, Result as TensorResult, Storage, Tensor,
};

use super::TrainError;
use crate::formats::{DType, PlannedTensor, SafetensorsFile, SafetensorsWriter};
use crate::kernels::cpu::Values;
use crate::kernels::quant::half_floats;

/// Runs `f` over the values of a contiguous tensor of the CPU, without copying them.
///
/// # Errors
/// It is none, or of another type than f32 or bfloat16.
pub(super) fn with_values<T>(tensor: &Tensor, f: impl FnOnce(Values<'_>) -> T) -> TensorResult<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let values = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Values::F32(&values[start..end])
        }
        (Storage::Cpu(CpuStorage::BF16(values)), Some((start, end))) => {
            Values::Bf16(&values[start..end])
        }
        _ => candle_core::bail!(
            "a tensor of {:?} {:?}: training computes with contiguous f32 or bf16 on the CPU",
            tensor.dtype(),
            tensor.shape()
        ),
    };
    Ok(f(values))
}

/// The same for f32 alone.
///
/// # Errors
/// As [`with_values`].
pub(super) fn with_f32<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> TensorResult<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("a tensor of {:?}, expected contiguous f32", tensor.dtype());
    };
    Ok(f(&values[start..end]))
}

/// Lets `f` change the values of a contiguous f32 tensor where they are.
///
/// # Errors
/// It is none, or `f` fails.
pub(super) fn with_f32_mut(
    tensor: &Tensor,
    f: impl FnOnce(&mut [f32]) -> TensorResult<()>,
) -> TensorResult<()> {
    tensor.inplace_op1(&Change(RefCell::new(Some(f))))
}

struct Change<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> TensorResult<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> TensorResult<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("only contiguous f32 can be changed in place");
        };
        match self.0.take() {
            Some(f) => f(&mut values[start..end]),
            None => Ok(()),
        }
    }
}

/// All tensors of a file, in f32.
///
/// # Errors
/// The file cannot be read, or a tensor holds no floats.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let file = SafetensorsFile::open(path)?;
    let mut tensors = BTreeMap::new();
    for view in file.tensors() {
        let mut values = vec![0.0; view.num_elements()];
        match view.dtype {
            DType::F32 => half_floats::f32_from_bytes(view.data, &mut values),
            DType::F16 => half_floats::f16_to_f32(view.data, &mut values),
            DType::BF16 => half_floats::bf16_to_f32(view.data, &mut values),
            other => {
                return Err(TrainError::Data {
                    path: path.to_owned(),
                    reason: format!("tensor {} is stored as {other}, not as floats", view.name),
                });
            }
        }
        let tensor = Tensor::from_vec(values, view.shape, &Device::Cpu)?;
        tensors.insert(view.name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Writes f32 tensors as one file, complete or not at all.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(path: &Path, tensors: &[(String, &Tensor)]) -> Result<(), TrainError> {
    let planned = tensors
        .iter()
        .map(|(name, tensor)| PlannedTensor {
            name: name.clone(),
            dtype: DType::F32,
            shape: tensor.dims().to_vec(),
        })
        .collect();
    let writer = SafetensorsWriter::create_file(path, planned)?;
    for (name, tensor) in tensors {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let mut bytes = vec![0; 4 * values.len()];
        half_floats::f32_to_bytes(&values, &mut bytes);
        writer.write(name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}
