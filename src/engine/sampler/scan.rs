//! Passes over a row of logits. The vector code is the kernels'; the same bits on every CPU.

use std::sync::OnceLock;

use super::SamplerError;
use crate::kernels::cpu::{
    Greatest, Isa, LOGITS_PER_BLOCK, Scan, exp_of_nonpositive, greatest, scan, sum_of_exponentials,
};

/// Logits handled together; a block's maximum says whether the block is worth a second look.
const BLOCK: usize = LOGITS_PER_BLOCK;
/// Up to this many best tokens are kept in a sorted list; more are selected from all.
const MAX_INSERTED: usize = 64;

/// The CPU's fastest instruction set; results do not depend on it.
fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(Isa::detect)
}

/// The greatest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    pub(super) token_id: u32,
    pub(super) value: f32,
}

/// Finds the greatest logit, the lowest id among equals.
pub(super) fn peak(logits: &[f32]) -> Result<Peak, SamplerError> {
    peak_of(logits, greatest(isa(), logits))
}

/// The greatest logit and `ln(sum(exp(logits)))`, in one pass.
pub(super) fn peak_and_log_total(logits: &[f32]) -> Result<(Peak, f64), SamplerError> {
    let Scan { greatest, sum } = scan(isa(), logits);
    let peak = peak_of(logits, greatest)?;
    Ok((peak, f64::from(peak.value) + sum.ln()))
}

fn peak_of(logits: &[f32], greatest: Greatest) -> Result<Peak, SamplerError> {
    let Greatest {
        value,
        block_start,
        has_nan,
    } = greatest;
    if has_nan {
        let token_id = logits.iter().position(|x| x.is_nan()).unwrap_or(0);
        return Err(SamplerError::NotANumber { token_id });
    }
    if !value.is_finite() {
        return Err(SamplerError::NoFiniteMaximum);
    }
    let inside = logits[block_start..].iter().position(|&x| x == value);
    let inside = inside.expect("the maximum is one of the values");
    Ok(Peak {
        token_id: (block_start + inside) as u32,
        value,
    })
}

/// The sum of [`weight`] over all logits.
pub(super) fn sum_weights(logits: &[f32], max: f32, inverse_temperature: f32) -> f64 {
    sum_of_exponentials(isa(), logits, max, inverse_temperature)
}

/// Walks through all tokens in order of id and returns the one at which the sum of weights passes
/// `target`. Whole blocks are passed over by the same sums that [`sum_weights`] adds up.
pub(super) fn token_at(logits: &[f32], max: f32, inverse_temperature: f32, target: f64) -> u32 {
    let mut before = 0f64;
    let mut last_possible = 0;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let block_total = sum_weights(block, max, inverse_temperature);
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
        if !enters(&list, greatest(isa(), block).value) {
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
        fn the_log_total_is_accurate(logits in rows()) {
            let (_, log_total) = peak_and_log_total(&logits).unwrap();
            let exact = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            prop_assert!((log_total - exact).abs() < 1e-6);
        }
    }
}
