//! ggml's quantisers behind a safe surface: everything that would make ggml abort the process is
//! checked before a call, and is an error.

#![allow(unsafe_code, reason = "calls into ggml; each proves its contract")]

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

use super::blocks::{BlockFault, Rows, block_type, is_target};
use crate::formats::DType;
use crate::kernels::quant::BlockType;

/// Largest magnitude that ggml's searches square and square again without leaving `f32`; far
/// beyond what any block type can hold the scale of.
const MAX_VALUE: f32 = 1e6;
/// Largest importance times the square of the largest value, for the same reason.
const MAX_WEIGHTED: f32 = 1e14;

/// Quantises whole rows with ggml's own code. *Shapes* `bytes`: the rows in `dtype`.
pub(super) fn quantise(dtype: DType, rows: Rows<'_>, bytes: &mut [u8]) -> Result<(), BlockFault> {
    let Rows {
        values,
        row_len,
        importance,
    } = rows;
    let row_count = check(dtype, &rows, bytes.len())?;
    // Nothing to search: the rounding is ours, to the same bytes, in vector instructions. Scales
    // of eight bits are finite, for the values are bounded.
    let own = block_type(dtype).filter(|t| !t.is_quantised() || *t == BlockType::Q8_0);
    if let Some(own) = own {
        let written = own.quantise(values, bytes);
        assert!(written, "plain floats and eight bits can always be written");
        return Ok(());
    }
    let id = dtype.gguf_id().ok_or(BlockFault::NotATarget)?;
    let num_bytes = bytes.len();
    let run = |target: *mut c_void| {
        let importance = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: `id` is a type that ggml quantises to (`is_target`), `check` has proved that
        // `values` holds `row_count` rows of whole blocks, that their blocks have `num_bytes` and
        // that `importance`, where the type needs it or it is given, has an element per column;
        // `target` is that long and aligned for every block (4 bytes). Values and importance are
        // bounded, so that no search meets a NaN, which ggml would abort on. The second call reads
        // what the first has written.
        unsafe {
            sys::ggml_quantize_chunk(
                id,
                values.as_ptr(),
                target,
                0,
                row_count as i64,
                row_len as i64,
                importance,
            );
            sys::ggml_validate_row_data(id, target, num_bytes)
        }
    };
    let scales_are_finite = if bytes.as_ptr().cast::<u32>().is_aligned() {
        run(bytes.as_mut_ptr().cast())
    } else {
        let mut aligned = vec![0_u32; num_bytes.div_ceil(4)];
        let finite = run(aligned.as_mut_ptr().cast());
        for (target, word) in bytes.chunks_mut(4).zip(&aligned) {
            target.copy_from_slice(&word.to_ne_bytes()[..target.len()]);
        }
        finite
    };
    if scales_are_finite {
        Ok(())
    } else {
        Err(BlockFault::Overflow)
    }
}

/// Reads whole blocks of any type that ggml reads. *Shapes* `bytes`: `values` in `dtype`.
pub(super) fn dequantise(dtype: DType, bytes: &[u8], values: &mut [f32]) -> Result<(), BlockFault> {
    if dtype.tensor_bytes(&[values.len()]) != Some(bytes.len()) {
        return Err(BlockFault::Length);
    }
    if let Some(own) = block_type(dtype) {
        own.dequantise(bytes, values);
        return Ok(());
    }
    let id = dtype
        .gguf_id()
        .filter(|_| dtype.is_quantized())
        .ok_or(BlockFault::Unreadable)?;
    // SAFETY: `id` is one of ggml's types (`DType` numbers them as ggml does), so the pointer
    // leads into ggml's static table.
    let read = unsafe { (*sys::ggml_get_type_traits(id)).to_float };
    let read = read.ok_or(BlockFault::Unreadable)?;
    let aligned: Vec<u32>;
    let source = if bytes.as_ptr().cast::<u32>().is_aligned() {
        bytes.as_ptr()
    } else {
        let word = |chunk: &[u8]| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        };
        aligned = bytes.chunks(4).map(word).collect();
        aligned.as_ptr().cast()
    };
    // SAFETY: `source` is aligned for every block and as long as the blocks of `values.len()`
    // elements, a whole number of them; the function reads those and writes `values`.
    unsafe { read(source.cast(), values.as_mut_ptr(), values.len() as i64) };
    Ok(())
}

/// What ggml asserts, as errors. Returns the number of rows.
fn check(dtype: DType, rows: &Rows<'_>, num_bytes: usize) -> Result<usize, BlockFault> {
    if !is_target(dtype) {
        return Err(BlockFault::NotATarget);
    }
    if rows.row_len == 0 || !rows.values.len().is_multiple_of(rows.row_len) {
        return Err(BlockFault::Length);
    }
    if !rows.row_len.is_multiple_of(dtype.block_size()) {
        return Err(BlockFault::RowLength {
            row_len: rows.row_len,
            block: dtype.block_size(),
        });
    }
    if dtype.tensor_bytes(&[rows.values.len()]) != Some(num_bytes) {
        return Err(BlockFault::Length);
    }
    if matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
        return Ok(rows.values.len() / rows.row_len);
    }
    let mut largest = 0.0_f32;
    let mut finite = true;
    for value in rows.values {
        finite &= value.is_finite();
        largest = largest.max(value.abs());
    }
    if !finite {
        return Err(BlockFault::NotFinite);
    }
    if largest > MAX_VALUE {
        return Err(BlockFault::TooLarge { largest });
    }
    match rows.importance {
        Some(importance) => {
            if importance.len() != rows.row_len {
                return Err(BlockFault::Importance);
            }
            let limit = MAX_WEIGHTED / (largest * largest).max(1.0);
            // Written so that a NaN fails it.
            if !importance.iter().all(|x| (0.0..=limit).contains(x)) {
                return Err(BlockFault::Importance);
            }
        }
        None if needs_importance(dtype) => return Err(BlockFault::NeedsImportance),
        None => {}
    }
    Ok(rows.values.len() / rows.row_len)
}

fn needs_importance(dtype: DType) -> bool {
    // SAFETY: a pure function of a type number.
    dtype
        .gguf_id()
        .is_some_and(|id| unsafe { sys::ggml_quantize_requires_imatrix(id) })
}
