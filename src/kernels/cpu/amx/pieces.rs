//! Products of values in three pieces of bfloat16 (`matmul/pieces.rs`), sums in single precision.

use std::arch::asm;

use super::super::line::Line;
use super::super::simd::LANES;
use super::floats::Sums;
use super::{PANELS, TILE_ROWS, Tiles};

/// Words of a step: sixteen of each piece.
const STEP_WORDS: usize = 3 * LANES;

impl Tiles {
    /// The products of `P` panels and sixteen rows, of `words` words each, summed in order. Each
    /// sixteen words are followed by those of the second and of the third pieces. `rows` is where the
    /// first row lies, and the words from one to the next.
    ///
    /// # Safety
    /// No other [`Tiles`] was made on this thread since this one; it has sixteen rows and a step of
    /// [`LANES`] words. `P` is 1, 2 or 4. Each panel pointer has `words` readable lines, each row
    /// `words` readable words, a multiple of 48.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply_pieces<const P: usize>(
        &mut self,
        panels: [*const Line<u32>; P],
        (first, stride): (*const u32, usize),
        words: usize,
        sums: &mut Sums,
    ) {
        debug_assert!(self.upper == TILE_ROWS && self.lower == 0 && self.words == LANES);
        let steps = words / STEP_WORDS;
        if steps == 0 {
            sums.0[..TILE_ROWS * P].fill([0.0; LANES]);
            return;
        }
        // The pieces of the rows are in tiles 4, 5 and 6, one of a panel at a time in 7. The smallest
        // products do not need the smallest pieces of both.
        macro_rules! products {
            ($sums:literal, $panel:literal) => {
                concat!(
                    "tileloadd tmm7, [{",
                    $panel,
                    "} + {line}*1]\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm4, tmm7\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm5, tmm7\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm6, tmm7\n",
                    "tileloadd tmm7, [{",
                    $panel,
                    "} + {line}*1 + 1024]\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm4, tmm7\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm5, tmm7\n",
                    "tileloadd tmm7, [{",
                    $panel,
                    "} + {line}*1 + 2048]\n",
                    "tdpbf16ps ",
                    $sums,
                    ", tmm4, tmm7\n",
                    "add {",
                    $panel,
                    "}, 3072",
                )
            };
        }
        let panel = |index: usize| panels[index];
        macro_rules! product {
            ($($sums:literal $panel:ident $name:literal $index:literal $out:literal),*) => {
                asm!(
                    $(concat!("tilezero ", $sums),)*
                    "2:",
                    "tileloadd tmm4, [{rows} + {stride}*1]",
                    "tileloadd tmm5, [{rows} + {stride}*1 + 64]",
                    "tileloadd tmm6, [{rows} + {stride}*1 + 128]",
                    $(products!($sums, $name),)*
                    "add {rows}, 192",
                    "dec {steps}",
                    "jnz 2b",
                    $(concat!("tilestored [{out} + {out_stride}*1 + ", $out, "], ", $sums),)*
                    steps = inout(reg) steps => _,
                    rows = inout(reg) first => _,
                    stride = in(reg) stride * size_of::<u32>(),
                    line = in(reg) size_of::<Line<u32>>(),
                    out = in(reg) sums.0.as_mut_ptr(),
                    out_stride = in(reg) P * size_of::<Line<u32>>(),
                    $($panel = inout(reg) panel($index) => _,)*
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        // SAFETY: the registers are configured for sixteen rows of 64 bytes as long as `self` is
        // there. Loads touch what the caller promises: each step 192 bytes of sixteen rows and 3072 of
        // each panel. Stores fill `P` lines of the sums for each of sixteen rows.
        unsafe {
            match P {
                1 => product!("tmm0" panel0 "panel0" 0 "0"),
                2 => product!("tmm0" panel0 "panel0" 0 "0", "tmm1" panel1 "panel1" 1 "64"),
                PANELS => product!(
                    "tmm0" panel0 "panel0" 0 "0", "tmm1" panel1 "panel1" 1 "64",
                    "tmm2" panel2 "panel2" 2 "128", "tmm3" panel3 "panel3" 3 "192"
                ),
                _ => unreachable!("no product of {P} panels"),
            }
        }
    }
}
