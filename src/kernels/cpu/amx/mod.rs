//! Matrix tiles (Intel AMX): registers of sixteen rows of 64 bytes, and an instruction that
//! multiplies two of them.
//!
//! Its second operand is lines of a panel as they lie in memory (`line.rs`), its first is rows of
//! words: so products use tiles without anything being packed anew. Here registers are configured
//! and work is cut into tiles; `floats` multiplies bfloat16, `pieces` single precision in pieces of
//! bfloat16, and `bytes` integers.
//!
//! The compiler has no stable intrinsics for these instructions, hence assembly. Configuring the
//! registers takes as long as three steps of a product, so [`Tiles`] keeps a configuration for many
//! products; it lets go of the registers when it is dropped. Products keep nothing in them.
//!
//! *Source*: Intel SDM volume 1 chapter 18 and volume 2 (`LDTILECFG`, `TDPBF16PS`); Linux
//! `Documentation/arch/x86/xstate.rst` for the permission.

/// Asks for sixteen lines of a panel, from so many bytes on after what the present step takes: loads
/// of tiles wait for memory with few rows and for the second-level cache with many, and the CPU's own
/// prefetching hides neither.
macro_rules! ask_ahead {
    ($panel:literal, $from:literal) => {
        ask_ahead!($panel, $from; 0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960)
    };
    ($panel:literal, $from:literal; $($offset:literal)*) => {
        concat!($("prefetcht0 [{", $panel, "} + ", $from, " + ", $offset, "]\n"),*)
    };
}

/// Asks for [`LINES_AHEAD`] lines of the panels that will be multiplied next, and goes on behind them.
macro_rules! ask_for_next {
    () => {
        ask_for_next!(0 64 128 192 256 320 384 448)
    };
    ($($offset:literal)*) => {
        concat!($("prefetcht1 [{ahead} + ", $offset, "]\n",)* "add {ahead}, {ahead_step}")
    };
}

mod bytes;
mod floats;
mod pieces;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::ops::Range;

use super::line::Line;
use super::simd::LANES;
use super::simd::avx512::Avx512;
pub(super) use bytes::{BYTE_PANELS, ByteSums};
pub(super) use floats::Sums;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Rows that are multiplied at once: two tiles.
pub(super) const ROWS: usize = 2 * TILE_ROWS;

/// Panels that are multiplied at once where there is one tile of rows. With two, it is two panels.
pub(super) const PANELS: usize = 4;

/// Lines of the next panels that a step of a product of streamed panels asks for: a few, so that they
/// do not stand in the way of its own loads, and all of them in a handful of passes.
const LINES_AHEAD: usize = 8;

/// Where a product of `panels` streamed panels, of `words` words each, asks for lines: in the `next`
/// panels from where earlier passes over the present ones stopped, or in the `present` ones, which
/// are there, once all was asked for.
#[inline(always)]
pub(super) fn ahead(
    pass: usize,
    panels: usize,
    words: usize,
    [present, next]: [*const Line<u32>; 2],
) -> *const Line<u32> {
    let first = pass * (words / LANES) * LINES_AHEAD;
    match first < panels * words {
        true => next.wrapping_add(first),
        false => present,
    }
}

/// Work that is done tile by tile. Its method is to be `#[inline(always)]`: it is compiled with the
/// instructions of the function that walks over the tiles.
pub(super) trait TileWork {
    /// Works on the tile of `P` panels from `panel` on and the configured `rows`: the `pass`-th tile of
    /// these panels, from 0.
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut Tiles,
        panel: usize,
        rows: Range<usize>,
        pass: usize,
    );
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
    /// Sums in tiles 0 to 3, rows of `words` words in 4 and 5, panels in 6 and 7: `upper` rows in
    /// the first of two tiles and `lower` in the second. Without a second, a panel is in 5, too.
    fn new(upper: usize, lower: usize, words: usize) -> Self {
        let line = size_of::<Line<u32>>();
        let sums = |rows: usize| (rows, line);
        let rows = |rows: usize| (rows, words * size_of::<u32>());
        let panel = (words, line);
        let tiles = if lower > 0 {
            let (first, second) = (sums(upper), sums(lower));
            [
                first,
                first,
                second,
                second,
                rows(upper),
                rows(lower),
                panel,
                panel,
            ]
        } else {
            let first = sums(upper);
            [first, first, first, first, rows(upper), panel, panel, panel]
        };
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (index, (rows, bytes)) in tiles.into_iter().enumerate() {
            // At most 16 and 64.
            (config.rows[index], config.row_bytes[index]) = (rows as u8, bytes as u16);
        }
        config
    }
}

impl Amx {
    /// The token, where CPU and system have tiles of bfloat16.
    pub(super) fn detect() -> Option<Self> {
        let simd = Avx512::<true>::detect()?;
        // Leaf 7 exists where AVX-512 does. AMX-BF16, AMX-TILE and AMX-INT8:
        let features = __cpuid_count(7, 0).edx;
        let has_tiles = [22, 24, 25].into_iter().all(|bit| features >> bit & 1 == 1);
        let saves_registers = __cpuid(1).ecx >> 27 & 1 == 1;
        // SAFETY: the bit before says that the system has enabled XGETBV.
        let saves_tiles = saves_registers && unsafe { _xgetbv(0) } >> 17 & 3 == 3;
        (has_tiles && saves_tiles && ask_for_tiles()).then_some(Self { simd })
    }

    /// The vector instructions beside them.
    pub(super) fn simd(self) -> Avx512<true> {
        self.simd
    }

    /// Covers some panels and rows with tiles of `words` words: whole blocks of rows first, then what
    /// is left.
    #[inline(always)]
    pub(super) fn for_each_tile(
        self,
        panels: Range<usize>,
        rows: Range<usize>,
        words: usize,
        work: &mut impl TileWork,
    ) {
        let whole = rows.start + rows.len() / ROWS * ROWS;
        for (rows, size) in [
            (rows.start..whole, ROWS),
            (whole..rows.end, rows.end - whole),
        ] {
            if rows.is_empty() {
                continue;
            }
            cover(
                &mut self.configure(size, words),
                panels.clone(),
                rows,
                size,
                work,
            );
        }
    }

    /// Covers some panels and rows with tiles of sixteen rows that are all there, if not all of the
    /// work: its ranges end where `rows` does.
    #[inline(always)]
    pub(super) fn for_each_whole_tile(
        self,
        panels: Range<usize>,
        rows: Range<usize>,
        work: &mut impl TileWork,
    ) {
        let mut tiles = self.configure(TILE_ROWS, LANES);
        cover(&mut tiles, panels, rows, TILE_ROWS, work);
    }

    /// Multiplies whole tiles of bfloat16, `steps` times in each of four sums: the probe of the
    /// multiplier. Returns the operations of a step.
    pub(super) fn multiply_adds(self, steps: usize) -> usize {
        self.multiply_tiles::<false>(steps);
        4 * TILE_ROWS * LANES * (2 * LANES) * 2
    }

    /// The same for bytes.
    pub(super) fn multiply_byte_adds(self, steps: usize) -> usize {
        self.multiply_tiles::<true>(steps);
        4 * TILE_ROWS * LANES * (4 * LANES) * 2
    }

    fn multiply_tiles<const BYTES: bool>(self, steps: usize) {
        if steps == 0 {
            return;
        }
        let _tiles = self.configure(ROWS, LANES);
        macro_rules! multiply {
            ($multiply:literal) => {
                asm!(
                    "tilezero tmm4",
                    "tilezero tmm5",
                    "tilezero tmm6",
                    "tilezero tmm7",
                    "2:",
                    concat!($multiply, " tmm0, tmm4, tmm6"),
                    concat!($multiply, " tmm1, tmm4, tmm7"),
                    concat!($multiply, " tmm2, tmm5, tmm6"),
                    concat!($multiply, " tmm3, tmm5, tmm7"),
                    "dec {steps}",
                    "jnz 2b",
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem),
                )
            };
        }
        // SAFETY: the registers are configured, and nothing else is touched.
        unsafe {
            if BYTES {
                multiply!("tdpbsud");
            } else {
                multiply!("tdpbf16ps");
            }
        }
    }

    /// Registers for products of `rows` rows that take `words` words in a step.
    ///
    /// # Panics
    /// There are no rows or more than [`ROWS`], or no words or more than [`LANES`].
    #[inline(always)]
    fn configure(self, rows: usize, words: usize) -> Tiles {
        assert!((1..=ROWS).contains(&rows), "one or two tiles of rows");
        assert!((1..=LANES).contains(&words), "a part of a line");
        // Two tiles are filled alike: the time of an instruction grows with the rows.
        let upper = if rows <= TILE_ROWS {
            rows
        } else {
            rows.div_ceil(2)
        };
        let lower = rows - upper;
        let config = Config::new(upper, lower, words);
        // SAFETY: with the token, CPU and system have the registers, and the configuration is one
        // that the architecture allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles {
            simd: self.simd,
            upper,
            lower,
            words,
            bound_to_thread: PhantomData,
        }
    }
}

/// Covers some panels and rows with tiles of `size` rows, the last of what is left.
#[inline(always)]
fn cover(
    tiles: &mut Tiles,
    panels: Range<usize>,
    rows: Range<usize>,
    size: usize,
    work: &mut impl TileWork,
) {
    let mut panel = panels.start;
    while panel < panels.end {
        let count = match panels.end - panel {
            PANELS.. if size <= TILE_ROWS => PANELS,
            2.. => 2,
            _ => 1,
        };
        for (pass, row) in rows.clone().step_by(size).enumerate() {
            let rows = row..rows.end.min(row + size);
            match count {
                PANELS => work.tile::<PANELS>(tiles, panel, rows, pass),
                2 => work.tile::<2>(tiles, panel, rows, pass),
                _ => work.tile::<1>(tiles, panel, rows, pass),
            }
        }
        panel += count;
    }
}

/// Tile registers of this thread, configured for some number of rows.
pub(super) struct Tiles {
    simd: Avx512<true>,
    /// Rows in the first and in the second tile.
    upper: usize,
    lower: usize,
    /// Words of a step.
    words: usize,
    bound_to_thread: PhantomData<*mut ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: no product is under way; without a configuration the system need not save the
        // registers.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
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
