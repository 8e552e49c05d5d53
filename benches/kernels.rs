//! Kernels against the machine's limits, measured in the same run.
//!
//! `cargo bench --bench kernels [-- FILTER]` prints a table per subject: `linear`, `ints`,
//! `attention`.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use micota::kernels::cpu::{
    AttentionScratch, Bf16, Cpu, F32, IntFormat, IntMatrix, IntRows, Isa, KvCache, KvFormat,
    KvShape, PackedMatrix, Plan, RotaryTable, Rows, SequenceRows, Target, attention, linear,
    linear_ints, peak_flops, peak_int_ops, quantise_rows, read_bandwidth, rotate_and_store,
};
use micota::kernels::quant::BlockType;
use micota::kernels::reference::AttentionShape;

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

/// Outputs and inputs of Qwen2.5-0.5B's matrices, and a quarter of its head.
const MATRICES: [(usize, usize); 5] = [
    (1152, 896),
    (9728, 896),
    (896, 4864),
    (896, 896),
    (37984, 896),
];

const ROW_COUNTS: [usize; 6] = [1, 8, 32, 64, 256, 512];

fn weight(output: usize, input: usize) -> f32 {
    ((output * 7 + input * 13) % 32) as f32 / 32.0 - 0.5
}

fn bf16_rows(num_rows: usize, inputs: usize) -> Rows<Bf16> {
    let mut rows = Rows::<Bf16>::zeros(num_rows, inputs);
    for row in 0..num_rows {
        let values: Vec<_> = (0..inputs).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
        rows.set_row(row, &values);
    }
    rows
}

/// Prints one line of a table of products.
fn report(
    shape: (usize, usize),
    num_rows: usize,
    weight_bytes: usize,
    time: Duration,
    (peak, bandwidth): (f64, f64),
) {
    let (outputs, inputs) = shape;
    let time = time.as_secs_f64();
    let flops = 2.0 * (outputs * inputs * num_rows) as f64 / time;
    let bytes = weight_bytes as f64 / time;
    println!(
        "{outputs:>7} x {inputs:<7} {num_rows:>8} {:>9.0} {:>7.0}% {:>7.1} {:>7.0}%",
        flops / 1e9,
        100.0 * flops / peak,
        bytes / 1e9,
        100.0 * bytes / bandwidth
    );
}

fn measure_linear(cpu: &mut Cpu) {
    let limits = (peak_flops::<Bf16>(cpu), read_bandwidth(cpu));
    println!(
        "\nlinear, bf16, {} threads, {}: peak {:.0} GFLOP/s (f32 {:.0}), read {:.1} GB/s",
        cpu.threads(),
        cpu.isa(),
        limits.0 / 1e9,
        peak_flops::<F32>(cpu) / 1e9,
        limits.1 / 1e9
    );
    println!("outputs x inputs      rows   GFLOP/s  of peak    GB/s  of read");
    for shape in MATRICES {
        let (outputs, inputs) = shape;
        let weights = PackedMatrix::<Bf16>::pack(cpu, outputs, inputs, |output, row| {
            for (input, value) in row.iter_mut().enumerate() {
                *value = weight(output, input);
            }
        })
        .expect("memory");
        for num_rows in ROW_COUNTS {
            let rows = bf16_rows(num_rows, inputs);
            let mut out = Rows::<F32>::zeros(num_rows, outputs);
            let time = best_of(|| {
                let target = Target::Replace;
                linear(cpu, &weights, &rows, num_rows, None, target, &mut out);
                black_box(&mut out);
            });
            report(shape, num_rows, weights.bytes(), time, limits);
        }
    }
}

/// Products of integers, the rounding of the activations included.
fn measure_ints(cpu: &mut Cpu) {
    for format in IntFormat::ALL {
        let limits = (peak_int_ops(cpu, format), read_bandwidth(cpu));
        println!(
            "\nints, {}, {} threads, {}: peak {:.0} GOP/s, read {:.1} GB/s",
            format.name(),
            cpu.threads(),
            cpu.isa(),
            limits.0 / 1e9,
            limits.1 / 1e9
        );
        println!("outputs x inputs      rows     GOP/s  of peak    GB/s  of read");
        for shape in MATRICES {
            let (outputs, inputs) = shape;
            let weights = int_matrix(cpu, format, outputs, inputs);
            for num_rows in ROW_COUNTS {
                let rows = bf16_rows(num_rows, inputs);
                let mut ints = IntRows::zeros(num_rows, inputs, format.group());
                let mut out = Rows::<F32>::zeros(num_rows, outputs);
                let time = best_of(|| {
                    let target = Target::Replace;
                    quantise_rows(cpu, &rows, num_rows, &mut ints);
                    linear_ints(cpu, &weights, &ints, num_rows, None, target, &mut out);
                    black_box(&mut out);
                });
                report(shape, num_rows, weights.bytes(), time, limits);
            }
        }
    }
}

fn int_matrix(cpu: &mut Cpu, format: IntFormat, outputs: usize, inputs: usize) -> IntMatrix {
    let eight_bits = !matches!(format, IntFormat::Int4 | IntFormat::Int4Affine);
    IntMatrix::pack(cpu, format, outputs, inputs, |output, row| {
        let values: Vec<_> = (0..inputs).map(|input| weight(output, input)).collect();
        if eight_bits {
            row.quantise(&values);
        } else {
            let mut blocks = vec![0; inputs / 32 * 18];
            assert!(BlockType::Q4_0.quantise(&values, &mut blocks));
            row.read(BlockType::Q4_0, &blocks);
        }
    })
    .expect("memory")
}

/// Attention of Qwen2.5-0.5B's shape: decoding reads every key and value once.
fn measure_attention(cpu: &mut Cpu, format: KvFormat) {
    const BLOCK_SIZE: usize = 32;
    let shape = AttentionShape {
        num_heads: 14,
        num_key_value_heads: 2,
        head_dim: 64,
        scale: 0.125,
        soft_cap: None,
        window: None,
    };
    let (peak, bandwidth) = (peak_flops::<Bf16>(cpu), read_bandwidth(cpu));
    println!(
        "\nattention, bf16, keys and values {}, {} threads, {}",
        match format {
            KvFormat::Floats => "bf16",
            KvFormat::Int8 => "int8",
        },
        cpu.threads(),
        cpu.isa()
    );
    println!("sequences     rows  context        us   GFLOP/s  of peak    GB/s  of read");
    for (num_sequences, num_rows, context) in [
        (1usize, 1usize, 1024usize),
        (1, 1, 16384),
        (16, 1, 1024),
        (16, 1, 8192),
        (64, 1, 512),
        (1, 512, 0),
        (1, 512, 4096),
    ] {
        let blocks = (context + num_rows).div_ceil(BLOCK_SIZE);
        let extent = KvShape {
            num_layers: 1,
            num_blocks: num_sequences * blocks,
            block_size: BLOCK_SIZE,
            num_key_value_heads: shape.num_key_value_heads,
            head_dim: shape.head_dim,
            format,
        };
        let mut cache = KvCache::<Bf16>::new(extent).expect("memory");
        let rows = num_sequences * num_rows;
        let q_size = shape.num_heads * shape.head_dim;
        let width = q_size + 2 * shape.num_key_value_heads * shape.head_dim;
        let mut qkv = Rows::<F32>::zeros(rows, width);
        for row in 0..rows {
            let values = (0..width).map(|column| ((row * 31 + column) % 37) as f32 / 37.0 - 0.5);
            qkv.set_row(row, &values.collect::<Vec<_>>());
        }
        let mut queries = Rows::<Bf16>::zeros(rows, q_size);
        let mut out = Rows::<Bf16>::zeros(rows, q_size);
        let tables: Vec<Vec<u32>> = (0..num_sequences)
            .map(|index| {
                (index * blocks..(index + 1) * blocks)
                    .map(|b| b as u32)
                    .collect()
            })
            .collect();
        let mut plan = Plan::new(extent);
        plan.set(tables.iter().map(|block_table| SequenceRows {
            num_rows,
            first_position: context,
            block_table,
        }))
        .expect("a plan");
        let rotary = RotaryTable::new(0);
        rotate_and_store(
            cpu,
            &plan,
            &mut qkv,
            None,
            &rotary,
            &mut cache,
            0,
            &mut queries,
        );
        let filled = tables[0][context / BLOCK_SIZE] as usize;
        for block in 0..extent.num_blocks {
            if block != filled {
                cache.copy_block(filled, block);
            }
        }
        let mut scratch = AttentionScratch::new(shape.head_dim, cpu.threads());
        let time = best_of(|| {
            attention(
                cpu,
                &plan,
                &shape,
                &queries,
                &cache,
                0,
                &mut scratch,
                &mut out,
            );
            black_box(&mut out);
        })
        .as_secs_f64();
        let seen: usize = (context + 1..=context + num_rows).sum();
        let flops = (4 * num_sequences * seen * q_size) as f64 / time;
        let bytes = cache.bytes() as f64 / time;
        println!(
            "{num_sequences:>9} {num_rows:>8} {context:>8} {:>9.0} {:>9.0} {:>7.0}% {:>7.1} {:>7.0}%",
            time * 1e6,
            flops / 1e9,
            100.0 * flops / peak,
            bytes / 1e9,
            100.0 * bytes / bandwidth
        );
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
    if wanted("ints") {
        measure_ints(&mut cpu);
    }
    if wanted("attention") {
        measure_attention(&mut cpu, KvFormat::Floats);
        measure_attention(&mut cpu, KvFormat::Int8);
    }
}
