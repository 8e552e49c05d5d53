//! The fast paths on a CPU: one source for every instruction set, chosen at run time.
//!
//! Reading order: `simd` (sixteen lanes on any instruction set), `line` (how operands lie in
//! memory), `tile` (the inner loop) and `amx` (the same in matrix tiles), `linear` (matrix products), `kv` (the paged cache), `plan` (a
//! step's sequences, checked), `rotary` and `attention`, `ints` (products of integers), `logits`
//! (passes for the sampler), `pool` (threads).
//!
//! What every kernel keeps: **the bits of a row depend on that row alone.** Sums over the inputs
//! run in one order, whatever the number of rows, tiles, threads or tasks.

#![allow(
    unsafe_code,
    reason = "vector instructions, and threads that write disjoint parts of one buffer"
)]

pub(crate) mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod buffer;
mod compiled;
pub(crate) mod disjoint;
mod ints;
pub(crate) mod isa;
mod kv;
pub(crate) mod line;
mod linear;
mod logits;
pub(crate) mod matmul;
mod norm;
mod plan;
mod pool;
mod probe;
mod rotary;
pub(crate) mod simd;
mod sink;
pub(crate) mod square;
#[cfg(test)]
mod tests;
mod tile;

pub use activation::{Activation, soft_cap_all};
pub use attention::{AttentionScratch, attention};
pub use buffer::{FloatBuffer, Plain};
pub use ints::{
    GROUP, IntFormat, IntGatedMatrix, IntMatrix, IntRow, IntRows, WIDE_GROUP, gated_linear_ints,
    linear_ints, linear_ints_strided, quantise_rows,
};
pub use isa::{Isa, IsaError};
pub use kv::{KvCache, KvFormat, KvShape};
pub use line::{Arithmetic, Bf16, F32, Line, Operand, Rows};
pub use linear::{GatedMatrix, PackedMatrix, Target, gated_linear, linear, linear_strided};
pub use logits::{
    Greatest, LOGITS_PER_BLOCK, Scan, exp_of_nonpositive, greatest, scan, sum_of_exponentials,
};
pub use matmul::{Matrix, Precision, Start, Values, multiply};
pub use norm::{Vector, add_rms_norm, rms_norm};
pub use plan::{Plan, PlanError, SequenceRows};
pub use pool::ThreadPool;
pub use probe::{peak_flops, peak_int_ops, read_bandwidth};
pub use rotary::{HeadNorms, RotaryTable, rotate_and_store};

/// What kernels run on: an instruction set and threads.
pub struct Cpu {
    isa: Isa,
    pool: ThreadPool,
}

impl Cpu {
    /// The given instruction set on `threads` threads, the caller's included.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Self> {
        let pool = ThreadPool::new(threads)?;
        Ok(Self { isa, pool })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// Lets `fill` write each of the first `num_rows` rows, on all threads.
///
/// # Panics
/// A row is missing.
pub fn fill_rows(
    cpu: &mut Cpu,
    rows: &mut Rows<F32>,
    num_rows: usize,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (stride, width) = (rows.stride(), rows.width());
    let words = disjoint::Disjoint::new(rows.words_mut());
    cpu.pool.for_each(num_rows, |row| {
        // SAFETY: a row is one task.
        fill(row, unsafe {
            words.range(row * stride..row * stride + width)
        });
    });
}
