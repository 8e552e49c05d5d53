//! One random token out of those that the filters keep.

use super::super::SamplingParams;
use super::scan::{best, sum_weights, token_at, weight};

/// Candidates looked at first when only the probability mass limits them; grows by as much.
const FIRST_CANDIDATES: usize = 64;
const GROWTH: usize = 8;

/// The token at which the kept probability, summed up, passes the share `uniform` of it.
pub(super) fn draw(logits: &[f32], max: f32, params: &SamplingParams, uniform: f64) -> u32 {
    let inverse_temperature = 1.0 / params.temperature;
    if params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 {
        let target = uniform * sum_weights(logits, max, inverse_temperature);
        return token_at(logits, max, inverse_temperature, target);
    }
    let kept = kept_candidates(logits, max, params);
    let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    let target = uniform * total;
    let mut sum = 0f64;
    for &(token_id, weight) in &kept {
        sum += weight;
        if sum > target {
            return token_id;
        }
    }
    // Rounding of the last sum; the most likely token is always kept.
    kept[kept.len() - 1].0
}

/// What min-p, top-k and top-p keep, best first, with weights relative to the best.
fn kept_candidates(logits: &[f32], max: f32, params: &SamplingParams) -> Vec<(u32, f64)> {
    let inverse_temperature = 1.0 / params.temperature;
    let weight_of = |id: u32| f64::from(weight(logits[id as usize], max, inverse_temperature));
    let possible = |&(_, weight): &(u32, f64)| weight > 0.0 && weight >= f64::from(params.min_p);
    let first = |count: usize| -> Vec<(u32, f64)> {
        let ids = best(logits, count).into_iter();
        ids.map(|id| (id, weight_of(id)))
            .take_while(possible)
            .collect()
    };
    if params.top_k > 0 {
        let mut kept = first(params.top_k);
        let total = kept.iter().map(|&(_, weight)| weight).sum();
        cut_to_mass(&mut kept, params.top_p, total);
        return kept;
    }
    // The mass of all that min-p keeps; without min-p that is everything.
    let mut total = None;
    if params.min_p <= 0.0 {
        total = Some(sum_weights(logits, max, inverse_temperature));
    }
    let mut count = FIRST_CANDIDATES;
    loop {
        let mut kept = first(count);
        let is_all = kept.len() < count || count >= logits.len();
        if is_all {
            total = Some(kept.iter().map(|&(_, weight)| weight).sum());
        }
        if let Some(total) = total
            && (cut_to_mass(&mut kept, params.top_p, total) || is_all)
        {
            return kept;
        }
        count *= GROWTH;
    }
}

/// Keeps the smallest beginning whose mass reaches `top_p * total`; returns whether one does.
fn cut_to_mass(kept: &mut Vec<(u32, f64)>, top_p: f32, total: f64) -> bool {
    if top_p >= 1.0 {
        return false;
    }
    let needed = f64::from(top_p) * total;
    let mut sum = 0f64;
    for index in 0..kept.len() {
        sum += kept[index].1;
        if sum >= needed {
            kept.truncate(index + 1);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(top_k: usize, top_p: f32, min_p: f32) -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k,
            top_p,
            min_p,
            ..SamplingParams::default()
        }
    }

    /// Logits whose probabilities are the given ones.
    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn kept_ids(probabilities: &[f32], params: &SamplingParams) -> Vec<u32> {
        let logits = logits_of(probabilities);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let kept = kept_candidates(&logits, max, params);
        kept.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn each_filter_keeps_the_most_likely() {
        let p = [0.1, 0.4, 0.2, 0.3];
        assert_eq!(kept_ids(&p, &params(2, 1.0, 0.0)), [1, 3]);
        assert_eq!(kept_ids(&p, &params(0, 0.65, 0.0)), [1, 3]);
        assert_eq!(kept_ids(&p, &params(0, 0.75, 0.0)), [1, 3, 2]);
        assert_eq!(kept_ids(&p, &params(0, 1.0, 0.6)), [1, 3]);
        assert_eq!(kept_ids(&p, &params(0, 1e-6, 0.0)), [1]);
    }

    #[test]
    fn top_p_counts_the_mass_that_top_k_left() {
        let p = [0.4, 0.3, 0.2, 0.1];
        // 0.4 / 0.7 is below 0.6, so the second of two is needed.
        assert_eq!(kept_ids(&p, &params(2, 0.6, 0.0)), [0, 1]);
        assert_eq!(kept_ids(&p, &params(2, 0.55, 0.0)), [0]);
    }

    #[test]
    fn a_flat_distribution_grows_the_candidates() {
        let p = vec![1.0 / 2000.0; 2000];
        assert_eq!(kept_ids(&p, &params(0, 0.5, 0.0)).len(), 1000);
        assert_eq!(kept_ids(&p, &params(0, 1.0, 0.5)).len(), 2000);
        assert_eq!(kept_ids(&p, &params(0, 0.5, 0.5)).len(), 1000);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let p = [0.5, 0.25, 0.125, 0.125];
        let logits = logits_of(&p);
        for params in [params(0, 1.0, 0.0), params(4, 1.0, 0.0)] {
            let mut counts = [0usize; 4];
            let draws = 4096;
            for i in 0..draws {
                let uniform = (i as f64 + 0.5) / draws as f64;
                counts[draw(&logits, logits[0], &params, uniform) as usize] += 1;
            }
            for (count, p) in counts.iter().zip(p) {
                let expected = p * draws as f32;
                assert!((*count as f32 - expected).abs() <= 1.0, "{counts:?}");
            }
        }
    }
}
