//! The quantisers of a program that was built without ggml: the types whose rounding leaves no
//! choice, with our own kernels.

use super::blocks::{BlockFault, Rows, block_type, is_target};
use crate::formats::DType;

/// Quantises whole rows. *Shapes* `bytes`: the rows in `dtype`.
pub(super) fn quantise(dtype: DType, rows: Rows<'_>, bytes: &mut [u8]) -> Result<(), BlockFault> {
    if !is_target(dtype) {
        return Err(BlockFault::NotATarget);
    }
    if !rows.row_len.is_multiple_of(dtype.block_size()) {
        return Err(BlockFault::RowLength {
            row_len: rows.row_len,
            block: dtype.block_size(),
        });
    }
    if dtype.tensor_bytes(&[rows.values.len()]) != Some(bytes.len()) {
        return Err(BlockFault::Length);
    }
    if !rows.values.iter().all(|value| value.is_finite()) {
        return Err(BlockFault::NotFinite);
    }
    let own = block_type(dtype).ok_or(BlockFault::NotCompiled)?;
    // Importance steers ggml's search for Q4_0 and Q5_0, which is not here.
    let searches = rows.importance.is_some() && own.is_quantised() && dtype != DType::Q8_0;
    if searches || !own.quantise(rows.values, bytes) {
        return Err(BlockFault::NotCompiled);
    }
    Ok(())
}

/// Reads whole blocks. *Shapes* `bytes`: `values` in `dtype`.
pub(super) fn dequantise(dtype: DType, bytes: &[u8], values: &mut [f32]) -> Result<(), BlockFault> {
    if dtype.tensor_bytes(&[values.len()]) != Some(bytes.len()) {
        return Err(BlockFault::Length);
    }
    let own = block_type(dtype).ok_or(BlockFault::NotCompiled)?;
    own.dequantise(bytes, values);
    Ok(())
}
