//! Rounding after each operation.

use super::{FloatType, Real};

/// The grid that results are rounded to: the `R` of every formula in this room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// float32 and float64: arithmetic's own rounding.
    None,
    /// bfloat16's.
    Bf16,
    /// float16's.
    F16,
    /// float32, for what float64 tensors do in it.
    F32,
}

impl Rounding {
    /// The grid of a tensor's type.
    pub fn of(dtype: FloatType) -> Self {
        match dtype {
            FloatType::Bf16 => Self::Bf16,
            FloatType::F16 => Self::F16,
            FloatType::F32 | FloatType::F64 => Self::None,
        }
    }

    /// The grid of random masks and of sums of magnitudes: bfloat16 for bfloat16, else float32.
    pub fn of_masks(self) -> Self {
        match self {
            Self::Bf16 => Self::Bf16,
            Self::None | Self::F16 | Self::F32 => Self::F32,
        }
    }

    /// `R(x)`.
    #[inline(always)]
    pub fn one<F: Real>(self, x: F) -> F {
        match self {
            Self::None => x,
            Self::Bf16 => x.to_bf16_grid(),
            Self::F16 => x.to_f16_grid(),
            Self::F32 => F::from_f32(x.to_f32()),
        }
    }

    /// `R` of a number from the recipe.
    pub fn scalar<F: Real>(self, x: f64) -> F {
        self.one(F::from_f64(x))
    }

    /// `out[i] = R(f(out[i]))`.
    #[inline(always)]
    pub fn map<F: Real>(self, out: &mut [F], f: impl Fn(F) -> F) {
        match self {
            Self::None => out.iter_mut().for_each(|o| *o = f(*o)),
            Self::Bf16 => out.iter_mut().for_each(|o| *o = f(*o).to_bf16_grid()),
            Self::F16 => out.iter_mut().for_each(|o| *o = f(*o).to_f16_grid()),
            Self::F32 => out
                .iter_mut()
                .for_each(|o| *o = F::from_f32(f(*o).to_f32())),
        }
    }

    /// `out[i] = R(f(out[i], a[i]))`.
    #[inline(always)]
    pub fn zip<F: Real, A: Copy>(self, out: &mut [F], a: &[A], f: impl Fn(F, A) -> F) {
        assert_eq!(out.len(), a.len(), "operands are of one block");
        let pairs = out.iter_mut().zip(a);
        match self {
            Self::None => pairs.for_each(|(o, a)| *o = f(*o, *a)),
            Self::Bf16 => pairs.for_each(|(o, a)| *o = f(*o, *a).to_bf16_grid()),
            Self::F16 => pairs.for_each(|(o, a)| *o = f(*o, *a).to_f16_grid()),
            Self::F32 => pairs.for_each(|(o, a)| *o = F::from_f32(f(*o, *a).to_f32())),
        }
    }

    /// `out[i] = R(f(out[i], a[i], b[i]))`.
    #[inline(always)]
    pub fn zip2<F: Real, A: Copy, B: Copy>(
        self,
        out: &mut [F],
        a: &[A],
        b: &[B],
        f: impl Fn(F, A, B) -> F,
    ) {
        assert_eq!(out.len(), a.len(), "operands are of one block");
        assert_eq!(out.len(), b.len(), "operands are of one block");
        let triples = out.iter_mut().zip(a).zip(b);
        match self {
            Self::None => triples.for_each(|((o, a), b)| *o = f(*o, *a, *b)),
            Self::Bf16 => triples.for_each(|((o, a), b)| *o = f(*o, *a, *b).to_bf16_grid()),
            Self::F16 => triples.for_each(|((o, a), b)| *o = f(*o, *a, *b).to_f16_grid()),
            Self::F32 => triples.for_each(|((o, a), b)| *o = F::from_f32(f(*o, *a, *b).to_f32())),
        }
    }
}
