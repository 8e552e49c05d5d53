//! Memory of a device: for what stays (weights, the KV pool), and for a graph while it runs.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::device::Backend;
use super::tensor::{Context, Tensor};

/// Memory on a device, freed when dropped.
pub(super) struct Buffer {
    raw: NonNull<sys::ggml_backend_buffer>,
}

impl Buffer {
    /// Bytes that were taken.
    fn num_bytes(&self) -> usize {
        // SAFETY: the buffer is alive.
        unsafe { sys::ggml_backend_buffer_get_size(self.raw.as_ptr()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the buffer is this value's own. It belongs to a context, which is dropped when
        // none of its tensors is left.
        unsafe { sys::ggml_backend_buffer_free(self.raw.as_ptr()) };
    }
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Written once, then read.
    Weights,
    /// Written and read; starts as zeros.
    Cache,
}

/// Gives every tensor of `context` memory on the device and returns how many bytes that took.
///
/// # Errors
/// The device has not that much.
pub(super) fn allocate(
    backend: &Backend,
    context: &Context,
    purpose: Purpose,
) -> Result<usize, String> {
    assert!(context.buffer().is_none(), "tensors are given memory once");
    // SAFETY: the context is alive and none of its tensors has memory; the buffer type is of an
    // open device.
    let raw = unsafe {
        sys::ggml_backend_alloc_ctx_tensors_from_buft(context.raw(), backend.buffer_type())
    };
    let raw = NonNull::new(raw).ok_or_else(|| {
        let what = match purpose {
            Purpose::Weights => "the weights",
            Purpose::Cache => "the KV cache",
        };
        format!("{} has no memory for {what}", backend.info().name)
    })?;
    // SAFETY: the buffer was just made; nothing uses it yet.
    unsafe {
        match purpose {
            Purpose::Weights => sys::ggml_backend_buffer_set_usage(
                raw.as_ptr(),
                sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS,
            ),
            Purpose::Cache => sys::ggml_backend_buffer_clear(raw.as_ptr(), 0),
        }
    }
    let buffer = Buffer { raw };
    let bytes = buffer.num_bytes();
    context.set_buffer(buffer);
    Ok(bytes)
}

/// Numbers that a device reads as they lie in the host's memory.
pub(super) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for f32 {}

/// What a transfer relies on: the tensor has memory, and the bytes lie in it.
fn assert_within(tensor: &Tensor, offset: usize, bytes: usize) {
    assert!(tensor.has_memory(), "a tensor with memory");
    assert!(
        offset
            .checked_add(bytes)
            .is_some_and(|end| end <= tensor.num_bytes()),
        "{bytes} bytes from {offset} within {}",
        tensor.num_bytes()
    );
}

/// Writes `values` to a tensor's memory from byte `offset` on.
///
/// # Panics
/// The tensor has no memory, or `values` end beyond it.
pub(super) fn write<T: Plain>(tensor: &Tensor, offset: usize, values: &[T]) {
    let bytes = size_of_val(values);
    assert_within(tensor, offset, bytes);
    // SAFETY: the tensor has memory and the range lies in it; `values` are `bytes` bytes of plain
    // numbers, read before the call returns.
    unsafe {
        sys::ggml_backend_tensor_set(tensor.raw(), values.as_ptr().cast(), offset, bytes);
    }
}

/// Reads a tensor's memory from byte `offset` on.
///
/// # Panics
/// The tensor has no memory, or `values` end beyond it.
pub(super) fn read<T: Plain>(tensor: &Tensor, offset: usize, values: &mut [T]) {
    let bytes = size_of_val(values);
    assert_within(tensor, offset, bytes);
    // SAFETY: the tensor has memory and the range lies in it; `values` are `bytes` writable bytes
    // of a type for which every bit pattern is a value, written before the call returns.
    unsafe {
        sys::ggml_backend_tensor_get(tensor.raw(), values.as_mut_ptr().cast(), offset, bytes);
    }
}

/// Copies a tensor to one of another device, by way of the host where the two have no other.
///
/// # Panics
/// One of them has no memory, or they differ in type or shape.
pub(super) fn copy(source: &Tensor, target: &Tensor) {
    let facts = |tensor: &Tensor| (tensor.element(), tensor.shape(), tensor.is_contiguous());
    assert_eq!(facts(source), facts(target), "tensors of one layout");
    assert!(
        source.has_memory() && target.has_memory(),
        "tensors with memory"
    );
    // SAFETY: both tensors are alive, have memory and the same layout.
    unsafe { sys::ggml_backend_tensor_copy(source.raw(), target.raw()) };
}
