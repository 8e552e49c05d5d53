//! A counter-based generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). Stateless: `value = f(key, counter)`.

use crate::kernels::cpu::Isa;
use crate::kernels::words::{philox, philox_words};

/// A stream of random values addressed by counter, under a 64-bit key.
///
/// Two generators with the same key give the same value for the same counter, always and
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterRng {
    key: u64,
}

impl CounterRng {
    /// A generator for one key.
    pub const fn new(key: u64) -> Self {
        Self { key }
    }

    /// A generator whose key mixes several parts (seed, document, sample …); the parts' order and
    /// number matter.
    pub fn from_parts(parts: &[u64]) -> Self {
        let mut key = parts.len() as u64;
        for &part in parts {
            let block = Self { key }.block(u128::from(part));
            key = u64::from(block[0]) | u64::from(block[1]) << 32;
        }
        Self { key }
    }

    /// The 128 random bits at `counter`.
    pub fn block(self, counter: u128) -> [u32; 4] {
        philox(self.key, counter)
    }

    /// The words of the stream from word `start` on, shifted right by `shift`, four to a counter:
    /// word `i` is word `i % 4` of the block at counter `i / 4`.
    pub fn fill(self, start: u64, shift: u32, out: &mut [u32]) {
        philox_words(Isa::detect(), self.key, start, shift, out);
    }

    /// A uniform value in `[0, 1)` with 53 random bits.
    pub fn uniform(self, counter: u128) -> f64 {
        let block = self.block(counter);
        let bits = (u64::from(block[0]) | u64::from(block[1]) << 32) >> 11;
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32, 10 rounds).
    #[test]
    fn matches_the_published_vectors() {
        let zero = CounterRng::new(0).block(0);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = CounterRng::new(u64::MAX).block(u128::MAX);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn parts_are_ordered_and_counted() {
        let key = |parts: &[u64]| CounterRng::from_parts(parts);
        assert_ne!(key(&[1, 2]), key(&[2, 1]));
        assert_ne!(key(&[1]), key(&[1, 0]));
        assert_eq!(key(&[1, 2]), key(&[1, 2]));
    }

    #[test]
    fn filling_gives_the_blocks_words() {
        let rng = CounterRng::from_parts(&[3, 1]);
        let expected: Vec<u32> = (0..100).flat_map(|counter| rng.block(counter)).collect();
        for (start, len) in [(0, 400), (1, 5), (7, 300), (63, 66), (399, 1)] {
            let mut words = vec![0; len];
            rng.fill(start as u64, 0, &mut words);
            assert_eq!(words, expected[start..start + len]);
        }
    }

    #[test]
    fn uniform_stays_in_range() {
        let rng = CounterRng::new(7);
        let mean = (0..4096).map(|i| rng.uniform(i)).sum::<f64>() / 4096.0;
        assert!((0..4096).all(|i| (0.0..1.0).contains(&rng.uniform(i))));
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
    }
}
