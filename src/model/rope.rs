//! Rotary angles from a [`RopeSpec`]: inverse frequencies, cosines and sines, computed in `f32` in
//! the order of Hugging Face's `modeling_rope_utils.py`, so that logits agree with it.

use std::f64::consts::PI;

use super::{RopeScaling, RopeSpec};

/// One rotary embedding, ready to turn positions into cosines and sines.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
}

impl Rope {
    /// Prepares `spec` for sequences of up to `context_length` tokens. Only
    /// [`RopeScaling::LongRope`] depends on that length: beyond the original context it takes the
    /// long factors, for every position.
    pub fn new(spec: &RopeSpec, context_length: usize) -> Self {
        let base: Vec<f32> = powers(spec).map(|power| 1.0 / power).collect();
        let (inverse_frequencies, attention_factor) = match &spec.scaling {
            RopeScaling::None => (base, 1.0),
            RopeScaling::Linear { factor } => {
                let factor = *factor as f32;
                (base.iter().map(|f| f / factor).collect(), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let scale = Llama3Scale {
                    factor: *factor as f32,
                    low: *low_freq_factor as f32,
                    high: *high_freq_factor as f32,
                    original: *original_max_position_embeddings as f32,
                };
                (base.iter().map(|f| scale.apply(*f)).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_slow,
                beta_fast,
                truncate,
                attention_factor,
            } => {
                let index = |rotations: f64| {
                    pair_turning(spec, *original_max_position_embeddings, rotations)
                };
                let range = YarnRange::new(
                    index(*beta_fast),
                    index(*beta_slow),
                    *truncate,
                    spec.rotary_dim,
                );
                let blend = |(i, power): (usize, f32)| {
                    let interpolated = 1.0 / (*factor as f32 * power);
                    let keep = 1.0 - range.ramp(i);
                    interpolated * (1.0 - keep) + 1.0 / power * keep
                };
                let frequencies = powers(spec).enumerate().map(blend).collect();
                (frequencies, *attention_factor as f32)
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                let divisors = if context_length > *original_max_position_embeddings {
                    long_factor
                } else {
                    short_factor
                };
                (divided(spec, divisors), *attention_factor as f32)
            }
            RopeScaling::Factors { divisors } => (divided(spec, divisors), 1.0),
        };
        Self {
            inverse_frequencies,
            attention_factor,
        }
    }

    /// Radians per position, one per pair: `[rotary_dim / 2]`.
    pub fn inverse_frequencies(&self) -> &[f32] {
        &self.inverse_frequencies
    }

    /// Multiplies every cosine and sine (1 where the scaling has none).
    pub fn attention_factor(&self) -> f32 {
        self.attention_factor
    }

    /// Writes the cosines and sines of one position. *Shapes* both `[rotary_dim / 2]`.
    ///
    /// # Panics
    /// A slice has another length.
    pub fn cos_sin(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        assert_eq!(cos.len(), self.inverse_frequencies.len(), "one per pair");
        assert_eq!(sin.len(), self.inverse_frequencies.len(), "one per pair");
        let position = position as f32;
        for (i, frequency) in self.inverse_frequencies.iter().enumerate() {
            let (sine, cosine) = (position * frequency).sin_cos();
            cos[i] = cosine * self.attention_factor;
            sin[i] = sine * self.attention_factor;
        }
    }
}

/// `theta^(2i / rotary_dim)` for every pair.
fn powers(spec: &RopeSpec) -> impl Iterator<Item = f32> {
    let (theta, dim) = (spec.theta as f32, spec.rotary_dim as f32);
    (0..spec.rotary_dim / 2).map(move |i| theta.powf((2 * i) as f32 / dim))
}

fn divided(spec: &RopeSpec, divisors: &[f32]) -> Vec<f32> {
    let pairs = powers(spec).zip(divisors);
    pairs
        .map(|(power, divisor)| 1.0 / (divisor * power))
        .collect()
}

/// Llama 3's treatment of one frequency.
struct Llama3Scale {
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
}

impl Llama3Scale {
    fn apply(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * PI as f32 / frequency;
        if wavelength < self.original / self.high {
            return frequency;
        }
        if wavelength > self.original / self.low {
            return frequency / self.factor;
        }
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// The index of the pair that turns `rotations` times over the original context, a fraction.
fn pair_turning(spec: &RopeSpec, original: usize, rotations: f64) -> f64 {
    let dim = spec.rotary_dim as f64;
    dim * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * spec.theta.ln())
}

/// YaRN's ramp over pair indices: 0 (kept) up to `low`, 1 (interpolated) from `high` on.
struct YarnRange {
    low: f32,
    high: f32,
}

impl YarnRange {
    fn new(low: f64, high: f64, truncate: bool, rotary_dim: usize) -> Self {
        let (low, high) = if truncate {
            (low.floor(), high.ceil())
        } else {
            (low, high)
        };
        let low = low.max(0.0);
        let high = high.min(rotary_dim as f64 - 1.0);
        // As the reference does where the range is empty, against a division by zero.
        let high = if low == high { high + 0.001 } else { high };
        Self {
            low: low as f32,
            high: high as f32,
        }
    }

    fn ramp(&self, i: usize) -> f32 {
        ((i as f32 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec {
            theta: 10000.0,
            rotary_dim: 8,
            scaling,
        }
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{found} for {expected}"
            );
        }
    }

    fn frequencies(scaling: RopeScaling, context: usize) -> Vec<f32> {
        Rope::new(&spec(scaling), context).inverse_frequencies
    }

    #[test]
    fn plain_frequencies_are_a_geometric_progression() {
        close(&frequencies(RopeScaling::None, 1), &[1.0, 0.1, 0.01, 0.001]);
        let rope = Rope::new(&spec(RopeScaling::None), 1);
        let (mut cos, mut sin) = ([0.0; 4], [0.0; 4]);
        rope.cos_sin(3, &mut cos, &mut sin);
        close(
            &cos,
            &[3f32.cos(), 0.3f32.cos(), 0.03f32.cos(), 0.003f32.cos()],
        );
        close(
            &sin,
            &[3f32.sin(), 0.3f32.sin(), 0.03f32.sin(), 0.003f32.sin()],
        );
    }

    #[test]
    fn linear_divides_every_frequency() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        close(&frequencies(linear, 1), &[0.25, 0.025, 0.0025, 0.00025]);
    }

    /// Wavelengths 6.3, 63, 628, 6283: kept below 256 / 4 = 64, divided above 256, a ramp between.
    #[test]
    fn llama3_keeps_high_divides_low_and_blends_between() {
        let scaling = |original| RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        };
        let divided = [1.0, 0.1, 0.01 / 8.0, 0.001 / 8.0];
        close(&frequencies(scaling(256), 1), &divided);
        let smooth = (1000.0 * 0.01 / (2.0 * PI as f32) - 1.0) / 3.0;
        let blended = (1.0 - smooth) * 0.01 / 8.0 + smooth * 0.01;
        let expected = [1.0, 0.1, blended, 0.001 / 8.0];
        close(&frequencies(scaling(1000), 1), &expected);
    }

    /// beta 32 turns at pair ln(1024 / (32 * 2 pi)) / ln(10) = 0.7, beta 1 at 2.2: the ramp runs
    /// from 0 to 3, or from 0.7 to 2.2 where it is not rounded.
    #[test]
    fn yarn_interpolates_by_turns() {
        let scaling = |truncate| RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 1024,
            beta_slow: 1.0,
            beta_fast: 32.0,
            truncate,
            attention_factor: 1.25,
        };
        let blend = |kept: f32, ramp: f32| kept / 4.0 * ramp + kept * (1.0 - ramp);
        let rounded = [1.0, blend(0.1, 1.0 / 3.0), blend(0.01, 2.0 / 3.0), 0.00025];
        close(&frequencies(scaling(true), 1), &rounded);
        let turn = |beta: f64| (1024.0 / (beta * 2.0 * PI)).log10() as f32;
        let ramp = |i: f32| (i - turn(32.0)) / (turn(1.0) - turn(32.0));
        let exact = [1.0, blend(0.1, ramp(1.0)), blend(0.01, ramp(2.0)), 0.00025];
        close(&frequencies(scaling(false), 1), &exact);
        let rope = Rope::new(&spec(scaling(true)), 1);
        let (mut cos, mut sin) = ([0.0; 4], [0.0; 4]);
        rope.cos_sin(0, &mut cos, &mut sin);
        assert_eq!((cos, sin), ([1.25; 4], [0.0; 4]));
    }

    #[test]
    fn longrope_takes_the_long_factors_beyond_the_original_context() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 1.0, 2.0, 2.0],
            long_factor: vec![2.0, 4.0, 8.0, 16.0],
            original_max_position_embeddings: 64,
            attention_factor: 1.5,
        };
        let short = [1.0, 0.1, 0.005, 0.0005];
        close(&frequencies(scaling.clone(), 64), &short);
        let long = [0.5, 0.025, 0.01 / 8.0, 0.001 / 16.0];
        close(&frequencies(scaling, 65), &long);
    }

    #[test]
    fn factors_divide_one_by_one() {
        let divisors = vec![1.0, 2.0, 4.0, 8.0];
        let expected = [1.0, 0.05, 0.0025, 0.000125];
        close(
            &frequencies(RopeScaling::Factors { divisors }, 1),
            &expected,
        );
    }
}
