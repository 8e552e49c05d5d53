//! Products of bytes in matrix tiles: unsigned weights, signed activations, exact sums.

use std::arch::asm;

use super::super::line::Line;
use super::super::simd::LANES;
use super::{ROWS, Tiles};

/// Panels that are multiplied at once.
pub(in crate::cpu) const BYTE_PANELS: usize = 2;

/// Groups of inputs that are summed at once: their sums stay in the first-level cache.
pub(in crate::cpu) const GROUPS: usize = 4;

/// Sums of a group, for each row two panels.
pub(in crate::cpu) type GroupSums = [[[u32; LANES]; BYTE_PANELS]; ROWS];

/// Sums of some groups.
#[repr(align(64))]
pub(in crate::cpu) struct ByteSums([GroupSums; GROUPS]);

impl ByteSums {
    /// Zeros.
    pub(in crate::cpu) fn new() -> Self {
        Self([[[[0; LANES]; BYTE_PANELS]; ROWS]; GROUPS])
    }

    /// The sums of a group, of a row and one of two panels.
    #[inline(always)]
    pub(in crate::cpu) fn of(&self, group: usize, row: usize, panel: usize) -> &[u32; LANES] {
        &self.0[group][row][panel]
    }

    /// The sums of a group and those that follow.
    #[inline(always)]
    pub(in crate::cpu) fn starting_at(&mut self, group: usize) -> &mut [GroupSums] {
        &mut self.0[group..]
    }
}

impl Tiles {
    /// For each of `groups` groups of `steps` steps the sums of the products of two panels and the
    /// configured rows. `rows` is where the first one lies, and the words from one to the next.
    ///
    /// # Safety
    /// No other [`Tiles`] was made on this thread since this one; its steps are `W` words. There is
    /// a step, and there are 1 to `sums.len()` groups. Each panel pointer has a readable line for each
    /// word of the groups, each row a readable word.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply_bytes<const W: usize>(
        &mut self,
        panels: [*const Line<u32>; BYTE_PANELS],
        (first, stride): (*const u32, usize),
        groups: usize,
        steps: usize,
        sums: &mut [GroupSums],
    ) {
        debug_assert!(W == self.words && steps > 0 && groups > 0 && groups <= sums.len());
        let second = first.wrapping_add(self.upper * stride);
        let out = sums.as_mut_ptr().cast::<[[u32; LANES]; BYTE_PANELS]>();
        let lower = out.wrapping_add(self.upper);
        macro_rules! product {
            ([$($zero:literal)*] [$($step:literal)*] [$($store:literal)*]
             $(, $operand:ident = $value:expr)*) => {
                asm!(
                    "3:",
                    $($zero,)*
                    "mov {left}, {steps}",
                    "2:",
                    ask_ahead!("panel0"),
                    ask_ahead!("panel1"),
                    $($step,)*
                    "add {rows0}, {row_step}",
                    "add {panel0}, {panel_step}",
                    "add {panel1}, {panel_step}",
                    "dec {left}",
                    "jnz 2b",
                    $($store,)*
                    "add {out}, {group}",
                    "dec {groups}",
                    "jnz 3b",
                    row_step = const W * size_of::<u32>(),
                    panel_step = const W * size_of::<Line<u32>>(),
                    group = const size_of::<GroupSums>(),
                    groups = inout(reg) groups => _,
                    steps = in(reg) steps,
                    left = out(reg) _,
                    rows0 = inout(reg) first => _,
                    panel0 = inout(reg) panels[0] => _,
                    panel1 = inout(reg) panels[1] => _,
                    out = inout(reg) out => _,
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
        // Stores fill two lines of each row of a group, and there are no more groups than `sums` has.
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
                        "add {lower}, {group}"
                    ],
                    rows1 = second,
                    lower = lower
                );
            }
        }
    }
}
