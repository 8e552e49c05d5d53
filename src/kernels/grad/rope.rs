//! Rotary position embedding (Su et al. 2021), half-split layout: element `i` of a head turns with
//! element `i + rotary_dim / 2`. The backward pass is the rotation by the opposite angle.

use rayon::prelude::*;

/// Which way to turn: forward, or back for the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the position's angle.
    Forward,
    /// By its negative.
    Backward,
}

/// Rotates every head of every row.
///
/// Shapes: `x`, `y`: `[rows, num_heads * head_dim]`; `cos`, `sin`: `[rows, rotary_dim / 2]`, the
/// row's position already looked up. Elements beyond `rotary_dim` are copied.
pub fn rotate(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    num_heads: usize,
    head_dim: usize,
    direction: Direction,
    y: &mut [f32],
) {
    let width = num_heads * head_dim;
    let half = cos.len() / (x.len() / width).max(1);
    let sign = if direction == Direction::Forward {
        1.0
    } else {
        -1.0
    };
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(cos.par_chunks(half).zip(sin.par_chunks(half)))
        .for_each(|((y, x), (cos, sin))| {
            for (y, x) in y.chunks_mut(head_dim).zip(x.chunks(head_dim)) {
                for i in 0..half {
                    let (a, b, c, s) = (x[i], x[i + half], cos[i], sin[i] * sign);
                    y[i] = a * c - b * s;
                    y[i + half] = b * c + a * s;
                }
                y[2 * half..].copy_from_slice(&x[2 * half..]);
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::test_values;

    #[test]
    fn backward_undoes_forward() {
        let x = test_values(1, 2 * 2 * 6);
        let angles = test_values(2, 2 * 2);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let (mut y, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        rotate(&x, &cos, &sin, 2, 6, Direction::Forward, &mut y);
        rotate(&y, &cos, &sin, 2, 6, Direction::Backward, &mut back);
        assert_eq!(
            &y[4..6],
            &x[4..6],
            "elements beyond the rotary part pass through"
        );
        assert!(x.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
