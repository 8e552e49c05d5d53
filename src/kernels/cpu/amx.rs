//! Matrix tiles (Intel AMX): registers of sixteen rows of 64 bytes, and an instruction that
//! multiplies two of them.
//!
//! Its second operand is sixteen lines of a panel as they lie in memory (`line.rs`), its first is
//! sixteen rows of words: so products use tiles without anything being packed anew. Each output
//! keeps one accumulator and takes its words in order, sixteen at a time, whatever else is in the
//! tile; what is left over goes through the vector registers. A row's bits are therefore its own
//! here, too, but not those of `avx512-bf16`, whose instruction adds the two products of a word to
//! the sum one after the other.
//!
//! The compiler has no stable intrinsics for these instructions, hence assembly. Configuring the
//! registers takes as long as three steps of a product, so [`Tiles`] keeps a configuration for many
//! products; it lets go of the registers when it is dropped. Products keep nothing in them.
//!
//! *Source*: Intel SDM volume 1 chapter 18 and volume 2 (`LDTILECFG`, `TDPBF16PS`); Linux
//! `Documentation/arch/x86/xstate.rst` for the permission.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::ops::Range;

use super::line::{Bf16, Line};
use super::simd::avx512::Avx512;
use super::simd::{LANES, Simd};
use super::tile::accumulate;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Rows that are multiplied at once: two tiles.
pub(super) const ROWS: usize = 2 * TILE_ROWS;

/// Panels that are multiplied at once where there is one tile of rows. With two, it is two panels.
pub(super) const PANELS: usize = 4;

/// Sums of up to [`ROWS`] rows and two panels, or one tile of rows and [`PANELS`].
#[repr(align(64))]
pub(super) struct Sums([[f32; LANES]; 2 * ROWS]);

impl Sums {
    /// Zeros.
    pub(super) fn new() -> Self {
        Self([[0.0; LANES]; 2 * ROWS])
    }

    /// The sums of a row of a product of `P` panels.
    #[inline(always)]
    pub(super) fn row<const P: usize>(&self, row: usize) -> &[[f32; LANES]; P] {
        self.0[row * P..]
            .first_chunk()
            .expect("rows of the product")
    }
}

/// What is multiplied at once: some rows of a number of panels that is the tile's kind.
pub(super) enum Tile {
    Four(usize, Range<usize>),
    Two(usize, Range<usize>),
    One(usize, Range<usize>),
}

/// Tile registers, as a token: it exists only where the CPU has them and the system lets this
/// process use them.
#[derive(Clone, Copy)]
pub(super) struct Amx {
    simd: Avx512<true>,
}

/// What a tile register holds: bytes of a row and rows, for each of eight.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Whole tiles for sums 0 to 3 and rows 4 and 5, but with so many rows in the first and in the
    /// second of the two; and whole tiles of panels in 5 (with one tile of rows), 6 and 7.
    fn new(first: usize, second: usize) -> Self {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(64);
        let (first, second) = (first as u8, second as u8);
        config.rows[..8].copy_from_slice(&if second == 0 {
            [first, first, first, first, first, 16, 16, 16]
        } else {
            [first, first, second, second, first, second, 16, 16]
        });
        config
    }
}

impl Amx {
    /// The token, where CPU and system have tiles of bfloat16.
    pub(super) fn detect() -> Option<Self> {
        let simd = Avx512::<true>::detect()?;
        // Leaf 7 exists where AVX-512 does. AMX-BF16 and AMX-TILE:
        let features = __cpuid_count(7, 0).edx;
        let has_tiles = features >> 22 & 1 == 1 && features >> 24 & 1 == 1;
        let saves_registers = __cpuid(1).ecx >> 27 & 1 == 1;
        // SAFETY: the bit before says that the system has enabled XGETBV.
        let saves_tiles = saves_registers && unsafe { _xgetbv(0) } >> 17 & 3 == 3;
        (has_tiles && saves_tiles && ask_for_tiles()).then_some(Self { simd })
    }

    /// The vector instructions beside them.
    pub(super) fn simd(self) -> Avx512<true> {
        self.simd
    }

    /// Covers some panels and rows with tiles: whole blocks of rows first, then what is left.
    #[inline(always)]
    pub(super) fn for_each_tile(
        self,
        panels: Range<usize>,
        rows: Range<usize>,
        mut work: impl FnMut(&mut Tiles, Tile),
    ) {
        let whole = rows.len() / ROWS * ROWS;
        let mut cover = |rows: Range<usize>, size: usize| {
            if rows.is_empty() {
                return;
            }
            let mut tiles = self.configure(size);
            let mut panel = panels.start;
            while panel < panels.end {
                let height = match panels.end - panel {
                    PANELS.. if size <= TILE_ROWS => PANELS,
                    2.. => 2,
                    _ => 1,
                };
                for row in rows.clone().step_by(size) {
                    let rows = row..row + size;
                    work(
                        &mut tiles,
                        match height {
                            PANELS => Tile::Four(panel, rows),
                            2 => Tile::Two(panel, rows),
                            _ => Tile::One(panel, rows),
                        },
                    );
                }
                panel += height;
            }
        };
        cover(rows.start..rows.start + whole, ROWS);
        cover(rows.start + whole..rows.end, rows.len() - whole);
    }

    /// Multiplies whole tiles, `steps` times in each of four sums: the probe of the multiplier.
    /// Returns the operations of a step.
    pub(super) fn multiply_adds(self, steps: usize) -> usize {
        let _tiles = self.configure(ROWS);
        if steps > 0 {
            // SAFETY: the registers are configured, and nothing else is touched.
            unsafe {
                asm!(
                    "tilezero tmm4",
                    "tilezero tmm5",
                    "tilezero tmm6",
                    "tilezero tmm7",
                    "2:",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "dec {steps}",
                    "jnz 2b",
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem),
                );
            }
        }
        4 * TILE_ROWS * LANES * (2 * LANES) * 2
    }

    /// Registers for products of `rows` rows.
    ///
    /// # Panics
    /// There are none, or more than [`ROWS`].
    #[inline(always)]
    pub(super) fn configure(self, rows: usize) -> Tiles {
        assert!((1..=ROWS).contains(&rows), "one or two tiles of rows");
        // Two tiles are filled alike: the time of an instruction grows with the rows.
        let upper = if rows <= TILE_ROWS {
            rows
        } else {
            rows.div_ceil(2)
        };
        let lower = rows - upper;
        let config = Config::new(upper, lower);
        // SAFETY: with the token, CPU and system have the registers, and the configuration is one
        // that the architecture allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles {
            simd: self.simd,
            upper,
            lower,
            bound_to_thread: PhantomData,
        }
    }
}

/// Tile registers of this thread, configured for some number of rows.
pub(super) struct Tiles {
    simd: Avx512<true>,
    /// Rows in the first and in the second tile.
    upper: usize,
    lower: usize,
    bound_to_thread: PhantomData<*mut ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: no product is under way; without a configuration the system need not save the
        // registers.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl Tiles {
    /// The products of `P` panels and the configured number of rows, of `words` words each, summed
    /// in order. `rows` is where the first one lies, and the words from one to the next.
    ///
    /// # Safety
    /// No other [`Tiles`] was made on this thread since this one. `P` is 1, 2 or, with at most
    /// sixteen rows, 4. Each panel pointer has `words` readable lines, each row `words` readable
    /// words.
    #[inline(always)]
    pub(super) unsafe fn multiply<const P: usize>(
        &mut self,
        panels: [*const Line<u32>; P],
        rows: (*const u32, usize),
        words: usize,
        sums: &mut Sums,
    ) {
        let count = self.upper + self.lower;
        let steps = words / LANES;
        if steps == 0 {
            sums.0[..count * P].fill([0.0; LANES]);
        } else {
            // SAFETY: whole steps are within the words that the caller promises.
            unsafe { self.steps(panels, rows, steps, sums) };
        }
        let rest = words - steps * LANES;
        if rest == 0 {
            return;
        }
        let simd = self.simd;
        let panels = panels.map(|panel| panel.wrapping_add(steps * LANES));
        for (row, sums) in sums.0.chunks_exact_mut(P).take(count).enumerate() {
            let so_far = std::array::from_fn(|panel| simd.load(&sums[panel]));
            let words = rows.0.wrapping_add(row * rows.1 + steps * LANES);
            // SAFETY: what follows the whole steps, within the words that the caller promises.
            let [totals] =
                unsafe { accumulate::<_, Bf16, P, 1>(simd, [so_far], panels, [words], rest) };
            for (sum, total) in sums.iter_mut().zip(totals) {
                simd.store(total, sum);
            }
        }
    }

    /// [`Tiles::multiply`] over whole steps of [`LANES`] words, one at least.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn steps<const P: usize>(
        &mut self,
        panels: [*const Line<u32>; P],
        (first, stride): (*const u32, usize),
        steps: usize,
        sums: &mut Sums,
    ) {
        let second = first.wrapping_add(self.upper * stride);
        let stride = stride * size_of::<u32>();
        let out = sums.0.as_mut_ptr();
        let lower = out.wrapping_add(self.upper * P);

        // A step takes a line of each row and sixteen lines of each panel.
        macro_rules! product {
            ($($operand:ident = $value:expr),*; zero $($zero:literal)*; step $($step:literal)*;
             $($advance:literal)*; store $($store:literal)*) => {
                asm!(
                    $($zero,)*
                    "2:",
                    $($step,)*
                    $($advance,)*
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    steps = inout(reg) steps => _,
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
                    step
                    "tileloadd tmm4, [{rows0} + {stride}*1]"
                    "tileloadd tmm6, [{panel0} + {line}*1]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm7, [{panel1} + {line}*1]"
                    "tdpbf16ps tmm1, tmm4, tmm7"
                    "tileloadd tmm5, [{rows1} + {stride}*1]"
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

/// Asks Linux to let this process use the tile registers; other systems are not asked.
fn ask_for_tiles() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let status: usize;
    // SAFETY: the call takes two numbers and touches no memory of ours. It makes room for the
    // registers in what is saved of each thread; asking again changes nothing.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}
