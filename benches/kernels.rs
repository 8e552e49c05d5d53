//! Kernels against the machine's limits, measured in the same run.
//!
//! `cargo bench --bench kernels [-- FILTER]` prints a table per subject: `linear`, `attention`.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use micota::kernels::cpu::{
    Bf16, Cpu, F32, Isa, PackedMatrix, Rows, Target, linear, peak_flops, read_bandwidth,
};

/// The fastest of the rounds that fit into a short burst: the machine may be shared.
fn best_of(mut body: impl FnMut()) -> Duration {
    body();
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(400) {
        let round = Instant::now();
        body();
        best = best.min(round.elapsed());
    }
    best
}

fn measure_linear(cpu: &mut Cpu) {
    let peak = peak_flops::<Bf16>(cpu);
    let bandwidth = read_bandwidth(cpu);
    println!(
        "\nlinear, bf16, {} threads, {}: peak {:.0} GFLOP/s (f32 {:.0}), read {:.1} GB/s",
        cpu.threads(),
        cpu.isa(),
        peak / 1e9,
        peak_flops::<F32>(cpu) / 1e9,
        bandwidth / 1e9
    );
    println!("outputs x inputs      rows   GFLOP/s  of peak    GB/s  of read");
    for (outputs, inputs) in [
        (1152, 896),
        (9728, 896),
        (896, 4864),
        (896, 896),
        (37984, 896),
    ] {
        let weights = PackedMatrix::<Bf16>::pack(cpu, outputs, inputs, |output, row| {
            for (input, value) in row.iter_mut().enumerate() {
                *value = ((output * 7 + input * 13) % 32) as f32 / 32.0 - 0.5;
            }
        })
        .expect("memory");
        // Copies that together exceed the last-level cache, as the layers of a model do.
        for num_rows in [1, 8, 32, 64, 256, 512] {
            let mut rows = Rows::<Bf16>::zeros(num_rows, inputs);
            for row in 0..num_rows {
                let values: Vec<_> = (0..inputs).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
                rows.set_row(row, &values);
            }
            let mut out = Rows::<F32>::zeros(num_rows, outputs);
            let time = best_of(|| {
                linear(
                    cpu,
                    &weights,
                    &rows,
                    num_rows,
                    None,
                    Target::Replace,
                    &mut out,
                );
                black_box(&mut out);
            })
            .as_secs_f64();
            let flops = 2.0 * (outputs * inputs * num_rows) as f64 / time;
            let bytes = weights.bytes() as f64 / time;
            println!(
                "{outputs:>7} x {inputs:<7} {num_rows:>8} {:>9.0} {:>7.0}% {:>7.1} {:>7.0}%",
                flops / 1e9,
                100.0 * flops / peak,
                bytes / 1e9,
                100.0 * bytes / bandwidth
            );
        }
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |subject: &str| {
        filter
            .as_deref()
            .is_none_or(|filter| subject.contains(filter))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cpu = Cpu::new(Isa::detect(), threads).expect("threads");
    if wanted("linear") {
        measure_linear(&mut cpu);
    }
}
