//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) with the two seedings that
//! reference programs use: torch's (one 32-bit word) and Python's (`random.seed(int)`).

use crate::kernels::cpu::Isa;
use crate::kernels::words::{TWISTER_WORDS as N, temper, twist};

/// The word that [`Mt19937::from_python_seed`] starts its mixing at.
const PYTHON_FIRST_WORD: u32 = 0x8000_0000;

/// The generator and its position in the stream.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; N],
    index: usize,
}

impl Mt19937 {
    /// Seeds as `init_genrand` does: torch's CPU generator with the low 32 bits of its seed.
    pub fn from_word(seed: u32) -> Self {
        let mut state = [0u32; N];
        state[0] = seed;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, index: N }
    }

    /// Seeds as Python's `random.seed(seed)` does for a non-negative integer (`init_by_array`).
    pub fn from_python_seed(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let key = if words[1] == 0 {
            &words[..1]
        } else {
            &words[..]
        };
        let mut this = Self::from_word(19_650_218);
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let previous = this.state[i - 1];
            this.state[i] = (this.state[i] ^ (previous ^ (previous >> 30)).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i = this.wrap(i + 1);
            j = (j + 1) % key.len();
        }
        for _ in 0..N - 1 {
            let previous = this.state[i - 1];
            this.state[i] = (this.state[i]
                ^ (previous ^ (previous >> 30)).wrapping_mul(1_566_083_941))
            .wrapping_sub(i as u32);
            i = this.wrap(i + 1);
        }
        this.state[0] = PYTHON_FIRST_WORD;
        this.index = N;
        this
    }

    /// Index 1 after the last one, with word 0 taking the last word's value, as the seeding asks.
    fn wrap(&mut self, i: usize) -> usize {
        if i < N {
            return i;
        }
        self.state[0] = self.state[N - 1];
        1
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let mut word = [0];
        self.fill(u32::MAX, &mut word);
        word[0]
    }

    /// `bits` random bits (1 to 32), as Python's `getrandbits` draws them.
    pub fn bits(&mut self, bits: u32) -> u32 {
        assert!(
            (1..=32).contains(&bits),
            "one word holds 1 to 32 bits, not {bits}"
        );
        self.next_u32() >> (32 - bits)
    }

    /// The next `out.len()` words, as that many calls of [`Mt19937::next_u32`] give them, `mask`ed.
    pub fn fill(&mut self, mask: u32, out: &mut [u32]) {
        let isa = Isa::detect();
        let mut rest = out;
        while !rest.is_empty() {
            if self.index == N {
                twist(isa, &mut self.state, 1);
                self.index = 0;
            }
            let len = rest.len().min(N - self.index);
            let (now, later) = rest.split_at_mut(len);
            temper(isa, &self.state[self.index..self.index + len], mask, now);
            self.index += len;
            rest = later;
        }
    }

    /// Passes over `count` words.
    pub fn skip(&mut self, count: usize) {
        let end = self.index + count;
        // A state that has been used up is replaced when the next word is asked for.
        let twists = end.saturating_sub(1) / N;
        twist(Isa::detect(), &mut self.state, twists);
        self.index = end - twists * N;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_seed_gives_the_standard_ten_thousandth_value() {
        let mut rng = Mt19937::from_word(5489);
        let value = (0..10_000).map(|_| rng.next_u32()).last();
        assert_eq!(value, Some(4_123_659_995)); // ISO C++ [rand.predef]
    }

    #[test]
    fn python_seeds_match_cpython() {
        // CPython 3.11: random.seed(1234); [random.getrandbits(32) for _ in range(3)]
        let mut rng = Mt19937::from_python_seed(1234);
        assert_eq!(
            [rng.next_u32(), rng.next_u32(), rng.next_u32()],
            PYTHON_1234
        );
        let mut rng = Mt19937::from_python_seed(1 << 40 | 5);
        assert_eq!([rng.next_u32(), rng.next_u32()], PYTHON_WIDE);
    }

    #[test]
    fn filling_and_skipping_follow_the_stream() {
        let mut single = Mt19937::from_word(5489);
        let expected: Vec<u32> = (0..10_000).map(|_| single.next_u32()).collect();
        for len in [1, 7, 623, 624, 625, 1_249, 5_000] {
            let mut rng = Mt19937::from_word(5489);
            let mut words = vec![0; len];
            rng.fill(u32::MAX, &mut words);
            assert_eq!(words, expected[..len]);
            rng.skip(len);
            assert_eq!(
                rng.next_u32(),
                expected
                    .get(2 * len)
                    .copied()
                    .unwrap_or_else(|| single.next_u32())
            );
        }
    }

    const PYTHON_1234: [u32; 3] = [0xf769_7fb9, 0xc735_df5e, 0x70d3_da1f];
    const PYTHON_WIDE: [u32; 2] = [0x811f_1124, 0x8454_f73c];
}
