//! DELLA's probabilities: within a row, an element's chance to stay grows with the rank of its
//! magnitude, from `density - epsilon` to `density + epsilon`.

use crate::kernels::elementwise::{Elementwise, Rounding};

/// Digits of the radix sort.
const DIGIT_BITS: u32 = 8;

/// The chances of the ranks of a row, and room to sort one.
pub(crate) struct Chances {
    /// By rank, in the masks' type.
    by_rank: Vec<f32>,
    /// (magnitude, index) pairs of a row, and the same while they are being sorted.
    keys: Vec<(u64, u32)>,
    sorted: Vec<(u64, u32)>,
}

impl Chances {
    /// The chances for rows of `row_len`, formed in the type of the masks: under bfloat16 ranks
    /// above 256 are rounded.
    pub(crate) fn new(of_masks: Rounding, density: f64, epsilon: f64, row_len: usize) -> Self {
        let last = row_len.saturating_sub(1).max(1) as f32;
        let (least, span) = ((density - epsilon) as f32, (2.0 * epsilon) as f32);
        let chance = |rank: usize| {
            let rank = of_masks.one(rank as f32);
            let share = of_masks.one(of_masks.one(rank / last) * span);
            of_masks.one(least + share)
        };
        Self {
            by_rank: (0..row_len).map(chance).collect(),
            keys: Vec::new(),
            sorted: Vec::new(),
        }
    }

    /// Drops elements of whole rows by their chances and 24-bit draws.
    pub(crate) fn apply<F: Elementwise>(&mut self, deltas: &mut [F], draws: &[u32]) {
        let row_len = self.by_rank.len().max(1);
        for (row, draws) in deltas.chunks_mut(row_len).zip(draws.chunks(row_len)) {
            self.sort(row);
            for (chance, (_, index)) in self.by_rank.iter().zip(&self.keys) {
                let index = *index as usize;
                let uniform = draws[index] as f32 * (1.0 / (1u32 << 24) as f32);
                if uniform >= *chance {
                    row[index] = F::ZERO;
                }
            }
        }
    }

    /// Sorts a row's magnitudes in rising order, lowest index first among equals. Digits in which
    /// no two elements differ are passed over.
    fn sort<F: Elementwise>(&mut self, row: &[F]) {
        self.keys.clear();
        let magnitudes = row.iter().map(|delta| delta.magnitude());
        self.keys.extend(magnitudes.zip(0..));
        self.sorted.resize(row.len(), (0, 0));
        let differing = self
            .keys
            .iter()
            .fold(0, |bits, (key, _)| bits | (key ^ self.keys[0].0));
        let mut shift = 0;
        while shift < u64::BITS && differing >> shift != 0 {
            if (differing >> shift) & ((1 << DIGIT_BITS) - 1) != 0 {
                self.sort_by_digit(shift);
            }
            shift += DIGIT_BITS;
        }
    }

    fn sort_by_digit(&mut self, shift: u32) {
        let digit = |key: u64| (key >> shift) as usize & ((1 << DIGIT_BITS) - 1);
        let mut starts = [0_u32; 1 << DIGIT_BITS];
        for (key, _) in &self.keys {
            starts[digit(*key)] += 1;
        }
        let mut next = 0;
        for start in &mut starts {
            let count = *start;
            *start = next;
            next += count;
        }
        for pair in &self.keys {
            let start = &mut starts[digit(pair.0)];
            self.sorted[*start as usize] = *pair;
            *start += 1;
        }
        std::mem::swap(&mut self.keys, &mut self.sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_stably_by_magnitude() {
        let row = [0.5_f32, -2.0, 0.5, 0.0, -0.5, 1e-30];
        let mut chances = Chances::new(Rounding::None, 0.5, 0.1, row.len());
        chances.sort(&row);
        let order: Vec<u32> = chances.keys.iter().map(|(_, index)| *index).collect();
        assert_eq!(order, [3, 5, 0, 2, 4, 1]);
    }

    #[test]
    fn wide_magnitudes_are_sorted_by_all_their_bits() {
        let row = [1e300_f64, -1.0, f64::MAX, 5e-324];
        let mut chances = Chances::new(Rounding::None, 0.5, 0.1, row.len());
        chances.sort(&row);
        let order: Vec<u32> = chances.keys.iter().map(|(_, index)| *index).collect();
        assert_eq!(order, [3, 1, 0, 2]);
    }

    #[test]
    fn chances_span_density_plus_and_minus_epsilon() {
        let chances = Chances::new(Rounding::None, 0.5, 0.25, 5);
        assert_eq!(chances.by_rank, [0.25, 0.375, 0.5, 0.625, 0.75]);
        assert_eq!(Chances::new(Rounding::Bf16, 0.5, 0.25, 1).by_rank, [0.25]);
    }
}
