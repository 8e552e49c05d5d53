//! One output tensor while it is computed: its inputs, its blocks, and where its bytes go.
//!
//! A tensor is cut into blocks of whole rows, the same ones always. Passes over it run in parallel
//! over blocks; what they return is combined in block order, so that neither the number of threads
//! nor the size of shards can change a bit of the result. No pass holds more than a few blocks.

mod draws;
mod groups;
mod source;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

pub(crate) use draws::{BlockDraws, DRAW_BITS, Draws, SeededStream, StreamStates};
pub(crate) use groups::Groups;
pub(crate) use source::{Aligned, Folded, RowOrigin, Source, Stored};

use super::dtype::FloatType;
use super::error::MergeError;
use super::recipe::Scalar;
use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};

/// Elements of a block, rounded down to whole rows (at least one).
const BLOCK_ELEMENTS: usize = 1 << 16;
/// Elements handled at once inside a block, so that the operands of a pass stay in the L1 cache.
const CHUNK_ELEMENTS: usize = 1 << 11;
/// Blocks whose results are kept until they are combined.
const BATCH_BLOCKS: usize = 256;

/// Resolved parameters of one scope for one tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(pub(crate) Vec<(&'static str, Scalar)>);

impl Values {
    fn get(&self, name: &str) -> Option<Scalar> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// A number that the plan has resolved.
    pub(crate) fn number(&self, name: &str) -> f64 {
        self.optional(name)
            .expect("the plan resolves every parameter of the method that has a default")
    }

    /// A number that may be absent.
    pub(crate) fn optional(&self, name: &str) -> Option<f64> {
        self.get(name).map(Scalar::number)
    }

    /// A truth value that the plan has resolved.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .expect("the plan resolves every parameter of the method that has a default")
            .flag()
    }
}

/// One input of a tensor.
pub(crate) struct Input<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) values: &'a Values,
}

/// Where a tensor's bytes go.
pub(crate) trait Sink: Sync {
    /// Stores `bytes` at `offset` bytes from the tensor's start. Blocks arrive in any order.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MergeError>;
}

/// A tensor to compute, with arithmetic in `F`.
pub(crate) struct Tensor<'a, F> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [usize],
    /// What the kernels run on; no result depends on it.
    pub(crate) isa: Isa,
    /// The working type's grid.
    pub(crate) rounding: Rounding,
    /// In the recipe's order, the base at its place.
    pub(crate) inputs: Vec<Input<'a>>,
    /// The base's index in `inputs`.
    pub(crate) base: Option<usize>,
    pub(crate) shared: &'a Values,
    pub(crate) draws: Draws<'a>,
    pub(crate) out_dtype: FloatType,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) real: std::marker::PhantomData<F>,
}

/// A tensor of either arithmetic.
pub(crate) enum AnyTensor<'a> {
    Single(Tensor<'a, f32>),
    Double(Tensor<'a, f64>),
}

/// A run of whole rows.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) index: usize,
    /// Elements of the tensor.
    pub(crate) range: Range<usize>,
}

impl<'a, F: Elementwise> Tensor<'a, F> {
    pub(crate) fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The last dimension. A vector is one row.
    pub(crate) fn row_len(&self) -> usize {
        row_len(self.shape)
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        blocks(self.shape)
    }

    /// The base, for methods that require one (the plan has checked that).
    pub(crate) fn required_base(&self) -> &Input<'a> {
        let base = self.base.expect("the plan gives base-aware methods a base");
        &self.inputs[base]
    }

    /// All inputs but the base, in order, with their indices.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Input<'a>> + Clone {
        let base = self.base;
        self.inputs
            .iter()
            .enumerate()
            .filter(move |(index, _)| Some(*index) != base)
            .map(|(_, input)| input)
    }

    /// Reads elements of an input, cast to the working type.
    pub(crate) fn read(&self, input: &Input<'_>, start: usize, out: &mut [F]) {
        input.source.read(self.isa, start, self.rounding, out);
    }

    /// As [`Tensor::read`], into a buffer that is given the right length.
    pub(crate) fn read_len(&self, input: &Input<'_>, start: usize, len: usize, out: &mut Vec<F>) {
        out.resize(len, F::ZERO);
        self.read(input, start, out);
    }

    /// The task vector `R(x − b)` of an input; `base` holds the base's elements.
    pub(crate) fn read_delta(&self, input: &Input<'_>, start: usize, base: &[F], out: &mut Vec<F>) {
        self.read_len(input, start, base.len(), out);
        F::subtract(self.isa, self.rounding, out, base);
    }

    /// Runs `per_block` over all blocks and returns what it returns, in block order.
    pub(crate) fn reduce<P: Send>(&self, per_block: impl Fn(&Block) -> P + Sync) -> Vec<P> {
        let mut results = Vec::new();
        self.fold(per_block, |result| results.push(result));
        results
    }

    /// Runs `per_block` over all blocks and gives what it returns to `combine`, in block order.
    pub(crate) fn fold<P: Send>(
        &self,
        per_block: impl Fn(&Block) -> P + Sync,
        mut combine: impl FnMut(P),
    ) {
        let blocks = self.blocks();
        if let [block] = &blocks[..] {
            return combine(per_block(block));
        }
        for batch in blocks.chunks(BATCH_BLOCKS) {
            let results: Vec<P> = batch.par_iter().map(&per_block).collect();
            results.into_iter().for_each(&mut combine);
        }
    }

    /// Computes the results chunk by chunk and stores them in the output type. `begin` makes what
    /// the chunks of a block share; `fill` gets it with a chunk's first element and its results.
    pub(crate) fn emit<S>(
        &self,
        begin: impl Fn(&Block) -> S + Sync,
        fill: impl Fn(&mut S, usize, &mut [F]) + Sync,
    ) -> Result<(), MergeError> {
        self.emit_pieces(CHUNK_ELEMENTS, begin, fill)
    }

    /// As [`Tensor::emit`], in chunks of whole rows.
    pub(crate) fn emit_rows<S>(
        &self,
        begin: impl Fn(&Block) -> S + Sync,
        fill: impl Fn(&mut S, usize, &mut [F]) + Sync,
    ) -> Result<(), MergeError> {
        self.emit_pieces(self.row_chunk_len(), begin, fill)
    }

    fn emit_pieces<S>(
        &self,
        len: usize,
        begin: impl Fn(&Block) -> S + Sync,
        fill: impl Fn(&mut S, usize, &mut [F]) + Sync,
    ) -> Result<(), MergeError> {
        let blocks = self.blocks();
        let next = AtomicUsize::new(0);
        let size = self.out_dtype.bytes();
        // Each thread takes the next block, with buffers of its own for the whole tensor.
        let work = || {
            let (mut values, mut bytes) = (Vec::new(), Vec::new());
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                bytes.resize(block.range.len() * size, 0);
                let mut shared = begin(block);
                let chunks = pieces(block.range.clone(), len);
                for (chunk, bytes) in chunks.zip(bytes.chunks_mut(len * size)) {
                    values.resize(chunk.len(), F::ZERO);
                    fill(&mut shared, chunk.start, &mut values);
                    F::store(self.isa, &values, self.out_dtype, bytes);
                }
                self.sink.write((block.range.start * size) as u64, &bytes)?;
            }
            Ok(())
        };
        if blocks.len() == 1 {
            return work();
        }
        rayon::broadcast(|_| work()).into_iter().collect()
    }

    /// The parts of a block that are handled at once.
    pub(crate) fn chunks(&self, block: &Block) -> impl Iterator<Item = Range<usize>> + use<F> {
        pieces(block.range.clone(), CHUNK_ELEMENTS)
    }

    /// As [`Tensor::chunks`], in whole rows.
    pub(crate) fn row_chunks(&self, block: &Block) -> impl Iterator<Item = Range<usize>> + use<F> {
        pieces(block.range.clone(), self.row_chunk_len())
    }

    fn row_chunk_len(&self) -> usize {
        let row = self.row_len().max(1);
        (CHUNK_ELEMENTS / row).max(1) * row
    }
}

fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(len)
        .map(move |start| start..(start + len).min(end))
}

pub(crate) fn row_len(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

pub(crate) fn blocks(shape: &[usize]) -> Vec<Block> {
    let elements: usize = shape.iter().product();
    let row = row_len(shape).max(1);
    let len = (BLOCK_ELEMENTS / row).max(1) * row;
    let ranges = pieces(0..elements, len);
    let blocks: Vec<Block> = ranges
        .enumerate()
        .map(|(index, range)| Block { index, range })
        .collect();
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_rows_and_cover_the_tensor() {
        for shape in [
            vec![7],
            vec![],
            vec![3, 5],
            vec![1000, 896],
            vec![2, 200_000],
        ] {
            let blocks = blocks(&shape);
            let mut next = 0;
            for (index, block) in blocks.iter().enumerate() {
                assert_eq!((block.index, block.range.start), (index, next));
                assert_eq!(block.range.len() % row_len(&shape), 0);
                next = block.range.end;
            }
            assert_eq!(next, shape.iter().product::<usize>());
        }
    }
}
