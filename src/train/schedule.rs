//! The learning rate of each optimisation step.

use std::f64::consts::PI;

/// The rate's course after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Stays at the base rate, warm-up or not.
    Constant,
    /// Falls in a straight line to 0 at the last step.
    Linear,
    /// Half a cosine from the base rate to 0.
    Cosine,
}

/// A schedule over a known number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub learning_rate: f64,
    /// The course after the warm-up.
    pub decay: Decay,
    /// Steps over which the rate rises from 0; step 0 then changes nothing.
    pub warmup_steps: usize,
    /// All steps of the run.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate that step `step` (from 0) uses.
    pub fn rate(&self, step: usize) -> f64 {
        let Self {
            learning_rate,
            decay,
            warmup_steps,
            total_steps,
        } = *self;
        if step < warmup_steps {
            return learning_rate * step as f64 / warmup_steps as f64;
        }
        let left = total_steps.saturating_sub(warmup_steps).max(1) as f64;
        let done = ((step - warmup_steps) as f64 / left).min(1.0);
        match decay {
            Decay::Constant => learning_rate,
            Decay::Linear => learning_rate * (1.0 - done),
            Decay::Cosine => learning_rate * 0.5 * (1.0 + (PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_starts_at_zero_and_decay_ends_at_zero() {
        let schedule = Schedule {
            learning_rate: 1e-3,
            decay: Decay::Cosine,
            warmup_steps: 2,
            total_steps: 20,
        };
        assert_eq!(schedule.rate(0), 0.0);
        assert_eq!(schedule.rate(1), 5e-4);
        assert_eq!(schedule.rate(2), 1e-3);
        assert!(schedule.rate(20).abs() < 1e-12);
        let linear = Schedule {
            decay: Decay::Linear,
            warmup_steps: 0,
            ..schedule
        };
        assert_eq!(linear.rate(10), 5e-4);
    }
}
