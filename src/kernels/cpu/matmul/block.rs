//! What one task of a product computes: a block of rows times a group of panels.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::super::amx::{self, Amx};
use super::super::disjoint::Disjoint;
use super::super::isa::Isa;
use super::super::line::{Arithmetic, Bf16, Line, Operand};
use super::super::simd::{Kernel, LANES, Simd};
use super::super::tile::{Tiles, accumulate, for_each_tile};
use super::{Packed, Start};

/// A block of rows times a group of panels, on one thread.
pub(crate) struct Block<'a, O: Packed> {
    /// The group's panels, `panel_stride` lines apart.
    pub(crate) panels: &'a [Line<O::Word>],
    /// Lines from one panel to the next.
    pub(crate) panel_stride: usize,
    /// Words of a sum.
    pub(crate) words: usize,
    /// The block's rows, `row_stride` words apart.
    pub(crate) rows: &'a [O::Word],
    /// Words from one row to the next.
    pub(crate) row_stride: usize,
    /// The row of `out` that the first one goes to.
    pub(crate) first_row: usize,
    /// Rows of the block.
    pub(crate) num_rows: usize,
    /// The column of `out` that the first panel begins at.
    pub(crate) first_column: usize,
    /// Where the columns of `out` end.
    pub(crate) columns: usize,
    /// Values from one row of `out` to the next.
    pub(crate) out_stride: usize,
    /// What results are added to. A bias is indexed by the column of `out`.
    pub(crate) start: Start<'a>,
    /// Where the results go.
    pub(crate) out: Disjoint<'a, f32>,
}

impl<O: Packed> Block<'_, O> {
    /// Computes it.
    ///
    /// # Safety
    /// While it runs, nobody else uses these rows and columns of `out`.
    ///
    /// # Panics
    /// There are fewer panels or rows than the sizes say.
    pub(crate) unsafe fn run(self, isa: Isa) {
        let panels = self.num_panels();
        if panels == 0 || self.num_rows == 0 {
            return;
        }
        assert!(self.words <= self.panel_stride || panels == 1);
        assert!((panels - 1) * self.panel_stride + self.words <= self.panels.len());
        assert!((self.num_rows - 1) * self.row_stride + self.words <= self.rows.len());
        O::multiply(isa, self);
    }

    fn num_panels(&self) -> usize {
        (self.columns - self.first_column).div_ceil(LANES)
    }
}

impl<O: Arithmetic + Packed<Word = <O as Operand>::Word>> Kernel for Block<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for_each_tile(simd, 0..self.num_panels(), 0..self.num_rows, &mut self);
    }
}

impl<S: Simd, O: Arithmetic + Packed<Word = <O as Operand>::Word>> Tiles<S> for Block<'_, O> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, row: usize) {
        let mut sums = [[simd.splat(0.0); P]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            for (p, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `Block::run` gave this block its part of `out`.
                *sum = unsafe { self.initial(simd, panel + p, row + t) };
            }
        }
        let panels = std::array::from_fn(|index| {
            self.panels[(panel + index) * self.panel_stride..][..self.words].as_ptr()
        });
        let rows = std::array::from_fn(|index| {
            self.rows[(row + index) * self.row_stride..][..self.words].as_ptr()
        });
        // SAFETY: the slices above show `words` lines and words behind each pointer.
        let sums = unsafe { accumulate::<S, O, P, T>(simd, sums, panels, rows, self.words) };
        for (t, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { self.put(simd, panel + p, row + t, *sum) };
            }
        }
    }
}

/// Runs a block in matrix tiles where there are such.
pub(super) fn run_bf16(isa: Isa, block: Block<'_, Bf16>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx() {
        return amx.simd().vectorize(OnTiles(block, amx));
    }
    isa.run(block);
}

/// A block in matrix tiles.
#[cfg(target_arch = "x86_64")]
pub(super) struct OnTiles<'a, O: Packed>(pub(super) Block<'a, O>, pub(super) Amx);

#[cfg(target_arch = "x86_64")]
impl<O: Packed<Word = u32>> Kernel for OnTiles<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(block, amx) = self;
        let (panels, rows) = (0..block.num_panels(), 0..block.num_rows);
        let sums = amx::Sums::new();
        let mut products = Products { block, simd, sums };
        // Tiles of pieces are whole.
        match O::PIECES {
            1 => amx.for_each_tile(panels, rows, LANES, &mut products),
            _ => amx.for_each_whole_tile(panels, rows, &mut products),
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Products<'a, S, O: Packed> {
    block: Block<'a, O>,
    simd: S,
    sums: amx::Sums,
}

#[cfg(target_arch = "x86_64")]
impl<S: Simd, O: Packed<Word = u32>> amx::TileWork for Products<'_, S, O> {
    #[inline(always)]
    fn tile<const P: usize>(
        &mut self,
        tiles: &mut amx::Tiles,
        panel: usize,
        range: Range<usize>,
        pass: usize,
    ) {
        let (block, simd) = (&self.block, self.simd);
        let (words, stride) = (block.words, block.row_stride);
        let panels = std::array::from_fn(|index| {
            block.panels[(panel + index) * block.panel_stride..][..words].as_ptr()
        });
        let rows = &block.rows[range.start * stride..];
        let rows_read = if O::PIECES == 1 { range.len() } else { LANES };
        assert!((rows_read - 1) * stride + words <= rows.len());
        let rows = (rows.as_ptr(), stride);
        // SAFETY: the slices and the assertion show `words` lines of each panel and words of each
        // row; the tiles are the latest and come with shapes that there are.
        unsafe {
            if O::PIECES == 1 {
                let lines = block.panels.as_ptr();
                let line = |panel: usize| lines.wrapping_add(panel * block.panel_stride);
                let ahead = amx::ahead(pass, P, words, [line(panel), line(panel + P)]);
                tiles.multiply_streamed::<P>(panels, rows, words, ahead, &mut self.sums);
            } else {
                // To ask for panels ahead changes nothing, with six products of a load.
                tiles.multiply_pieces::<P>(panels, rows, words, &mut self.sums);
            }
        }
        for (index, row) in range.enumerate() {
            // SAFETY: `Block::run` gave this block its part of `out`.
            unsafe { block.finish::<_, P>(simd, panel, row, self.sums.row(simd, index)) };
        }
    }
}

impl<O: Packed> Block<'_, O> {
    /// Adds a row's sums of `P` panels to what they are added to.
    ///
    /// # Safety
    /// Nobody else uses these columns of the row of `out`.
    #[inline(always)]
    unsafe fn finish<S: Simd, const P: usize>(
        &self,
        simd: S,
        panel: usize,
        row: usize,
        sums: [S::F32; P],
    ) {
        for (panel, sum) in (panel..).zip(sums) {
            // SAFETY: the caller's promise.
            unsafe {
                let sum = simd.add(self.initial(simd, panel, row), sum);
                self.put(simd, panel, row, sum);
            }
        }
    }

    /// What a row's sums of a panel are added to.
    ///
    /// # Safety
    /// Nobody else uses these columns of the row of `out`.
    #[inline(always)]
    unsafe fn initial<S: Simd>(&self, simd: S, panel: usize, row: usize) -> S::F32 {
        let (at, width) = self.place(panel, row);
        match self.start {
            Start::Zero => simd.splat(0.0),
            Start::Bias(bias) => {
                let column = self.first_column + panel * LANES;
                load(simd, &bias[column..column + width])
            }
            // SAFETY: the caller's promise.
            Start::Present => load(simd, unsafe { self.out.range(at..at + width) }),
        }
    }

    /// Writes a row's sums of a panel.
    ///
    /// # Safety
    /// As [`Block::initial`].
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, simd: S, panel: usize, row: usize, sums: S::F32) {
        let (at, width) = self.place(panel, row);
        // SAFETY: the caller's promise.
        store(simd, sums, unsafe { self.out.range(at..at + width) });
    }

    /// Where a panel's part of a row begins in `out`, and how many columns it has.
    #[inline(always)]
    fn place(&self, panel: usize, row: usize) -> (usize, usize) {
        let column = self.first_column + panel * LANES;
        let width = LANES.min(self.columns - column);
        ((self.first_row + row) * self.out_stride + column, width)
    }
}

/// Up to sixteen values; missing lanes are zero.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32]) -> S::F32 {
    if let Some(from) = from.first_chunk() {
        return simd.load(from);
    }
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    simd.load(&lanes)
}

/// The first lanes, as many as there is room for.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, value: S::F32, to: &mut [f32]) {
    if let Some(to) = to.first_chunk_mut() {
        return simd.store(value, to);
    }
    let mut lanes = [0.0; LANES];
    simd.store(value, &mut lanes);
    let len = to.len();
    to.copy_from_slice(&lanes[..len]);
}
