//! Spherical interpolation of two models, or of their task vectors where a base is given:
//! `t = w_1/(w_0+w_1)`, vectors being whole tensors (`nuslerp_flatten`), rows, or columns
//! (`nuslerp_row_wise`, whose name says the opposite).
//!
//! Works in the tensor's type. Vectors that are all but parallel (`1 − cos² ≤ 1e-16`) are
//! interpolated linearly.

use super::{BaseUse, InputCount, MergeMethod, Parameter, Scope, merge_in_either_arithmetic};
use crate::kernels::elementwise::Elementwise;
use crate::merge::error::MergeError;
use crate::merge::tensor::{Groups, Input, Tensor};

/// The least norm.
const LEAST_NORM: f64 = 1e-7;
/// The least square of the sine.
const PARALLEL: f64 = 1e-16;
/// The least sum of weights; below it both models count the same.
const LEAST_WEIGHT: f64 = 1e-6;

/// See the module.
pub(crate) struct NuSlerp;

impl MergeMethod for NuSlerp {
    fn name(&self) -> &'static str {
        "nuslerp"
    }

    fn title(&self) -> &'static str {
        "NuSLERP"
    }

    fn base(&self) -> BaseUse {
        BaseUse::Optional
    }

    fn inputs(&self) -> InputCount {
        InputCount::ExactlyBesidesBase(2)
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter::required("weight", Scope::Input),
                Parameter::flag("nuslerp_flatten", true),
                Parameter::flag("nuslerp_row_wise", false),
            ]
        }
    }

    merge_in_either_arithmetic!();
}

impl NuSlerp {
    fn run<F: Elementwise>(&self, tensor: &Tensor<'_, F>) -> Result<(), MergeError> {
        let inputs: Vec<&Input<'_>> = tensor.others().collect();
        let [w0, w1] = [0, 1].map(|i| inputs[i].values.number("weight"));
        let t = if (w0 + w1).abs() < LEAST_WEIGHT {
            0.5
        } else {
            w1 / (w0 + w1)
        };
        let groups = if tensor.shared.flag("nuslerp_flatten") {
            Groups::Whole
        } else if tensor.shared.flag("nuslerp_row_wise") {
            Groups::along_first(tensor.shape)
        } else {
            Groups::along_last(tensor.shape)
        };
        let coefficients = self.coefficients(tensor, [inputs[0], inputs[1]], groups, t);
        let r = tensor.rounding;
        let (whole_t, rest_t) = (F::from_f64(t), F::from_f64(1.0 - t));
        tensor.emit(
            |_| (Vec::new(), Vec::new()),
            |(base, b), start, out| {
                b.resize(out.len(), F::ZERO);
                base.resize(out.len(), F::ZERO);
                self.vector(tensor, inputs[0], start, base, out);
                self.vector(tensor, inputs[1], start, base, b);
                for ((element, a), b) in (start..).zip(out.iter_mut()).zip(b.iter()) {
                    *a = match coefficients[groups.of(element)] {
                        Some([ca, cb, sine]) => {
                            r.one(r.one(r.one(ca * *a) + r.one(cb * *b)) / sine)
                        }
                        None => r.one(r.one(rest_t * *a) + r.one(whole_t * *b)),
                    };
                }
                if tensor.base.is_some() {
                    F::accumulate(tensor.isa, r, out, base);
                }
            },
        )
    }

    /// For each vector `[sin((1−t)θ), sin(tθ), sin θ]`, or `None` where linear interpolation is
    /// used.
    fn coefficients<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        inputs: [&Input<'_>; 2],
        groups: Groups,
        t: f64,
    ) -> Vec<Option<[F; 3]>> {
        let r = tensor.rounding;
        let both = |start: usize, len: usize| {
            let mut base = vec![F::ZERO; len];
            let mut vectors = [vec![F::ZERO; len], vec![F::ZERO; len]];
            for (input, vector) in inputs.iter().zip(&mut vectors) {
                self.vector(tensor, input, start, &mut base, vector);
            }
            vectors
        };
        let squares = tensor.group_sums(groups, 2, |start, terms| {
            let vectors = both(start, terms[0].len());
            for (terms, vector) in terms.iter_mut().zip(&vectors) {
                for (term, x) in terms.iter_mut().zip(vector) {
                    *term = x.to_f64() * x.to_f64();
                }
            }
        });
        let norms: Vec<Vec<F>> = squares
            .iter()
            .map(|sums| {
                let norms = sums.iter().map(|sum| r.scalar(sum.sqrt().max(LEAST_NORM)));
                norms.collect()
            })
            .collect();
        let cosines = tensor.group_sums(groups, 1, |start, terms| {
            let [a, b] = both(start, terms[0].len());
            for (i, term) in terms[0].iter_mut().enumerate() {
                let group = groups.of(start + i);
                let unit = |x: F, norms: &[F]| r.one(x / norms[group]);
                *term = r
                    .one(unit(a[i], &norms[0]) * unit(b[i], &norms[1]))
                    .to_f64();
            }
        });
        let coefficients = cosines[0].iter().map(|cosine| {
            let cosine: F = r.scalar(*cosine);
            let cosine = cosine.to_f64().clamp(-1.0, 1.0);
            let angle = r.scalar::<F>(cosine.acos()).to_f64();
            let sine = |x: F| r.scalar::<F>(x.to_f64().sin());
            let squared_sine = 1.0 - cosine * cosine;
            (squared_sine > PARALLEL).then(|| {
                [
                    sine(r.scalar(angle * (1.0 - t))),
                    sine(r.scalar(angle * t)),
                    sine(F::from_f64(angle)),
                ]
            })
        });
        coefficients.collect()
    }

    /// Reads an input, or its task vector where there is a base (which is left in `base`).
    #[inline(always)]
    fn vector<F: Elementwise>(
        &self,
        tensor: &Tensor<'_, F>,
        input: &Input<'_>,
        start: usize,
        base: &mut [F],
        out: &mut [F],
    ) {
        tensor.read(input, start, out);
        if let Some(index) = tensor.base {
            tensor.read(&tensor.inputs[index], start, base);
            F::subtract(tensor.isa, tensor.rounding, out, base);
        }
    }
}
