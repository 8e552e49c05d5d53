//! RMS norm: `y = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019), per row.

use rayon::prelude::*;

use super::{ROWS_PER_TASK, add_partial_sums};
use crate::cpu::isa::Isa;
use crate::cpu::matmul::{load, store};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// Forward. Shapes: `x`, `y`: `[rows, width]`, `weight`: `[width]`.
pub fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let (width, isa) = (weight.len(), Isa::detect());
    assert_eq!(x.len(), y.len(), "a result for each value");
    y.par_chunks_mut(ROWS_PER_TASK * width)
        .zip(x.par_chunks(ROWS_PER_TASK * width))
        .for_each(|(y, x)| isa.run_elementwise(Forward { x, weight, eps, y }));
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (y, x) in self.y.chunks_mut(width).zip(self.x.chunks(width)) {
            let scale = simd.splat(inverse_rms(simd, x, self.eps));
            for ((y, x), w) in y
                .chunks_mut(LANES)
                .zip(x.chunks(LANES))
                .zip(self.weight.chunks(LANES))
            {
                let scaled = simd.mul(load(simd, x), scale);
                store(simd, simd.mul(scaled, load(simd, w)), y);
            }
        }
    }
}

/// Backward: adds the input's gradient to `dx` (`[rows, width]`) and, where the weight is trained,
/// its gradient to `dweight` (`[width]`). `dy` is the gradient of the output.
pub fn backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let (width, isa) = (weight.len(), Isa::detect());
    assert!(x.len() == dy.len() && x.len() == dx.len());
    let needs_weight = dweight.is_some();
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS_PER_TASK * width)
        .zip(x.par_chunks(ROWS_PER_TASK * width))
        .zip(dy.par_chunks(ROWS_PER_TASK * width))
        .map(|((dx, x), dy)| {
            let mut dweight = vec![0.0; if needs_weight { width } else { 0 }];
            isa.run_elementwise(Backward {
                x,
                weight,
                eps,
                dy,
                dx,
                dweight: &mut dweight,
            });
            dweight
        })
        .collect();
    if let Some(dweight) = dweight {
        add_partial_sums(&partial, dweight);
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
    /// Empty where the weight is not trained.
    dweight: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        let inputs = self.x.chunks(width).zip(self.dy.chunks(width));
        for (dx, (x, dy)) in self.dx.chunks_mut(width).zip(inputs) {
            let scale = inverse_rms(simd, x, self.eps);
            let mut dot = simd.splat(0.0);
            for ((x, dy), w) in x
                .chunks(LANES)
                .zip(dy.chunks(LANES))
                .zip(self.weight.chunks(LANES))
            {
                let weighted = simd.mul(load(simd, dy), load(simd, w));
                dot = simd.mul_add(load(simd, x), weighted, dot);
            }
            let shrink = simd.splat(-simd.sum(dot) * scale * scale * scale / width as f32);
            let scale = simd.splat(scale);
            for at in (0..width).step_by(LANES) {
                let part = at..width.min(at + LANES);
                let (x, dy) = (load(simd, &x[part.clone()]), load(simd, &dy[part.clone()]));
                let dx = &mut dx[part.clone()];
                let sum = simd.mul_add(x, shrink, load(simd, dx));
                let weighted = simd.mul(dy, load(simd, &self.weight[part.clone()]));
                store(simd, simd.mul_add(weighted, scale, sum), dx);
                if let Some(dweight) = self.dweight.get_mut(part) {
                    let normed = simd.mul(x, scale);
                    store(simd, simd.mul_add(dy, normed, load(simd, dweight)), dweight);
                }
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(simd: S, row: &[f32], eps: f32) -> f32 {
    let mut squares = simd.splat(0.0);
    for part in row.chunks(LANES) {
        let x = load(simd, part);
        squares = simd.mul_add(x, x, squares);
    }
    1.0 / (simd.sum(squares) / row.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        for (rows, width) in [(3, 8), (ROWS_PER_TASK + 2, 19)] {
            let (x, w) = (test_values(1, rows * width), test_values(2, width));
            let dy = test_values(3, rows * width);
            let loss = |x: &[f32], w: &[f32]| -> f64 {
                let mut y = vec![0.0; x.len()];
                forward(x, w, 1e-6, &mut y);
                y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
            };
            // What is there already stays: gradients are added.
            let (mut dx, mut dw) = (vec![1.0; x.len()], vec![1.0; width]);
            backward(&x, &w, 1e-6, &dy, &mut dx, Some(&mut dw));
            dx.iter_mut().chain(&mut dw).for_each(|value| *value -= 1.0);
            assert_close("dx", &dx, &numeric_gradient(&x, |x| loss(x, &w)));
            assert_close("dweight", &dw, &numeric_gradient(&w, |w| loss(&x, w)));
        }
    }
}
