//! Named tensors in safetensors files: read as f32 whatever they are stored as, written as f32.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::TrainError;
use crate::formats::{DType, PlannedTensor, SafetensorsFile, SafetensorsWriter};
use crate::kernels::quant::half_floats;

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
