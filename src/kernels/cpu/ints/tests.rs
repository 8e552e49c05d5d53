//! Integer products: the same bits on every path as the specification, and as a row alone.

use half::f16;

use super::*;
use crate::cpu::line::Arithmetic;
use crate::cpu::{Activation, Bf16, Cpu, F32, Isa, Operand, Rows, Target, linear};
use crate::quant::BlockType;
use crate::reference;

/// Values in (-1, 1).
fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn on_every_path(mut body: impl FnMut(&mut Cpu)) {
    for isa in Isa::available() {
        for threads in 1..=2 {
            body(&mut Cpu::new(isa, threads).unwrap());
        }
    }
}

fn rows_of<O: Operand>(values: &[f32], width: usize) -> Rows<O> {
    let mut rows = Rows::zeros(values.len() / width, width);
    for (index, row) in values.chunks_exact(width).enumerate() {
        rows.set_row(index, row);
    }
    rows
}

/// A row of weights in a format. Formats of 4 bits come from blocks, so inputs are whole blocks.
fn weight_row(format: IntFormat, values: &[f32]) -> IntRow {
    let mut row = IntRow::zeros(format, values.len());
    match format {
        IntFormat::Int8 | IntFormat::Int8Wide | IntFormat::Int8PerRow => row.quantise(values),
        IntFormat::Int4 | IntFormat::Int4Affine => {
            let mut blocks = vec![0; BlockType::Q4_0.row_bytes(values.len()).unwrap()];
            assert!(BlockType::Q4_0.quantise(values, &mut blocks));
            row.read(BlockType::Q4_0, &blocks);
        }
    }
    // The extremes that a file may hold.
    if !format.has_nibbles() {
        row.quants[0] = 0;
        row.quants[1] = 255;
    }
    row
}

/// (rows, inputs, outputs): every tile shape, ragged in all directions.
const PRODUCTS: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 7, 17),
    (2, 64, 16),
    (3, 33, 100),
    (6, 130, 64),
    (7, 31, 80),
    (13, 256, 112),
    (60, 40, 33),
    (70, 704, 50),
];

/// What the specification makes of a row of activations and a row of weights.
fn expected(x: &IntRows, row: usize, weights: &IntRow) -> f32 {
    let (integers, scales) = x.row(row);
    let group = x.group().unwrap_or(x.width());
    let offset = match weights.format() {
        IntFormat::Int8 | IntFormat::Int8Wide | IntFormat::Int8PerRow => 128,
        IntFormat::Int4 => 8,
        IntFormat::Int4Affine => 0,
    };
    let number = |bits: &u16| f16::from_bits(*bits).to_f32();
    let mut total = 0.0;
    for (index, x) in integers.chunks(group).enumerate() {
        let quants = &weights.quants[index * group..][..x.len()];
        let quants: Vec<i32> = quants.iter().map(|q| i32::from(*q) - offset).collect();
        let minimum = weights.minimums.get(index).map(number);
        let scale = number(&weights.scales[index]);
        total = reference::add_int_group(total, (x, scales[index]), (&quants, scale), minimum);
    }
    total
}

fn check_linear(
    cpu: &mut Cpu,
    format: IntFormat,
    (num_rows, inputs, outputs): (usize, usize, usize),
) {
    let what = format!(
        "{} {} {num_rows} x {inputs} x {outputs}",
        cpu.isa(),
        format.name()
    );
    let x = values(1, num_rows * inputs);
    let w = values(2, outputs * inputs);
    let weights: Vec<_> = w.chunks(inputs).map(|w| weight_row(format, w)).collect();
    let bias = values(3, outputs);
    let residual = values(4, num_rows * outputs);
    let matrix = IntMatrix::pack(cpu, format, outputs, inputs, |output, row| {
        row.clone_from(&weights[output]);
    })
    .unwrap();
    assert_eq!(matrix.bytes(), format.bytes(outputs, inputs), "{what}");
    let mut ints = IntRows::zeros(num_rows, inputs, format.group());
    quantise_rows(cpu, &rows_of::<Bf16>(&x, inputs), num_rows, &mut ints);
    let mut out = rows_of::<F32>(&residual, outputs);
    linear_ints(
        cpu,
        &matrix,
        &ints,
        num_rows,
        Some(&bias),
        Target::Add,
        &mut out,
    );
    for row in 0..num_rows {
        let mut one = IntRows::zeros(1, inputs, format.group());
        let alone = rows_of::<Bf16>(&x[row * inputs..][..inputs], inputs);
        quantise_rows(cpu, &alone, 1, &mut one);
        assert_eq!(one.row(0), ints.row(row), "{what}: row {row} alone");
        let mut plain = Rows::<F32>::zeros(1, outputs);
        linear_ints(cpu, &matrix, &one, 1, None, Target::Replace, &mut plain);
        for (output, weights) in weights.iter().enumerate() {
            let product = expected(&ints, row, weights);
            assert_eq!(plain.row(0)[output], product, "{what}: {row}, {output}");
            let sum = residual[row * outputs + output] + (product + bias[output]);
            assert_eq!(
                out.row(row)[output],
                sum,
                "{what}: {row}, {output} with bias"
            );
        }
    }
}

#[test]
fn products_have_the_bits_of_the_specification_on_every_path() {
    on_every_path(|cpu| {
        for format in IntFormat::ALL {
            for product in PRODUCTS {
                if !format.has_nibbles() || product.1 % GROUP == 0 {
                    check_linear(cpu, format, product);
                }
            }
        }
    });
}

/// The specification itself: rounding apart, an integer product is the product of the values.
#[test]
fn products_are_those_of_the_values() {
    let (num_rows, inputs, outputs) = (5, 256, 48);
    let (x, w) = (values(7, num_rows * inputs), values(8, outputs * inputs));
    on_every_path(|cpu| {
        for (format, tolerance) in [
            (IntFormat::Int8, 0.15),
            (IntFormat::Int8PerRow, 0.15),
            (IntFormat::Int4, 0.15),
            (IntFormat::Int4Affine, 0.15),
        ] {
            let weights: Vec<_> = w.chunks(inputs).map(|w| weight_row(format, w)).collect();
            let floats: Vec<f32> = weights.iter().flat_map(IntRow::values).collect();
            let mut exact = vec![0.0; num_rows * outputs];
            reference::matmul(&x, &floats, None, inputs, &mut exact);
            let matrix = IntMatrix::pack(cpu, format, outputs, inputs, |output, row| {
                row.clone_from(&weights[output]);
            })
            .unwrap();
            let mut ints = IntRows::zeros(num_rows, inputs, format.group());
            quantise_rows(cpu, &rows_of::<F32>(&x, inputs), num_rows, &mut ints);
            let mut out = Rows::<F32>::zeros(num_rows, outputs);
            linear_ints(
                cpu,
                &matrix,
                &ints,
                num_rows,
                None,
                Target::Replace,
                &mut out,
            );
            for (row, exact) in exact.chunks(outputs).enumerate() {
                for (found, exact) in out.row(row).iter().zip(exact) {
                    let error = (found - exact).abs();
                    assert!(error < tolerance, "{}: {found} for {exact}", format.name());
                }
            }
        }
    });
}

fn check_gated<O: Arithmetic>(cpu: &mut Cpu, format: IntFormat) {
    let (num_rows, inputs, width) = (9, 64, 40);
    let x = values(1, num_rows * inputs);
    let (gate, up) = (values(2, width * inputs), values(3, width * inputs));
    let make = |w: &[f32], output: usize| weight_row(format, &w[output * inputs..][..inputs]);
    let weights = IntGatedMatrix::pack(
        cpu,
        format,
        width,
        inputs,
        |output, row| row.clone_from(&make(&gate, output)),
        |output, row| row.clone_from(&make(&up, output)),
    )
    .unwrap();
    let mut ints = IntRows::zeros(num_rows, inputs, format.group());
    quantise_rows(cpu, &rows_of::<O>(&x, inputs), num_rows, &mut ints);
    let mut out = Rows::<O>::zeros(num_rows, width);
    gated_linear_ints(cpu, &weights, &ints, num_rows, Activation::Silu, &mut out);
    let tolerance = if O::PER_WORD == 2 { 4e-3 } else { 1e-5 };
    for row in 0..num_rows {
        for (output, found) in out.row_values(row).into_iter().enumerate() {
            let gate = expected(&ints, row, &make(&gate, output));
            let up = expected(&ints, row, &make(&up, output));
            let exact = reference::silu(gate) * up;
            let error = (found - exact).abs() / (1.0 + exact.abs());
            assert!(error < tolerance, "{}: {found} for {exact}", cpu.isa());
        }
    }
}

#[test]
fn gated_products_agree_with_the_specification() {
    on_every_path(|cpu| {
        for format in IntFormat::ALL {
            check_gated::<Bf16>(cpu, format);
            check_gated::<F32>(cpu, format);
        }
    });
}

#[test]
fn a_value_that_is_no_number_is_not_rounded_away() {
    on_every_path(|cpu| {
        for group in [Some(GROUP), None] {
            for damage in [f32::NAN, f32::INFINITY] {
                let mut x = values(5, 70);
                x[33] = damage;
                let mut ints = IntRows::zeros(1, 70, group);
                quantise_rows(cpu, &rows_of::<Bf16>(&x, 70), 1, &mut ints);
                let (_, scales) = ints.row(0);
                let hit = if group.is_none() { 0 } else { 1 };
                assert!(scales[hit].is_nan(), "{}", cpu.isa());
                assert!(group.is_none() || scales[0].is_finite());
            }
        }
    });
}

/// Twice the same product, in integers and in floats: nothing is off by more than rounding.
#[test]
fn integers_stand_for_the_floats_they_come_from() {
    let (num_rows, inputs, outputs) = (3, 320, 32);
    let (x, w) = (values(1, num_rows * inputs), values(2, outputs * inputs));
    let mut cpu = Cpu::new(Isa::detect(), 2).unwrap();
    let read = |row: usize, to: &mut [f32]| to.copy_from_slice(&w[row * inputs..][..inputs]);
    let weights = crate::cpu::PackedMatrix::<F32>::pack(&mut cpu, outputs, inputs, read).unwrap();
    let all = rows_of::<F32>(&x, inputs);
    let mut exact = Rows::<F32>::zeros(num_rows, outputs);
    linear(
        &mut cpu,
        &weights,
        &all,
        num_rows,
        None,
        Target::Replace,
        &mut exact,
    );
    for format in [IntFormat::Int8, IntFormat::Int8PerRow] {
        let matrix = IntMatrix::pack(&mut cpu, format, outputs, inputs, |output, row| {
            row.quantise(&w[output * inputs..][..inputs]);
        })
        .unwrap();
        let mut ints = IntRows::zeros(num_rows, inputs, format.group());
        quantise_rows(&mut cpu, &all, num_rows, &mut ints);
        let mut out = Rows::<F32>::zeros(num_rows, outputs);
        linear_ints(
            &mut cpu,
            &matrix,
            &ints,
            num_rows,
            None,
            Target::Replace,
            &mut out,
        );
        for row in 0..num_rows {
            for (found, exact) in out.row(row).iter().zip(exact.row(row)) {
                assert!(
                    (found - exact).abs() < 0.15,
                    "{}: {found} for {exact}",
                    format.name()
                );
            }
        }
    }
}
