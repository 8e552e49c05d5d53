//! Values of one tensor, piece by piece: read, transformed, stored in the new type.

use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use rayon::prelude::*;

use super::plan::{Content, PlannedJob, Transform};
use crate::formats::{DType, FormatError, TensorView, write_behind};
use crate::kernels::quant::BlockType;

/// Elements per piece: large enough that a write is worth its call, small enough that a piece
/// per thread stays in the cache (1 MiB in single precision).
const PIECE_ELEMENTS: usize = 1 << 18;

/// A range of rows of one tensor of the output.
struct Piece {
    job: usize,
    begin: usize,
    end: usize,
}

/// The plain or block format of the kernels for a stored type; `None` if they have none.
pub(super) fn block_type(dtype: DType) -> Option<BlockType> {
    BlockType::ALL
        .into_iter()
        .find(|block_type| block_type.name() == dtype.name())
}

/// Divides a tensor into pieces of whole rows.
fn pieces(index: usize, job: &PlannedJob<'_>) -> Vec<Piece> {
    let (rows, row_len) = rows(job);
    let step = (PIECE_ELEMENTS / row_len.max(1)).max(1);
    (0..rows)
        .step_by(step)
        .map(|begin| Piece {
            job: index,
            begin,
            end: (begin + step).min(rows),
        })
        .collect()
}

/// Rows and their length. A vector is one row, unless its elements move like rows.
fn rows(job: &PlannedJob<'_>) -> (usize, usize) {
    let shape = &job.planned.shape;
    let elements: usize = shape.iter().product();
    let moves = matches!(
        job.content,
        Content::Source {
            transform: Transform::Interleave { .. } | Transform::Deinterleave { .. },
            ..
        }
    );
    match shape[..] {
        [len] if moves => (len, 1),
        [.., row_len] if row_len > 0 => (elements / row_len, row_len),
        _ => (usize::from(elements > 0), elements),
    }
}

/// Room for a piece, used again for the next one.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// Converts all tensors, in parallel over their pieces, and hands the bytes to `write_at` with the
/// tensor's name and their offset in it. `sync` stores what has been written; `progress` gets the
/// bytes so far.
pub(super) fn convert_all(
    jobs: &[PlannedJob<'_>],
    write_at: impl Fn(&str, u64, &[u8]) -> Result<(), FormatError> + Sync,
    sync: impl Fn() -> Result<(), FormatError> + Send,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), FormatError> {
    let jobs_pieces = jobs.iter().enumerate();
    let pieces: Vec<_> = jobs_pieces.flat_map(|(i, job)| pieces(i, job)).collect();
    let written = AtomicU64::new(0);
    write_behind(sync, |behind| {
        let write = |buffers: &mut Buffers, piece: &Piece| {
            let job = &jobs[piece.job];
            convert(job, piece, buffers, |offset, bytes| {
                write_at(&job.planned.name, offset, bytes)?;
                let len = bytes.len() as u64;
                behind.wrote(len);
                progress(written.fetch_add(len, Ordering::Relaxed) + len);
                Ok(())
            })
        };
        pieces.par_iter().try_for_each_init(Buffers::default, write)
    })
}

/// Converts a piece and hands its bytes to `write` with their offset in the tensor.
fn convert(
    job: &PlannedJob<'_>,
    piece: &Piece,
    buffers: &mut Buffers,
    write: impl Fn(u64, &[u8]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let (_, row_len) = rows(job);
    let dtype = job.planned.dtype;
    let row_bytes = |dtype: DType| {
        dtype
            .tensor_bytes(&[row_len])
            .expect("planned and read tensors have whole blocks in their rows")
    };
    let offset = (piece.begin * row_bytes(dtype)) as u64;
    let Buffers { values, bytes } = buffers;
    let num_values = (piece.end - piece.begin) * row_len;
    match &job.content {
        Content::Source { view, transform } => {
            let in_row_bytes = row_bytes(view.dtype);
            let source = &view.data[piece.begin * in_row_bytes..piece.end * in_row_bytes];
            // Exact copies need no detour. The one through f32 quiets the NaNs of bfloat16.
            let plain = match view.dtype {
                DType::F32 | DType::F16 => true,
                DType::BF16 => !bf16_holds_nan(source),
                _ => false,
            };
            if view.dtype == dtype && plain && *transform == Transform::None {
                return write(offset, source);
            }
            values.resize(num_values, 0.0);
            read_rows(view, *transform, piece, row_len, values);
        }
        Content::Computed(all) => {
            values.clear();
            values.extend(&all[piece.begin * row_len..piece.end * row_len]);
        }
    }
    bytes.resize((piece.end - piece.begin) * row_bytes(dtype), 0);
    let quantised = block_type(dtype).is_some_and(|format| format.quantise(values, bytes));
    assert!(
        quantised,
        "the plan asks only for types that can be written"
    );
    write(offset, bytes)
}

fn bf16_holds_nan(bytes: &[u8]) -> bool {
    let infinity = half::bf16::INFINITY.to_bits();
    let pairs = bytes.as_chunks::<2>().0;
    // One pass without a branch per element.
    let largest = pairs
        .iter()
        .map(|pair| u16::from_le_bytes(*pair) & 0x7fff)
        .max();
    largest.is_some_and(|magnitude| magnitude > infinity)
}

fn read_rows(
    view: &TensorView<'_>,
    transform: Transform,
    piece: &Piece,
    row_len: usize,
    values: &mut [f32],
) {
    let format = block_type(view.dtype).expect("the plan refuses other types");
    let row_bytes = view.data.len() / (view.num_elements() / row_len);
    let row = |index: usize| &view.data[index * row_bytes..(index + 1) * row_bytes];
    match transform {
        Transform::None | Transform::Add(_) => {
            let bytes = &view.data[piece.begin * row_bytes..piece.end * row_bytes];
            format.dequantise(bytes, values);
        }
        Transform::Interleave { head_dim } => {
            for (index, values) in (piece.begin..).zip(values.chunks_exact_mut(row_len)) {
                format.dequantise(row(interleaved_source(index, head_dim)), values);
            }
        }
        Transform::Deinterleave { head_dim } => {
            for (index, values) in (piece.begin..).zip(values.chunks_exact_mut(row_len)) {
                format.dequantise(row(deinterleaved_source(index, head_dim)), values);
            }
        }
    }
    if let Transform::Add(constant) = transform {
        for value in values {
            *value += constant;
            if view.dtype == DType::F16 {
                // The reference adds in the source's type.
                *value = f16::from_f32(*value).to_f32();
            }
        }
    }
}

/// Row `j + h * head_dim / 2` of a head (h = 0, 1) is stored as row `2 * j + h`.
fn interleaved_source(row: usize, head_dim: usize) -> usize {
    let within = row % head_dim;
    row - within + within / 2 + within % 2 * (head_dim / 2)
}

fn deinterleaved_source(row: usize, head_dim: usize) -> usize {
    let within = row % head_dim;
    let half = head_dim / 2;
    row - within + within % half * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nans_of_bf16_are_seen() {
        let holds = |value: f32| bf16_holds_nan(&half::bf16::from_f32(value).to_le_bytes());
        assert!(holds(f32::NAN) && holds(-f32::NAN));
        assert!(!holds(f32::INFINITY) && !holds(-1.0) && !bf16_holds_nan(&[]));
    }

    #[test]
    fn interleaving_and_back_is_the_identity() {
        let there: Vec<_> = (0..16).map(|row| interleaved_source(row, 8)).collect();
        assert_eq!(there[..8], [0, 4, 1, 5, 2, 6, 3, 7]);
        for row in 0..16 {
            assert_eq!(there[deinterleaved_source(row, 8)], row);
        }
    }
}
