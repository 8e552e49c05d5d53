//! The election of signs (TIES, Yadav et al. 2023, arXiv:2306.01708).

use super::Real;
use crate::cpu::simd::{Kernel, Simd};

/// Elements handled at once, so that their sums stay in registers.
const GROUP: usize = 32;

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
            let (mut mix, mut div) = ([F::ZERO; GROUP], [F::ZERO; GROUP]);
            elect(self.vectors, self.weights, start, &mut mix, &mut div);
            self.mix[start..start + GROUP].copy_from_slice(&mix);
            self.div[start..start + GROUP].copy_from_slice(&div);
        }
        for i in whole..len {
            let (mut mix, mut div) = ([F::ZERO; 1], [F::ZERO; 1]);
            elect(self.vectors, self.weights, i, &mut mix, &mut div);
            (self.mix[i], self.div[i]) = (mix[0], div[0]);
        }
    }
}

#[inline(always)]
fn elect<F: Real, const N: usize>(
    vectors: &[Vec<F>],
    weights: &[F],
    start: usize,
    mix: &mut [F; N],
    div: &mut [F; N],
) {
    let mut sum = [F::ZERO; N];
    for vector in vectors {
        for (sum, d) in sum.iter_mut().zip(&vector[start..start + N]) {
            *sum = *sum + *d;
        }
    }
    for (vector, weight) in vectors.iter().zip(weights) {
        let vector = &vector[start..start + N];
        for i in 0..N {
            let d = vector[i];
            let plus = (sum[i] >= F::ZERO) & (d > F::ZERO);
            let minus = !(sum[i] >= F::ZERO) & (d < F::ZERO);
            let agrees = plus | minus;
            mix[i] = mix[i] + if agrees { d } else { F::ZERO };
            div[i] = div[i] + if agrees { *weight } else { F::ZERO };
        }
    }
}
