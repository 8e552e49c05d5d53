//! llama.cpp's own context behind [`ModelRunner`]: runs every architecture of a GGUF file that
//! llama.cpp knows, with continuous batching.
//!
//! llama.cpp keeps keys and values in streams, one per sequence, each of the full context length.
//! That is a pool whose blocks are streams: a block id is a sequence id, and a block table has one
//! entry. So memory is taken for the longest sequence times the number of sequences, prompts share
//! no blocks, and the engine above needs to know nothing of it.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::batch::{Bounds, check};
use super::device::{DeviceInfo, opening, quiet, raw_device};
use crate::engine::device::DeviceKind;
use crate::engine::{ModelRunner, RunnerError, StepInput};

/// The most sequences that llama.cpp keeps apart (`LLAMA_MAX_SEQ`).
pub const MAX_SEQUENCES: usize = 256;

/// How a file is run.
#[derive(Clone, Debug)]
pub struct LlamaCppOptions {
    /// Where: graphics processors, each with a stretch of the layers; processors beside them, or
    /// alone, only stand for the processor.
    pub devices: Vec<DeviceInfo>,
    /// Threads, where the device is a processor.
    pub threads: usize,
    /// The longest sequence.
    pub max_model_len: usize,
    /// Sequences, at most [`MAX_SEQUENCES`].
    pub max_num_seqs: usize,
    /// Rows of a step, at most.
    pub max_num_batched_tokens: usize,
    /// Rows of a step that need logits, at most.
    pub max_outputs: usize,
}

/// A file's weights, as llama.cpp holds them.
struct Weights(NonNull<sys::llama_model>);

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: the model is this value's own; the context that uses it is dropped before.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

/// A context of those weights.
struct Running(NonNull<sys::llama_context>);

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own.
        unsafe { sys::llama_free(self.0.as_ptr()) };
    }
}

/// The llama.cpp executor.
pub struct LlamaCppRunner {
    // Dropped in this order: the context uses the weights.
    context: Running,
    weights: Weights,
    bounds: Bounds,
    max_rows: usize,
    max_outputs: usize,
}

impl LlamaCppRunner {
    /// Loads a GGUF file and makes a context.
    ///
    /// # Errors
    /// llama.cpp cannot read the file, does not know its architecture, has no memory, or the
    /// architecture is no decoder; an option is out of range.
    pub fn load(path: &Path, options: &LlamaCppOptions) -> Result<Self, RunnerError> {
        if options.max_num_seqs == 0 || options.max_num_seqs > MAX_SEQUENCES {
            return Err(failure(format!(
                "max_num_seqs is {}; llama.cpp keeps from 1 to {MAX_SEQUENCES} sequences",
                options.max_num_seqs
            )));
        }
        let weights = load_weights(path, &options.devices)?;
        let context = Running(new_context(&weights, options)?);
        // SAFETY: model and context are alive.
        let (vocab_size, stream_len) = unsafe {
            let vocabulary = sys::llama_model_get_vocab(weights.0.as_ptr());
            (
                sys::llama_vocab_n_tokens(vocabulary),
                sys::llama_n_ctx_seq(context.0.as_ptr()),
            )
        };
        Ok(Self {
            context,
            weights,
            bounds: Bounds {
                vocab_size: vocab_size as usize,
                block_size: stream_len as usize,
                num_blocks: options.max_num_seqs,
            },
            max_rows: options.max_num_batched_tokens,
            max_outputs: options.max_outputs,
        })
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_size(self.weights.0.as_ptr()) }
    }

    /// Parameters of the model.
    pub fn num_parameters(&self) -> u64 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_params(self.weights.0.as_ptr()) }
    }

    /// Bytes of keys and values of all streams, at most: architectures with windows or states take
    /// less.
    pub fn kv_bytes(&self) -> u64 {
        let model = self.weights.0.as_ptr();
        // SAFETY: the model is alive.
        let [layers, width, heads, kv_heads] = unsafe {
            [
                sys::llama_model_n_layer(model),
                sys::llama_model_n_embd(model),
                sys::llama_model_n_head(model),
                sys::llama_model_n_head_kv(model),
            ]
        }
        .map(|count| count.max(0) as u64);
        let positions = (self.bounds.block_size * self.bounds.num_blocks) as u64;
        let kv_size = width / heads.max(1) * kv_heads;
        // Keys and values in half precision.
        positions * layers * kv_size * 2 * 2
    }

    /// The longest sequence that the model was made for.
    pub fn model_max_len(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_ctx_train(self.weights.0.as_ptr()) as usize }
    }

    /// Forgets what a stream holds from position `from` on.
    fn truncate(&mut self, stream: u32, from: usize) -> Result<(), RunnerError> {
        let (stream, from) = (stream as i32, from as i32);
        // SAFETY: the context is alive, and the stream is one of its own.
        let done = unsafe {
            let memory = sys::llama_get_memory(self.context.0.as_ptr());
            sys::llama_memory_seq_pos_max(memory, stream) < from
                || sys::llama_memory_seq_rm(memory, stream, from, -1)
        };
        if done {
            return Ok(());
        }
        Err(failure(format!(
            "this architecture cannot go back to position {from} of a sequence; run without \
             --speculate_below"
        )))
    }
}

fn load_weights(path: &Path, devices: &[DeviceInfo]) -> Result<Weights, RunnerError> {
    quiet();
    let file = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| failure(format!("{} has a zero in its name", path.display())))?;
    let gpus = devices.iter().filter(|info| info.kind != DeviceKind::Cpu);
    let find = |info: &DeviceInfo| {
        raw_device(info).ok_or_else(|| failure(format!("device {} is gone", info.name)))
    };
    let mut devices = gpus.map(find).collect::<Result<Vec<_>, _>>()?;
    let has_gpu = !devices.is_empty();
    // The list's end; without a device before it, everything stays on the processor.
    devices.push(std::ptr::null_mut());
    let one_at_a_time = opening();
    // SAFETY: starting twice is harmless; the defaults are plain values; the list of devices and
    // the path live until the call returns.
    let raw = unsafe {
        sys::llama_backend_init();
        let mut params = sys::llama_model_default_params();
        params.devices = devices.as_mut_ptr();
        params.n_gpu_layers = if has_gpu { i32::MAX } else { 0 };
        sys::llama_model_load_from_file(file.as_ptr().cast::<c_char>(), params)
    };
    drop(one_at_a_time);
    let raw = NonNull::new(raw).ok_or_else(|| {
        failure(format!(
            "{} cannot be loaded: llama.cpp does not know its architecture, or the device lacks \
             the memory (its own words: RUST_LOG=debug)",
            path.display()
        ))
    })?;
    let weights = Weights(raw);
    // SAFETY: the model is alive.
    if unsafe { sys::llama_model_has_encoder(raw.as_ptr()) } {
        return Err(failure(format!(
            "{} has an encoder; only decoders generate text here",
            path.display()
        )));
    }
    Ok(weights)
}

fn new_context(
    weights: &Weights,
    options: &LlamaCppOptions,
) -> Result<NonNull<sys::llama_context>, RunnerError> {
    let small = |count: usize, what: &str| {
        u32::try_from(count).map_err(|_| failure(format!("{what} is {count}")))
    };
    let positions = options.max_model_len.saturating_mul(options.max_num_seqs);
    let threads = i32::try_from(options.threads.max(1)).unwrap_or(i32::MAX);
    // SAFETY: the defaults are plain values; the model is alive and outlives the context.
    let raw = unsafe {
        let mut params = sys::llama_context_default_params();
        params.n_ctx = small(positions, "max_model_len times max_num_seqs")?;
        params.n_seq_max = small(options.max_num_seqs, "max_num_seqs")?;
        params.n_batch = small(options.max_num_batched_tokens, "max_num_batched_tokens")?;
        params.n_ubatch = params.n_batch.min(512);
        params.n_outputs_max = small(options.max_outputs, "outputs")?;
        params.n_outputs_max_per_seq = params.n_outputs_max;
        params.n_threads = threads;
        params.n_threads_batch = threads;
        params.kv_unified = false;
        params.no_perf = true;
        sys::llama_init_from_model(weights.0.as_ptr(), params)
    };
    NonNull::new(raw).ok_or_else(|| {
        failure(format!(
            "no memory for {} sequences of {} tokens; lower max_model_len or max_num_seqs",
            options.max_num_seqs, options.max_model_len
        ))
    })
}

/// An error of this executor.
fn failure(message: impl Into<String>) -> RunnerError {
    RunnerError::backend("llama.cpp", message)
}

impl ModelRunner for LlamaCppRunner {
    fn vocab_size(&self) -> usize {
        self.bounds.vocab_size
    }

    fn block_size(&self) -> usize {
        self.bounds.block_size
    }

    fn num_blocks(&self) -> usize {
        self.bounds.num_blocks
    }

    fn is_batch_invariant(&self) -> bool {
        false
    }

    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), RunnerError> {
        check(input, self.bounds).map_err(failure)?;
        let (rows, outputs) = (input.token_ids.len(), input.num_logits());
        if rows > self.max_rows || outputs > self.max_outputs {
            return Err(failure(format!(
                "a step of {rows} rows with {outputs} logits; the limits are {} and {}",
                self.max_rows, self.max_outputs
            )));
        }
        logits.clear();
        if rows == 0 {
            return Ok(());
        }
        let mut tokens: Vec<i32> = input.token_ids.iter().map(|id| *id as i32).collect();
        let (mut positions, mut streams, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in input.sequences.iter().filter(|s| s.num_rows > 0) {
            // `check` says that the table covers every row, so it is not empty.
            let stream = sequence.block_table[0];
            self.truncate(stream, sequence.num_computed_tokens)?;
            let first = sequence.num_computed_tokens;
            for row in 0..sequence.num_rows {
                positions.push((first + row) as i32);
                streams.push(stream as i32);
                wanted.push(i8::from(row + sequence.num_logits >= sequence.num_rows));
            }
        }
        let mut counts = vec![1i32; rows];
        let mut lists: Vec<*mut i32> = streams.iter_mut().map(std::ptr::from_mut).collect();
        let batch = sys::llama_batch {
            n_tokens: rows as i32,
            token: tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: lists.as_mut_ptr(),
            logits: wanted.as_mut_ptr(),
        };
        // SAFETY: the context is alive; every array has an entry per row, and every list of
        // streams has the one entry that its count says.
        let status = unsafe { sys::llama_decode(self.context.0.as_ptr(), batch) };
        if status != 0 {
            return Err(failure(match status {
                1 => "the context has no room for this step".to_owned(),
                status => format!("a step failed with status {status}"),
            }));
        }
        logits.reserve_exact(outputs * self.bounds.vocab_size);
        for row in (0..rows).filter(|row| wanted[*row] == 1) {
            // SAFETY: the row was decoded just now with logits wanted, of which there are as many
            // as the vocabulary has entries; they are copied before the next step.
            unsafe {
                let row = sys::llama_get_logits_ith(self.context.0.as_ptr(), row as i32);
                if row.is_null() {
                    return Err(failure("a step returned no logits"));
                }
                logits.extend(std::slice::from_raw_parts(row, self.bounds.vocab_size));
            }
        }
        Ok(())
    }

    fn copy_block(&mut self, source: u32, target: u32) -> Result<(), RunnerError> {
        let num_blocks = self.bounds.num_blocks;
        if let Some(block) = [source, target].iter().find(|b| **b as usize >= num_blocks) {
            return Err(failure(format!(
                "block {block} is not in the pool of {num_blocks} blocks"
            )));
        }
        self.truncate(target, 0)?;
        // SAFETY: the context is alive, and both streams are of its own.
        unsafe {
            let memory = sys::llama_get_memory(self.context.0.as_ptr());
            sys::llama_memory_seq_cp(memory, source as i32, target as i32, -1, -1);
        }
        Ok(())
    }
}
