//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) with the two seedings that
//! reference programs use: torch's (one 32-bit word) and Python's (`random.seed(int)`).

const N: usize = 624;
const M: usize = 397;
const UPPER_MASK: u32 = 0x8000_0000;
const LOWER_MASK: u32 = 0x7fff_ffff;

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
        this.state[0] = UPPER_MASK;
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
        if self.index == N {
            self.refill();
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `bits` random bits (1 to 32), as Python's `getrandbits` draws them.
    pub fn bits(&mut self, bits: u32) -> u32 {
        assert!(
            (1..=32).contains(&bits),
            "one word holds 1 to 32 bits, not {bits}"
        );
        self.next_u32() >> (32 - bits)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & UPPER_MASK) | (self.state[(i + 1) % N] & LOWER_MASK);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
        }
        self.index = 0;
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

    const PYTHON_1234: [u32; 3] = [0xf769_7fb9, 0xc735_df5e, 0x70d3_da1f];
    const PYTHON_WIDE: [u32; 2] = [0x811f_1124, 0x8454_f73c];
}
