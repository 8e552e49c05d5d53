//! What the machine can do at most, measured: the yardstick of every benchmark.
//!
//! Both probes take the best of a few short rounds, so that a moment's noise does not lower the
//! limit that results are held against.

use std::hint::black_box;
use std::time::Instant;

use super::Cpu;
use super::ints::IntFormat;
use super::isa::Isa;
use super::line::{Arithmetic, Bf16, Line, Operand};
use super::simd::{Kernel, LANES, Simd};

const ROUNDS: usize = 20;

/// Floating point operations per second of all threads together: multiply-adds of one operand type
/// on registers, no memory.
pub fn peak_flops<O: Arithmetic>(cpu: &mut Cpu) -> f64 {
    const STEPS: usize = 100_000;
    let (isa, threads) = (cpu.isa, cpu.threads());
    let operations = threads * STEPS * O::multiply_adds(isa, 1);
    best_rate(cpu, operations, |_| {
        O::multiply_adds(isa, STEPS);
    })
}

/// The best of a few rounds in which all threads together get `amount` done, per second.
fn best_rate(cpu: &mut Cpu, amount: usize, work: impl Fn(usize) + Sync) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        cpu.pool.run(&work);
        best = best.max(amount as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Independent sums: enough to hide the latency of a multiply-add.
const ACCUMULATORS: usize = 16;

/// Multiplies and adds on vector registers, `steps` times in each accumulator. Returns the
/// operations of a step.
pub(super) fn on_vectors<O: Arithmetic>(isa: Isa, steps: usize) -> usize {
    black_box(isa.run(MultiplyAdds::<O>(steps, O::word(&[1e-3; 2]))));
    ACCUMULATORS * LANES * O::PER_WORD * 2
}

/// The same in matrix tiles where there are such.
pub(super) fn on_bf16(isa: Isa, steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx() {
        return amx.multiply_adds(steps);
    }
    on_vectors::<Bf16>(isa, steps)
}

struct MultiplyAdds<O: Operand>(usize, O::Word);

impl<O: Arithmetic> Kernel for MultiplyAdds<O> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        // Lines, not arrays: an operand across two cache lines would be two loads.
        let lines = black_box([Line([self.1; LANES]); 4]);
        let xs = black_box([self.1; 4]);
        let mut sums = [simd.splat(0.0); ACCUMULATORS];
        for _ in 0..self.0 {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = O::multiply_add(simd, *sum, &lines[index % 4].0, xs[index / 4]);
            }
        }
        let total = sums.into_iter().reduce(|a, b| simd.add(a, b));
        simd.sum(total.expect("there are accumulators"))
    }
}

/// Multiplications and additions of 8-bit integers per second, likewise, by the instructions that
/// products of many rows with weights of `format` use.
pub fn peak_int_ops(cpu: &mut Cpu, format: IntFormat) -> f64 {
    const STEPS: usize = 100_000;
    let (isa, threads) = (cpu.isa, cpu.threads());
    let operations = threads * STEPS * on_bytes(isa, format, 1);
    best_rate(cpu, operations, |_| {
        on_bytes(isa, format, STEPS);
    })
}

fn on_bytes(isa: Isa, format: IntFormat, steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx().filter(|_| format.is_multiplied_in_tiles()) {
        return amx.multiply_byte_adds(steps);
    }
    black_box(isa.run(ByteMultiplyAdds(steps)));
    ACCUMULATORS * LANES * 4 * 2
}

struct ByteMultiplyAdds(usize);

impl Kernel for ByteMultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let lines = black_box([Line([0x0101_0101_u32; LANES]); 4]);
        let weights: [S::Words; 4] = std::array::from_fn(|line| simd.load_words(&lines[line].0));
        let xs = black_box([0x0001_0001_u32; 4]);
        let mut sums = [simd.splat_word(0); ACCUMULATORS];
        for _ in 0..self.0 {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = simd.dot_bytes(*sum, weights[index % 4], xs[index / 4]);
            }
        }
        let sums = sums.into_iter().map(|sum| simd.to_f32(sum));
        let total = sums.reduce(|a, b| simd.add(a, b));
        simd.sum(total.expect("there are accumulators"))
    }
}

/// Bytes per second that all threads together read from memory, streaming.
pub fn read_bandwidth(cpu: &mut Cpu) -> f64 {
    const BYTES: usize = 192 << 20;
    let lines = vec![Line([1.0_f32; LANES]); BYTES / size_of::<Line<f32>>()];
    let (isa, threads) = (cpu.isa, cpu.threads());
    best_rate(cpu, BYTES, |worker| {
        let part = lines.len() / threads;
        black_box(isa.run(Sum(&lines[worker * part..(worker + 1) * part])));
    })
}

/// How far ahead lines are asked for: without, two cores of some CPUs read a tenth less.
const LINES_AHEAD: usize = 32;

struct Sum<'a>(&'a [Line<f32>]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        // Four streams, like the panels of a product, so that one does not wait for another.
        let quarter = self.0.len() / 4;
        let mut sums = [simd.splat(0.0); 4];
        for index in 0..quarter {
            for (stream, sum) in sums.iter_mut().enumerate() {
                let line = &self.0[stream * quarter + index];
                simd.prefetch(std::ptr::from_ref(line).wrapping_add(LINES_AHEAD).cast());
                *sum = simd.add(*sum, simd.load(&line.0));
            }
        }
        let total = sums.into_iter().reduce(|a, b| simd.add(a, b));
        simd.sum(total.expect("there are streams"))
    }
}
