//! Summed cross-entropy of rows of logits against one label each.

use rayon::prelude::*;

/// The sum over rows of `log(sum(exp(row))) - row[label]`, accumulated in f64 in row order.
///
/// Shapes: `logits`: `[rows, vocab_size]`, `labels`: `[rows]`, each below `vocab_size`.
pub fn forward(logits: &[f32], labels: &[u32]) -> f64 {
    let vocab_size = logits.len() / labels.len().max(1);
    let losses: Vec<f64> = logits
        .par_chunks(vocab_size)
        .zip(labels)
        .map(|(row, label)| f64::from(log_sum_exp(row)) - f64::from(row[*label as usize]))
        .collect();
    losses.iter().sum()
}

/// Fills `dlogits` with `(softmax(row) - one_hot(label)) * dloss`.
pub fn backward(logits: &[f32], labels: &[u32], dloss: f32, dlogits: &mut [f32]) {
    let vocab_size = logits.len() / labels.len().max(1);
    dlogits
        .par_chunks_mut(vocab_size)
        .zip(logits.par_chunks(vocab_size))
        .zip(labels)
        .for_each(|((dlogits, row), label)| {
            let normaliser = log_sum_exp(row);
            for (d, v) in dlogits.iter_mut().zip(row) {
                *d = (v - normaliser).exp() * dloss;
            }
            dlogits[*label as usize] -= dloss;
        });
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().map(|v| (v - max).exp()).sum::<f32>().ln() + max
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        let logits = test_values(1, 3 * 7);
        let labels = [2, 0, 6];
        let mut dlogits = vec![0.0; logits.len()];
        backward(&logits, &labels, 0.5, &mut dlogits);
        let expected = numeric_gradient(&logits, |l| 0.5 * forward(l, &labels));
        assert_close("dlogits", &dlogits, &expected);
    }
}
