//! What an input's elements are made of: stored bytes, rows picked from several embeddings, or a
//! weight with a low-rank adapter folded in. All are read by element range, so that none is ever
//! held whole.

use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};
use crate::merge::dtype::FloatType;

/// The elements of one input of one tensor.
pub(crate) enum Source<'a> {
    Stored(Stored<'a>),
    Aligned(Aligned<'a>),
    Folded(Folded<'a>),
}

/// Elements as they lie in a file, row-major.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    /// At least as many elements as are read.
    pub(crate) bytes: &'a [u8],
    pub(crate) dtype: FloatType,
    /// A type that the model is cast to before anything else (a folded model has one).
    pub(crate) through: Option<FloatType>,
}

/// An embedding whose rows have been put in the order of the output's vocabulary.
pub(crate) struct Aligned<'a> {
    /// The embedding of every input, by input index.
    pub(crate) embeddings: Vec<Stored<'a>>,
    pub(crate) row_len: usize,
    /// One per output token.
    pub(crate) rows: &'a [RowOrigin],
    /// The row for positions past the last token, where the output is padded.
    pub(crate) padding: Vec<f64>,
}

/// Where a row of an aligned embedding comes from: (input index, row) pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowOrigin {
    Row(usize, usize),
    /// The mean of several rows.
    Mean(Vec<(usize, usize)>),
    Zero,
}

/// `W + (B·A)·scale` (LoRA, Hu et al. 2021, arXiv:2106.09685), cast to `dtype`.
pub(crate) struct Folded<'a> {
    pub(crate) weight: Stored<'a>,
    /// `[rank, row_len]`
    pub(crate) a: Vec<f32>,
    /// `[rows, rank]`
    pub(crate) b: Vec<f32>,
    pub(crate) rank: usize,
    pub(crate) row_len: usize,
    pub(crate) scale: f32,
    /// The type that the folded model is kept in.
    pub(crate) dtype: FloatType,
}

impl Source<'_> {
    /// Reads elements from `start` on, cast to the working type.
    #[inline(always)]
    pub(crate) fn read<F: Elementwise>(
        &self,
        isa: Isa,
        start: usize,
        rounding: Rounding,
        out: &mut [F],
    ) {
        match self {
            Self::Stored(stored) => stored.read(isa, start, rounding, out),
            Self::Aligned(aligned) => aligned.read(isa, start, rounding, out),
            Self::Folded(folded) => folded.read(isa, start, rounding, out),
        }
    }
}

impl Stored<'_> {
    #[inline(always)]
    pub(crate) fn read<F: Elementwise>(
        &self,
        isa: Isa,
        start: usize,
        rounding: Rounding,
        out: &mut [F],
    ) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[start * size..];
        match self.through {
            None => F::load(isa, bytes, self.dtype, rounding, out),
            Some(through) => {
                F::load(isa, bytes, self.dtype, Rounding::of(through), out);
                F::round(isa, rounding, out);
            }
        }
    }

    /// The type of the elements that [`Stored::read`] starts from.
    pub(crate) fn effective_dtype(&self) -> FloatType {
        self.through.unwrap_or(self.dtype)
    }
}

impl Aligned<'_> {
    fn read<F: Elementwise>(&self, isa: Isa, start: usize, rounding: Rounding, out: &mut [F]) {
        let mut done = 0;
        while done < out.len() {
            let (row, column) = ((start + done) / self.row_len, (start + done) % self.row_len);
            let len = (self.row_len - column).min(out.len() - done);
            self.read_row(isa, row, column, rounding, &mut out[done..done + len]);
            done += len;
        }
    }

    fn read_row<F: Elementwise>(
        &self,
        isa: Isa,
        row: usize,
        column: usize,
        rounding: Rounding,
        out: &mut [F],
    ) {
        match self.rows.get(row) {
            None => {
                for (out, mean) in out.iter_mut().zip(&self.padding[column..]) {
                    *out = rounding.scalar(*mean);
                }
            }
            Some(RowOrigin::Zero) => out.fill(F::ZERO),
            Some(RowOrigin::Row(input, row)) => {
                self.embeddings[*input].read(isa, row * self.row_len + column, rounding, out);
            }
            Some(RowOrigin::Mean(rows)) => {
                let mut other = vec![F::ZERO; out.len()];
                out.fill(F::ZERO);
                for (input, row) in rows {
                    self.embeddings[*input].read(
                        isa,
                        row * self.row_len + column,
                        rounding,
                        &mut other,
                    );
                    F::accumulate(isa, Rounding::None, out, &other);
                }
                let count = F::from_f64(rows.len() as f64);
                rounding.map(out, |sum| rounding.one(sum) / count);
            }
        }
    }

    /// The mean of all rows that stand for tokens.
    pub(crate) fn mean_row(&self, isa: Isa, rounding: Rounding) -> Vec<f64> {
        let mut row = vec![0.0_f64; self.row_len];
        let mut sum = vec![0.0_f64; self.row_len];
        for index in 0..self.rows.len() {
            self.read_row(isa, index, 0, rounding, &mut row);
            for (sum, value) in sum.iter_mut().zip(&row) {
                *sum += value;
            }
        }
        let count = self.rows.len() as f64;
        sum.into_iter().map(|sum| sum / count).collect()
    }
}

impl Folded<'_> {
    fn read<F: Elementwise>(&self, isa: Isa, start: usize, rounding: Rounding, out: &mut [F]) {
        self.weight.read(isa, start, Rounding::None, out);
        let kept = Rounding::of(self.dtype);
        let mut delta = vec![0.0_f32; self.row_len.min(out.len())];
        let mut done = 0;
        while done < out.len() {
            let (row, column) = ((start + done) / self.row_len, (start + done) % self.row_len);
            let len = (self.row_len - column).min(out.len() - done);
            let delta = &mut delta[..len];
            delta.fill(0.0);
            for k in 0..self.rank {
                let b = self.b[row * self.rank + k];
                let a = &self.a[k * self.row_len + column..][..len];
                f32::add_scaled_fused(isa, delta, a, b);
            }
            let scale = self.scale;
            kept.zip(&mut out[done..done + len], delta, |w, d| {
                w + F::from_f32(d * scale)
            });
            done += len;
        }
        F::round(isa, rounding, out);
    }
}
