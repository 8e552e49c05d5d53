//! The gated MLP's product: `y = silu(gate) * up` (Shazeer 2020, SwiGLU).

use rayon::prelude::*;

/// Elements that one task handles: large enough to hide the cost of handing it over.
const CHUNK: usize = 1 << 14;

/// Forward, elementwise over equal shapes.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((y, gate), up)| {
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = g * sigmoid(*g) * u;
            }
        });
}

/// Backward: fills `dgate` and `dup`.
pub fn backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let inputs = gate
        .par_chunks(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK));
    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    inputs
        .zip(outputs)
        .for_each(|(((gate, up), dy), (dgate, dup))| {
            let inputs = gate.iter().zip(up).zip(dy);
            for (((g, u), dy), (dg, du)) in inputs.zip(dgate.iter_mut().zip(dup)) {
                let s = sigmoid(*g);
                *du = dy * g * s;
                *dg = dy * u * s * (1.0 + g * (1.0 - s));
            }
        });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    #[test]
    fn backward_matches_finite_differences() {
        let (gate, up, dy) = (test_values(1, 24), test_values(2, 24), test_values(3, 24));
        let loss = |g: &[f32], u: &[f32]| -> f64 {
            let mut y = vec![0.0; g.len()];
            forward(g, u, &mut y);
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let (mut dg, mut du) = (vec![0.0; 24], vec![0.0; 24]);
        backward(&gate, &up, &dy, &mut dg, &mut du);
        assert_close("dgate", &dg, &numeric_gradient(&gate, |g| loss(g, &up)));
        assert_close("dup", &du, &numeric_gradient(&up, |u| loss(&gate, u)));
    }
}
