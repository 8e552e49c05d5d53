//! DELLA's probabilities: within a row, an element's chance to stay grows with the rank of its
//! magnitude, from `density - epsilon` to `density + epsilon`.

use std::ops::{BitOr, BitXor};

use super::drawn::threshold;
use crate::kernels::elementwise::{Elementwise, Real, Rounding};

/// Digits of the radix sort.
const DIGIT_BITS: u32 = 8;
const DIGITS: usize = 1 << DIGIT_BITS;
/// Where magnitudes span more values, sorting is faster than counting.
const MAX_COUNTS_PER_ELEMENT: usize = 4;

/// The chances of the ranks of a row of `row_len`, as thresholds of draws. They are formed in the
/// type of the masks: under bfloat16 ranks above 256 are rounded.
pub(super) fn by_rank(of_masks: Rounding, density: f64, epsilon: f64, row_len: usize) -> Vec<u32> {
    let last = row_len.saturating_sub(1).max(1) as f32;
    let (least, span) = ((density - epsilon) as f32, (2.0 * epsilon) as f32);
    let chance = |rank: usize| {
        let rank = of_masks.one(rank as f32);
        let share = of_masks.one(of_masks.one(rank / last) * span);
        threshold(of_masks.one(least + share))
    };
    (0..row_len).map(chance).collect()
}

/// Finds the thresholds of elements by their ranks, row by row.
pub(super) struct Ranks<'t> {
    by_rank: &'t [u32],
    /// How many elements have each magnitude, where these are few enough to be counted.
    counts: Option<Vec<u32>>,
    sorter: Sorter,
    /// By element, of the last chunk.
    by_element: Vec<u32>,
}

/// Room to sort a row, as narrow as its keys allow.
enum Sorter {
    /// Magnitudes of float32.
    Narrow(Sort<u64>),
    /// Magnitudes of float64.
    Wide(Sort<u128>),
}

impl<'t> Ranks<'t> {
    /// For values of type `F` on the grid of `rounding`.
    pub(super) fn new<F: Elementwise>(by_rank: &'t [u32], rounding: Rounding) -> Self {
        let is_single = F::MAGNITUDE_BITS == f32::MAGNITUDE_BITS;
        let is_coarse = is_single && rounding == Rounding::Bf16;
        Self {
            by_rank,
            counts: is_coarse.then(Vec::new),
            sorter: match is_single {
                true => Sorter::Narrow(Sort::default()),
                false => Sorter::Wide(Sort::default()),
            },
            by_element: Vec::new(),
        }
    }

    /// The thresholds of the elements of whole rows.
    pub(super) fn thresholds<F: Elementwise>(&mut self, rows: &[F]) -> &[u32] {
        self.by_element.resize(rows.len(), 0);
        let row_len = self.by_rank.len().max(1);
        let thresholds = self.by_element.chunks_mut(row_len);
        for (row, thresholds) in rows.chunks(row_len).zip(thresholds) {
            let counted = match &mut self.counts {
                Some(counts) => count(row, self.by_rank, counts, thresholds),
                None => false,
            };
            if counted {
                continue;
            }
            match &mut self.sorter {
                Sorter::Narrow(sort) => sort.scatter(row, self.by_rank, thresholds),
                Sorter::Wide(sort) => sort.scatter(row, self.by_rank, thresholds),
            }
        }
        &self.by_element
    }
}

/// Gives each element of a row the threshold of its rank: as many as there are smaller magnitudes,
/// and equal ones before it. Returns false, and does nothing, if the magnitudes span too many values
/// to count them all. Only for values on bfloat16's grid, of which the upper half is looked at.
fn count<F: Elementwise>(
    row: &[F],
    by_rank: &[u32],
    counts: &mut Vec<u32>,
    thresholds: &mut [u32],
) -> bool {
    let magnitude = |value: &F| (value.magnitude() >> 16) as u32;
    // Zeros, which may be far from everything else, have a count of their own.
    let (mut below_least, mut largest) = (u32::MAX, 0);
    for value in row {
        let magnitude = magnitude(value);
        largest = largest.max(magnitude);
        below_least = below_least.min(magnitude.wrapping_sub(1));
    }
    let below_least = below_least.min(largest);
    let num_counts = (largest - below_least) as usize + 1;
    if num_counts > MAX_COUNTS_PER_ELEMENT * row.len() {
        return false;
    }
    let slot = |value: &F| magnitude(value).saturating_sub(below_least) as usize;
    counts.clear();
    counts.resize(num_counts, 0);
    for value in row {
        counts[slot(value)] += 1;
    }
    let mut smaller = 0;
    for count in counts.iter_mut() {
        smaller += std::mem::replace(count, smaller);
    }
    for (value, threshold) in row.iter().zip(thresholds) {
        let rank = &mut counts[slot(value)];
        *threshold = by_rank[*rank as usize];
        *rank += 1;
    }
    true
}

/// Bits of a key's index.
const INDEX_BITS: u32 = u32::BITS;

/// A magnitude above the index of its element, in one integer.
trait Key: Copy + Default + BitXor<Output = Self> + BitOr<Output = Self> {
    /// Bits of the integer.
    const BITS: u32;

    fn pack(magnitude: u64, index: u32) -> Self;
    fn index(self) -> usize;
    /// Bits `shift` to `shift + DIGIT_BITS`.
    fn digit(self, shift: u32) -> u8;
}

macro_rules! key {
    ($integer:ty) => {
        impl Key for $integer {
            const BITS: u32 = Self::BITS;

            #[inline(always)]
            fn pack(magnitude: u64, index: u32) -> Self {
                (magnitude as Self) << INDEX_BITS | index as Self
            }
            #[inline(always)]
            fn index(self) -> usize {
                self as u32 as usize
            }
            #[inline(always)]
            fn digit(self, shift: u32) -> u8 {
                (self >> shift) as u8
            }
        }
    };
}

key!(u64);
key!(u128);

/// A stable radix sort.
#[derive(Default)]
struct Sort<K> {
    keys: Vec<K>,
    sorted: Vec<K>,
}

impl<K: Key> Sort<K> {
    /// Gives each element of a row the threshold of its rank.
    fn scatter<F: Elementwise>(&mut self, row: &[F], by_rank: &[u32], thresholds: &mut [u32]) {
        self.sort(row);
        for (key, threshold) in self.keys.iter().zip(by_rank) {
            thresholds[key.index()] = *threshold;
        }
    }

    /// Sorts a row's magnitudes in rising order, lowest index first among equals. Digits in which
    /// no two elements differ are passed over.
    fn sort<F: Elementwise>(&mut self, row: &[F]) {
        self.keys.clear();
        let magnitudes = row.iter().map(|delta| delta.magnitude());
        let keys = magnitudes.zip(0..).map(|(m, index)| K::pack(m, index));
        self.keys.extend(keys);
        self.sorted.resize(row.len(), K::default());
        let first = self.keys.first().copied().unwrap_or_default();
        let differing = self.keys.iter().map(|key| *key ^ first);
        let differing = differing.fold(K::default(), |bits, key| bits | key);
        let shifts = (INDEX_BITS..K::BITS).step_by(DIGIT_BITS as usize);
        for shift in shifts.filter(|shift| differing.digit(*shift) != 0) {
            self.sort_by_digit(shift);
        }
    }

    fn sort_by_digit(&mut self, shift: u32) {
        let mut starts = [0_u32; DIGITS];
        for key in &self.keys {
            starts[usize::from(key.digit(shift))] += 1;
        }
        let mut next = 0;
        for start in &mut starts {
            let count = *start;
            *start = next;
            next += count;
        }
        for key in &self.keys {
            let start = &mut starts[usize::from(key.digit(shift))];
            self.sorted[*start as usize] = *key;
            *start += 1;
        }
        std::mem::swap(&mut self.keys, &mut self.sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order<K: Key, F: Elementwise>(row: &[F]) -> Vec<usize> {
        let mut sort = Sort::<K>::default();
        sort.sort(row);
        sort.keys.iter().map(|key| key.index()).collect()
    }

    #[test]
    fn rows_are_sorted_stably_by_magnitude() {
        let row = [0.5_f32, -2.0, 0.5, 0.0, -0.5, 1e-30];
        assert_eq!(order::<u64, _>(&row), [3, 5, 0, 2, 4, 1]);
    }

    #[test]
    fn wide_magnitudes_are_sorted_by_all_their_bits() {
        let row = [1e300_f64, -1.0, f64::MAX, 5e-324];
        assert_eq!(order::<u128, _>(&row), [3, 1, 0, 2]);
    }

    /// Counted where bfloat16 allows it, sorted otherwise: the ranks are the same.
    #[test]
    fn counting_and_sorting_agree() {
        let by_rank: Vec<u32> = (0..500).collect();
        let wide = |i: i32| {
            if i % 5 == 0 {
                0.0
            } else {
                ((i * 37 % 101) as f32).exp2()
            }
        };
        let near = |i: i32| ((i * 37 % 101) as f32).sin() * 0.01;
        let rows: [&dyn Fn(i32) -> f32; 4] = [&near, &wide, &|_| 0.0, &|i| (i % 3) as f32];
        for value in rows {
            let row: Vec<f32> = (0..500).map(|i| Rounding::Bf16.one(value(i))).collect();
            let mut counted = Ranks::new::<f32>(&by_rank, Rounding::Bf16);
            let mut sorted = Ranks::new::<f32>(&by_rank, Rounding::None);
            assert_eq!(counted.thresholds(&row), sorted.thresholds(&row));
        }
        let mut few = [0; 3];
        let fits = count(
            &[1.0_f32, 1e30, 1e-30],
            &[0, 1, 2],
            &mut Vec::new(),
            &mut few,
        );
        assert!(
            !fits,
            "three elements do not pay for the counts between them"
        );
    }

    #[test]
    fn thresholds_go_to_the_elements_of_their_ranks() {
        for rounding in [Rounding::Bf16, Rounding::None] {
            let mut ranks = Ranks::new::<f32>(&[10, 20, 30], rounding);
            let rows = [3.0_f32, -1.0, 2.0, 0.0, 0.0, 0.0];
            assert_eq!(ranks.thresholds(&rows), [30, 10, 20, 10, 20, 30]);
        }
        let mut ranks = Ranks::new::<f64>(&[10, 20], Rounding::None);
        assert_eq!(ranks.thresholds(&[1.0 + f64::EPSILON, 1.0]), [20, 10]);
    }

    #[test]
    fn chances_span_density_plus_and_minus_epsilon() {
        let quarters = by_rank(Rounding::None, 0.5, 0.25, 5).into_iter();
        let quarters: Vec<f64> = quarters
            .map(|t| f64::from(t) / f64::from(1 << 24))
            .collect();
        assert_eq!(quarters, [0.25, 0.375, 0.5, 0.625, 0.75]);
        assert_eq!(by_rank(Rounding::Bf16, 0.5, 0.25, 1), [1 << 22]);
    }
}
