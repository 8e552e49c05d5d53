//! RMS norm: `y = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019), per row.

use rayon::prelude::*;

/// Forward. Shapes: `x`, `y`: `[rows, width]`, `weight`: `[width]`.
pub fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .for_each(|(y, x)| {
            let scale = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        });
}

/// Backward: fills `dx` (`[rows, width]`) and, where the weight is trained, `dweight` (`[width]`,
/// summed in row order in f64).
pub fn backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    dx.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(dy.par_chunks(width))
        .for_each(|((dx, x), dy)| {
            let scale = inverse_rms(x, eps);
            let products = x
                .iter()
                .zip(dy)
                .zip(weight)
                .map(|((x, dy), w)| f64::from(x * dy * w));
            let dot = products.sum::<f64>() as f32;
            let shrink = dot * scale * scale * scale / width as f32;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = dy * w * scale - x * shrink;
            }
        });
    let Some(dweight) = dweight else { return };
    let mut sums = vec![0.0f64; width];
    for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
        let scale = inverse_rms(x, eps);
        for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
            *sum += f64::from(dy * x * scale);
        }
    }
    for (dweight, sum) in dweight.iter_mut().zip(sums) {
        *dweight = sum as f32;
    }
}

fn inverse_rms(row: &[f32], eps: f32) -> f32 {
    let sum: f64 = row.iter().map(|v| f64::from(v * v)).sum();
    (1.0 / (sum / row.len() as f64 + f64::from(eps)).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        let (rows, width) = (3, 8);
        let (x, w) = (test_values(1, rows * width), test_values(2, width));
        let dy = test_values(3, rows * width);
        let loss = |x: &[f32], w: &[f32]| -> f64 {
            let mut y = vec![0.0; x.len()];
            forward(x, w, 1e-6, &mut y);
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; width]);
        backward(&x, &w, 1e-6, &dy, &mut dx, Some(&mut dw));
        assert_close("dx", &dx, &numeric_gradient(&x, |x| loss(x, &w)));
        assert_close("dweight", &dw, &numeric_gradient(&w, |w| loss(&x, w)));
    }
}
