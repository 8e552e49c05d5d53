//! Forward and backward passes of the fused layers that training uses, on f32 slices.
//!
//! Each pair is one file. Work is cut at fixed places and parts of sums are added in order, so
//! results do not depend on the number of threads. Every backward is checked against finite
//! differences of its forward. Matrix products are in `cpu/matmul.rs`.

#![allow(
    unsafe_code,
    reason = "tasks of attention write disjoint columns of one buffer"
)]

pub mod adamw;
pub mod attention;
pub mod bias;
pub mod cross_entropy;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;
pub mod sums;
mod turn;

/// Rows that a task takes, and that a part of a sum over rows is made of.
const ROWS_PER_TASK: usize = 32;

/// The same of layers that know no rows.
const VALUES_PER_TASK: usize = 1 << 14;

/// Adds parts of a sum over rows in their order.
fn add_partial_sums(parts: &[Vec<f32>], sums: &mut [f32]) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let parts = parts.iter().map(|part| f64::from(part[column]));
        *sum += parts.sum::<f64>() as f32;
    }
}

/// Central differences of `loss` at `x`, for the tests of the backward passes.
#[cfg(test)]
fn numeric_gradient(x: &[f32], mut loss: impl FnMut(&[f32]) -> f64) -> Vec<f64> {
    const STEP: f32 = 1e-2;
    let mut probe = x.to_vec();
    (0..x.len())
        .map(|i| {
            probe[i] = x[i] + STEP;
            let up = loss(&probe);
            probe[i] = x[i] - STEP;
            let down = loss(&probe);
            probe[i] = x[i];
            (up - down) / f64::from(2.0 * STEP)
        })
        .collect()
}

/// Values in `[-1, 1)` that depend only on `seed` and the position.
#[cfg(test)]
fn test_values(seed: u32, len: usize) -> Vec<f32> {
    (0..len as u32)
        .map(|i| {
            let bits = (i.wrapping_add(seed.wrapping_mul(0x9e37_79b9))).wrapping_mul(0x85eb_ca6b);
            let bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
            (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[cfg(test)]
fn assert_close(name: &str, found: &[f32], expected: &[f64]) {
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*f) - e).abs() / scale;
        assert!(error < 2e-3, "{name}[{i}]: {f} against {e} numerically");
    }
}
