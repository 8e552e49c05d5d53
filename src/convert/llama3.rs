//! Llama 3's rotary scaling: four numbers in config.json, one divisor per frequency in GGUF.

use super::config::Config;

/// The numbers of `rope_scaling` with `rope_type` `llama3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3Scaling {
    pub(super) theta: f64,
    pub(super) factor: f64,
    pub(super) low_freq_factor: f64,
    pub(super) high_freq_factor: f64,
    pub(super) original_context: f64,
}

/// Every published Llama 3.x has these; GGUF does not store them.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
/// Original contexts that are tried: powers of two from 32 to 1M tokens.
const ORIGINAL_CONTEXT_BITS: std::ops::RangeInclusive<i32> = 5..=20;
/// Divisors that agree to this are the same numbers, computed by another library.
const TOLERANCE: f32 = 1e-4;

impl Llama3Scaling {
    pub(super) fn of_config(config: &Config<'_>) -> Self {
        let number = |key: &str, default: f64| config.rope_f64(key).unwrap_or(default);
        Self {
            theta: number("rope_theta", 10_000.0),
            factor: number("factor", 8.0),
            low_freq_factor: number("low_freq_factor", LOW_FREQ_FACTOR),
            high_freq_factor: number("high_freq_factor", HIGH_FREQ_FACTOR),
            original_context: number("original_max_position_embeddings", 8192.0),
        }
    }

    /// The numbers that give these divisors, if the usual ones do.
    pub(super) fn of_divisors(theta: f64, divisors: &[f32]) -> Option<Self> {
        let factor = divisors.iter().copied().fold(1.0_f32, f32::max);
        let head_dim = u32::try_from(divisors.len() * 2).ok()?;
        ORIGINAL_CONTEXT_BITS
            .map(|bits| Self {
                theta,
                factor: f64::from(factor),
                low_freq_factor: LOW_FREQ_FACTOR,
                high_freq_factor: HIGH_FREQ_FACTOR,
                original_context: f64::from(bits).exp2(),
            })
            .find(|scaling| {
                let made = scaling.divisors(head_dim);
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * b.abs();
                made.iter().zip(divisors).all(close)
            })
    }

    /// One divisor per pair of a head, in the arithmetic of the reference converter: frequencies,
    /// wavelengths and the ramp in single precision.
    pub(super) fn divisors(&self, head_dim: u32) -> Vec<f32> {
        let original = self.original_context;
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let divisor = |pair: u32| -> f32 {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            let frequency = 1.0 / (self.theta as f32).powf(exponent);
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength < (original / high) as f32 {
                1.0
            } else if wavelength > (original / low) as f32 {
                self.factor as f32
            } else {
                let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                1.0 / ((1.0 - smooth) / self.factor as f32 + smooth)
            }
        };
        (0..head_dim / 2).map(divisor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers_come_back_from_their_divisors() {
        for (factor, original_context) in [(8.0, 8192.0), (32.0, 8192.0), (4.0, 256.0)] {
            let scaling = Llama3Scaling {
                theta: 500_000.0,
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context,
            };
            let divisors = scaling.divisors(128);
            assert_eq!(
                Llama3Scaling::of_divisors(500_000.0, &divisors),
                Some(scaling)
            );
        }
        assert_eq!(
            Llama3Scaling::of_divisors(500_000.0, &[1.0, 3.0, 2.0, 7.0]),
            None
        );
    }
}
