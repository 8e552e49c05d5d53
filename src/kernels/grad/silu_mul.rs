//! The gated MLP's product: `y = silu(gate) * up` (Shazeer 2020, SwiGLU).

use rayon::prelude::*;

use super::VALUES_PER_TASK;
use crate::cpu::activation::sigmoid;
use crate::cpu::isa::Isa;
use crate::cpu::matmul::{load, store};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// Forward, elementwise over equal shapes.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let isa = Isa::detect();
    assert!(gate.len() == y.len() && up.len() == y.len());
    y.par_chunks_mut(VALUES_PER_TASK)
        .zip(gate.par_chunks(VALUES_PER_TASK))
        .zip(up.par_chunks(VALUES_PER_TASK))
        .for_each(|((y, gate), up)| isa.run_elementwise(Forward { gate, up, y }));
}

struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for (y, (gate, up)) in self.y.chunks_mut(LANES).zip(inputs) {
            let gate = load(simd, gate);
            let silu = simd.mul(gate, sigmoid(simd, gate));
            store(simd, simd.mul(silu, load(simd, up)), y);
        }
    }
}

/// Backward in place: `gate` and `up` become their gradients, and `y`, which holds the gradient of
/// the output, becomes the output again.
pub fn backward(gate: &mut [f32], up: &mut [f32], y: &mut [f32]) {
    let isa = Isa::detect();
    assert!(gate.len() == y.len() && up.len() == y.len());
    y.par_chunks_mut(VALUES_PER_TASK)
        .zip(gate.par_chunks_mut(VALUES_PER_TASK))
        .zip(up.par_chunks_mut(VALUES_PER_TASK))
        .for_each(|((y, gate), up)| isa.run_elementwise(Backward { gate, up, y }));
}

struct Backward<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    y: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        let inputs = self.gate.chunks_mut(LANES).zip(self.up.chunks_mut(LANES));
        for (y, (gate, up)) in self.y.chunks_mut(LANES).zip(inputs) {
            let (g, u, dy) = (load(simd, gate), load(simd, up), load(simd, y));
            let s = sigmoid(simd, g);
            let silu = simd.mul(g, s);
            // silu' = s + g s (1 - s)
            let slope = simd.mul_add(silu, simd.sub(one, s), s);
            store(simd, simd.mul(simd.mul(dy, u), slope), gate);
            store(simd, simd.mul(dy, silu), up);
            store(simd, simd.mul(silu, u), y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        let (gate, up, dy) = (test_values(1, 24), test_values(2, 24), test_values(3, 24));
        let output = |g: &[f32], u: &[f32]| {
            let mut y = vec![0.0; g.len()];
            forward(g, u, &mut y);
            y
        };
        let loss = |g: &[f32], u: &[f32]| -> f64 {
            let y = output(g, u);
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let (mut dg, mut du, mut y) = (gate.clone(), up.clone(), dy.clone());
        backward(&mut dg, &mut du, &mut y);
        assert_close("dgate", &dg, &numeric_gradient(&gate, |g| loss(g, &up)));
        assert_close("dup", &du, &numeric_gradient(&up, |u| loss(&gate, u)));
        assert_eq!(y, output(&gate, &up));
    }
}
