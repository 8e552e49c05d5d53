//! Large zeroed memory for weights and the KV pool.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use super::line::{FlattenLines, Line};
use super::simd::LANES;

/// Types of which any bytes are a value and of which zero bytes are the default.
///
/// # Safety
/// All bit patterns are valid, and the type has no padding and a size of four bytes.
pub unsafe trait Plain: Copy + Default + Send + Sync + 'static {
    /// The word whose bytes are those of `value`.
    fn from_f32_bits(value: f32) -> Self;

    /// The same memory as words of this type.
    #[inline(always)]
    fn of_words_mut(words: &mut [u32]) -> &mut [Self] {
        const { assert!(size_of::<Self>() == size_of::<u32>()) };
        const { assert!(align_of::<Self>() == align_of::<u32>()) };
        // SAFETY: as many words of the same size and alignment, of which any bytes are values, here
        // and in what is written through the result; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }

    /// The bytes of sixteen words as `f32`.
    #[inline(always)]
    fn as_floats(words: &[Self; 16]) -> &[f32; 16] {
        const { assert!(size_of::<Self>() == size_of::<f32>()) };
        const { assert!(align_of::<Self>() == align_of::<f32>()) };
        // SAFETY: the same size and alignment, and any bytes are some `f32`.
        unsafe { &*std::ptr::from_ref(words).cast() }
    }
}

// SAFETY: an integer.
unsafe impl Plain for u32 {
    #[inline(always)]
    fn from_f32_bits(value: f32) -> Self {
        value.to_bits()
    }
}
// SAFETY: every bit pattern is some `f32`.
unsafe impl Plain for f32 {
    #[inline(always)]
    fn from_f32_bits(value: f32) -> Self {
        value
    }
}

/// Lines in pages straight from the system: zero until written, page-aligned, in huge pages where
/// the system grants them (a weight matrix in 4 KiB pages misses the TLB at every other line).
/// Untouched pages occupy no memory.
#[derive(Debug)]
pub(super) struct LineBuffer<W> {
    pages: Option<MmapMut>,
    len: usize,
    word: std::marker::PhantomData<W>,
}

impl<W: Plain> LineBuffer<W> {
    /// `len` lines of zeros.
    ///
    /// # Errors
    /// The system refused the memory.
    pub(super) fn zeros(len: usize) -> std::io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<Line<W>>())
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        // Mapping nothing is an error of the system call; an empty matrix is none.
        let pages = (bytes > 0).then(|| MmapMut::map_anon(bytes)).transpose()?;
        #[cfg(target_os = "linux")]
        if let Some(pages) = &pages {
            // Advice: without huge pages everything works, a little slower.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Ok(Self {
            pages,
            len,
            word: std::marker::PhantomData,
        })
    }
}

impl<W: Plain> Deref for LineBuffer<W> {
    type Target = [Line<W>];

    #[inline(always)]
    fn deref(&self) -> &[Line<W>] {
        let Some(pages) = &self.pages else {
            return &[];
        };
        // SAFETY: the mapping has `len` lines' bytes, is page-aligned and initialised with zeros,
        // and `Plain` says that any bytes are values.
        unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), self.len) }
    }
}

impl<W: Plain> DerefMut for LineBuffer<W> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Line<W>] {
        let Some(pages) = &mut self.pages else {
            return &mut [];
        };
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), self.len) }
    }
}

/// Values for intermediate results, in huge pages where the system grants them, on a cache line.
#[derive(Debug)]
pub struct FloatBuffer {
    lines: LineBuffer<f32>,
}

impl FloatBuffer {
    /// At least `len` zeros.
    ///
    /// # Errors
    /// The system refused the memory.
    pub fn zeros(len: usize) -> std::io::Result<Self> {
        let lines = LineBuffer::zeros(len.div_ceil(LANES))?;
        Ok(Self { lines })
    }
}

impl Deref for FloatBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.lines.as_flattened_words()
    }
}

impl DerefMut for FloatBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.lines.as_flattened_words_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_and_aligned() {
        let mut buffer = LineBuffer::<f32>::zeros(3).unwrap();
        assert_eq!(buffer.len(), 3);
        assert!(buffer.iter().all(|line| line.0 == [0.0; 16]));
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        buffer[2].0[15] = 1.0;
        assert_eq!(buffer[2].0[15], 1.0);
        assert!(LineBuffer::<u32>::zeros(0).unwrap().is_empty());
        assert!(LineBuffer::<u32>::zeros(usize::MAX / 8).is_err());
    }
}
