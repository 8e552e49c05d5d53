//! Elementwise arithmetic as torch does it on a CPU: every operation in float32 (float64 for
//! float64 tensors), its result rounded to the tensor's type before the next one.
//!
//! The loops are plain and leave vectors to the compiler, which is given them once for each
//! instruction set ([`Elementwise`] lists what is compiled here). No operation is reordered, and
//! none is contracted to a fused one, so **the bits do not depend on the instruction set**. Sums
//! run over fixed lanes in float64.

mod arithmetic;
mod convert;
mod election;
mod float_type;
mod real;
mod rounding;
mod selection;
mod sums;

#[cfg(test)]
mod tests;

pub use float_type::FloatType;
pub use real::Real;
pub use rounding::Rounding;

use crate::cpu::Isa;
use crate::cpu::simd::{Kernel, portable::Portable};

/// A number type whose kernels are compiled in this crate, for every instruction set.
///
/// Slices that are handed to one kernel are of one length; a kernel panics where they are not.
pub trait Elementwise: Real {
    /// Reads stored elements (little endian, any alignment) and casts them to the working type.
    /// `bytes` begins with them; what comes after them is taken for what will be read next.
    fn load(isa: Isa, bytes: &[u8], stored: FloatType, rounding: Rounding, out: &mut [Self]);
    /// Casts to the stored type and writes the bytes.
    fn store(isa: Isa, values: &[Self], stored: FloatType, bytes: &mut [u8]);
    /// `out = R(out)`.
    fn round(isa: Isa, rounding: Rounding, out: &mut [Self]);
    /// `out = R(out + b)`.
    fn accumulate(isa: Isa, rounding: Rounding, out: &mut [Self], b: &[Self]);
    /// `out = R(out - b)`.
    fn subtract(isa: Isa, rounding: Rounding, out: &mut [Self], b: &[Self]);
    /// `out = R(out * factor)`.
    fn scale(isa: Isa, rounding: Rounding, out: &mut [Self], factor: Self);
    /// `out = R(out / divisor)`.
    fn divide(isa: Isa, rounding: Rounding, out: &mut [Self], divisor: Self);
    /// `out = R(out / divisors)`, unchanged where the divisor is zero.
    fn divide_by(isa: Isa, rounding: Rounding, out: &mut [Self], divisors: &[Self]);
    /// `out = out + b * factor`, two roundings to `Self`.
    fn add_scaled(isa: Isa, out: &mut [Self], b: &[Self], factor: Self);
    /// `out = out + b * factor`, rounded once: exact where the hardware has no such instruction.
    fn add_scaled_fused(isa: Isa, out: &mut [Self], b: &[Self], factor: Self);
    /// `out = R(share_a * out + share_b * b)`, each operation rounded to `Self`.
    fn blend(
        isa: Isa,
        rounding: Rounding,
        out: &mut [Self],
        b: &[Self],
        share_a: Self,
        share_b: Self,
    );
    /// Elects a sign for each element (that of the sum of `vectors`, zero counting as plus) and
    /// adds up the elements of that sign in `mix` and their weights in `div`; no rounding but
    /// `Self`'s.
    fn elect(isa: Isa, vectors: &[Vec<Self>], weights: &[Self], mix: &mut [Self], div: &mut [Self]);
    /// `Σ |x|` in float64.
    fn sum_of_magnitudes(isa: Isa, values: &[Self]) -> f64;
    /// `Σ a·b` in float64.
    fn sum_of_products(isa: Isa, a: &[Self], b: &[Self]) -> f64;
    /// Zero where the flag is 0.
    fn keep_flagged(isa: Isa, values: &mut [Self], flags: &[u8]);
    /// Zero where the magnitude is not above `bound` (or, if `inclusive`, below it).
    fn keep_large(isa: Isa, values: &mut [Self], bound: u64, inclusive: bool);
    /// How many magnitudes equal `magnitude`.
    fn count_magnitude(isa: Isa, values: &[Self], magnitude: u64) -> u32;
    /// The largest magnitude (0 of none) and the number of values that are not zero.
    fn extent(isa: Isa, values: &[Self]) -> (Self, usize);
}

macro_rules! compile_kernels {
    ($($real:ty: $run:ident),*) => {
        $(impl Elementwise for $real {
            fn load(
                isa: Isa,
                bytes: &[u8],
                stored: FloatType,
                rounding: Rounding,
                out: &mut [Self],
            ) {
                $run(isa, convert::Load(bytes, stored, rounding, out));
            }

            fn store(isa: Isa, values: &[Self], stored: FloatType, bytes: &mut [u8]) {
                $run(isa, convert::Store(values, stored, bytes));
            }

            fn round(isa: Isa, rounding: Rounding, out: &mut [Self]) {
                $run(isa, arithmetic::Round(rounding, out));
            }

            fn accumulate(isa: Isa, rounding: Rounding, out: &mut [Self], b: &[Self]) {
                $run(isa, arithmetic::Add(rounding, out, b));
            }

            fn subtract(isa: Isa, rounding: Rounding, out: &mut [Self], b: &[Self]) {
                $run(isa, arithmetic::Subtract(rounding, out, b));
            }

            fn scale(isa: Isa, rounding: Rounding, out: &mut [Self], factor: Self) {
                $run(isa, arithmetic::Scale(rounding, out, factor));
            }

            fn divide(isa: Isa, rounding: Rounding, out: &mut [Self], divisor: Self) {
                $run(isa, arithmetic::Divide(rounding, out, divisor));
            }

            fn divide_by(isa: Isa, rounding: Rounding, out: &mut [Self], divisors: &[Self]) {
                $run(isa, arithmetic::DivideBy(rounding, out, divisors));
            }

            fn add_scaled(isa: Isa, out: &mut [Self], b: &[Self], factor: Self) {
                $run(isa, arithmetic::AddScaled(out, b, factor));
            }

            fn add_scaled_fused(isa: Isa, out: &mut [Self], b: &[Self], factor: Self) {
                $run(isa, arithmetic::AddScaledFused(out, b, factor));
            }

            fn blend(
                isa: Isa,
                rounding: Rounding,
                out: &mut [Self],
                b: &[Self],
                share_a: Self,
                share_b: Self,
            ) {
                $run(isa, arithmetic::Blend(rounding, out, b, [share_a, share_b]));
            }

            fn elect(
                isa: Isa,
                vectors: &[Vec<Self>],
                weights: &[Self],
                mix: &mut [Self],
                div: &mut [Self],
            ) {
                $run(isa, election::Elect { vectors, weights, mix, div });
            }

            fn sum_of_magnitudes(isa: Isa, values: &[Self]) -> f64 {
                $run(isa, sums::Magnitudes(values))
            }

            fn sum_of_products(isa: Isa, a: &[Self], b: &[Self]) -> f64 {
                $run(isa, sums::Products(a, b))
            }

            fn keep_flagged(isa: Isa, values: &mut [Self], flags: &[u8]) {
                $run(isa, selection::KeepFlagged(values, flags));
            }

            fn keep_large(isa: Isa, values: &mut [Self], bound: u64, inclusive: bool) {
                $run(isa, selection::KeepLarge { values, bound, inclusive });
            }

            fn count_magnitude(isa: Isa, values: &[Self], magnitude: u64) -> u32 {
                $run(isa, selection::CountMagnitude(values, magnitude))
            }

            fn extent(isa: Isa, values: &[Self]) -> (Self, usize) {
                $run(isa, selection::Extent(values))
            }
        })*
    };
}

compile_kernels!(f32: vectorised, f64: plain);

fn vectorised<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    isa.run_elementwise(kernel)
}

/// float64 tensors are rare, and not worth compiling everything for three more targets.
fn plain<K: Kernel>(_isa: Isa, kernel: K) -> K::Output {
    kernel.run(Portable)
}
