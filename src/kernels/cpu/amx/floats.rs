//! Products of bfloat16 in matrix tiles, sums in single precision.
//!
//! Each output keeps one accumulator and takes its words in order, sixteen at a time, whatever else
//! is in the tile; what is left over goes through the vector registers. So a row's bits are its own
//! here, too, but they are not those of the path without tiles: in an instruction the even and the
//! odd values of the words are summed apart, and subnormal numbers are zero.

use std::arch::asm;

use super::super::line::{Bf16, Line};
use super::super::simd::{LANES, Simd};
use super::super::tile::accumulate;
use super::{LINES_AHEAD, PANELS, ROWS, Tiles};

/// Sums of up to [`ROWS`] rows and two panels, or one tile of rows and [`PANELS`].
#[repr(align(64))]
pub(in crate::cpu) struct Sums(pub(super) [[f32; LANES]; 2 * ROWS]);

impl Sums {
    /// Zeros.
    pub(in crate::cpu) fn new() -> Self {
        Self([[0.0; LANES]; 2 * ROWS])
    }

    /// The sums of a row of a product of `P` panels.
    #[inline(always)]
    pub(in crate::cpu) fn row<S: Simd, const P: usize>(&self, simd: S, row: usize) -> [S::F32; P] {
        load_each(simd, &self.0[row * P..][..P])
    }
}

/// The first `P` of some vectors.
#[inline(always)]
fn load_each<S: Simd, const P: usize>(simd: S, from: &[[f32; LANES]]) -> [S::F32; P] {
    let mut sums = [simd.splat(0.0); P];
    for (sum, from) in sums.iter_mut().zip(from) {
        *sum = simd.load(from);
    }
    sums
}

impl Tiles {
    /// The products of `P` panels and the configured number of rows, of `words` words each, summed
    /// in order. `rows` is where the first one lies, and the words from one to the next.
    ///
    /// # Safety
    /// No other [`Tiles`] was made on this thread since this one, and a step is [`LANES`] words. `P`
    /// is 1, 2 or, with at most sixteen rows, 4. Each panel pointer has `words` readable lines, each
    /// row `words` readable words.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply<const P: usize>(
        &mut self,
        panels: [*const Line<u32>; P],
        rows: (*const u32, usize),
        words: usize,
        sums: &mut Sums,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.sum::<P, false>(panels, rows, words, panels[0], sums) };
    }

    /// The same of long panels: their next lines are asked for, and of those that will be multiplied
    /// next, from `ahead` on, [`LINES_AHEAD`] a step.
    ///
    /// # Safety
    /// As [`Tiles::multiply`]. `ahead` need not point to anything.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply_streamed<const P: usize>(
        &mut self,
        panels: [*const Line<u32>; P],
        rows: (*const u32, usize),
        words: usize,
        ahead: *const Line<u32>,
        sums: &mut Sums,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.sum::<P, true>(panels, rows, words, ahead, sums) };
    }

    /// Either of them.
    ///
    /// # Safety
    /// As [`Tiles::multiply`].
    #[inline(always)]
    unsafe fn sum<const P: usize, const STREAMED: bool>(
        &mut self,
        panels: [*const Line<u32>; P],
        rows: (*const u32, usize),
        words: usize,
        ahead: *const Line<u32>,
        sums: &mut Sums,
    ) {
        let count = self.upper + self.lower;
        let steps = words / LANES;
        if steps == 0 {
            sums.0[..count * P].fill([0.0; LANES]);
        } else {
            // SAFETY: whole steps are within the words that the caller promises.
            unsafe { self.steps::<P, STREAMED>(panels, rows, steps, ahead, sums) };
        }
        let rest = words - steps * LANES;
        if rest == 0 {
            return;
        }
        let simd = self.simd;
        let panels = panels.map(|panel| panel.wrapping_add(steps * LANES));
        for (row, sums) in sums.0.chunks_exact_mut(P).take(count).enumerate() {
            let so_far = load_each(simd, sums);
            let words = rows.0.wrapping_add(row * rows.1 + steps * LANES);
            // SAFETY: what follows the whole steps, within the words that the caller promises.
            let [totals] =
                unsafe { accumulate::<_, Bf16, P, 1>(simd, [so_far], panels, [words], rest) };
            for (sum, total) in sums.iter_mut().zip(totals) {
                simd.store(total, sum);
            }
        }
    }

    /// [`Tiles::sum`] over whole steps of [`LANES`] words, one at least.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn steps<const P: usize, const STREAMED: bool>(
        &mut self,
        panels: [*const Line<u32>; P],
        (first, stride): (*const u32, usize),
        steps: usize,
        ahead: *const Line<u32>,
        sums: &mut Sums,
    ) {
        let second = first.wrapping_add(self.upper * stride);
        let stride = stride * size_of::<u32>();
        let out = sums.0.as_mut_ptr();
        let lower = out.wrapping_add(self.upper * P);

        // A step takes a line of each row and sixteen lines of each panel.
        macro_rules! product {
            ($($operand:ident = $value:expr),*; zero $($zero:literal)*; ahead $($ahead:literal)*;
             step $($step:literal)*;
             $($advance:literal)*; store $($store:literal)*) => {
                asm!(
                    $($zero,)*
                    "2:",
                    ".if {streamed}",
                    $(ask_ahead!($ahead, 2048),)*
                    ask_for_next!(),
                    ".endif",
                    $($step,)*
                    $($advance,)*
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    steps = inout(reg) steps => _,
                    streamed = const STREAMED as usize,
                    ahead = inout(reg) ahead => _,
                    ahead_step = const LINES_AHEAD * size_of::<Line<u32>>(),
                    stride = in(reg) stride,
                    line = in(reg) 64_usize,
                    out_stride = in(reg) 64 * P,
                    out = in(reg) out,
                    $($operand = inout(reg) $value => _,)*
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        let panel = |index: usize| panels[index];
        // SAFETY: the registers are configured for these rows as long as `self` is there. Loads
        // touch what the caller promises: the rows of a tile are as many as the configuration says,
        // each step 64 bytes of them and 1024 of each panel. Stores fill `P` lines of the sums for
        // each row.
        unsafe {
            match (P, self.lower > 0) {
                (1, false) => product!(
                    rows0 = first, panel0 = panel(0);
                    zero "tilezero tmm0";
                    ahead "panel0";
                    step
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tileloadd tmm6, [{panel0} + {line}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm6";
                    "add {rows0}, 64" "add {panel0}, 1024";
                    store "tilestored [{out} + {out_stride}*1], tmm0"
                ),
                (1, true) => product!(
                    rows0 = first, rows1 = second, panel0 = panel(0), lower = lower;
                    zero "tilezero tmm0" "tilezero tmm2";
                    ahead "panel0";
                    step
                    "tileloadd tmm6, [{panel0} + {line}*1]"
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm5, [{rows1} + {stride}*1]"
                    "tdpbf16ps tmm2, tmm5, tmm6";
                    "add {rows0}, 64" "add {rows1}, 64" "add {panel0}, 1024";
                    store
                    "tilestored [{out} + {out_stride}*1], tmm0"
                    "tilestored [{lower} + {out_stride}*1], tmm2"
                ),
                (2, false) => product!(
                    rows0 = first, panel0 = panel(0), panel1 = panel(1);
                    zero "tilezero tmm0" "tilezero tmm1";
                    ahead "panel0" "panel1";
                    step
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tileloadd tmm6, [{panel0} + {line}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm7, [{panel1} + {line}*1]"
                    "tdpbf16ps tmm1, tmm4, tmm7";
                    "add {rows0}, 64" "add {panel0}, 1024" "add {panel1}, 1024";
                    store
                    "tilestored [{out} + {out_stride}*1], tmm0"
                    "tilestored [{out} + {out_stride}*1 + 64], tmm1"
                ),
                (2, true) => product!(
                    rows0 = first, rows1 = second, panel0 = panel(0), panel1 = panel(1),
                    lower = lower;
                    zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
                    ahead "panel0" "panel1";
                    step
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tileloadd tmm6, [{panel0} + {line}*1]"
                    "tileloadd tmm7, [{panel1} + {line}*1]"
                    "tileloadd tmm5, [{rows1} + {stride}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tdpbf16ps tmm1, tmm4, tmm7"
                    "tdpbf16ps tmm2, tmm5, tmm6"
                    "tdpbf16ps tmm3, tmm5, tmm7";
                    "add {rows0}, 64" "add {rows1}, 64" "add {panel0}, 1024" "add {panel1}, 1024";
                    store
                    "tilestored [{out} + {out_stride}*1], tmm0"
                    "tilestored [{out} + {out_stride}*1 + 64], tmm1"
                    "tilestored [{lower} + {out_stride}*1], tmm2"
                    "tilestored [{lower} + {out_stride}*1 + 64], tmm3"
                ),
                (PANELS, false) => product!(
                    rows0 = first, panel0 = panel(0), panel1 = panel(1), panel2 = panel(2),
                    panel3 = panel(3);
                    zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
                    ahead "panel0" "panel1" "panel2" "panel3";
                    step
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tileloadd tmm5, [{panel0} + {line}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm5"
                    "tileloadd tmm6, [{panel1} + {line}*1]"
                    "tdpbf16ps tmm1, tmm4, tmm6"
                    "tileloadd tmm7, [{panel2} + {line}*1]"
                    "tdpbf16ps tmm2, tmm4, tmm7"
                    "tileloadd tmm5, [{panel3} + {line}*1]"
                    "tdpbf16ps tmm3, tmm4, tmm5";
                    "add {rows0}, 64" "add {panel0}, 1024" "add {panel1}, 1024"
                    "add {panel2}, 1024" "add {panel3}, 1024";
                    store
                    "tilestored [{out} + {out_stride}*1], tmm0"
                    "tilestored [{out} + {out_stride}*1 + 64], tmm1"
                    "tilestored [{out} + {out_stride}*1 + 128], tmm2"
                    "tilestored [{out} + {out_stride}*1 + 192], tmm3"
                ),
                _ => unreachable!("no product of {P} panels and two tiles of rows"),
            }
        }
    }
}
