//! The gradient of a bias that is added to every row: the column sums, in double precision because
//! those of a key's bias nearly cancel. (The bias is added where the product is made.)

use rayon::prelude::*;

use super::ROWS_PER_TASK;

/// Adds the column sums of `dy`, `[rows, width]`, to `dbias`, `[width]`.
pub fn backward(dy: &[f32], dbias: &mut [f32]) {
    let width = dbias.len();
    let partial: Vec<Vec<f64>> = dy
        .par_chunks(ROWS_PER_TASK * width)
        .map(|dy| {
            let mut sums = vec![0.0f64; width];
            for row in dy.chunks(width) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += f64::from(*value);
                }
            }
            sums
        })
        .collect();
    for (column, dbias) in dbias.iter_mut().enumerate() {
        let sums = partial.iter().map(|sums| sums[column]);
        *dbias += sums.sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_column_sum() {
        let mut sums = [0.5, 0.0];
        backward(&[1.0, 2.0, 1e8, 3.0, -1e8, 4.0], &mut sums);
        assert_eq!(sums, [1.5, 9.0]);
    }
}
