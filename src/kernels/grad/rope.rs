//! Rotary position embedding (Su et al. 2021), half-split layout: element `i` of a head turns with
//! element `i + rotary_dim / 2`. The backward pass is the rotation by the opposite angle.

use rayon::prelude::*;

use super::ROWS_PER_TASK;

/// Which way to turn: forward, or back for the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the position's angle.
    Forward,
    /// By its negative.
    Backward,
}

/// Rotates every head of every row, in place.
///
/// Shapes: `x`: `[rows, num_heads * head_dim]`; `cos`, `sin`: `[rows, rotary_dim / 2]`, the
/// row's position already looked up. Elements beyond `rotary_dim` stay.
pub fn rotate(
    x: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    num_heads: usize,
    head_dim: usize,
    direction: Direction,
) {
    let width = num_heads * head_dim;
    let half = cos.len() / (x.len() / width).max(1);
    let sign = if direction == Direction::Forward {
        1.0
    } else {
        -1.0
    };
    x.par_chunks_mut(ROWS_PER_TASK * width)
        .zip(cos.par_chunks(ROWS_PER_TASK * half))
        .zip(sin.par_chunks(ROWS_PER_TASK * half))
        .for_each(|((x, cos), sin)| {
            let angles = cos.chunks(half).zip(sin.chunks(half));
            for (x, (cos, sin)) in x.chunks_mut(width).zip(angles) {
                for head in x.chunks_mut(head_dim) {
                    let (first, rest) = head.split_at_mut(half);
                    let pairs = first.iter_mut().zip(rest);
                    for ((a, b), (c, s)) in pairs.zip(cos.iter().zip(sin)) {
                        let (x, y, s) = (*a, *b, s * sign);
                        *a = x * c - y * s;
                        *b = y * c + x * s;
                    }
                }
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
        let mut y = x.clone();
        rotate(&mut y, &cos, &sin, 2, 6, Direction::Forward);
        let mut back = y.clone();
        rotate(&mut back, &cos, &sin, 2, 6, Direction::Backward);
        assert_ne!(&y[..4], &x[..4]);
        assert_eq!(
            &y[4..6],
            &x[4..6],
            "elements beyond the rotary part pass through"
        );
        assert!(x.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
