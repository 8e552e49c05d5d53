//! llama.cpp itself, as the reference: its quantiser, its loader, its greedy tokens.
//!
//! The only tests with `unsafe`: plain calls of a C library, each with its contract.
#![allow(unsafe_code, reason = "calls into llama.cpp")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// Starts llama.cpp once and lets it speak only of errors.
fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: the callback lives forever and takes what llama.cpp passes; called before any
        // other use of the library in this process, for `Once` orders all users.
        unsafe {
            sys::llama_log_set(Some(log), std::ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

unsafe extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if level == sys::GGML_LOG_LEVEL_ERROR {
        // SAFETY: llama.cpp passes a string that ends in a zero.
        let text = unsafe { std::ffi::CStr::from_ptr(text) };
        eprint!("llama.cpp: {}", text.to_string_lossy());
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// What [`quantise`] may be told.
#[derive(Default)]
pub(crate) struct Quantise<'a> {
    /// Mean squares by tensor.
    pub(crate) importance: &'a [(String, Vec<f32>)],
    pub(crate) allow_requantize: bool,
    pub(crate) pure: bool,
    pub(crate) leave_output_tensor: bool,
    /// A file for each file of the source.
    pub(crate) keep_split: bool,
    /// ggml's number of the type of output.weight.
    pub(crate) output_tensor_type: Option<u32>,
    /// ggml's number of the type of token_embd.weight.
    pub(crate) token_embedding_type: Option<u32>,
    /// 0: as many as there are cores.
    pub(crate) threads: i32,
    /// Regular expressions over names, and ggml's number of a type.
    pub(crate) tensor_types: &'a [(&'a str, u32)],
}

/// `llama_model_quantize`: whether it succeeded.
pub(crate) fn quantise(input: &Path, out: &Path, file_type: u32, options: &Quantise<'_>) -> bool {
    start();
    let (input, out) = (c_path(input), c_path(out));
    let names: Vec<CString> = options
        .importance
        .iter()
        .map(|(name, _)| CString::new(name.as_str()).unwrap())
        .collect();
    let mut importance: Vec<_> = names
        .iter()
        .zip(options.importance)
        .map(|(name, (_, values))| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: values.as_ptr(),
            size: values.len(),
        })
        .collect();
    importance.push(sys::llama_model_imatrix_data {
        name: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
    });
    let patterns: Vec<CString> = options
        .tensor_types
        .iter()
        .map(|(pattern, _)| CString::new(*pattern).unwrap())
        .collect();
    let mut tensor_types: Vec<_> = patterns
        .iter()
        .zip(options.tensor_types)
        .map(|(pattern, (_, dtype))| sys::llama_model_tensor_override {
            pattern: pattern.as_ptr(),
            type_: *dtype,
        })
        .collect();
    tensor_types.push(sys::llama_model_tensor_override {
        pattern: std::ptr::null(),
        type_: sys::GGML_TYPE_COUNT,
    });
    // SAFETY: no arguments; returns a value.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.ftype = file_type;
    params.nthread = options.threads;
    params.allow_requantize = options.allow_requantize;
    params.pure_ = options.pure;
    params.keep_split = options.keep_split;
    params.quantize_output_tensor = !options.leave_output_tensor;
    if let Some(dtype) = options.output_tensor_type {
        params.output_tensor_type = dtype;
    }
    if let Some(dtype) = options.token_embedding_type {
        params.token_embedding_type = dtype;
    }
    if !options.importance.is_empty() {
        params.imatrix = importance.as_ptr();
    }
    if !options.tensor_types.is_empty() {
        params.tt_overrides = tensor_types.as_ptr();
    }
    // SAFETY: the paths end in a zero, the lists end in an entry of nulls, and all outlive the
    // call.
    let failed = unsafe { sys::llama_model_quantize(input.as_ptr(), out.as_ptr(), &params) };
    failed == 0
}

/// A model that llama.cpp has loaded, and a context of its own.
pub(crate) struct LlamaCpp {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
    vocab_size: usize,
}

impl LlamaCpp {
    /// Loads a GGUF file on the CPU with a cache in single precision; `None` if it refuses.
    pub(crate) fn load(path: &Path, context_length: u32) -> Option<Self> {
        Self::load_watched(path, context_length, None)
    }

    /// As [`Self::load`]; `squares` get the sums of squares of what each matrix of a layer is
    /// multiplied with. They must stay where they are as long as this lives.
    fn load_watched(
        path: &Path,
        context_length: u32,
        squares: Option<&mut Squares>,
    ) -> Option<Self> {
        start();
        let path = c_path(path);
        // SAFETY: the defaults are values; the path ends in a zero and outlives the call; null
        // comes back where loading fails.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            if model.is_null() {
                return None;
            }
            let mut params = sys::llama_context_default_params();
            params.n_ctx = context_length;
            params.n_batch = context_length;
            params.n_threads = 1;
            params.n_threads_batch = 1;
            params.type_k = sys::GGML_TYPE_F32;
            params.type_v = sys::GGML_TYPE_F32;
            // Flash attention would round keys and values to half precision first.
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            if let Some(squares) = squares {
                params.cb_eval = Some(watch);
                params.cb_eval_user_data = std::ptr::from_mut(squares).cast();
            }
            let context = sys::llama_init_from_model(model, params);
            if context.is_null() {
                sys::llama_model_free(model);
                return None;
            }
            let vocab = sys::llama_model_get_vocab(model);
            let vocab_size = sys::llama_vocab_n_tokens(vocab) as usize;
            Some(Self {
                model,
                context,
                vocab_size,
            })
        }
    }

    /// Logits of the last of these tokens, which follow what was decoded before.
    pub(crate) fn decode(&mut self, tokens: &[u32]) -> Vec<f32> {
        let mut tokens: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        // SAFETY: the batch borrows `tokens`, which outlive the call; the context is ours; the
        // logits of the last token are `vocab_size` floats that live until the next call.
        unsafe {
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
            assert_eq!(sys::llama_decode(self.context, batch), 0, "llama_decode");
            let logits = sys::llama_get_logits_ith(self.context, -1);
            std::slice::from_raw_parts(logits, self.vocab_size).to_vec()
        }
    }

    /// Forgets every token.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the context is ours and alive.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context), true) };
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        // SAFETY: both came from llama.cpp, are alive, and nobody else has them.
        unsafe {
            sys::llama_free(self.context);
            sys::llama_model_free(self.model);
        }
    }
}

/// Sums of squares by tensor.
type Squares = BTreeMap<String, Vec<f64>>;

/// Sums of squares of what each matrix of a layer is multiplied with, over these tokens.
pub(crate) fn squares(path: &Path, tokens: &[u32]) -> Squares {
    let mut squares = Squares::new();
    let length = tokens.len() as u32;
    let mut model = LlamaCpp::load_watched(path, length, Some(&mut squares)).unwrap();
    model.decode(tokens);
    drop(model);
    squares
}

/// Takes the inputs of products with weights of layers.
unsafe extern "C" fn watch(tensor: *mut sys::ggml_tensor, ask: bool, squares: *mut c_void) -> bool {
    // SAFETY: llama.cpp passes a live tensor of its graph; a product has two sources; what a name
    // begins with ends in a zero; `squares` is what `load_watched` was given, which outlives the
    // context and is used by this thread alone. Sources of a product on the CPU are host memory
    // of `ne` by `nb`, here single precision.
    unsafe {
        let product = &*tensor;
        if product.op != sys::GGML_OP_MUL_MAT {
            return false;
        }
        let (weight, input) = (&*product.src[0], &*product.src[1]);
        let name = std::ffi::CStr::from_ptr(weight.name.as_ptr()).to_string_lossy();
        if !name.starts_with("blk.") || input.type_ != sys::GGML_TYPE_F32 {
            return false;
        }
        if ask {
            return true;
        }
        let (columns, rows) = (input.ne[0] as usize, input.ne[1] as usize);
        let sums = &mut *squares.cast::<Squares>();
        let sums = sums
            .entry(name.into_owned())
            .or_insert_with(|| vec![0.0; columns]);
        for row in 0..rows {
            let row = input.data.cast::<u8>().add(row * input.nb[1]).cast::<f32>();
            for (sum, value) in sums
                .iter_mut()
                .zip(std::slice::from_raw_parts(row, columns))
            {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
    }
    true
}
