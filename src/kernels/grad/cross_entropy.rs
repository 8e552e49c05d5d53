//! Summed cross-entropy of rows of logits against one label each, and its gradient in their place.

use rayon::prelude::*;

use crate::cpu::activation::exp;
use crate::cpu::isa::Isa;
use crate::cpu::matmul::{load, store};
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::{Scan, scan};

/// The sum over rows of `log(sum(exp(row))) - row[label]`, in double precision and row order.
///
/// Shapes: `logits`: `[rows, vocab_size]`, `labels`: `[rows]`, each below `vocab_size`.
pub fn forward(logits: &[f32], labels: &[u32]) -> f64 {
    let (vocab_size, isa) = (logits.len() / labels.len().max(1), Isa::detect());
    let losses: Vec<f64> = logits
        .par_chunks(vocab_size.max(1))
        .zip(labels)
        .map(|(row, label)| Normaliser::of(isa, row).loss(row, *label))
        .collect();
    losses.iter().sum()
}

/// The same; `logits` become their gradient, `(softmax(row) - one_hot(label)) * dloss`.
pub fn forward_backward(logits: &mut [f32], labels: &[u32], dloss: f32) -> f64 {
    let (vocab_size, isa) = (logits.len() / labels.len().max(1), Isa::detect());
    let losses: Vec<f64> = logits
        .par_chunks_mut(vocab_size.max(1))
        .zip(labels)
        .map(|(row, label)| {
            let normaliser = Normaliser::of(isa, row);
            let loss = normaliser.loss(row, *label);
            isa.run_elementwise(Backward {
                max: normaliser.max,
                scale: (f64::from(dloss) / normaliser.sum) as f32,
                row,
            });
            row[*label as usize] -= dloss;
            loss
        })
        .collect();
    losses.iter().sum()
}

/// The greatest logit, and the sum of the exponentials of the others' distances to it.
struct Normaliser {
    max: f32,
    sum: f64,
}

impl Normaliser {
    fn of(isa: Isa, row: &[f32]) -> Self {
        let Scan { greatest, sum } = scan(isa, row);
        Self {
            max: greatest.value,
            // The pass leaves out what is no number; a loss must not.
            sum: if greatest.has_nan { f64::NAN } else { sum },
        }
    }

    fn loss(&self, row: &[f32], label: u32) -> f64 {
        self.sum.ln() + f64::from(self.max) - f64::from(row[label as usize])
    }
}

struct Backward<'a> {
    row: &'a mut [f32],
    max: f32,
    scale: f32,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (max, scale) = (simd.splat(self.max), simd.splat(self.scale));
        for part in self.row.chunks_mut(LANES) {
            let shifted = simd.sub(load(simd, part), max);
            store(simd, simd.mul(exp(simd, shifted), scale), part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        let logits = test_values(1, 3 * 7);
        let labels = [2, 0, 6];
        let mut dlogits = logits.clone();
        let loss = forward_backward(&mut dlogits, &labels, 0.5);
        assert_eq!(loss, forward(&logits, &labels));
        let expected = numeric_gradient(&logits, |l| 0.5 * forward(l, &labels));
        assert_close("dlogits", &dlogits, &expected);
    }

    #[test]
    fn a_logit_that_is_no_number_makes_the_loss_none() {
        let mut logits = [0.0, f32::NAN, 1.0];
        assert!(forward(&logits, &[0]).is_nan());
        assert!(forward_backward(&mut logits, &[0], 1.0).is_nan());
    }
}
