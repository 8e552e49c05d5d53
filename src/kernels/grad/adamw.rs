//! AdamW's update of one tensor in one pass (Loshchilov and Hutter 2019), on all threads.

use rayon::prelude::*;

use super::VALUES_PER_TASK;

/// What an update is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// The learning rate.
    pub rate: f32,
    /// `1 - beta1^t`: moments begin at zero.
    pub correction1: f32,
    /// `1 - beta2^t`.
    pub correction2: f32,
    /// What weights are multiplied by before the update: `1 - rate * weight_decay`.
    pub decay: f32,
    /// What the gradient is multiplied by first: less than 1 where it is clipped.
    pub gradient_scale: f32,
}

/// Updates weights and moments, all of one shape. Without a gradient it is taken to be zero.
///
/// # Panics
/// The shapes differ.
pub fn update(
    with: &Update,
    weights: &mut [f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    gradient: Option<&[f32]>,
) {
    assert!(weights.len() == exp_avg.len() && weights.len() == exp_avg_sq.len());
    assert!(gradient.is_none_or(|gradient| gradient.len() == weights.len()));
    weights
        .par_chunks_mut(VALUES_PER_TASK)
        .zip(exp_avg.par_chunks_mut(VALUES_PER_TASK))
        .zip(exp_avg_sq.par_chunks_mut(VALUES_PER_TASK))
        .enumerate()
        .for_each(|(task, ((weights, m), v))| {
            let moments = m.iter_mut().zip(v);
            match gradient {
                Some(gradient) => {
                    let gradient = &gradient[task * VALUES_PER_TASK..];
                    for ((w, (m, v)), g) in weights.iter_mut().zip(moments).zip(gradient) {
                        with.apply(w, m, v, g * with.gradient_scale);
                    }
                }
                None => {
                    for (w, (m, v)) in weights.iter_mut().zip(moments) {
                        with.apply(w, m, v, 0.0);
                    }
                }
            }
        });
}

impl Update {
    #[inline(always)]
    fn apply(&self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        *m = *m * self.beta1 + g * (1.0 - self.beta1);
        *v = *v * self.beta2 + g * g * (1.0 - self.beta2);
        let denominator = (*v / self.correction2).sqrt() + self.epsilon;
        let step = *m / self.correction1 / denominator;
        *w = *w * self.decay - step * self.rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_by_the_rate_and_decays() {
        let with = Update {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 0.0,
            rate: 0.1,
            correction1: 0.1,
            correction2: 0.01,
            decay: 0.5,
            gradient_scale: 0.25,
        };
        let (mut w, mut m, mut v) = ([2.0, 2.0, 2.0], [0.0; 3], [0.0; 3]);
        update(&with, &mut w, &mut m, &mut v, Some(&[4.0, -8.0, 12.0]));
        for (w, expected) in w.iter().zip([0.9, 1.1, 0.9]) {
            assert!((w - expected).abs() < 1e-5, "{w}");
        }
        assert!((m[1] + 0.2).abs() < 1e-6 && (v[2] - 0.09).abs() < 1e-6);
        let epsilon = Update {
            epsilon: 1e-8,
            ..with
        };
        let (mut w, mut m, mut v) = ([2.0], [0.0], [0.0]);
        update(&epsilon, &mut w, &mut m, &mut v, None);
        assert_eq!((w, m, v), ([1.0], [0.0], [0.0]));
    }
}
