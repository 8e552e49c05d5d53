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
        let base = plain_frequencies(spec);
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
                attention_factor,
            } => {
                let range = YarnRange::new(
                    spec,
                    *original_max_position_embeddings,
                    *beta_fast,
                    *beta_slow,
                );
                let blend = |(i, kept): (usize, &f32)| {
                    let interpolated = kept / *factor as f32;
                    let keep = 1.0 - range.ramp(i);
                    interpolated * (1.0 - keep) + kept * keep
                };
                let frequencies = base.iter().enumerate().map(blend).collect();
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

fn plain_frequencies(spec: &RopeSpec) -> Vec<f32> {
    powers(spec).map(|power| 1.0 / power).collect()
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

/// YaRN's ramp over pair indices: 0 (kept) up to `low`, 1 (interpolated) from `high` on.
struct YarnRange {
    low: f32,
    high: f32,
}

impl YarnRange {
    fn new(spec: &RopeSpec, original: usize, beta_fast: f64, beta_slow: f64) -> Self {
        let dim = spec.rotary_dim as f64;
        // The pair index that turns `rotations` times over the original context.
        let index = |rotations: f64| {
            dim * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * spec.theta.ln())
        };
        let low = index(beta_fast).floor().max(0.0);
        let high = index(beta_slow).ceil().min(dim - 1.0);
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
