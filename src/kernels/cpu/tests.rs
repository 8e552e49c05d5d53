//! Every path of this CPU against `kernels::reference`, and against itself: a row alone must have
//! the bits that it has in company.

use std::ops::Range;

use proptest::prelude::*;

use super::line::Arithmetic;
use super::*;
use crate::reference::{self, AttentionShape};

/// Values in (-1, 1), rounded to what the storage type holds.
fn values<O: Operand>(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count)
        .map(|_| O::values(O::word(&[next()]))[0])
        .collect()
}

fn rows<O: Operand>(values: &[f32], width: usize) -> Rows<O> {
    let mut rows = Rows::zeros(values.len() / width, width);
    for (index, row) in values.chunks_exact(width).enumerate() {
        rows.set_row(index, row);
    }
    rows
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}: element {index} is {actual}, not {expected}"
        );
    }
}

/// Runs a body on every instruction set of this CPU, on one thread and on two.
fn on_every_path(mut body: impl FnMut(&mut Cpu)) {
    for isa in Isa::available() {
        for threads in 1..=2 {
            body(&mut Cpu::new(isa, threads).unwrap());
        }
    }
}

/// (rows, inputs, outputs): every tile shape, ragged in all directions.
const PRODUCTS: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 7, 17),
    (2, 64, 16),
    (3, 33, 100),
    (5, 96, 48),
    (6, 130, 64),
    (7, 31, 80),
    (13, 256, 112),
    (200, 40, 33),
];

fn check_linear<O: Arithmetic>(cpu: &mut Cpu, (num_rows, inputs, outputs): (usize, usize, usize)) {
    let what = format!("{} {num_rows} x {inputs} x {outputs}", cpu.isa());
    let x = values::<O>(1, num_rows * inputs);
    let w = values::<O>(2, outputs * inputs);
    let bias = values::<F32>(3, outputs);
    let residual = values::<F32>(4, num_rows * outputs);
    let read = |row: usize, to: &mut [f32]| to.copy_from_slice(&w[row * inputs..][..inputs]);
    let weights = PackedMatrix::<O>::pack(cpu, outputs, inputs, read).unwrap();
    let mut expected = vec![0.0; num_rows * outputs];
    reference::matmul(&x, &w, Some(&bias), inputs, &mut expected);
    for (value, residual) in expected.iter_mut().zip(&residual) {
        *value += residual;
    }

    let mut out = rows::<F32>(&residual, outputs);
    let all = rows::<O>(&x, inputs);
    linear(
        cpu,
        &weights,
        &all,
        num_rows,
        Some(&bias),
        Target::Add,
        &mut out,
    );
    let mut alone = Rows::<F32>::zeros(1, outputs);
    for row in 0..num_rows {
        let expected = &expected[row * outputs..][..outputs];
        assert_close(&what, out.row(row), expected, 2e-5);
        alone
            .row_mut(0)
            .copy_from_slice(&residual[row * outputs..][..outputs]);
        let one = rows::<O>(&x[row * inputs..][..inputs], inputs);
        linear(cpu, &weights, &one, 1, Some(&bias), Target::Add, &mut alone);
        assert_eq!(alone.row(0), out.row(row), "{what}: row {row} alone");
    }
}

#[test]
fn products_agree_with_the_reference_and_rows_with_themselves() {
    on_every_path(|cpu| {
        for product in PRODUCTS {
            check_linear::<Bf16>(cpu, product);
            check_linear::<F32>(cpu, product);
        }
    });
}

fn check_gated<O: Arithmetic>(cpu: &mut Cpu, (num_rows, inputs, width): (usize, usize, usize)) {
    let x = values::<O>(1, num_rows * inputs);
    let (gate, up) = (
        values::<O>(2, width * inputs),
        values::<O>(3, width * inputs),
    );
    let weights = GatedMatrix::<O>::pack(
        cpu,
        width,
        inputs,
        |row, to| to.copy_from_slice(&gate[row * inputs..][..inputs]),
        |row, to| to.copy_from_slice(&up[row * inputs..][..inputs]),
    )
    .unwrap();
    let mut halves = [vec![0.0; num_rows * width], vec![0.0; num_rows * width]];
    reference::matmul(&x, &gate, None, inputs, &mut halves[0]);
    reference::matmul(&x, &up, None, inputs, &mut halves[1]);
    for (activation, function) in [
        (Activation::Silu, reference::silu as fn(f32) -> f32),
        (Activation::GeluTanh, reference::gelu_tanh),
    ] {
        let mut expected = vec![0.0; num_rows * width];
        reference::gated(&halves[0], &halves[1], function, &mut expected);
        let mut out = Rows::<O>::zeros(num_rows, width);
        let all = rows::<O>(&x, inputs);
        gated_linear(cpu, &weights, &all, num_rows, activation, &mut out);
        // The result is rounded to the storage type.
        let tolerance = if O::PER_WORD == 2 { 4e-3 } else { 2e-5 };
        let mut alone = Rows::<O>::zeros(1, width);
        for row in 0..num_rows {
            let what = format!("{} {activation:?}", cpu.isa());
            let expected = &expected[row * width..][..width];
            assert_close(&what, &out.row_values(row), expected, tolerance);
            let one = rows::<O>(&x[row * inputs..][..inputs], inputs);
            gated_linear(cpu, &weights, &one, 1, activation, &mut alone);
            assert_eq!(alone.row_words(0), out.row_words(row), "{what}: row {row}");
        }
    }
}

#[test]
fn gated_products_agree_with_the_reference_and_rows_with_themselves() {
    on_every_path(|cpu| {
        for product in PRODUCTS {
            check_gated::<Bf16>(cpu, product);
            check_gated::<F32>(cpu, product);
        }
    });
}

#[test]
fn norms_agree_with_the_reference() {
    on_every_path(|cpu| {
        for width in [1, 15, 16, 50, 896] {
            let x = values::<F32>(width as u64, 3 * width);
            let weight = values::<F32>(9, width);
            let mut expected = vec![0.0; width];
            reference::rms_norm(&x[width..2 * width], &weight, 1e-6, &mut expected);
            let weight = Vector::new(&weight);
            let x = rows::<F32>(&x, width);
            let mut out = Rows::<F32>::zeros(1, width);
            rms_norm(cpu, &x, &[1], &weight, 1e-6, &mut out);
            assert_close("norm", out.row(0), &expected, 1e-6);
            let mut half = Rows::<Bf16>::zeros(1, width);
            rms_norm(cpu, &x, &[1], &weight, 1e-6, &mut half);
            assert_close("rounded norm", &half.row_values(0), &expected, 4e-3);

            let mut sum = x.clone();
            add_rms_norm(cpu, &x, 2, &weight, 1e-6, &mut sum);
            let both: Vec<_> = x.row(1).iter().zip(&expected).map(|(x, n)| x + n).collect();
            assert_close("added norm", sum.row(1), &both, 1e-6);
            assert_eq!(sum.row(2), x.row(2), "rows beyond are untouched");
        }
    });
}

/// One sequence whose queries, keys and values are given for every position.
struct Sequence {
    shape: AttentionShape,
    positions: usize,
    qkv: Vec<f32>,
}

impl Sequence {
    fn new<O: Operand>(seed: u64, shape: AttentionShape, positions: usize) -> Self {
        let width = (shape.num_heads + 2 * shape.num_key_value_heads) * shape.head_dim;
        Self {
            shape,
            positions,
            qkv: values::<O>(seed, positions * width),
        }
    }

    fn width(&self) -> usize {
        self.qkv.len() / self.positions
    }

    /// The reference's result for every position, `[positions, num_heads * head_dim]`.
    fn expected(&self) -> Vec<f32> {
        let (q_size, kv_size) = (
            self.shape.num_heads * self.shape.head_dim,
            self.shape.num_key_value_heads * self.shape.head_dim,
        );
        let part = |columns: Range<usize>| -> Vec<f32> {
            let rows = self.qkv.chunks_exact(self.width());
            rows.flat_map(|row| row[columns.clone()].to_vec()).collect()
        };
        let (q, k) = (part(0..q_size), part(q_size..q_size + kv_size));
        let v = part(q_size + kv_size..self.width());
        let mut out = vec![0.0; q.len()];
        reference::attention(&self.shape, 0, &q, &k, &v, &mut out);
        out
    }
}

/// A cache and the buffers around it.
struct Bench<O: Operand> {
    cache: KvCache<O>,
    plan: Plan,
    scratch: AttentionScratch<O>,
    rotary: RotaryTable,
}

impl<O: Arithmetic> Bench<O> {
    fn new(
        cpu: &Cpu,
        shape: &AttentionShape,
        format: KvFormat,
        block_size: usize,
        num_blocks: usize,
    ) -> Self {
        let extent = KvShape {
            num_layers: 2,
            num_blocks,
            block_size,
            num_key_value_heads: shape.num_key_value_heads,
            head_dim: shape.head_dim,
            format,
        };
        Self {
            cache: KvCache::new(extent).unwrap(),
            plan: Plan::new(extent),
            scratch: AttentionScratch::new(shape.head_dim, cpu.threads()),
            // Nothing rotates: rotation has its own test.
            rotary: RotaryTable::new(0),
        }
    }

    /// Runs rows `range` of each sequence in one step; the results of all rows back to back.
    fn step(
        &mut self,
        cpu: &mut Cpu,
        parts: &[(&Sequence, Range<usize>, &[u32])],
    ) -> Vec<Vec<O::Word>> {
        let shape = parts[0].0.shape;
        let mut all = Vec::new();
        for (sequence, range, _) in parts {
            let width = sequence.width();
            all.extend_from_slice(&sequence.qkv[range.start * width..range.end * width]);
        }
        let sequences = parts.iter().map(|(_, range, block_table)| SequenceRows {
            num_rows: range.len(),
            first_position: range.start,
            block_table,
        });
        self.plan.set(sequences).unwrap();
        let mut qkv = rows::<F32>(&all, parts[0].0.width());
        let width = shape.num_heads * shape.head_dim;
        let mut queries = Rows::<O>::zeros(qkv.rows(), width);
        let mut out = Rows::<O>::zeros(qkv.rows(), width);
        rotate_and_store(
            cpu,
            &self.plan,
            &mut qkv,
            None,
            &self.rotary,
            &mut self.cache,
            1,
            &mut queries,
        );
        attention(
            cpu,
            &self.plan,
            &shape,
            &queries,
            &self.cache,
            1,
            &mut self.scratch,
            &mut out,
        );
        (0..out.rows())
            .map(|row| out.row_words(row).to_vec())
            .collect()
    }
}

const SHAPES: [AttentionShape; 4] = [
    // Qwen2.5-0.5B's grouping.
    AttentionShape {
        num_heads: 14,
        num_key_value_heads: 2,
        head_dim: 64,
        scale: 0.125,
        soft_cap: None,
        window: None,
    },
    AttentionShape {
        num_heads: 4,
        num_key_value_heads: 1,
        head_dim: 32,
        scale: 0.3,
        soft_cap: Some(2.0),
        window: Some(50),
    },
    AttentionShape {
        num_heads: 2,
        num_key_value_heads: 2,
        head_dim: 16,
        scale: 0.25,
        soft_cap: None,
        window: Some(1),
    },
    // A head that does not fill its last panel.
    AttentionShape {
        num_heads: 3,
        num_key_value_heads: 3,
        head_dim: 22,
        scale: 0.2,
        soft_cap: None,
        window: Some(130),
    },
];

fn check_attention<O: Arithmetic>(cpu: &mut Cpu, shape: AttentionShape, format: KvFormat) {
    let positions = 300;
    let sequence = Sequence::new::<O>(5, shape, positions);
    let mut bench = Bench::<O>::new(cpu, &shape, format, 32, 10);
    let table: Vec<u32> = (0..10).rev().collect();
    let together = bench.step(cpu, &[(&sequence, 0..positions, &table)]);
    // Weights and results are rounded to the storage type, keys and values to the cache's.
    let tolerance = match (format, O::PER_WORD) {
        (KvFormat::Int8, _) => 1.5e-2,
        (KvFormat::Floats, 2) => 8e-3,
        (KvFormat::Floats, _) => 2e-5,
    };
    let what = format!("{} {format:?} {shape:?}", cpu.isa());
    let width = shape.num_heads * shape.head_dim;
    for (row, expected) in together.iter().zip(sequence.expected().chunks(width)) {
        let actual: Vec<f32> = row
            .iter()
            .flat_map(|word| O::values(*word).into_iter().take(O::PER_WORD))
            .take(width)
            .collect();
        assert_close(&what, &actual, expected, tolerance);
    }
    // The last positions again, one at a time: decoding equals prefill bit for bit.
    for (row, expected) in together.iter().enumerate().skip(positions - 3) {
        let alone = bench.step(cpu, &[(&sequence, row..row + 1, &table)]);
        assert_eq!(&alone[0], expected, "{what}: row {row} alone");
    }
}

#[test]
fn attention_agrees_with_the_reference_and_decode_with_prefill() {
    on_every_path(|cpu| {
        for shape in SHAPES {
            for format in [KvFormat::Floats, KvFormat::Int8] {
                check_attention::<Bf16>(cpu, shape, format);
                check_attention::<F32>(cpu, shape, format);
            }
        }
    });
}

#[test]
fn rotation_agrees_with_the_reference() {
    let (heads, kv_heads, dim, pairs) = (3, 1, 32, 8);
    let extent = KvShape {
        num_layers: 1,
        num_blocks: 1,
        block_size: 16,
        num_key_value_heads: kv_heads,
        head_dim: dim,
        format: KvFormat::Floats,
    };
    let mut table = RotaryTable::new(pairs);
    table.extend(8, |position, cos, sin| {
        for pair in 0..pairs {
            let angle = position as f32 / (pair + 1) as f32;
            (cos[pair], sin[pair]) = (angle.cos(), angle.sin());
        }
    });
    let width = (heads + 2 * kv_heads) * dim;
    let x = values::<F32>(7, width);
    let weight = values::<F32>(8, dim);
    let norm = Vector::new(&weight);
    let norms = HeadNorms {
        query: &norm,
        key: &norm,
        eps: 1e-6,
    };
    let angle = |pair: usize| 5.0 / (pair + 1) as f32;
    let cos: Vec<f32> = (0..pairs).map(|pair| angle(pair).cos()).collect();
    let sin: Vec<f32> = (0..pairs).map(|pair| angle(pair).sin()).collect();
    on_every_path(|cpu| {
        let mut plan = Plan::new(extent);
        let rows_of = SequenceRows {
            num_rows: 1,
            first_position: 5,
            block_table: &[0],
        };
        plan.set([rows_of]).unwrap();
        let mut qkv = rows::<F32>(&x, width);
        let mut cache = KvCache::<F32>::new(extent).unwrap();
        let mut queries = Rows::<F32>::zeros(1, heads * dim);
        rotate_and_store(
            cpu,
            &plan,
            &mut qkv,
            Some(norms),
            &table,
            &mut cache,
            0,
            &mut queries,
        );
        for head in 0..heads + kv_heads {
            let mut expected = vec![0.0; dim];
            reference::rms_norm(&x[head * dim..][..dim], &weight, 1e-6, &mut expected);
            reference::rope(&mut expected, &cos, &sin);
            let actual = if head < heads {
                queries.row(0)[head * dim..][..dim].to_vec()
            } else {
                let (_, panel) = cache.head(0, 0, head - heads).key_panel(0);
                panel.iter().map(|line| line.0[5]).collect()
            };
            assert_close("rotated head", &actual, &expected, 1e-6);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However positions are cut into chunks, whatever the block size, the blocks, what they held
    /// before, the number of threads and the other sequences of a step: the same bits.
    #[test]
    fn attention_does_not_depend_on_company(
        cuts in prop::collection::vec(1_usize..160, 1..6),
        block_size in prop::sample::select(vec![16_usize, 32, 48, 128, 256]),
        threads in 1_usize..=2,
        shape in prop::sample::select(SHAPES.to_vec()),
        garbage in any::<bool>(),
        format in prop::sample::select(vec![KvFormat::Floats, KvFormat::Int8]),
    ) {
        let positions: usize = cuts.iter().sum();
        let sequence = Sequence::new::<Bf16>(11, shape, positions);
        let other = Sequence::new::<Bf16>(12, shape, positions);
        let mut plain = Cpu::new(Isa::detect(), 1).unwrap();
        let blocks = positions.div_ceil(16);
        let table: Vec<u32> = (0..blocks as u32).collect();
        let mut bench = Bench::<Bf16>::new(&plain, &shape, format, 16, blocks);
        let expected = bench.step(&mut plain, &[(&sequence, 0..positions, &table)]);

        let mut cpu = Cpu::new(Isa::detect(), threads).unwrap();
        let blocks = positions.div_ceil(block_size);
        let mut bench = Bench::<Bf16>::new(&cpu, &shape, format, block_size, 2 * blocks);
        let own: Vec<u32> = (0..blocks as u32).map(|block| 2 * block + 1).collect();
        let others: Vec<u32> = (0..blocks as u32).map(|block| 2 * block).collect();
        if garbage {
            // What an earlier owner of the blocks may have left: even NaN must not matter.
            let mut nan = Sequence::new::<Bf16>(1, shape, blocks * block_size);
            nan.qkv.fill(f32::NAN);
            bench.step(&mut cpu, &[(&nan, 0..nan.positions, &own)]);
        }
        let mut actual = Vec::new();
        let mut first = 0;
        for cut in cuts {
            let range = first..first + cut;
            let step = bench.step(
                &mut cpu,
                &[(&other, range.clone(), &others), (&sequence, range, &own)],
            );
            actual.extend_from_slice(&step[cut..]);
            first += cut;
        }
        prop_assert!(actual == expected);
    }
}

#[test]
fn a_copied_block_is_the_same_in_every_layer() {
    let mut cpu = Cpu::new(Isa::detect(), 1).unwrap();
    let shape = SHAPES[0];
    let sequence = Sequence::new::<Bf16>(3, shape, 20);
    for format in [KvFormat::Floats, KvFormat::Int8] {
        let mut bench = Bench::<Bf16>::new(&cpu, &shape, format, 16, 4);
        let expected = bench.step(&mut cpu, &[(&sequence, 0..20, &[0, 1])]);
        bench.cache.copy_block(1, 3);
        let again = bench.step(&mut cpu, &[(&sequence, 19..20, &[0, 3])]);
        assert_eq!(again[0], expected[19]);
    }
}

/// Attention over integers is attention over the numbers that they stand for: with keys and values
/// that 8 bits hold exactly, only the weights are rounded.
#[test]
fn integers_that_are_exact_cost_nothing() {
    on_every_path(|cpu| {
        let shape = SHAPES[0];
        let mut sequence = Sequence::new::<F32>(9, shape, 600);
        for row in sequence.qkv.chunks_exact_mut(18 * 64) {
            let (_, keys_and_values) = row.split_at_mut(14 * 64);
            for head in keys_and_values.chunks_exact_mut(32) {
                head.iter_mut().for_each(|x| *x = (*x * 127.0).round());
                // Every group has the step 1/64.
                head[0] = 127.0;
                head.iter_mut().for_each(|x| *x /= 64.0);
            }
        }
        let mut bench = Bench::<F32>::new(cpu, &shape, KvFormat::Int8, 32, 20);
        let table: Vec<u32> = (0..20).collect();
        let found = bench.step(cpu, &[(&sequence, 0..600, &table)]);
        let what = cpu.isa().name();
        for (row, expected) in found.iter().zip(sequence.expected().chunks(14 * 64)) {
            assert_close(what, &row[..14 * 64], expected, 3e-4);
        }
    });
}

#[test]
fn more_threads_than_tasks_split_long_sequences_and_change_no_bit() {
    let shape = SHAPES[0];
    let sequence = Sequence::new::<Bf16>(21, shape, 1500);
    let table: Vec<u32> = (0..47).collect();
    for format in [KvFormat::Floats, KvFormat::Int8] {
        let mut results = Vec::new();
        for threads in [1, 2, 5] {
            let mut cpu = Cpu::new(Isa::detect(), threads).unwrap();
            let mut bench = Bench::<Bf16>::new(&cpu, &shape, format, 32, 47);
            bench.step(&mut cpu, &[(&sequence, 0..1499, &table)]);
            results.push(bench.step(&mut cpu, &[(&sequence, 1499..1500, &table)]));
        }
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }
}
