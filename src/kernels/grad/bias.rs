//! A bias added to every row, and its gradient: the column sums, accumulated in f64 because the
//! gradient of a key bias nearly cancels.

use rayon::prelude::*;

/// Forward. Shapes: `x`, `y`: `[rows, width]`, `bias`: `[width]`.
pub fn forward(x: &[f32], bias: &[f32], y: &mut [f32]) {
    let width = bias.len();
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .for_each(|(y, x)| {
            for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
                *y = x + b;
            }
        });
}

/// The bias's gradient, `[width]`; the gradient of `x` is `dy` itself.
pub fn backward(dy: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    for row in dy.chunks(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_column_sum() {
        assert_eq!(backward(&[1.0, 2.0, 1e8, 3.0, -1e8, 4.0], 2), [1.0, 9.0]);
    }
}
