//! The specification of every kernel, in plain Rust: slow, obvious, the oracle of the fast paths.
//!
//! Values are `f32` as everywhere; sums run in `f64`, so that this file's own rounding stays out
//! of the tolerances that others are held to. Matrices are row-major slices; a linear layer's
//! weight is `[out_features, in_features]`.

/// The sum of products of two vectors.
///
/// # Panics
/// Their lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one length");
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>() as f32
}

/// A linear layer: `out[row][o] = x[row] . weight[o] (+ bias[o])`.
///
/// *Shapes* `x`: `[rows, in_features]`, `weight`: `[out_features, in_features]`, `bias`:
/// `[out_features]`, `out`: `[rows, out_features]`; `in_features` is not zero.
///
/// # Panics
/// The lengths do not belong together.
pub fn matmul(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    in_features: usize,
    out: &mut [f32],
) {
    let out_features = weight.len() / in_features;
    assert_eq!(weight.len(), out_features * in_features, "whole rows");
    assert_eq!(
        x.len() * out_features,
        out.len() * in_features,
        "as many rows in as out"
    );
    for (x, out) in x
        .chunks_exact(in_features)
        .zip(out.chunks_exact_mut(out_features))
    {
        for (o, out) in out.iter_mut().enumerate() {
            *out = dot(x, &weight[o * in_features..][..in_features]);
            if let Some(bias) = bias {
                *out += bias[o];
            }
        }
    }
}

/// One group of a product of integers: an exact sum, then scales in single precision, each operation
/// rounded on its own; `total` is what the groups before it came to.
///
/// With a minimum, a weight is `w_scale * w - minimum`. This one is in `f32` although everything else
/// here is not: the bits are specified, not a tolerance.
///
/// # Panics
/// The lengths differ.
pub fn add_int_group(
    total: f32,
    (x, x_scale): (&[i8], f32),
    (w, w_scale): (&[i32], f32),
    minimum: Option<f32>,
) -> f32 {
    assert_eq!(x.len(), w.len(), "a weight per activation");
    let products = x.iter().zip(w).map(|(x, w)| i64::from(*x) * i64::from(*w));
    let total = total + w_scale * x_scale * products.sum::<i64>() as f32;
    let Some(minimum) = minimum else {
        return total;
    };
    let sum: i64 = x.iter().map(|x| i64::from(*x)).sum();
    total + minimum * (-sum as f32 * x_scale)
}

/// Root-mean-square norm of one row: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// *Shapes* all `[width]`. A family that stores `weight - 1` adds the one before.
///
/// # Panics
/// The lengths differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), weight.len(), "one weight per element");
    assert_eq!(x.len(), out.len(), "as many out as in");
    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = (f64::from(*x) * scale * f64::from(*weight)) as f32;
    }
}

/// Rotates one head in place, half-split layout: elements `i` and `i + rotary_dim / 2` are a pair.
/// Elements from `rotary_dim` on pass through.
///
/// *Shapes* `head`: `[head_dim]`, `cos` and `sin`: `[rotary_dim / 2]`.
///
/// # Panics
/// The head is shorter than the pairs.
pub fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert_eq!(cos.len(), sin.len(), "one cosine per sine");
    let (first, second) = head[..2 * cos.len()].split_at_mut(cos.len());
    for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
        (*a, *b) = (*a * cos[i] - *b * sin[i], *b * cos[i] + *a * sin[i]);
    }
}

/// `x * sigmoid(x)`.
pub fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

/// The tanh approximation of GELU.
pub fn gelu_tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    (0.5 * x * (1.0 + (inner * (x + 0.044715 * x.powi(3))).tanh())) as f32
}

/// The gated half of an MLP: `out[i] = activation(gate[i]) * up[i]`.
///
/// # Panics
/// The lengths differ.
pub fn gated(gate: &[f32], up: &[f32], activation: fn(f32) -> f32, out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "a gate per element");
    assert_eq!(gate.len(), out.len(), "as many out as in");
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = activation(*gate) * up;
    }
}

/// `cap * tanh(x / cap)`.
pub fn soft_cap(x: f32, cap: f32) -> f32 {
    let cap = f64::from(cap);
    (cap * (f64::from(x) / cap).tanh()) as f32
}

/// The largest value and the sum of `exp(x - largest)`: what the three below share.
fn max_and_sum(x: &[f32]) -> (f32, f64) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = x.iter().map(|x| f64::from(x - max).exp()).sum();
    (max, sum)
}

/// `ln(sum(exp(x)))`, without overflow. Not every value may be minus infinity.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let (max, sum) = max_and_sum(x);
    (f64::from(max) + sum.ln()) as f32
}

/// Softmax in place. Minus infinity gets probability 0; not every value may be minus infinity.
pub fn softmax(x: &mut [f32]) {
    let (max, sum) = max_and_sum(x);
    for x in x {
        *x = (f64::from(*x - max).exp() / sum) as f32;
    }
}

/// Natural logarithms of the softmax, in place, under the same condition.
pub fn log_softmax(x: &mut [f32]) {
    let (max, sum) = max_and_sum(x);
    for x in x {
        *x = (f64::from(*x - max) - sum.ln()) as f32;
    }
}

/// What attention needs to know besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of [`Self::num_key_value_heads`].
    pub num_heads: usize,
    /// Key/value heads; query head `h` reads key/value head `h / (num_heads / num_key_value_heads)`.
    pub num_key_value_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Multiplies every score.
    pub scale: f32,
    /// `cap * tanh(score / cap)` on scaled scores.
    pub soft_cap: Option<f32>,
    /// A query sees its own position and the `window - 1` before it; `None` sees all before it.
    pub window: Option<usize>,
}

/// Causal attention of one sequence. Query row `i` stands at position `first_position + i`; keys
/// and values cover the positions from 0.
///
/// *Shapes* `q` and `out`: `[rows, num_heads, head_dim]`; `k` and `v`:
/// `[positions, num_key_value_heads, head_dim]`, at least `first_position + rows` positions.
///
/// # Panics
/// The lengths do not belong together, or keys are missing.
pub fn attention(
    shape: &AttentionShape,
    first_position: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let (dim, kv_heads) = (shape.head_dim, shape.num_key_value_heads);
    let group = shape.num_heads / kv_heads;
    let rows = q.len() / (shape.num_heads * dim);
    assert_eq!(q.len(), rows * shape.num_heads * dim, "whole query rows");
    assert_eq!(q.len(), out.len(), "as many out as queries");
    assert_eq!(k.len(), v.len(), "a value per key");
    assert!(
        k.len() >= (first_position + rows) * kv_heads * dim,
        "every query's own position has a key"
    );
    let at = |position: usize, head: usize| (position * kv_heads + head / group) * dim;
    for row in 0..rows {
        let position = first_position + row;
        let first = shape
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        for head in 0..shape.num_heads {
            let here = (row * shape.num_heads + head) * dim;
            let mut scores: Vec<f32> = (first..=position)
                .map(|j| dot(&q[here..][..dim], &k[at(j, head)..][..dim]) * shape.scale)
                .map(|score| shape.soft_cap.map_or(score, |cap| soft_cap(score, cap)))
                .collect();
            softmax(&mut scores);
            for (d, out) in out[here..][..dim].iter_mut().enumerate() {
                let seen = scores.iter().zip(first..);
                let weighted = seen.map(|(p, j)| f64::from(*p) * f64::from(v[at(j, head) + d]));
                *out = weighted.sum::<f64>() as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-6 * (1.0 + b.abs())
    }

    #[test]
    fn matmul_adds_the_bias_to_each_row() {
        let mut out = [0.0; 4];
        let weight = [1.0, 0.0, 2.0, 0.0, 1.0, -1.0];
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        matmul(&x, &weight, Some(&[0.5, 0.0]), 3, &mut out);
        assert_eq!(out, [7.5, -1.0, 16.5, -1.0]);
    }

    #[test]
    fn rms_norm_of_equal_values_is_the_weight() {
        let mut out = [0.0; 2];
        rms_norm(&[-3.0, 3.0], &[2.0, 0.5], 0.0, &mut out);
        assert_eq!(out, [-2.0, 0.5]);
    }

    #[test]
    fn rope_pairs_halves_and_passes_the_rest() {
        let mut head = [1.0, 2.0, 3.0, 4.0, 9.0];
        rope(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0, 9.0]);
    }

    #[test]
    fn activations_at_known_points() {
        // torch.nn.functional: silu(1), gelu(1, approximate="tanh"), gelu(-2, approximate="tanh")
        assert!(close(silu(1.0), 0.731_058_6));
        assert!(close(gelu_tanh(1.0), 0.841_192));
        assert!(close(gelu_tanh(-2.0), -0.045_402_348));
        assert_eq!((silu(-1e4), gelu_tanh(-1e4)), (-0.0, -0.0));
    }

    #[test]
    fn log_softmax_survives_large_and_masked_values() {
        let mut x = [1000.0, 1000.0, f32::NEG_INFINITY];
        log_softmax(&mut x);
        assert!(close(x[0], -(2.0f32.ln())) && x[2] == f32::NEG_INFINITY);
        assert!(close(log_sum_exp(&[-1000.0, f32::NEG_INFINITY]), -1000.0));
    }

    const SHAPE: AttentionShape = AttentionShape {
        num_heads: 4,
        num_key_value_heads: 2,
        head_dim: 2,
        scale: 0.7,
        soft_cap: None,
        window: None,
    };

    #[test]
    fn a_window_of_one_returns_the_own_value_of_the_right_head() {
        let shape = AttentionShape {
            window: Some(1),
            ..SHAPE
        };
        let v: Vec<f32> = (0..3 * 4).map(|i| i as f32).collect();
        let mut out = [0.0; 8];
        attention(&shape, 2, &[1.0; 8], &v, &v, &mut out);
        assert_eq!(out, [8.0, 9.0, 8.0, 9.0, 10.0, 11.0, 10.0, 11.0]);
    }

    proptest! {
        /// Rows computed one at a time, later keys present or not, equal rows computed together;
        /// a window as long as the context is no window.
        #[test]
        fn attention_is_causal(
            values in prop::collection::vec(-2.0f32..2.0, 5 * (8 + 4 + 4)),
            cap in prop::option::of(0.5f32..50.0),
            window in 1usize..7,
        ) {
            let (q, rest) = values.split_at(5 * 8);
            let (k, v) = rest.split_at(5 * 4);
            let shape = AttentionShape { soft_cap: cap, window: Some(window), ..SHAPE };
            let mut together = [0.0; 5 * 8];
            attention(&shape, 0, q, k, v, &mut together);
            for row in 0..5 {
                let mut alone = [0.0; 8];
                let (k, v) = (&k[..(row + 1) * 4], &v[..(row + 1) * 4]);
                attention(&shape, row, &q[row * 8..][..8], k, v, &mut alone);
                prop_assert_eq!(&together[row * 8..][..8], &alone[..]);
            }
            if window >= 5 {
                let mut unlimited = [0.0; 5 * 8];
                attention(&AttentionShape { window: None, ..shape }, 0, q, k, v, &mut unlimited);
                prop_assert_eq!(together, unlimited);
            }
        }

        #[test]
        fn softmax_is_the_exponential_of_log_softmax(x in prop::collection::vec(-30f32..30.0, 1..20)) {
            let (mut p, mut l) = (x.clone(), x);
            softmax(&mut p);
            log_softmax(&mut l);
            prop_assert!(p.iter().zip(&l).all(|(p, l)| (p - l.exp()).abs() < 1e-5));
            prop_assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
