//! The two types that arithmetic is carried out in.

/// `f32`, or `f64` for float64 tensors.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Bits of [`Real::magnitude`].
    const MAGNITUDE_BITS: u32;

    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The nearest float32.
    fn to_f32(self) -> f32;
    /// The same value.
    fn to_f64(self) -> f64;
    /// Without the sign.
    fn abs(self) -> Self;
    /// e to its power.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// Nearest bfloat16, ties to even; a NaN stays one.
    fn to_bf16_grid(self) -> Self;
    /// Nearest float16, ties to even; past the range it is infinite.
    fn to_f16_grid(self) -> Self;
    /// An integer that orders absolute values: the bits without the sign.
    fn magnitude(self) -> u64;
    /// Whether [`Real::magnitude`] is at least `least` (which may exceed every magnitude).
    fn magnitude_at_least(self, least: u64) -> bool;
    /// The non-negative value with that [`Real::magnitude`].
    fn from_magnitude(magnitude: u64) -> Self;
    /// `self * a + b`, rounded once.
    fn fused(self, a: Self, b: Self) -> Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const MAGNITUDE_BITS: u32 = 31;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as Self
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(self.to_bits() & 0x7fff_ffff)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn to_bf16_grid(self) -> Self {
        let bits = self.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        // Adding could carry a NaN's payload into infinity or the sign.
        let nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
        Self::from_bits(if nan {
            (bits | 0x0040_0000) & 0xffff_0000
        } else {
            rounded
        })
    }
    #[inline(always)]
    fn to_f16_grid(self) -> Self {
        let bits = self.to_bits();
        let sign = bits & 0x8000_0000;
        let magnitude = bits & 0x7fff_ffff;
        let normal = magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1)) & 0xffff_e000;
        // Below 2^-14 the grid is 2^-24 wide everywhere, which is that of [0.5, 1) in float32.
        let subnormal = ((Self::from_bits(magnitude) + 0.5) - 0.5).to_bits();
        let finite = if magnitude < 0x3880_0000 {
            subnormal
        } else if normal > 0x477f_e000 {
            0x7f80_0000
        } else {
            normal
        };
        let nan = magnitude > 0x7f80_0000;
        Self::from_bits(sign | if nan { 0x7fc0_0000 } else { finite })
    }
    #[inline(always)]
    fn magnitude(self) -> u64 {
        u64::from(self.to_bits() & 0x7fff_ffff)
    }
    #[inline(always)]
    fn magnitude_at_least(self, least: u64) -> bool {
        // In 32 bits, so that a vector register holds as many as of the values.
        let least = if least > 0x8000_0000 {
            0x8000_0000
        } else {
            least as u32
        };
        (self.to_bits() & 0x7fff_ffff) >= least
    }
    #[inline(always)]
    fn from_magnitude(magnitude: u64) -> Self {
        Self::from_bits(magnitude as u32)
    }
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const MAGNITUDE_BITS: u32 = 63;

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from(value)
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(self.to_bits() & !(1 << 63))
    }
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }
    #[inline(always)]
    fn to_bf16_grid(self) -> Self {
        Self::from((self as f32).to_bf16_grid())
    }
    #[inline(always)]
    fn to_f16_grid(self) -> Self {
        Self::from((self as f32).to_f16_grid())
    }
    #[inline(always)]
    fn magnitude(self) -> u64 {
        self.to_bits() & !(1 << 63)
    }
    #[inline(always)]
    fn magnitude_at_least(self, least: u64) -> bool {
        self.magnitude() >= least
    }
    #[inline(always)]
    fn from_magnitude(magnitude: u64) -> Self {
        Self::from_bits(magnitude)
    }
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of every exponent and sign, and the neighbours of each rounding boundary.
    fn probes() -> impl Iterator<Item = f32> {
        (0..=u32::MAX)
            .step_by(65_537 * 3)
            .chain((0..0x1_0000u32).flat_map(|high| {
                [0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001].map(|low| high << 16 | low)
            }))
            .map(f32::from_bits)
    }

    #[test]
    fn grids_agree_with_half() {
        for x in probes() {
            let (bf16, f16) = (
                half::bf16::from_f32(x).to_f32(),
                half::f16::from_f32(x).to_f32(),
            );
            if x.is_nan() {
                assert!(x.to_bf16_grid().is_nan() && x.to_f16_grid().is_nan());
            } else {
                assert_eq!(x.to_bf16_grid().to_bits(), bf16.to_bits(), "{x:e}");
                assert_eq!(x.to_f16_grid().to_bits(), f16.to_bits(), "{x:e}");
            }
        }
    }
}
