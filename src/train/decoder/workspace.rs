//! Memory for intermediate results that is used again, step after step: fresh pages from the
//! system cost more than what is computed in them.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use candle_core::Result;

use crate::kernels::cpu::FloatBuffer;

/// Buffers that nobody uses at the moment.
#[derive(Default)]
pub(super) struct Workspace {
    free: Mutex<Vec<FloatBuffer>>,
}

impl Workspace {
    /// A buffer of `len` values; what they are is not said.
    ///
    /// # Errors
    /// The system refused the memory.
    pub(super) fn take(&self, len: usize) -> Result<Buffer<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate();
        let fitting = fitting.filter(|(_, buffer)| buffer.len() >= len);
        let smallest = fitting.min_by_key(|(_, buffer)| buffer.len());
        let values = match smallest.map(|(index, _)| index) {
            Some(index) => free.swap_remove(index),
            None => {
                // The largest that is free is too small: it makes room for a larger one.
                let largest = (0..free.len()).max_by_key(|index| free[*index].len());
                drop(largest.map(|index| free.swap_remove(index)));
                // Room to grow, since rows of the next batch may be longer. Pages that are never
                // touched occupy no memory.
                FloatBuffer::zeros(len + len / 4)?
            }
        };
        drop(free);
        Ok(Buffer {
            values: Some(values),
            len,
            workspace: self,
        })
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// The system refused the memory.
    pub(super) fn zeros(&self, len: usize) -> Result<Buffer<'_>> {
        let mut buffer = self.take(len)?;
        buffer.fill(0.0);
        Ok(buffer)
    }
}

/// Values on loan from a [`Workspace`].
pub(super) struct Buffer<'w> {
    /// Present until it is dropped.
    values: Option<FloatBuffer>,
    len: usize,
    workspace: &'w Workspace,
}

impl Deref for Buffer<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.values
            .as_deref()
            .map_or(&[], |values| &values[..self.len])
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        let values = self.values.as_deref_mut();
        values.map_or(&mut [], |values| &mut values[..len])
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let mut free = self
            .workspace
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.extend(self.values.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_outgrown_buffers_go() {
        let workspace = Workspace::default();
        let place = workspace.take(1000).unwrap().as_ptr();
        let again = workspace.zeros(900).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        assert!(again.iter().all(|value| *value == 0.0));
        drop(again);
        drop(workspace.take(1_000_000).unwrap());
        assert_eq!(workspace.free.lock().unwrap().len(), 1);
    }
}
