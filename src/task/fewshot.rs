//! Drawing few-shot examples as the reference draws them: Python's `random.sample` over the pool,
//! from one generator per task. Pinned by `golden/components/fewshot_sample.jsonl`.

use std::collections::HashSet;

use crate::random::Mt19937;

/// The generator behind a task's examples.
pub struct FewshotSampler {
    rng: Mt19937,
}

impl FewshotSampler {
    /// Seeds as `random.seed(seed)`; the reference's default is 1234.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Mt19937::from_python_seed(seed),
        }
    }

    /// The next `k` different indices below `population`, or `None` if there are not as many.
    pub fn draw(&mut self, population: usize, k: usize) -> Option<Vec<usize>> {
        if k > population || u32::try_from(population).is_err() {
            return None;
        }
        // CPython: a set is cheaper than a copied list beyond this size, and draws differently.
        let mut list_limit = 21;
        if k > 5 {
            let mut power = 1;
            while power < 3 * k {
                power *= 4;
            }
            list_limit += power;
        }
        Some(if population <= list_limit {
            self.draw_from_list(population, k)
        } else {
            self.draw_into_set(population, k)
        })
    }

    fn draw_from_list(&mut self, population: usize, k: usize) -> Vec<usize> {
        let mut pool: Vec<usize> = (0..population).collect();
        (0..k)
            .map(|i| {
                let at = self.below(population - i);
                let drawn = pool[at];
                pool[at] = pool[population - i - 1];
                drawn
            })
            .collect()
    }

    fn draw_into_set(&mut self, population: usize, k: usize) -> Vec<usize> {
        let mut drawn = HashSet::with_capacity(k);
        let mut order = Vec::with_capacity(k);
        while order.len() < k {
            let index = self.below(population);
            if drawn.insert(index) {
                order.push(index);
            }
        }
        order
    }

    /// A number below `n` (at least 1): bits of its length, drawn again while too large.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let value = self.rng.bits(bits) as usize;
            if value < n {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_draws_match_cpython() {
        let mut sampler = FewshotSampler::new(1234);
        assert_eq!(sampler.draw(7473, 5), Some(vec![6374, 3610, 957, 61, 742]));
        let mut sampler = FewshotSampler::new(1234);
        assert_eq!(sampler.draw(12, 5), Some(vec![7, 1, 0, 10, 9]));
        assert_eq!(sampler.draw(3, 4), None);
    }

    proptest! {
        #[test]
        fn draws_are_different_and_in_range(seed: u64, population in 1usize..3000, share in 0.0..1.0) {
            let k = (population as f64 * share) as usize;
            let drawn = FewshotSampler::new(seed).draw(population, k).unwrap();
            let distinct: HashSet<usize> = drawn.iter().copied().collect();
            prop_assert_eq!(distinct.len(), k);
            prop_assert!(drawn.iter().all(|index| *index < population));
        }
    }
}
