//! A decoding step of the CPU executor takes no memory once it is warm.
//!
//! The one test of its binary, because it counts what the whole process allocates.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stderr, reason = "a test says when it skips")]

#[path = "it/shared.rs"]
mod shared;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use micota::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
use micota::engine::{ModelRunner, StepInput, StepSequence};
use micota::formats::Checkpoint;
use micota::kernels::cpu::Isa;
use micota::model::Model;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is the system allocator's doing; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A step that decodes one token of each sequence at `position`.
fn decode(num_sequences: usize, position: usize) -> StepInput {
    const BLOCKS: usize = 20;
    let sequence = |index: usize| StepSequence {
        first_row: index,
        num_rows: 1,
        num_computed_tokens: position,
        block_table: (0..BLOCKS as u32)
            .map(|block| (index * BLOCKS) as u32 + block)
            .collect(),
        num_logits: 1,
    };
    StepInput {
        token_ids: (0..num_sequences as u32).map(|token| token + 1).collect(),
        sequences: (0..num_sequences).map(sequence).collect(),
    }
}

#[test]
fn a_warm_decoding_step_takes_no_memory() {
    const SEQUENCES: usize = 8;
    const WARM_UP: usize = 270;
    let Some(shared) = shared::shared() else {
        return;
    };
    let checkpoint = Checkpoint::open(shared.join("golden/tiny/q3")).unwrap();
    let model = Arc::new(Model::from_checkpoint(Arc::new(checkpoint)).unwrap());
    for (quantize, kv_type) in [
        (Quantize::None, KvType::Auto),
        (Quantize::Int8, KvType::Int8),
    ] {
        let options = CpuOptions {
            compute_type: ComputeType::Bf16,
            quantize,
            kv_type,
            threads: 2,
            isa: Isa::detect(),
            block_size: 16,
            num_blocks: SEQUENCES * 20,
            max_model_len: 320,
        };
        let mut runner = CpuRunner::load(&model, &options).unwrap();
        let mut logits = Vec::new();
        let steps: Vec<_> = (0..300).map(|at| decode(SEQUENCES, at)).collect();
        for step in &steps[..WARM_UP] {
            runner.forward(step, &mut logits).unwrap();
        }
        let before = ALLOCATIONS.load(SeqCst);
        for step in &steps[WARM_UP..] {
            runner.forward(step, &mut logits).unwrap();
        }
        let taken = ALLOCATIONS.load(SeqCst) - before;
        assert_eq!(
            taken, 0,
            "allocations of 30 steps, {quantize}, KV {kv_type}"
        );
    }
}
