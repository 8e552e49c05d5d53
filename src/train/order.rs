//! The order in which rows are visited: torch's and NumPy's permutations, draw for draw.

use crate::random::Mt19937;

/// `torch.randperm(n)` on the CPU under `seed`.
pub fn torch_permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = Mt19937::from_word(seed as u32);
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let draw = rng.next_u32() as usize;
        order.swap(i, i + draw % (n - i));
    }
    order
}

/// `numpy.random.default_rng(seed).permutation(n)`.
pub fn numpy_permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = Pcg64::from_seed(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = rng.interval(i as u32) as usize;
        order.swap(i, j);
    }
    order
}

/// NumPy's default bit generator, PCG XSL RR 128/64 (O'Neill 2014), seeded through `SeedSequence`.
struct Pcg64 {
    state: u128,
    increment: u128,
    /// The high half of the last 64-bit output, when only its low half was used.
    spare: Option<u32>,
}

const PCG_MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

impl Pcg64 {
    fn from_seed(seed: u64) -> Self {
        let words = seed_sequence(seed);
        let wide = |high: usize| u128::from(words[high]) << 64 | u128::from(words[high + 1]);
        let increment = wide(2) << 1 | 1;
        let mut rng = Self {
            state: 0,
            increment,
            spare: None,
        };
        rng.advance();
        rng.state = rng.state.wrapping_add(wide(0));
        rng.advance();
        rng
    }

    fn advance(&mut self) {
        self.state = self
            .state
            .wrapping_mul(PCG_MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// Low half first.
    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.spare.take() {
            return high;
        }
        let word = self.next_u64();
        self.spare = Some((word >> 32) as u32);
        word as u32
    }

    /// A value in `0..=max` by masked rejection.
    fn interval(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

/// NumPy's `SeedSequence(seed).generate_state(4, uint64)` for an integer of up to 64 bits.
fn seed_sequence(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    const INIT_A: u32 = 0x43b0_d7e5;
    const MULT_A: u32 = 0x931e_8875;
    const INIT_B: u32 = 0x8b51_f9dd;
    const MULT_B: u32 = 0x58f3_8ded;
    const MIX_LEFT: u32 = 0xca01_f9dd;
    const MIX_RIGHT: u32 = 0x4973_f715;
    const SHIFT: u32 = 16;

    let mut hash_constant = INIT_A;
    let mut hash = |value: u32| {
        let mut value = value ^ hash_constant;
        hash_constant = hash_constant.wrapping_mul(MULT_A);
        value = value.wrapping_mul(hash_constant);
        value ^ value >> SHIFT
    };
    let mix = |x: u32, y: u32| {
        let value = MIX_LEFT
            .wrapping_mul(x)
            .wrapping_sub(MIX_RIGHT.wrapping_mul(y));
        value ^ value >> SHIFT
    };
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut pool = entropy.map(&mut hash);
    for source in 0..POOL {
        for target in 0..POOL {
            if source != target {
                pool[target] = mix(pool[target], hash(pool[source]));
            }
        }
    }
    let mut constant = INIT_B;
    let mut words = [0u32; 8];
    for (i, word) in words.iter_mut().enumerate() {
        let mut value = pool[i % POOL] ^ constant;
        constant = constant.wrapping_mul(MULT_B);
        value = value.wrapping_mul(constant);
        *word = value ^ value >> SHIFT;
    }
    std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32)
}
