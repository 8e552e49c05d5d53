//! Random words by the block: the parts of two generators that vector instructions speed up. The
//! generators themselves (seeding, positions) are in the room `random`.

use crate::cpu::Isa;
use crate::cpu::simd::{Kernel, Simd};

/// Words of MT19937's state (Matsumoto and Nishimura, 1998).
pub const TWISTER_WORDS: usize = 624;
/// The distance of the recurrence.
const M: usize = 397;
const N: usize = TWISTER_WORDS;
const UPPER_MASK: u32 = 0x8000_0000;
const LOWER_MASK: u32 = 0x7fff_ffff;

/// Replaces the state by its `times`-th successor.
pub fn twist(isa: Isa, state: &mut [u32; TWISTER_WORDS], times: usize) {
    isa.run_elementwise(Twist(state, times));
}

/// The outputs that belong to words of the state, `mask`ed.
///
/// # Panics
/// The lengths differ.
pub fn temper(isa: Isa, state: &[u32], mask: u32, out: &mut [u32]) {
    isa.run_elementwise(Temper(state, mask, out));
}

struct Twist<'a>(&'a mut [u32; TWISTER_WORDS], usize);

impl Kernel for Twist<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for _ in 0..self.1 {
            twist_once(self.0);
        }
    }
}

/// Word `i + 1` is still old when word `i` is made, and word `i + M` is old for the first `N - M`
/// words and new for the others: three runs in which no word depends on another one of the same
/// run (227 words), so that the compiler can use vector instructions.
#[inline(always)]
fn twist_once(state: &mut [u32; N]) {
    let (low, high) = state.split_at_mut(N - M);
    for i in 0..N - M - 1 {
        low[i] = high[i + 2 * M - N] ^ twisted(low[i], low[i + 1]);
    }
    low[N - M - 1] = high[M - 1] ^ twisted(low[N - M - 1], high[0]);
    let (middle, last) = high.split_at_mut(N - M);
    for i in 0..N - M - 1 {
        middle[i] = low[i] ^ twisted(middle[i], middle[i + 1]);
    }
    middle[N - M - 1] = low[N - M - 1] ^ twisted(middle[N - M - 1], last[0]);
    let end = last.len() - 1;
    for i in 0..end {
        last[i] = middle[i] ^ twisted(last[i], last[i + 1]);
    }
    // The last word's successor is word 0, which is new by now, as the recurrence has it.
    last[end] = middle[end] ^ twisted(last[end], low[0]);
}

/// The recurrence's part that comes from a word and its successor.
#[inline(always)]
fn twisted(word: u32, next: u32) -> u32 {
    let y = (word & UPPER_MASK) | (next & LOWER_MASK);
    (y >> 1) ^ ((y & 1).wrapping_neg() & 0x9908_b0df)
}

struct Temper<'a>(&'a [u32], u32, &'a mut [u32]);

impl Kernel for Temper<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Self(state, mask, out) = self;
        assert_eq!(state.len(), out.len(), "an output for each word");
        for (out, word) in out.iter_mut().zip(state) {
            let mut y = *word;
            y ^= y >> 11;
            y ^= (y << 7) & 0x9d2c_5680;
            y ^= (y << 15) & 0xefc6_0000;
            *out = (y ^ (y >> 18)) & mask;
        }
    }
}

/// What words are compared with.
#[derive(Clone, Copy)]
pub enum Bounds<'a> {
    /// All with one.
    Same(u32),
    /// Each with its own.
    Each(&'a [u32]),
}

/// 1 where a word is below its bound, 0 elsewhere.
///
/// # Panics
/// The lengths differ.
pub fn below(isa: Isa, words: &[u32], bounds: Bounds<'_>, flags: &mut [u8]) {
    isa.run_elementwise(Below(words, bounds, flags));
}

struct Below<'a>(&'a [u32], Bounds<'a>, &'a mut [u8]);

impl Kernel for Below<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Self(words, bounds, flags) = self;
        assert_eq!(words.len(), flags.len(), "a flag for each word");
        let pairs = flags.iter_mut().zip(words);
        match bounds {
            Bounds::Same(bound) => {
                for (flag, word) in pairs {
                    *flag = u8::from(*word < bound);
                }
            }
            Bounds::Each(bounds) => {
                assert_eq!(bounds.len(), words.len(), "a bound for each word");
                for ((flag, word), bound) in pairs.zip(bounds) {
                    *flag = u8::from(*word < *bound);
                }
            }
        }
    }
}

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;
/// Counters handled at once by [`philox_words`].
const LANES: usize = 16;

/// Philox4x32-10 (Salmon et al., SC 2011): the 128 bits at `counter` under `key`.
pub fn philox(key: u64, counter: u128) -> [u32; 4] {
    let mut words = [
        [counter as u32],
        [(counter >> 32) as u32],
        [(counter >> 64) as u32],
        [(counter >> 96) as u32],
    ];
    rounds(key, &mut words);
    words.map(|[word]| word)
}

/// The words of Philox's stream from word `start` on, shifted right by `shift`: word `i` is word
/// `i % 4` of the block at counter `i / 4`.
pub fn philox_words(isa: Isa, key: u64, start: u64, shift: u32, out: &mut [u32]) {
    isa.run_elementwise(PhiloxWords {
        key,
        start,
        shift,
        out,
    });
}

struct PhiloxWords<'a> {
    key: u64,
    start: u64,
    shift: u32,
    out: &'a mut [u32],
}

impl Kernel for PhiloxWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let mut position = self.start;
        let mut rest = self.out;
        while !rest.is_empty() {
            let mut words = [[0u32; LANES]; 4];
            for (lane, counter) in (position / 4..).take(LANES).enumerate() {
                words[0][lane] = counter as u32;
                words[1][lane] = (counter >> 32) as u32;
            }
            rounds(self.key, &mut words);
            let offset = (position % 4) as usize;
            let len = rest.len().min(4 * LANES - offset);
            let (now, later) = rest.split_at_mut(len);
            if let (0, Ok(now)) = (offset, <&mut [u32; 4 * LANES]>::try_from(&mut *now)) {
                for lane in 0..LANES {
                    for word in 0..4 {
                        now[4 * lane + word] = words[word][lane] >> self.shift;
                    }
                }
            } else {
                for (i, out) in (offset..).zip(now) {
                    *out = words[i % 4][i / 4] >> self.shift;
                }
            }
            position += len as u64;
            rest = later;
        }
    }
}

/// Philox's rounds over counters that are spread word by word.
#[inline(always)]
fn rounds<const N: usize>(key: u64, words: &mut [[u32; N]; 4]) {
    let mut k = [key as u32, (key >> 32) as u32];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_words() {
        let mut state = [0; TWISTER_WORDS];
        for (i, word) in (0..).zip(&mut state) {
            *word = philox(1, i)[0];
        }
        let run = |isa: Isa| {
            let mut state = state;
            twist(isa, &mut state, 3);
            let mut tempered = [0; TWISTER_WORDS];
            temper(isa, &state, 0x00ff_ffff, &mut tempered);
            let mut words = vec![0; 300];
            philox_words(isa, 5, 7, 8, &mut words);
            let mut flags = [vec![0; 300], vec![0; 300]];
            let bounds: Vec<u32> = words.iter().map(|word| word.rotate_left(9)).collect();
            below(isa, &words, Bounds::Same(1 << 23), &mut flags[0]);
            below(isa, &words, Bounds::Each(&bounds), &mut flags[1]);
            (state, tempered, words, flags)
        };
        let portable = run("portable".parse().unwrap());
        for isa in Isa::available() {
            assert!(run(isa) == portable, "{isa}");
        }
        let expected: Vec<u32> = (0..80).flat_map(|i| philox(5, i)).map(|w| w >> 8).collect();
        assert_eq!(portable.2, expected[7..307]);
        for (word, flag) in portable.2.iter().zip(&portable.3[0]) {
            assert_eq!(*flag, u8::from(*word < 1 << 23));
        }
    }
}
