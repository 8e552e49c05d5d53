//! Numbers from verdicts: means, standard errors, pooled groups, intervals, repeated samples.
//!
//! Means and standard errors are those of lm-evaluation-harness (`golden/components/aggregate`);
//! the Wilson interval and the estimators for repeated samples are additions.

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

use crate::random::CounterRng;

/// Mean of the values. An empty slice has none.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard error of the mean, with n - 1 in the denominator of the variance.
///
/// `None` (printed as `N/A`) for fewer than two values.
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let n = values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt())
}

/// One task's share in a group: its metric, the standard error and the number of documents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupMember {
    /// The task's metric.
    pub mean: f64,
    /// Its standard error, where it has one.
    pub stderr: Option<f64>,
    /// Number of documents behind it.
    pub size: usize,
}

/// Mean of a group: weighted by size, or every task alike. An empty group has none.
pub fn group_mean(members: &[GroupMember], weight_by_size: bool) -> Option<f64> {
    let weight = |member: &GroupMember| {
        if weight_by_size {
            member.size as f64
        } else {
            1.0
        }
    };
    let total: f64 = members.iter().map(weight).sum();
    (total > 0.0).then(|| members.iter().map(|m| weight(m) * m.mean).sum::<f64>() / total)
}

/// Pooled standard error of a group: sqrt( sum((n_i - 1) n_i se_i^2) / (N - k) / N ).
///
/// `None` where a member has no standard error, or there is no degree of freedom left.
pub fn group_stderr(members: &[GroupMember]) -> Option<f64> {
    let documents: usize = members.iter().map(|member| member.size).sum();
    let freedom = documents
        .checked_sub(members.len())
        .filter(|&freedom| freedom > 0)?;
    let mut squares = 0.0;
    for member in members {
        let n = member.size as f64;
        squares += (n - 1.0) * n * member.stderr?.powi(2);
    }
    Some((squares / freedom as f64 / documents as f64).sqrt())
}

/// An interval of plausible values for a proportion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson score interval of a proportion of `successes` among `trials` at the given confidence
/// (0.95 for the usual one). Without trials it is the whole of 0..1.
///
/// Source: Wilson, J. Am. Stat. Assoc. 22 (1927), without continuity correction.
///
/// # Panics
/// When `confidence` is not inside 0..1, or there are more successes than trials.
pub fn wilson(successes: usize, trials: usize, confidence: f64) -> Interval {
    assert!(
        0.0 < confidence && confidence < 1.0,
        "a confidence lies inside 0..1"
    );
    assert!(successes <= trials, "a success is a trial");
    if trials == 0 {
        return Interval {
            low: 0.0,
            high: 1.0,
        };
    }
    let z = Normal::standard().inverse_cdf(0.5 + confidence / 2.0);
    let n = trials as f64;
    let share = successes as f64 / n;
    let centre = share + z * z / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    // At the two ends the formula gives exactly 0 and 1, up to rounding.
    Interval {
        low: if successes == 0 {
            0.0
        } else {
            (centre - spread) / scale
        },
        high: if successes == trials {
            1.0
        } else {
            (centre + spread) / scale
        },
    }
}

/// Exact McNemar test of two verdicts on the same documents: the two-sided probability of a split
/// at least this uneven among the documents on which they differ, if neither were better.
///
/// `only_first` and `only_second` count the documents that only one of the two got right; without
/// any there is nothing to tell them apart, and the value is 1.
///
/// Source: McNemar, Psychometrika 12 (1947), in its exact binomial form.
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let differing = (only_first + only_second) as u64;
    let Ok(even) = Binomial::new(0.5, differing) else {
        unreachable!("one half is a probability")
    };
    (2.0 * even.cdf(only_first.min(only_second) as u64)).min(1.0)
}

/// Bootstrap interval of the mean of paired differences: percentiles of the means of `resamples`
/// draws of as many differences, with replacement. The draws are functions of `seed`.
///
/// `None` for an empty slice.
///
/// Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
///
/// # Panics
/// When `confidence` is not inside 0..1, or nothing is drawn.
pub fn paired_bootstrap(
    differences: &[f64],
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> Option<Interval> {
    assert!(
        0.0 < confidence && confidence < 1.0 && resamples > 0,
        "a confidence lies inside 0..1, and something is drawn"
    );
    if differences.is_empty() {
        return None;
    }
    let n = differences.len();
    let random = CounterRng::new(seed);
    let mean_of_draw = |draw: usize| {
        let draws = (0..n).map(|i| random.uniform((draw * n + i) as u128));
        let drawn = draws.map(|uniform| differences[(uniform * n as f64) as usize]);
        drawn.sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> = (0..resamples).map(mean_of_draw).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[(share * (resamples - 1) as f64).round() as usize];
    Some(Interval {
        low: at(0.5 - confidence / 2.0),
        high: at(0.5 + confidence / 2.0),
    })
}

/// Unbiased estimate of pass@k for one problem: the chance that k samples drawn from `samples`
/// without replacement hold a correct one.
///
/// `None` when k is 0 or there are fewer than k samples.
/// Source: Chen et al., arXiv:2107.03374, equation 1.
pub fn pass_at_k(samples: usize, correct: usize, k: usize) -> Option<f64> {
    if k == 0 || samples < k {
        return None;
    }
    let wrong = samples.saturating_sub(correct);
    if wrong < k {
        return Some(1.0);
    }
    let all_wrong: f64 = (0..k)
        .map(|i| (wrong - i) as f64 / (samples - i) as f64)
        .product();
    Some(1.0 - all_wrong)
}

/// avg@k for one problem: the share of correct ones among the first k samples.
///
/// `None` when k is 0 or there are fewer than k samples.
pub fn avg_at_k(correct: &[bool], k: usize) -> Option<f64> {
    let first = correct.get(..k).filter(|first| !first.is_empty())?;
    Some(first.iter().filter(|&&correct| correct).count() as f64 / k as f64)
}

/// One sample of a problem, seen as a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Which of the problem's distinct answers it gives; `None` for no answer.
    pub answer: Option<usize>,
    /// Whether that answer is correct.
    pub correct: bool,
}

/// maj@k for one problem: whether the most frequent answer among the first k samples is correct.
/// Ties go to the answer seen first, as in the reference's `majority_vote`; no answer is no vote.
///
/// `None` when k is 0 or there are fewer than k samples.
pub fn maj_at_k(votes: &[Vote], k: usize) -> Option<bool> {
    let first = votes.get(..k).filter(|first| !first.is_empty())?;
    let mut tally: Vec<(usize, usize, bool)> = Vec::new();
    for vote in first {
        let Some(answer) = vote.answer else { continue };
        match tally.iter_mut().find(|(known, ..)| *known == answer) {
            Some((_, count, _)) => *count += 1,
            None => tally.push((answer, 1, vote.correct)),
        }
    }
    let most = tally.iter().map(|(_, count, _)| *count).max();
    let winner = tally.iter().find(|(_, count, _)| Some(*count) == most);
    Some(winner.is_some_and(|&(.., correct)| correct))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_value_has_no_standard_error() {
        assert_eq!(mean(&[1.0]), Some(1.0));
        assert_eq!(mean_stderr(&[1.0]), None);
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn groups_pool_their_members() {
        let member = |mean, stderr, size| GroupMember {
            mean,
            stderr: Some(stderr),
            size,
        };
        let members = [member(1.0, 0.0, 1), member(0.0, 0.1, 3)];
        assert_eq!(group_mean(&members, true), Some(0.25));
        assert_eq!(group_mean(&members, false), Some(0.5));
        let expected = (2.0 * 3.0 * 0.01 / 2.0 / 4.0_f64).sqrt();
        assert!((group_stderr(&members).unwrap() - expected).abs() < 1e-15);
    }

    #[test]
    fn wilson_agrees_with_published_values() {
        // 81 of 263 at 95%: Newcombe, Statistics in Medicine 17 (1998), table I.
        let interval = wilson(81, 263, 0.95);
        assert!((interval.low - 0.2553).abs() < 5e-5, "{interval:?}");
        assert!((interval.high - 0.3662).abs() < 5e-5, "{interval:?}");
        assert_eq!(wilson(0, 20, 0.95).low, 0.0);
        assert_eq!(wilson(20, 20, 0.95).high, 1.0);
    }

    #[test]
    fn pass_at_k_counts_subsets() {
        assert_eq!(pass_at_k(4, 1, 2), Some(0.5));
        assert_eq!(pass_at_k(4, 3, 2), Some(1.0));
        assert_eq!(pass_at_k(1, 0, 2), None);
    }

    #[test]
    fn a_tie_goes_to_the_answer_seen_first() {
        let vote = |answer, correct| Vote { answer, correct };
        let votes = [
            vote(Some(1), false),
            vote(Some(0), true),
            vote(Some(0), true),
            vote(Some(1), false),
        ];
        assert_eq!(maj_at_k(&votes, 4), Some(false));
        assert_eq!(maj_at_k(&votes, 3), Some(true));
        assert_eq!(maj_at_k(&[vote(None, false)], 1), Some(false));
        assert_eq!(maj_at_k(&votes, 5), None);
    }

    #[test]
    fn mcnemar_is_the_binomial_test_of_the_differing_documents() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(3, 3), 1.0);
        // Two-sided: 2 * (1 + 10) / 2^10.
        assert!((mcnemar(1, 9) - 22.0 / 1024.0).abs() < 1e-12);
        assert_eq!(mcnemar(9, 1), mcnemar(1, 9));
        assert!(mcnemar(0, 20_000) < 1e-100);
    }

    #[test]
    fn the_bootstrap_of_differences_covers_their_mean_and_repeats_itself() {
        assert_eq!(paired_bootstrap(&[], 0.95, 100, 1), None);
        let same = paired_bootstrap(&[0.5; 7], 0.95, 100, 1).unwrap();
        assert_eq!((same.low, same.high), (0.5, 0.5));
        let mixed: Vec<f64> = (0..400).map(|i| f64::from(i % 4 == 0)).collect();
        let found = paired_bootstrap(&mixed, 0.95, 2000, 7).unwrap();
        // The mean is 0.25 with a standard error of 0.0217.
        assert!((found.low - 0.2075).abs() < 0.01, "{found:?}");
        assert!((found.high - 0.2925).abs() < 0.01, "{found:?}");
        assert_eq!(paired_bootstrap(&mixed, 0.95, 2000, 7), Some(found));
    }
}
