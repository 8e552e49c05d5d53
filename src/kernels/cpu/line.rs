//! How operands lie in memory: cache lines of sixteen words, and what a word is.
//!
//! A word is what one lane takes in one step of a dot product: a pair of bfloat16 values, or one
//! `f32`. A *panel* holds sixteen outputs: line `k` has word `k` of each of them, so one aligned
//! load feeds sixteen accumulators. *Rows* (activations, queries, probabilities) are plain rows of
//! words, each broadcast to all lanes.

use super::buffer::Plain;
use super::compiled::Compiled;
use super::simd::{LANES, Simd, bf16_bits, bf16_value};

/// Sixteen words of four bytes: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line<W>(pub(crate) [W; LANES]);

/// A storage type of matrix operands; accumulation is always `f32`.
pub trait Operand: Copy + Send + Sync + 'static {
    /// Four bytes: what a lane multiplies in one step.
    type Word: Plain + PartialEq + std::fmt::Debug;

    /// Values in a word.
    const PER_WORD: usize;

    /// The word of up to [`Self::PER_WORD`] values; missing ones are zero.
    fn word(values: &[f32]) -> Self::Word;

    /// The values of a word, the first [`Self::PER_WORD`] of the result.
    fn values(word: Self::Word) -> [f32; 2];
}

/// The arithmetic of an [`Operand`]. Only [`Bf16`] and [`F32`] have it.
#[allow(
    private_bounds,
    reason = "sealed: it names the private SIMD layer and where kernels are compiled"
)]
pub trait Arithmetic: Compiled {
    /// Adds the products of a word of each output with one word of a row.
    fn multiply_add<S: Simd>(
        simd: S,
        acc: S::F32,
        panel: &[Self::Word; LANES],
        x: Self::Word,
    ) -> S::F32;

    /// Writes sixteen values as words of a row, 16 / [`Operand::PER_WORD`] of them.
    fn store_row<S: Simd>(simd: S, values: S::F32, to: &mut [Self::Word]);

    /// Reads sixteen values that [`Arithmetic::store_row`] could have written.
    fn load_row<S: Simd>(simd: S, from: &[Self::Word]) -> S::F32;

    /// Replaces the value at `index` of each word and, where `index` is 0, zeroes the others.
    fn put<S: Simd>(simd: S, line: &mut [Self::Word; LANES], index: usize, values: S::F32);
}

/// Pairs of bfloat16, the even element in the low half.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

/// Single `f32` values.
#[derive(Clone, Copy, Debug)]
pub struct F32;

impl Operand for Bf16 {
    type Word = u32;

    const PER_WORD: usize = 2;

    #[inline(always)]
    fn word(values: &[f32]) -> u32 {
        let half = |index: usize| values.get(index).map_or(0, |value| bf16_bits(*value));
        u32::from(half(0)) | u32::from(half(1)) << 16
    }

    #[inline(always)]
    fn values(word: u32) -> [f32; 2] {
        [bf16_value(word as u16), bf16_value((word >> 16) as u16)]
    }
}

impl Arithmetic for Bf16 {
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, acc: S::F32, panel: &[u32; LANES], x: u32) -> S::F32 {
        simd.dot_bf16(acc, panel, x)
    }

    #[inline(always)]
    fn store_row<S: Simd>(simd: S, values: S::F32, to: &mut [u32]) {
        to.copy_from_slice(&simd.to_bf16(values));
    }

    #[inline(always)]
    fn load_row<S: Simd>(simd: S, from: &[u32]) -> S::F32 {
        simd.widen_bf16(from.first_chunk().expect("eight words per load"))
    }

    #[inline(always)]
    fn put<S: Simd>(simd: S, line: &mut [u32; LANES], index: usize, values: S::F32) {
        let pairs = simd.to_bf16(values);
        let halves: [u16; LANES] =
            std::array::from_fn(|lane| (pairs[lane / 2] >> (16 * (lane % 2))) as u16);
        if index == 0 {
            *line = halves.map(u32::from);
        } else {
            for (word, half) in line.iter_mut().zip(halves) {
                *word = *word & 0xffff | u32::from(half) << 16;
            }
        }
    }
}

impl Operand for F32 {
    type Word = f32;

    const PER_WORD: usize = 1;

    #[inline(always)]
    fn word(values: &[f32]) -> f32 {
        values.first().copied().unwrap_or_default()
    }

    #[inline(always)]
    fn values(word: f32) -> [f32; 2] {
        [word, 0.0]
    }
}

impl Arithmetic for F32 {
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, acc: S::F32, panel: &[f32; LANES], x: f32) -> S::F32 {
        simd.mul_add(simd.load(panel), simd.splat(x), acc)
    }

    #[inline(always)]
    fn store_row<S: Simd>(simd: S, values: S::F32, to: &mut [f32]) {
        let to = to.first_chunk_mut().expect("sixteen words per store");
        simd.store(values, to);
    }

    #[inline(always)]
    fn load_row<S: Simd>(simd: S, from: &[f32]) -> S::F32 {
        simd.load(from.first_chunk().expect("sixteen words per load"))
    }

    #[inline(always)]
    fn put<S: Simd>(simd: S, line: &mut [f32; LANES], _index: usize, values: S::F32) {
        simd.store(values, line);
    }
}

/// A matrix of rows of words.
///
/// Each row starts on a cache line and is padded with zeros to whole vectors. The stride is an odd
/// number of lines: rows a power of two apart would compete for the same cache sets.
#[derive(Clone, Debug)]
pub struct Rows<O: Operand> {
    lines: Vec<Line<O::Word>>,
    stride: usize,
    width: usize,
}

impl<O: Operand> Rows<O> {
    /// `rows` rows of `width` zero values.
    pub fn zeros(rows: usize, width: usize) -> Self {
        let stride = width.div_ceil(LANES * O::PER_WORD) | 1;
        Self {
            lines: vec![Line([O::Word::default(); LANES]); rows * stride],
            stride,
            width,
        }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lines.len() / self.stride
    }

    /// Words from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride * LANES
    }

    /// Every word, padding included.
    pub(crate) fn words(&self) -> &[O::Word] {
        self.lines.as_flattened_words()
    }

    /// Every word, padding included.
    pub(crate) fn words_mut(&mut self) -> &mut [O::Word] {
        self.lines.as_flattened_words_mut()
    }

    /// The words of a row, padding included.
    pub(crate) fn row_words(&self, row: usize) -> &[O::Word] {
        &self.words()[row * self.stride()..][..self.stride()]
    }

    /// Grows to at least `rows` rows; contents of new rows are zero.
    pub fn reserve_rows(&mut self, rows: usize) {
        if rows > self.rows() {
            self.lines
                .resize(rows * self.stride, Line([O::Word::default(); LANES]));
        }
    }

    /// Replaces a row, rounding each value to the storage type.
    ///
    /// # Panics
    /// `values` is not as wide as the matrix, or there is no such row.
    pub fn set_row(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.width, "one value per column");
        let stride = self.stride();
        let words = &mut self.words_mut()[row * stride..][..stride];
        for (word, values) in words.iter_mut().zip(values.chunks(O::PER_WORD)) {
            *word = O::word(values);
        }
    }

    /// A row's values, widened.
    pub fn row_values(&self, row: usize) -> Vec<f32> {
        let words = self.row_words(row).iter();
        words
            .flat_map(|word| O::values(*word).into_iter().take(O::PER_WORD))
            .take(self.width)
            .collect()
    }
}

impl Rows<F32> {
    /// All rows, padding included: row `i` starts at `i * stride()`.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.words_mut()
    }

    /// A row's values.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.row_words(row)[..self.width]
    }

    /// A row's values.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let (stride, width) = (self.stride(), self.width);
        &mut self.words_mut()[row * stride..][..width]
    }
}

/// Lines as one slice of words.
pub(crate) trait FlattenLines<W> {
    fn as_flattened_words(&self) -> &[W];
    fn as_flattened_words_mut(&mut self) -> &mut [W];
}

impl<W> FlattenLines<W> for [Line<W>] {
    #[inline(always)]
    fn as_flattened_words(&self) -> &[W] {
        const { assert!(size_of::<Line<W>>() == LANES * size_of::<W>()) };
        // SAFETY: `Line` is `repr(C)` around `[W; LANES]`, and the assertion shows that it has no
        // padding, so the lines are that many words back to back.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() * LANES) }
    }

    #[inline(always)]
    fn as_flattened_words_mut(&mut self) -> &mut [W] {
        const { assert!(size_of::<Line<W>>() == LANES * size_of::<W>()) };
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len() * LANES) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::portable::Portable;
    use super::*;

    #[test]
    fn rows_keep_their_values_and_their_padding_stays_zero() {
        let mut rows = Rows::<Bf16>::zeros(3, 5);
        rows.set_row(1, &[1.0, -2.0, 3.0, 0.5, 4.0]);
        assert_eq!(rows.row_values(1), [1.0, -2.0, 3.0, 0.5, 4.0]);
        assert_eq!(rows.row_values(2), [0.0; 5]);
        assert!(rows.row_words(1)[3..].iter().all(|word| *word == 0));
    }

    #[test]
    fn a_stride_is_an_odd_number_of_lines() {
        for width in [1, 31, 32, 33, 2048, 4096] {
            assert_eq!(Rows::<Bf16>::zeros(1, width).stride() / LANES % 2, 1);
        }
    }

    #[test]
    fn putting_the_first_value_of_a_word_clears_the_second() {
        let mut line = [Bf16::word(&[1.0, 2.0]); LANES];
        let values = [3.0; LANES];
        Bf16::put(Portable, &mut line, 1, values);
        assert_eq!(Bf16::values(line[15]), [1.0, 3.0]);
        Bf16::put(Portable, &mut line, 0, values);
        assert_eq!(Bf16::values(line[15]), [3.0, 0.0]);
    }
}
