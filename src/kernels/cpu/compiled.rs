//! Where kernels are compiled: here, once for each storage type.
//!
//! A generic kernel would be compiled again in every crate (and every test binary) that names it,
//! for four instruction sets each time. These methods have no parameters of their own, so their
//! machine code belongs to this crate.

use super::attention::{Bytes, Floats, MergeParts, Run, attend_bf16};
use super::ints::Quantise;
use super::isa::Isa;
use super::line::{Bf16, F32, Operand};
use super::linear::{Task, run_bf16};
use super::norm::Normalise;
use super::probe;
use super::rotary::Rotate;
use super::sink::{AnySink, Gated, Plain};

/// A storage type whose kernels are compiled in this crate.
pub(super) trait Compiled: Operand {
    /// A part of a matrix product.
    fn product(isa: Isa, task: Task<'_, Self, Plain<'_>>);
    /// A part of a gated matrix product.
    fn gated_product(isa: Isa, task: Task<'_, Self, Gated<'_, Self>>);
    /// The sink as one of the enumeration.
    fn any_sink(sink: Gated<'_, Self>) -> AnySink<'_>;
    /// A row of activations as integers.
    fn quantise(isa: Isa, row: Quantise<'_, Self>);
    /// A task of attention on a cache of this type.
    fn attend(isa: Isa, run: Run<'_, Self, Floats>);
    /// A task of attention on a cache of integers.
    fn attend_bytes(isa: Isa, run: Run<'_, Self, Bytes>);
    /// The merging of split attention.
    fn merge_parts(isa: Isa, merge: MergeParts<'_, Self>);
    /// A row's norm.
    fn normalise(isa: Isa, row: Normalise<'_, Self>);
    /// The rotation of a span of tokens and its storing.
    fn rotate(isa: Isa, span: Rotate<'_, Self>);
    /// The probe of the multiply-add units: some steps, and the operations of each.
    fn multiply_adds(isa: Isa, steps: usize) -> usize;
}

macro_rules! compile_kernels {
    ($($operand:ty => $gated:ident, $product:path, $attend:path, $multiply_adds:path);*) => {
        $(impl Compiled for $operand {
            fn product(isa: Isa, task: Task<'_, Self, Plain<'_>>) {
                $product(isa, task);
            }

            fn gated_product(isa: Isa, task: Task<'_, Self, Gated<'_, Self>>) {
                $product(isa, task);
            }

            fn any_sink(sink: Gated<'_, Self>) -> AnySink<'_> {
                AnySink::$gated(sink)
            }

            fn quantise(isa: Isa, row: Quantise<'_, Self>) {
                isa.run(row);
            }

            fn attend(isa: Isa, run: Run<'_, Self, Floats>) {
                $attend(isa, run);
            }

            fn attend_bytes(isa: Isa, run: Run<'_, Self, Bytes>) {
                isa.run(run);
            }

            fn merge_parts(isa: Isa, merge: MergeParts<'_, Self>) {
                isa.run(merge);
            }

            fn normalise(isa: Isa, row: Normalise<'_, Self>) {
                isa.run(row);
            }

            fn rotate(isa: Isa, span: Rotate<'_, Self>) {
                isa.run(span);
            }

            fn multiply_adds(isa: Isa, steps: usize) -> usize {
                $multiply_adds(isa, steps)
            }
        })*
    };
}

compile_kernels!(
    Bf16 => GatedBf16, run_bf16, attend_bf16, probe::on_bf16;
    F32 => GatedF32, Isa::run, Isa::run, probe::on_vectors::<F32>
);
