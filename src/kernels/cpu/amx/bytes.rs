//! Products of bytes in matrix tiles: unsigned weights, signed activations, exact sums.

use std::arch::asm;

use super::super::line::Line;
use super::super::simd::LANES;
use super::{ROWS, Tiles};

/// Panels that are multiplied at once.
pub(in crate::cpu) const BYTE_PANELS: usize = 2;

/// Sums of a group of inputs, for each row two panels.
#[repr(align(64))]
pub(in crate::cpu) struct ByteSums([[[u32; LANES]; BYTE_PANELS]; ROWS]);

impl ByteSums {
    /// Zeros.
    pub(in crate::cpu) fn new() -> Self {
        Self([[[0; LANES]; BYTE_PANELS]; ROWS])
    }

    /// The sums of a row, of each panel.
    #[inline(always)]
    pub(in crate::cpu) fn of(&self, row: usize) -> &[[u32; LANES]; BYTE_PANELS] {
        &self.0[row]
    }
}

impl Tiles {
    /// The sums over `steps` steps of the products of two panels and the configured rows. `rows` is
    /// where the first one lies, and the words from one to the next.
    ///
    /// # Safety
    /// No other [`Tiles`] was made on this thread since this one; its steps are `W` words. There is
    /// a step. Each panel pointer has a readable line for each word of the steps, each row a readable
    /// word.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply_bytes<const W: usize>(
        &mut self,
        panels: [*const Line<u32>; BYTE_PANELS],
        (first, stride): (*const u32, usize),
        steps: usize,
        sums: &mut ByteSums,
    ) {
        debug_assert!(W == self.words && steps > 0);
        let second = first.wrapping_add(self.upper * stride);
        let out = sums.0.as_mut_ptr();
        let lower = out.wrapping_add(self.upper);
        macro_rules! product {
            ([$($zero:literal)*] [$($step:literal)*] [$($store:literal)*]
             $(, $operand:ident = $value:expr)*) => {
                asm!(
                    $($zero,)*
                    "2:",
                    ask_ahead!("panel0", 2048),
                    ask_ahead!("panel1", 2048),
                    $($step,)*
                    "add {rows0}, {row_step}",
                    "add {panel0}, {panel_step}",
                    "add {panel1}, {panel_step}",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    row_step = const W * size_of::<u32>(),
                    panel_step = const W * size_of::<Line<u32>>(),
                    steps = inout(reg) steps => _,
                    rows0 = inout(reg) first => _,
                    panel0 = inout(reg) panels[0] => _,
                    panel1 = inout(reg) panels[1] => _,
                    out = in(reg) out,
                    stride = in(reg) stride * size_of::<u32>(),
                    line = in(reg) size_of::<Line<u32>>(),
                    out_stride = in(reg) size_of::<[[u32; LANES]; BYTE_PANELS]>(),
                    $($operand = inout(reg) $value => _,)*
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        // SAFETY: the registers are configured for these rows and steps as long as `self` is there.
        // Loads touch what the caller promises: of each row and panel `W` words or lines a step.
        // Stores fill two lines of each row.
        unsafe {
            if self.lower == 0 {
                product!(
                    ["tilezero tmm0" "tilezero tmm1"]
                    [
                        "tileloadd tmm4, [{rows0} + {stride}*1]"
                        "tileloadd tmm6, [{panel0} + {line}*1]"
                        "tdpbsud tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{panel1} + {line}*1]"
                        "tdpbsud tmm1, tmm4, tmm7"
                    ]
                    [
                        "tilestored [{out} + {out_stride}*1], tmm0"
                        "tilestored [{out} + {out_stride}*1 + 64], tmm1"
                    ]
                );
            } else {
                product!(
                    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"]
                    [
                        "tileloadd tmm4, [{rows0} + {stride}*1]"
                        "tileloadd tmm6, [{panel0} + {line}*1]"
                        "tdpbsud tmm0, tmm4, tmm6"
                        "tileloadd tmm7, [{panel1} + {line}*1]"
                        "tdpbsud tmm1, tmm4, tmm7"
                        "tileloadd tmm5, [{rows1} + {stride}*1]"
                        "tdpbsud tmm2, tmm5, tmm6"
                        "tdpbsud tmm3, tmm5, tmm7"
                        "add {rows1}, {row_step}"
                    ]
                    [
                        "tilestored [{out} + {out_stride}*1], tmm0"
                        "tilestored [{out} + {out_stride}*1 + 64], tmm1"
                        "tilestored [{lower} + {out_stride}*1], tmm2"
                        "tilestored [{lower} + {out_stride}*1 + 64], tmm3"
                    ],
                    rows1 = second,
                    lower = lower
                );
            }
        }
    }
}
