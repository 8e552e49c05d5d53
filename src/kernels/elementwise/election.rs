//! The election of signs (TIES, Yadav et al. 2023, arXiv:2306.01708).

use super::Real;
use crate::cpu::simd::{Kernel, Simd};

/// Elements handled at once, so that their sums stay in registers.
const GROUP: usize = 16;

pub(super) struct Elect<'a, F> {
    pub(super) vectors: &'a [Vec<F>],
    pub(super) weights: &'a [F],
    pub(super) mix: &'a mut [F],
    pub(super) div: &'a mut [F],
}

impl<F: Real> Kernel for Elect<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let len = self.mix.len();
        assert_eq!(self.div.len(), len, "operands are of one block");
        assert_eq!(
            self.vectors.len(),
            self.weights.len(),
            "a weight for each vector"
        );
        for vector in self.vectors {
            assert_eq!(vector.len(), len, "operands are of one block");
        }
        let whole = len - len % GROUP;
        for start in (0..whole).step_by(GROUP) {
            let (mix, div) = elect::<F, GROUP>(self.vectors, self.weights, start);
            self.mix[start..start + GROUP].copy_from_slice(&mix);
            self.div[start..start + GROUP].copy_from_slice(&div);
        }
        for i in whole..len {
            let ([mix], [div]) = elect::<F, 1>(self.vectors, self.weights, i);
            (self.mix[i], self.div[i]) = (mix, div);
        }
    }
}

/// Mix and divisors of the `N` elements from `start` on.
#[inline(always)]
fn elect<F: Real, const N: usize>(
    vectors: &[Vec<F>],
    weights: &[F],
    start: usize,
) -> ([F; N], [F; N]) {
    // Arrays by value: indexed through slices they would not stay in registers.
    let group = |vector: &Vec<F>| -> [F; N] {
        let group = vector[start..start + N].try_into();
        group.expect("a range of N has N elements")
    };
    let mut sum = [F::ZERO; N];
    for vector in vectors {
        let d = group(vector);
        for i in 0..N {
            sum[i] = sum[i] + d[i];
        }
    }
    let (mut mix, mut div) = ([F::ZERO; N], [F::ZERO; N]);
    // By value: read in the loop below, the weight would be gathered, lane by lane.
    for (vector, &weight) in vectors.iter().zip(weights) {
        let d = group(vector);
        for i in 0..N {
            let plus = sum[i] >= F::ZERO;
            let agrees = (plus & (d[i] > F::ZERO)) | (!plus & (d[i] < F::ZERO));
            mix[i] = mix[i] + if agrees { d[i] } else { F::ZERO };
            div[i] = div[i] + if agrees { weight } else { F::ZERO };
        }
    }
    (mix, div)
}
