//! One buffer, many threads, each writing its own part.

use std::marker::PhantomData;
use std::ops::Range;

use super::buffer::Plain;
use super::line::Line;
use super::simd::LANES;

/// A mutable slice of which several threads write disjoint ranges.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut T` to other threads, which `T: Send` permits; that no two overlap is
// the obligation of `range`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<T> Clone for Disjoint<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for `'a`.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// While the result lives, no other range that overlaps this one is in use.
    ///
    /// # Panics
    /// The range is not inside the slice.
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "range inside the slice"
        );
        // SAFETY: in bounds by the assertion, exclusive by this function's contract, and the
        // slice is borrowed for `'a`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

impl<'a, W: Plain> Disjoint<'a, Line<W>> {
    /// Where a line is, or would be.
    #[inline(always)]
    pub(crate) fn address(&self, line: usize) -> *const Line<W> {
        self.start.wrapping_add(line)
    }

    /// The same memory as bytes.
    #[inline(always)]
    pub(crate) fn bytes(self) -> Disjoint<'a, u8> {
        // `Plain` says that words are bytes without padding of which any are a value.
        Disjoint {
            start: self.start.cast(),
            len: self.len * size_of::<Line<W>>(),
            borrow: PhantomData,
        }
    }

    /// The same memory as words.
    #[inline(always)]
    pub(crate) fn flattened(self) -> Disjoint<'a, W> {
        const { assert!(size_of::<Line<W>>() == LANES * size_of::<W>()) };
        Disjoint {
            start: self.start.cast(),
            len: self.len * LANES,
            borrow: PhantomData,
        }
    }
}
