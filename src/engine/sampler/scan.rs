//! Passes over a row of logits, written so that the compiler turns them into vector code.
//!
//! Every sum is taken in one fixed order: lanes of a block, then blocks in `f64`.

use super::SamplerError;

/// Logits handled together; a block's maximum says whether the block is worth a second look.
const BLOCK: usize = 1024;
/// Independent accumulators of a pass.
const LANES: usize = 16;
/// Up to this many best tokens are kept in a sorted list; more are selected from all.
const MAX_INSERTED: usize = 64;
/// `exp` of anything below is smaller than the smallest normal `f32` and counts as zero.
const MIN_EXPONENT: f32 = -87.0;

/// The greatest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    pub(super) token_id: u32,
    pub(super) value: f32,
}

/// Finds the greatest logit, the lowest id among equals.
pub(super) fn peak(logits: &[f32]) -> Result<Peak, SamplerError> {
    let mut value = f32::NEG_INFINITY;
    let mut first_of_block = 0;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let (block_max, has_nan) = block_peak(block);
        if has_nan {
            let inside = block.iter().position(|x| x.is_nan()).unwrap_or(0);
            let token_id = index * BLOCK + inside;
            return Err(SamplerError::NotANumber { token_id });
        }
        if block_max > value {
            value = block_max;
            first_of_block = index * BLOCK;
        }
    }
    if !value.is_finite() {
        return Err(SamplerError::NoFiniteMaximum);
    }
    let inside = logits[first_of_block..].iter().position(|&x| x == value);
    let inside = inside.expect("the maximum is one of the values");
    Ok(Peak {
        token_id: (first_of_block + inside) as u32,
        value,
    })
}

/// The maximum of a block, and whether a value is not a number.
fn block_peak(block: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            max[lane] = if x > max[lane] { x } else { max[lane] };
            nan[lane] |= u32::from(x.is_nan());
        }
    }
    let mut block_max = f32::NEG_INFINITY;
    let mut has_nan = false;
    for lane in 0..LANES {
        block_max = block_max.max(max[lane]);
        has_nan |= nan[lane] != 0;
    }
    for &x in rest {
        block_max = block_max.max(x);
        has_nan |= x.is_nan();
    }
    (block_max, has_nan)
}

/// `ln(sum(exp(logits)))`, given their maximum.
pub(super) fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    f64::from(max) + sum_weights(logits, max, 1.0).ln()
}

/// The sum of [`weight`] over all logits.
pub(super) fn sum_weights(logits: &[f32], max: f32, inverse_temperature: f32) -> f64 {
    let blocks = logits.chunks(BLOCK);
    blocks
        .map(|block| block_weight(block, max, inverse_temperature))
        .sum()
}

/// The sum of [`weight`] over a block, in `f32` lanes.
fn block_weight(block: &[f32], max: f32, inverse_temperature: f32) -> f64 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += weight(chunk[lane], max, inverse_temperature);
        }
    }
    let mut total = 0f64;
    for sum in sums {
        total += f64::from(sum);
    }
    for &logit in rest {
        total += f64::from(weight(logit, max, inverse_temperature));
    }
    total
}

/// Walks through all tokens in order of id and returns the one at which the sum of weights passes
/// `target`. Whole blocks are passed over by the same sums that [`sum_weights`] adds up.
pub(super) fn token_at(logits: &[f32], max: f32, inverse_temperature: f32, target: f64) -> u32 {
    let mut before = 0f64;
    let mut last_possible = 0;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let block_total = block_weight(block, max, inverse_temperature);
        if before + block_total > target {
            let mut sum = before;
            for (inside, &logit) in block.iter().enumerate() {
                let weight = weight(logit, max, inverse_temperature);
                sum += f64::from(weight);
                if weight > 0.0 {
                    last_possible = index * BLOCK + inside;
                }
                if weight > 0.0 && sum > target {
                    break;
                }
            }
            // Lanes and this walk round differently: the block's last token takes the difference.
            return last_possible as u32;
        }
        if let Some(inside) = block
            .iter()
            .rposition(|&logit| weight(logit, max, inverse_temperature) > 0.0)
        {
            last_possible = index * BLOCK + inside;
        }
        before += block_total;
    }
    last_possible as u32
}

/// `exp((logit - max) / temperature)`: the probability relative to the most likely token's.
pub(super) fn weight(logit: f32, max: f32, inverse_temperature: f32) -> f32 {
    exp_of_nonpositive((logit - max) * inverse_temperature)
}

/// `exp(x)` for `x <= 0` without branches or calls, so that loops over it become vector code.
/// Relative error below 2e-7; zero below [`MIN_EXPONENT`]. Range reduction by powers of two and the
/// polynomial of Cephes' `expf` (Moshier 1989).
#[expect(
    clippy::excessive_precision,
    reason = "the constants are written as published"
)]
fn exp_of_nonpositive(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting this rounds to the nearest integer (1.5 * 2^23).
    const ROUNDER: f32 = 12_582_912.0;
    let clamped = if x < MIN_EXPONENT { MIN_EXPONENT } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    let r = clamped - power * LN2_HIGH - power * LN2_LOW;
    let mut p = 1.987_569_150_0e-4f32;
    p = p * r + 1.398_199_950_7e-3;
    p = p * r + 8.333_451_907_3e-3;
    p = p * r + 4.166_579_589_4e-2;
    p = p * r + 1.666_666_545_9e-1;
    p = p * r + 5.000_000_120_1e-1;
    let fraction = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits());
    let scale = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < MIN_EXPONENT {
        0.0
    } else {
        fraction * scale
    }
}

/// The ids of the `k` greatest logits, best first, lower ids first among equals.
pub(super) fn best(logits: &[f32], k: usize) -> Vec<u32> {
    let k = k.min(logits.len());
    let before = |a: u32, b: u32| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    };
    if k > MAX_INSERTED {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        if k < ids.len() {
            ids.select_nth_unstable_by(k, |&a, &b| before(a, b));
            ids.truncate(k);
        }
        ids.sort_unstable_by(|&a, &b| before(a, b));
        return ids;
    }
    let mut list: Vec<u32> = Vec::with_capacity(k + 1);
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let enters = |list: &[u32], x: f32| {
            list.len() < k || list.last().is_some_and(|&worst| x > logits[worst as usize])
        };
        if !enters(&list, block_peak(block).0) {
            continue;
        }
        for (inside, &x) in block.iter().enumerate() {
            if enters(&list, x) {
                let id = (index * BLOCK + inside) as u32;
                let place = list.partition_point(|&other| before(other, id).is_lt());
                list.insert(place, id);
                list.truncate(k);
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let (found, expected) = (exp_of_nonpositive(x), f64::from(x).exp());
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}) = {found}, relative error {error}");
        }
        assert_eq!(exp_of_nonpositive(0.0), 1.0);
        assert_eq!(exp_of_nonpositive(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn impossible_tokens_are_never_walked_into() {
        let mut logits = vec![f32::NEG_INFINITY; 3000];
        logits[1500] = 0.0;
        logits[2500] = 0.0;
        assert_eq!(token_at(&logits, 0.0, 1.0, 0.0), 1500);
        assert_eq!(token_at(&logits, 0.0, 1.0, 0.999), 1500);
        assert_eq!(token_at(&logits, 0.0, 1.0, 1.5), 2500);
        assert_eq!(token_at(&logits, 0.0, 1.0, 2.0), 2500);
    }

    fn rows() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that ties are common.
        prop::collection::vec((-20i32..20).prop_map(|x| x as f32 * 0.5), 1..3000)
    }

    proptest! {
        #[test]
        fn the_peak_is_the_first_of_the_sorted_list(logits in rows()) {
            let peak = peak(&logits).unwrap();
            prop_assert_eq!(best(&logits, 1), vec![peak.token_id]);
            prop_assert_eq!(logits[peak.token_id as usize], peak.value);
        }

        #[test]
        fn best_equals_sorting(logits in rows(), k in 0usize..200) {
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            ids.truncate(k);
            prop_assert_eq!(best(&logits, k), ids);
        }

        #[test]
        fn log_sum_exp_is_accurate(logits in rows()) {
            let max = peak(&logits).unwrap().value;
            let exact = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            prop_assert!((log_sum_exp(&logits, max) - exact).abs() < 1e-6);
        }
    }
}
