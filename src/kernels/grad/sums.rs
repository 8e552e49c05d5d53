//! Sums and sweeps over whole tensors, on all threads.

use half::bf16;
use rayon::prelude::*;

use super::VALUES_PER_TASK;

/// The sum of squares, in double precision.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let parts: Vec<f64> = values
        .par_chunks(VALUES_PER_TASK)
        .map(|values| {
            // Lanes of their own, so that additions need not wait for each other.
            let mut lanes = [0.0f64; 8];
            let (whole, rest) = values.as_chunks::<8>();
            for values in whole {
                for (lane, value) in lanes.iter_mut().zip(values) {
                    *lane += f64::from(*value) * f64::from(*value);
                }
            }
            let rest = rest.iter().map(|value| f64::from(*value).powi(2));
            lanes.iter().sum::<f64>() + rest.sum::<f64>()
        })
        .collect();
    parts.iter().sum()
}

/// `to = from`.
///
/// # Panics
/// The lengths differ.
pub fn copy(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "equal lengths");
    to.par_chunks_mut(VALUES_PER_TASK)
        .zip(from.par_chunks(VALUES_PER_TASK))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// What rounding to bfloat16 (nearest, ties to even) takes from each value.
///
/// # Panics
/// The lengths differ.
pub fn rounded_off(values: &[f32], rest: &mut [f32]) {
    assert_eq!(values.len(), rest.len(), "equal lengths");
    rest.par_chunks_mut(VALUES_PER_TASK)
        .zip(values.par_chunks(VALUES_PER_TASK))
        .for_each(|(rest, values)| {
            for (rest, value) in rest.iter_mut().zip(values) {
                *rest = value - bf16::from_f32(*value).to_f32();
            }
        });
}

/// `values *= factor`.
pub fn scale(values: &mut [f32], factor: f32) {
    values
        .par_chunks_mut(VALUES_PER_TASK)
        .for_each(|values| values.iter_mut().for_each(|value| *value *= factor));
}

/// `to += from * mask`, elementwise.
///
/// # Panics
/// The lengths differ.
pub fn add_masked(from: &[f32], mask: &[f32], to: &mut [f32]) {
    assert!(from.len() == to.len() && mask.len() == to.len());
    to.par_chunks_mut(VALUES_PER_TASK)
        .zip(from.par_chunks(VALUES_PER_TASK))
        .zip(mask.par_chunks(VALUES_PER_TASK))
        .for_each(|((to, from), mask)| {
            for ((to, from), mask) in to.iter_mut().zip(from).zip(mask) {
                *to += from * mask;
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_value_once() {
        let values: Vec<f32> = (0..VALUES_PER_TASK + 13).map(|i| (i % 7) as f32).collect();
        let expected: f64 = values.iter().map(|v| f64::from(v * v)).sum();
        assert_eq!(sum_of_squares(&values), expected);
        let mut to = vec![0.0; values.len()];
        copy(&values, &mut to);
        scale(&mut to, 2.0);
        add_masked(&values, &vec![-1.0; values.len()], &mut to);
        assert_eq!(to, values);
    }

    #[test]
    fn two_bfloat16_hold_more_of_a_value_than_one() {
        let values: Vec<f32> = (1..100).map(|i| (i as f32).sqrt()).collect();
        let mut rest = vec![0.0; values.len()];
        rounded_off(&values, &mut rest);
        for (value, rest) in values.iter().zip(&rest) {
            let [high, low] = [*value, *rest].map(|v| bf16::from_f32(v).to_f32());
            assert!(
                (value - high - low).abs() <= value * 2f32.powi(-16),
                "{value}"
            );
        }
    }
}
