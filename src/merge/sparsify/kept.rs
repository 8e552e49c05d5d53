//! What one pass over a tensor has kept, remembered for the next one: a bit for each element.

use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::Elementwise;

/// Which elements of a block stay.
pub(crate) struct Kept(Box<[u8]>);

/// The lowest bit of each of eight bytes.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

impl Kept {
    /// From one flag (0 or 1) for each element.
    pub(super) fn pack(flags: &[u8]) -> Self {
        // Byte `i` of the product's top byte's sum is flag `i` moved to bit `i`.
        let bits = |flags: u64| (flags.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
        let (groups, rest) = flags.as_chunks::<8>();
        let whole = groups.iter().map(|flags| bits(u64::from_le_bytes(*flags)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let rest = (!rest.is_empty()).then(|| bits(u64::from_le_bytes(last)));
        Self(whole.chain(rest).collect())
    }

    /// The block, to be gone through again; it has `len` elements.
    pub(super) fn block(&self, len: usize) -> KeptBlock {
        let mut flags = Vec::with_capacity(self.0.len() * 8);
        for bits in &self.0 {
            // Each byte gets all bits and keeps its own.
            let own = (u64::from(*bits) * LOW_BITS) & 0x8040_2010_0804_0201;
            flags.extend(own.to_le_bytes());
        }
        flags.truncate(len);
        KeptBlock { flags, done: 0 }
    }
}

/// A block whose dropped elements are dropped again, chunk by chunk.
pub(crate) struct KeptBlock {
    /// Not 0 for each element that stays.
    flags: Vec<u8>,
    /// Elements that have been gone through.
    done: usize,
}

impl KeptBlock {
    /// Sets the dropped elements of the block's next chunk to zero.
    pub(super) fn apply<F: Elementwise>(&mut self, isa: Isa, deltas: &mut [F]) {
        let end = self.done + deltas.len();
        F::keep_flagged(isa, deltas, &self.flags[self.done..end]);
        self.done = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_kept_again_whatever_the_chunks() {
        for len in [0, 1, 7, 8, 9, 1_000] {
            let flags: Vec<u8> = (0..len).map(|i| u8::from(i * i % 7 < 3)).collect();
            let mut block = Kept::pack(&flags).block(len);
            let mut values = vec![1.0_f32; len];
            for chunk in values.chunks_mut(13) {
                block.apply(Isa::detect(), chunk);
            }
            let expected: Vec<f32> = flags.iter().map(|flag| f32::from(*flag)).collect();
            assert_eq!(values, expected);
        }
    }
}
