//! Where the sums of a product go: what is done to an output while it is still in registers.

use super::activation::{Activation, activate};
use super::disjoint::Disjoint;
use super::line::{Arithmetic, Bf16, F32, Operand, Rows};
use super::linear::Target;
use super::simd::{LANES, Simd};

/// Where finished sums go.
pub(super) trait Sink: Copy + Sync {
    /// Takes the sums of `P` panels from `panel` on, for one row.
    ///
    /// # Safety
    /// No other thread holds a sink for the same row and panels.
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    );
}

/// Adds the bias and, on request, what is there already.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    out: Disjoint<'a, f32>,
    stride: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    target: Target,
}

impl<'a> Plain<'a> {
    /// Row `i` of `outputs` results starts at `out[i * stride]`.
    ///
    /// # Panics
    /// A row does not fit, or there is not a bias for each output.
    pub(super) fn new(
        out: &'a mut [f32],
        stride: usize,
        num_rows: usize,
        outputs: usize,
        bias: Option<&'a [f32]>,
        target: Target,
    ) -> Self {
        if let Some(bias) = bias {
            assert_eq!(bias.len(), outputs, "a bias for each output");
        }
        if num_rows > 0 {
            assert!(
                stride >= outputs || num_rows == 1,
                "a column for each output"
            );
            assert!(out.len() >= (num_rows - 1) * stride + outputs);
        }
        Self {
            out: Disjoint::new(out),
            stride,
            outputs,
            bias,
            target,
        }
    }
}

impl Sink for Plain<'_> {
    #[inline(always)]
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    ) {
        for (index, sum) in sums.into_iter().enumerate() {
            let first = ((panel + index) * LANES).min(self.outputs);
            let end = (first + LANES).min(self.outputs);
            let start = row * self.stride;
            // SAFETY: this row's part of this panel belongs to the caller.
            let out = unsafe { self.out.range(start + first..start + end) };
            let bias = self.bias.map(|bias| &bias[first..end]);
            if out.is_empty() {
                // A panel that only rounds their number up.
                continue;
            }
            if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
                self.finish(simd, sum, bias.and_then(|bias| bias.first_chunk()), out);
            } else {
                // The last panel of a matrix whose outputs are no multiple of sixteen.
                let mut padded = [0.0; LANES];
                padded[..out.len()].copy_from_slice(out);
                let bias = bias.map(|bias| {
                    let mut padded = [0.0; LANES];
                    padded[..bias.len()].copy_from_slice(bias);
                    padded
                });
                self.finish(simd, sum, bias.as_ref(), &mut padded);
                out.copy_from_slice(&padded[..out.len()]);
            }
        }
    }
}

impl Plain<'_> {
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        mut sum: S::F32,
        bias: Option<&[f32; LANES]>,
        out: &mut [f32; LANES],
    ) {
        if let Some(bias) = bias {
            sum = simd.add(sum, simd.load(bias));
        }
        if self.target == Target::Add {
            sum = simd.add(simd.load(out), sum);
        }
        simd.store(sum, out);
    }
}

/// Multiplies the activation of each gate (even panels) with its partner (odd panels).
#[derive(Clone, Copy)]
pub(super) struct Gated<'a, O: Operand> {
    out: Disjoint<'a, O::Word>,
    stride: usize,
    activation: Activation,
}

impl<'a, O: Operand> Gated<'a, O> {
    /// Into the first `num_rows` rows of `out`.
    ///
    /// # Panics
    /// There are fewer rows, or they are not `width` wide.
    pub(super) fn new(
        out: &'a mut Rows<O>,
        num_rows: usize,
        width: usize,
        activation: Activation,
    ) -> Self {
        assert_eq!(out.width(), width, "a column for each output");
        assert!(out.rows() >= num_rows, "a result row for each row");
        let stride = out.stride();
        Self {
            out: Disjoint::new(out.words_mut()),
            stride,
            activation,
        }
    }
}

impl<O: Arithmetic> Sink for Gated<'_, O> {
    #[inline(always)]
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    ) {
        let words = LANES / O::PER_WORD;
        for pair in 0..P / 2 {
            let (gate, up) = (sums[2 * pair], sums[2 * pair + 1]);
            let value = simd.mul(activate(simd, self.activation, gate), up);
            let start = row * self.stride + (panel / 2 + pair) * words;
            // SAFETY: this row's part of these panels belongs to the caller. Lanes past the width
            // hold zero: their weights are zero, so is `activate(0) * 0`.
            let out = unsafe { self.out.range(start..start + words) };
            O::store_row(simd, value, out);
        }
    }
}

/// Any of these, chosen at run time: for kernels that are large and so compiled once for all sinks.
#[derive(Clone, Copy)]
pub(super) enum AnySink<'a> {
    Plain(Plain<'a>),
    GatedBf16(Gated<'a, Bf16>),
    GatedF32(Gated<'a, F32>),
}

impl Sink for AnySink<'_> {
    #[inline(always)]
    unsafe fn put<S: Simd, const P: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        sums: [S::F32; P],
    ) {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            match self {
                Self::Plain(sink) => sink.put(simd, row, panel, sums),
                Self::GatedBf16(sink) => sink.put(simd, row, panel, sums),
                Self::GatedF32(sink) => sink.put(simd, row, panel, sums),
            }
        }
    }
}
