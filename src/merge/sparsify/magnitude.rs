//! The `m` largest of a tensor's worth of values, without sorting or holding them.
//!
//! A histogram over the leading 16 bits of a key finds the bin of the `m`-th largest; finer
//! histograms inside that bin find its exact value. Among equal magnitudes the lowest index
//! comes first, which needs one more count where the cut falls among equals. (The reference sorts
//! unstably: which of equals it keeps depends on the processor.)

use rayon::prelude::*;

use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::merge::tensor::{Block, Input, Tensor};

/// Bits of a histogram's key.
const KEY_BITS: u32 = 16;

/// Values, one per element of a tensor, that can be made again block by block.
pub(crate) trait Values<F: Elementwise>: Sync {
    /// Gives the values of a block in order, chunk by chunk.
    fn each_chunk(&self, block: &Block, seen: impl FnMut(&[F]));

    /// The integer that orders them: the magnitude, unless signs matter. At most one bit more.
    #[inline(always)]
    fn key(value: F) -> u64 {
        value.magnitude()
    }
}

/// The task vector `R(x − b)` of an input.
pub(crate) struct Deltas<'t, 'a, F> {
    pub(crate) tensor: &'t Tensor<'a, F>,
    pub(crate) input: &'t Input<'a>,
}

impl<F: Elementwise> Values<F> for Deltas<'_, '_, F> {
    #[inline(always)]
    fn each_chunk(&self, block: &Block, mut seen: impl FnMut(&[F])) {
        let (mut base, mut delta) = (Vec::new(), Vec::new());
        let tensor = self.tensor;
        for chunk in tensor.chunks(block) {
            tensor.read_len(tensor.required_base(), chunk.start, chunk.len(), &mut base);
            tensor.read_delta(self.input, chunk.start, &base, &mut delta);
            seen(&delta);
        }
    }
}

/// The first `m` elements in order of falling keys, lowest index first among equals.
pub(crate) struct Cut {
    /// Key of the last element inside.
    value: u64,
    /// How many elements of exactly that key are inside, by block.
    equals: Equals,
}

enum Equals {
    /// The same in all blocks.
    Inside,
    Outside,
    /// In the first blocks all, in one block some, in the others none.
    First(Vec<u32>),
}

/// A [`Cut`] of one block, applied chunk by chunk.
pub(crate) struct CutBlock {
    value: u64,
    /// Elements of exactly the cut's key that are still to be taken in.
    equals_left: u32,
}

impl Cut {
    /// The cuts after the first `counts` elements.
    pub(crate) fn find<F: Elementwise, V: Values<F>, const N: usize>(
        tensor: &Tensor<'_, F>,
        values: &V,
        counts: [usize; N],
    ) -> [Self; N] {
        let mut targets = counts.map(|count| Target {
            prefix: 0,
            left: count as u64,
            at_value: 0,
        });
        let mut shift = levels_top::<F>();
        let coarse = histogram(tensor, values, shift, None);
        for target in &mut targets {
            target.narrow(&coarse);
        }
        // The magnitudes of a coarse type differ in their leading bits only.
        let last = match tensor.rounding {
            Rounding::Bf16 => F::MAGNITUDE_BITS - 15,
            Rounding::None | Rounding::F16 | Rounding::F32 => 0,
        };
        while shift > last {
            shift -= KEY_BITS;
            for target in &mut targets {
                if target.left > 0 {
                    let fine = histogram(tensor, values, shift, Some(target.prefix));
                    target.narrow(&fine);
                }
            }
        }
        targets.map(|target| target.cut(tensor, values, shift))
    }

    /// The key of the last element inside.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    pub(crate) fn block(&self, block: &Block) -> CutBlock {
        CutBlock {
            value: self.value,
            equals_left: match &self.equals {
                Equals::Inside => u32::MAX,
                Equals::Outside => 0,
                Equals::First(by_block) => by_block[block.index],
            },
        }
    }
}

/// The lowest bit of the first histogram's key.
const fn levels_top<F: Elementwise>() -> u32 {
    (F::MAGNITUDE_BITS / KEY_BITS) * KEY_BITS
}

/// A search for the `left`-th largest among the magnitudes that start with `prefix`.
#[derive(Clone, Copy)]
struct Target {
    prefix: u64,
    left: u64,
    /// How many elements share the prefix.
    at_value: u64,
}

impl Target {
    fn narrow(&mut self, histogram: &[u32]) {
        if self.left == 0 {
            return;
        }
        for (key, count) in histogram.iter().enumerate().rev() {
            let count = u64::from(*count);
            if count >= self.left {
                self.prefix = self.prefix << KEY_BITS | key as u64;
                self.at_value = count;
                return;
            }
            self.left -= count;
        }
        unreachable!("the histogram counts at least as many elements as are looked for");
    }

    fn cut<F: Elementwise, V: Values<F>>(
        self,
        tensor: &Tensor<'_, F>,
        values: &V,
        shift: u32,
    ) -> Cut {
        if self.left == 0 {
            return Cut {
                value: u64::MAX,
                equals: Equals::Outside,
            };
        }
        let value = self.prefix << shift;
        let equals = if self.left == self.at_value {
            Equals::Inside
        } else {
            let mut left = self.left;
            let counts = tensor.reduce(|block| count_equal(values, block, value));
            let inside = counts.into_iter().map(|count| {
                let inside = u64::from(count).min(left);
                left -= inside;
                inside as u32
            });
            Equals::First(inside.collect())
        };
        Cut { value, equals }
    }
}

#[inline(always)]
fn count_equal<F: Elementwise, V: Values<F>>(values: &V, block: &Block, key: u64) -> u32 {
    let mut count = 0;
    values.each_chunk(block, |chunk| {
        count += chunk
            .iter()
            .map(|value| u32::from(V::key(*value) == key))
            .sum::<u32>();
    });
    count
}

/// Counts the keys that start with `prefix` by their next [`KEY_BITS`] bits from `shift` on.
fn histogram<F: Elementwise, V: Values<F>>(
    tensor: &Tensor<'_, F>,
    values: &V,
    shift: u32,
    prefix: Option<u64>,
) -> Vec<u32> {
    let blocks = tensor.blocks();
    // One histogram for each thread, twice over so that none waits long for the last one.
    let parts = 2 * rayon::current_num_threads();
    let count = |blocks: &[Block]| {
        let mut histogram = vec![0_u32; 1 << KEY_BITS];
        for block in blocks {
            values.each_chunk(block, |chunk| {
                for value in chunk {
                    let bits = V::key(*value) >> shift;
                    if prefix.is_none_or(|prefix| bits >> KEY_BITS == prefix) {
                        histogram[bits as usize & ((1 << KEY_BITS) - 1)] += 1;
                    }
                }
            });
        }
        histogram
    };
    let add = |mut a: Vec<u32>, b: Vec<u32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let parts = blocks.par_chunks(blocks.len().div_ceil(parts).max(1));
    parts.map(count).reduce_with(add).unwrap_or_default()
}

impl CutBlock {
    /// Drops what is outside the cut. `deltas` are the values, ordered by magnitude.
    pub(crate) fn keep_inside<F: Elementwise>(&mut self, isa: Isa, deltas: &mut [F]) {
        let value = self.value;
        match self.equals_left {
            u32::MAX => F::keep_large(isa, deltas, value, true),
            0 => F::keep_large(isa, deltas, value, false),
            _ => deltas.iter_mut().for_each(|delta| {
                let inside = self.takes(delta.magnitude());
                *delta = if inside { *delta } else { F::ZERO };
            }),
        }
    }

    /// Drops what is inside the cut.
    #[inline(always)]
    pub(crate) fn keep_outside<F: Elementwise>(&mut self, deltas: &mut [F]) {
        for delta in deltas {
            let inside = self.takes(delta.magnitude());
            *delta = if inside { F::ZERO } else { *delta };
        }
    }

    /// Whether the block's next element is inside, by its key.
    #[inline(always)]
    pub(crate) fn takes(&mut self, key: u64) -> bool {
        if key == self.value && self.equals_left > 0 {
            self.equals_left -= u32::from(self.equals_left < u32::MAX);
            return true;
        }
        key > self.value
    }
}
