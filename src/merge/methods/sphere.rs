//! What the methods on the sphere share: inner products of all inputs, and results that are linear
//! combinations of them.
//!
//! Every quantity of an iteration on the sphere is a combination of the inputs, so coefficients
//! and the matrix of inner products (in float64) are all that is kept of a tensor.

use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Input, Tensor};

/// The inputs of a tensor as vectors (task vectors where there is a base).
pub(super) struct Vectors<'t, 'a, F> {
    tensor: &'t Tensor<'a, F>,
    inputs: Vec<&'t Input<'a>>,
}

/// Inner products of all pairs.
pub(super) struct Products(Vec<Vec<f64>>);

impl<'t, 'a, F: Elementwise> Vectors<'t, 'a, F> {
    pub(super) fn new(tensor: &'t Tensor<'a, F>) -> Self {
        Self {
            tensor,
            inputs: tensor.others().collect(),
        }
    }

    pub(super) fn tensor(&self) -> &'t Tensor<'a, F> {
        self.tensor
    }

    pub(super) fn norms(&self) -> Vec<f64> {
        let products = self.products();
        (0..self.len()).map(|i| products.norm(i)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Reads the vectors' elements from `start` on; the base, or zeros, go to `base`.
    pub(super) fn read(&self, start: usize, len: usize, base: &mut Vec<F>, vectors: &mut [Vec<F>]) {
        base.resize(len, F::ZERO);
        let Some(index) = self.tensor.base else {
            for (input, vector) in self.inputs.iter().zip(vectors) {
                self.tensor.read_len(input, start, len, vector);
            }
            return;
        };
        self.tensor.read(&self.tensor.inputs[index], start, base);
        for (input, vector) in self.inputs.iter().zip(vectors) {
            self.tensor.read_delta(input, start, base, vector);
        }
    }

    pub(super) fn products(&self) -> Products {
        let count = self.len();
        let blocks = self.tensor.reduce(|block| {
            let (mut base, mut vectors) = (Vec::new(), vec![Vec::new(); count]);
            let mut sums = vec![vec![0.0; count]; count];
            for chunk in self.tensor.chunks(block) {
                self.read(chunk.start, chunk.len(), &mut base, &mut vectors);
                for (i, a) in vectors.iter().enumerate() {
                    for (sum, b) in sums[i].iter_mut().zip(&vectors[..=i]) {
                        *sum += F::sum_of_products(self.tensor.isa, a, b);
                    }
                }
            }
            sums
        });
        let sum = |i: usize, j: usize| blocks.iter().map(|block| block[i.max(j)][i.min(j)]).sum();
        Products(
            (0..count)
                .map(|i| (0..count).map(|j| sum(i, j)).collect())
                .collect(),
        )
    }

    /// Stores `base + Σ coefficients_i · vector_i`.
    pub(super) fn emit(&self, coefficients: &[f64]) -> Result<(), MergeError> {
        let coefficients: Vec<F> = coefficients.iter().map(|c| F::from_f64(*c)).collect();
        let (isa, r) = (self.tensor.isa, self.tensor.rounding);
        self.tensor.emit(
            |_| (Vec::new(), vec![Vec::new(); self.len()]),
            |(base, vectors), start, out| {
                self.read(start, out.len(), base, vectors);
                out.fill(F::ZERO);
                for (vector, coefficient) in vectors.iter().zip(&coefficients) {
                    F::add_scaled(isa, out, vector, *coefficient);
                }
                F::round(isa, r, out);
                if self.tensor.base.is_some() {
                    F::accumulate(isa, r, out, base);
                }
            },
        )
    }
}

impl Products {
    pub(super) fn norm(&self, i: usize) -> f64 {
        self.0[i][i].sqrt()
    }

    /// The inner product of two combinations.
    pub(super) fn of(&self, a: &[f64], b: &[f64]) -> f64 {
        let row = |(a, row): (&f64, &Vec<f64>)| -> f64 {
            a * row.iter().zip(b).map(|(p, b)| p * b).sum::<f64>()
        };
        a.iter().zip(&self.0).map(row).sum()
    }

    /// The norm of a combination.
    pub(super) fn norm_of(&self, a: &[f64]) -> f64 {
        self.of(a, a).max(0.0).sqrt()
    }
}

/// `a + s·b`, coefficient by coefficient.
pub(super) fn plus(a: &[f64], s: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + s * b).collect()
}

/// The `i`-th of `len` vectors, divided by `divisor`.
pub(super) fn unit(i: usize, len: usize, divisor: f64) -> Vec<f64> {
    let mut coefficients = vec![0.0; len];
    coefficients[i] = 1.0 / divisor;
    coefficients
}
