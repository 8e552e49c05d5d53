//! What an input's elements are made of: stored bytes, rows picked from several embeddings, or a
//! weight with a low-rank adapter folded in. All are read by element range, so that none is ever
//! held whole.

use crate::merge::dtype::FloatType;
use crate::merge::numeric::{Real, Rounding, load};

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
    pub(crate) fn read<F: Real>(&self, start: usize, rounding: Rounding, out: &mut [F]) {
        match self {
            Self::Stored(stored) => stored.read(start, rounding, out),
            Self::Aligned(aligned) => aligned.read(start, rounding, out),
            Self::Folded(folded) => folded.read(start, rounding, out),
        }
    }
}

impl Stored<'_> {
    #[inline(always)]
    pub(crate) fn read<F: Real>(&self, start: usize, rounding: Rounding, out: &mut [F]) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        match self.through {
            None => load(bytes, self.dtype, rounding, out),
            Some(through) => {
                load(bytes, self.dtype, Rounding::of(through), out);
                rounding.map(out, |x| x);
            }
        }
    }

    /// The type of the elements that [`Stored::read`] starts from.
    pub(crate) fn effective_dtype(&self) -> FloatType {
        self.through.unwrap_or(self.dtype)
    }
}

impl Aligned<'_> {
    fn read<F: Real>(&self, start: usize, rounding: Rounding, out: &mut [F]) {
        let mut done = 0;
        while done < out.len() {
            let (row, column) = ((start + done) / self.row_len, (start + done) % self.row_len);
            let len = (self.row_len - column).min(out.len() - done);
            self.read_row(row, column, rounding, &mut out[done..done + len]);
            done += len;
        }
    }

    fn read_row<F: Real>(&self, row: usize, column: usize, rounding: Rounding, out: &mut [F]) {
        match self.rows.get(row) {
            None => {
                for (out, mean) in out.iter_mut().zip(&self.padding[column..]) {
                    *out = rounding.scalar(*mean);
                }
            }
            Some(RowOrigin::Zero) => out.fill(F::ZERO),
            Some(RowOrigin::Row(input, row)) => {
                self.embeddings[*input].read(row * self.row_len + column, rounding, out);
            }
            Some(RowOrigin::Mean(rows)) => {
                let mut other = vec![F::ZERO; out.len()];
                out.fill(F::ZERO);
                for (input, row) in rows {
                    self.embeddings[*input].read(row * self.row_len + column, rounding, &mut other);
                    Rounding::None.zip(out, &other, |sum, x| sum + x);
                }
                let count = F::from_f64(rows.len() as f64);
                rounding.map(out, |sum| rounding.one(sum) / count);
            }
        }
    }

    /// The mean of all rows that stand for tokens.
    pub(crate) fn mean_row(&self, rounding: Rounding) -> Vec<f64> {
        let mut row = vec![0.0_f64; self.row_len];
        let mut sum = vec![0.0_f64; self.row_len];
        for index in 0..self.rows.len() {
            self.read_row(index, 0, rounding, &mut row);
            for (sum, value) in sum.iter_mut().zip(&row) {
                *sum += value;
            }
        }
        let count = self.rows.len() as f64;
        sum.into_iter().map(|sum| sum / count).collect()
    }
}

impl Folded<'_> {
    fn read<F: Real>(&self, start: usize, rounding: Rounding, out: &mut [F]) {
        self.weight.read(start, Rounding::None, out);
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
                for (delta, a) in delta.iter_mut().zip(a) {
                    *delta = a.mul_add(b, *delta);
                }
            }
            let scale = self.scale;
            kept.zip(&mut out[done..done + len], delta, |w, d| {
                w + F::from_f32(d * scale)
            });
            done += len;
        }
        rounding.map(out, |x| x);
    }
}
