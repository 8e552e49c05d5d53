//! Devices that ggml was built for, as its registry lists them, and an open one.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use llama_cpp_sys_2 as sys;

use super::tensor::Tensor;
use crate::engine::available_bytes;
use crate::engine::device::DeviceKind;

/// One device of ggml's registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// ggml's name, such as `CUDA0`, `Vulkan1` or `CPU`.
    pub name: String,
    /// The maker's name.
    pub description: String,
    /// The part of ggml that drives it, in lower case: `cuda`, `vulkan`, `metal`, `cpu`.
    pub backend: String,
    /// Its number among the devices of that part.
    pub index: usize,
    /// What it is.
    pub kind: DeviceKind,
    /// Bytes free now, as the driver says, or the system of the processor's.
    pub free_bytes: u64,
    /// Bytes altogether.
    pub total_bytes: u64,
}

/// Sends the log of ggml and llama.cpp to `tracing`, once; they write to stderr otherwise.
pub(super) fn quiet() {
    static ONCE: Once = Once::new();
    // SAFETY: `log` has the signature that is asked for, never unwinds and uses no user data. This
    // comes before anything else that is asked of either.
    ONCE.call_once(|| unsafe {
        sys::ggml_log_set(Some(log), std::ptr::null_mut());
        sys::llama_log_set(Some(log), std::ptr::null_mut());
    });
}

unsafe extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: ggml passes a string that ends with a zero and lives for this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    match level {
        _ if text.is_empty() => {}
        sys::GGML_LOG_LEVEL_ERROR | sys::GGML_LOG_LEVEL_WARN => tracing::warn!("ggml: {text}"),
        _ => tracing::debug!("ggml: {text}"),
    }
}

/// A string that ggml owns and keeps.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: names and descriptions of the registry end with a zero and live as long as it does.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// The registry's devices. Pointers into it are valid until the process ends.
fn registered() -> Vec<sys::ggml_backend_dev_t> {
    quiet();
    // SAFETY: these read the registry, which is filled when it is first asked; `i` is below the
    // count, which never falls.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| sys::ggml_backend_dev_get(i))
            .collect()
    }
}

/// The name of the part of ggml that drives a device, as users know it.
fn backend_name(device: sys::ggml_backend_dev_t) -> String {
    // SAFETY: the device comes from the registry.
    let name =
        text(unsafe { sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(device)) });
    match name.to_ascii_lowercase().as_str() {
        "mtl" => "metal".to_owned(),
        name => name.to_owned(),
    }
}

/// Every device that ggml sees, in its order.
pub fn devices() -> Vec<DeviceInfo> {
    let mut infos: Vec<DeviceInfo> = Vec::new();
    for device in registered() {
        let backend = backend_name(device);
        let index = infos.iter().filter(|i| i.backend == backend).count();
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device comes from the registry; both counts are written before it returns.
        let kind = unsafe {
            sys::ggml_backend_dev_memory(device, &mut free, &mut total);
            sys::ggml_backend_dev_type(device)
        };
        let kind = match kind {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU | sys::GGML_BACKEND_DEVICE_TYPE_IGPU => {
                DeviceKind::Gpu
            }
            _ => DeviceKind::Other,
        };
        // ggml calls all of the processor's memory free.
        if kind == DeviceKind::Cpu {
            free = available_bytes().map_or(free, |bytes| free.min(bytes as usize));
        }
        infos.push(DeviceInfo {
            // SAFETY: as above.
            name: text(unsafe { sys::ggml_backend_dev_name(device) }),
            // SAFETY: as above.
            description: text(unsafe { sys::ggml_backend_dev_description(device) }),
            backend,
            index,
            kind,
            free_bytes: free as u64,
            total_bytes: total as u64,
        });
    }
    infos
}

/// The registry's entry of a device, valid until the process ends.
pub(super) fn raw_device(wanted: &DeviceInfo) -> Option<sys::ggml_backend_dev_t> {
    // SAFETY: the devices come from the registry.
    let name =
        |device: &sys::ggml_backend_dev_t| text(unsafe { sys::ggml_backend_dev_name(*device) });
    registered()
        .into_iter()
        .find(|device| name(device) == wanted.name)
}

/// Held while a device is opened: ggml's Vulkan part makes a device's first handle without a lock,
/// and another thread would find half of one.
pub(super) fn opening() -> MutexGuard<'static, ()> {
    static OPENING: Mutex<()> = Mutex::new(());
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open device: what computes graphs and owns memory.
pub(super) struct Backend {
    raw: NonNull<sys::ggml_backend>,
    device: sys::ggml_backend_dev_t,
    info: DeviceInfo,
}

impl Backend {
    /// Opens the device that `wanted` describes; `threads` is for a processor.
    ///
    /// # Errors
    /// ggml has no such device any more, or its driver refuses.
    pub(super) fn open(wanted: &DeviceInfo, threads: usize) -> Result<Self, String> {
        let device = raw_device(wanted).ok_or_else(|| format!("device {} is gone", wanted.name))?;
        let one_at_a_time = opening();
        // SAFETY: the device comes from the registry; no parameters means its defaults.
        let raw = unsafe { sys::ggml_backend_dev_init(device, std::ptr::null()) };
        drop(one_at_a_time);
        let raw = NonNull::new(raw)
            .ok_or_else(|| format!("the driver of {} cannot open it", wanted.name))?;
        let backend = Self {
            raw,
            device,
            info: wanted.clone(),
        };
        backend.set_threads(threads);
        Ok(backend)
    }

    /// Threads of a processor; other devices have no such setting.
    fn set_threads(&self, threads: usize) {
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: the part is the device's own; what it has under this name has this signature
        // (`ggml_backend_set_n_threads_t` of ggml-backend.h), and the backend is open.
        unsafe {
            let part = sys::ggml_backend_dev_backend_reg(self.device);
            let name = c"ggml_backend_set_n_threads";
            let address = sys::ggml_backend_reg_get_proc_address(part, name.as_ptr());
            if !address.is_null() {
                let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) =
                    std::mem::transmute(address);
                set(self.raw.as_ptr(), threads);
            }
        }
    }

    /// What was opened.
    pub(super) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Whether the device can compute what `tensor` is the result of.
    pub(super) fn supports(&self, tensor: &Tensor) -> bool {
        // SAFETY: the tensor is alive.
        unsafe { self.supports_raw(tensor.raw()) }
    }

    /// As [`Self::supports`].
    ///
    /// # Safety
    /// The tensor is alive.
    pub(super) unsafe fn supports_raw(&self, tensor: *const sys::ggml_tensor) -> bool {
        // SAFETY: the device is of the registry; the tensor is the caller's promise.
        unsafe { sys::ggml_backend_dev_supports_op(self.device, tensor) }
    }

    pub(super) fn raw(&self) -> sys::ggml_backend_t {
        self.raw.as_ptr()
    }

    /// The kind of memory that the device computes in.
    pub(super) fn buffer_type(&self) -> sys::ggml_backend_buffer_type_t {
        // SAFETY: the device is of the registry.
        unsafe { sys::ggml_backend_dev_buffer_type(self.device) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: it was opened by this value, which is its only owner. Graphs and memory planners
        // of the device live in values that are dropped before it.
        unsafe { sys::ggml_backend_free(self.raw.as_ptr()) };
    }
}
