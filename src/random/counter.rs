//! A counter-based generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). Stateless: `value = f(key, counter)`.

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

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
        let mut c = [
            counter as u32,
            (counter >> 32) as u32,
            (counter >> 64) as u32,
            (counter >> 96) as u32,
        ];
        let mut k = [self.key as u32, (self.key >> 32) as u32];
        for _ in 0..ROUNDS {
            let p0 = u64::from(MULTIPLIER_0) * u64::from(c[0]);
            let p1 = u64::from(MULTIPLIER_1) * u64::from(c[2]);
            c = [
                (p1 >> 32) as u32 ^ c[1] ^ k[0],
                p1 as u32,
                (p0 >> 32) as u32 ^ c[3] ^ k[1],
                p0 as u32,
            ];
            k = [k[0].wrapping_add(WEYL_0), k[1].wrapping_add(WEYL_1)];
        }
        c
    }

    /// The words of the stream from word `start` on, four to a counter: word `i` is word `i % 4`
    /// of the block at counter `i / 4`.
    #[inline(always)]
    pub fn fill(self, start: u64, out: &mut [u32]) {
        const LANES: usize = 16;
        let mut position = start;
        let mut rest = out;
        while !rest.is_empty() {
            let mut words = [[0u32; LANES]; 4];
            self.blocks(position / 4, &mut words);
            let offset = (position % 4) as usize;
            let len = rest.len().min(4 * LANES - offset);
            let (now, later) = rest.split_at_mut(len);
            for (i, out) in (offset..).zip(now) {
                *out = words[i % 4][i / 4];
            }
            position += len as u64;
            rest = later;
        }
    }

    /// The blocks at sixteen counters from `first` on, word by word, for vector instructions.
    #[inline(always)]
    fn blocks<const LANES: usize>(self, first: u64, words: &mut [[u32; LANES]; 4]) {
        for (lane, counter) in (first..).take(LANES).enumerate() {
            words[0][lane] = counter as u32;
            words[1][lane] = (counter >> 32) as u32;
        }
        words[2] = [0; LANES];
        words[3] = [0; LANES];
        let mut k = [self.key as u32, (self.key >> 32) as u32];
        for _ in 0..ROUNDS {
            let [w0, w1, w2, w3] = &mut *words;
            let lanes = w0.iter_mut().zip(w1).zip(w2.iter_mut().zip(w3));
            for ((w0, w1), (w2, w3)) in lanes {
                let p0 = u64::from(MULTIPLIER_0) * u64::from(*w0);
                let p1 = u64::from(MULTIPLIER_1) * u64::from(*w2);
                *w0 = (p1 >> 32) as u32 ^ *w1 ^ k[0];
                *w1 = p1 as u32;
                *w2 = (p0 >> 32) as u32 ^ *w3 ^ k[1];
                *w3 = p0 as u32;
            }
            k = [k[0].wrapping_add(WEYL_0), k[1].wrapping_add(WEYL_1)];
        }
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
            rng.fill(start as u64, &mut words);
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
