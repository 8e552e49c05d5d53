//! Causal attention with grouped heads, forward and backward, without keeping the probabilities:
//! the backward pass recomputes them row by row (Dao et al. 2022, FlashAttention, section 3.1).
//!
//! One task is a (sequence, KV head) pair with all its query heads, so that no two tasks write the
//! same gradient. Keys and values are transposed once per task; the inner loops run over columns.

use rayon::prelude::*;

/// The shapes of a batch and which key each row may see.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Sequences in the batch.
    pub batch: usize,
    /// Rows per sequence, padding included.
    pub length: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; `num_heads` is a multiple.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// A row sees itself and the `window - 1` rows before it.
    pub window: Option<usize>,
    /// Per row of the batch: its segment. A row sees the earlier rows of its own segment; rows of
    /// segment 0 are padding, seen by nobody and seeing nothing.
    pub segments: Vec<u32>,
}

impl Shape {
    /// The range of rows that row `i` of a sequence may look at before segments are compared.
    fn reach(&self, i: usize) -> std::ops::Range<usize> {
        self.window
            .map_or(0, |window| (i + 1).saturating_sub(window))..i + 1
    }

    fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

/// One head's `[length, head_dim]` slice of a `[batch * length, heads * head_dim]` matrix, row by
/// row or transposed.
fn gather(matrix: &[f32], shape: &Shape, heads: usize, b: usize, head: usize) -> Vec<f32> {
    let d = shape.head_dim;
    let mut out = Vec::with_capacity(shape.length * d);
    for t in 0..shape.length {
        let start = ((b * shape.length + t) * heads + head) * d;
        out.extend_from_slice(&matrix[start..start + d]);
    }
    out
}

fn transpose(rows: &[f32], columns: usize) -> Vec<f32> {
    let count = rows.len() / columns;
    let mut out = vec![0.0; rows.len()];
    for (t, row) in rows.chunks(columns).enumerate() {
        for (c, value) in row.iter().enumerate() {
            out[c * count + t] = *value;
        }
    }
    out
}

/// `out[j] += factor * row[j]`.
fn add_scaled(out: &mut [f32], factor: f32, row: &[f32]) {
    for (o, r) in out.iter_mut().zip(row) {
        *o += factor * r;
    }
}

/// Probabilities of row `i` over the rows it may see, in `row[reach]`; `None` for padding.
fn row_probabilities(
    shape: &Shape,
    b: usize,
    i: usize,
    query: &[f32],
    keys_transposed: &[f32],
    row: &mut [f32],
) -> Option<std::ops::Range<usize>> {
    let reach = shape.reach(i);
    let segments = &shape.segments[b * shape.length..(b + 1) * shape.length];
    if segments[i] == 0 {
        return None;
    }
    let row = &mut row[reach.clone()];
    row.fill(0.0);
    for (c, q) in query.iter().enumerate() {
        let keys = &keys_transposed[c * shape.length..(c + 1) * shape.length];
        add_scaled(row, q * shape.scale, &keys[reach.clone()]);
    }
    for (score, segment) in row.iter_mut().zip(&segments[reach.clone()]) {
        if *segment != segments[i] {
            *score = f32::NEG_INFINITY;
        }
    }
    // A row always sees itself, so the maximum is a score and not minus infinity.
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for value in row.iter_mut() {
        *value = (*value - max).exp();
        sum += f64::from(*value);
    }
    for value in row.iter_mut() {
        *value = (f64::from(*value) / sum) as f32;
    }
    Some(reach)
}

/// Forward. Shapes: `q`, `out`: `[batch * length, num_heads * head_dim]`; `k`, `v`:
/// `[batch * length, num_kv_heads * head_dim]`. The output of padding rows is zero.
pub fn forward(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (d, n, group) = (shape.head_dim, shape.length, shape.group());
    let tasks: Vec<Vec<f32>> = (0..shape.batch * shape.num_kv_heads)
        .into_par_iter()
        .map(|task| {
            let (b, kv) = (task / shape.num_kv_heads, task % shape.num_kv_heads);
            let keys = transpose(&gather(k, shape, shape.num_kv_heads, b, kv), d);
            let values = gather(v, shape, shape.num_kv_heads, b, kv);
            let mut output = vec![0.0; group * n * d];
            let mut row = vec![0.0; n];
            for g in 0..group {
                let queries = gather(q, shape, shape.num_heads, b, kv * group + g);
                for i in 0..n {
                    let query = &queries[i * d..(i + 1) * d];
                    let Some(reach) = row_probabilities(shape, b, i, query, &keys, &mut row) else {
                        continue;
                    };
                    let target = &mut output[(g * n + i) * d..(g * n + i + 1) * d];
                    let values = values[reach.start * d..].chunks(d);
                    for (p, value) in row[reach].iter().zip(values) {
                        add_scaled(target, *p, value);
                    }
                }
            }
            output
        })
        .collect();
    for (task, output) in tasks.iter().enumerate() {
        let (b, kv) = (task / shape.num_kv_heads, task % shape.num_kv_heads);
        scatter(output, shape, shape.num_heads, b, kv * group, group, out);
    }
}

/// Writes `count` consecutive heads, each `[length, head_dim]`, into their place in the matrix.
fn scatter(
    heads: &[f32],
    shape: &Shape,
    num_heads: usize,
    b: usize,
    first_head: usize,
    count: usize,
    matrix: &mut [f32],
) {
    let d = shape.head_dim;
    for g in 0..count {
        for t in 0..shape.length {
            let start = ((b * shape.length + t) * num_heads + first_head + g) * d;
            let source = (g * shape.length + t) * d;
            matrix[start..start + d].copy_from_slice(&heads[source..source + d]);
        }
    }
}

/// The tensors that the forward pass read, and the gradient that came back.
pub struct Saved<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Gradient of the output.
    pub dout: &'a [f32],
}

/// Gradients of one (sequence, KV head) task.
struct TaskGradients {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Backward: fills `dq`, `dk`, `dv`, shaped like `q`, `k`, `v`.
pub fn backward(shape: &Shape, saved: &Saved<'_>, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let group = shape.group();
    let tasks: Vec<TaskGradients> = (0..shape.batch * shape.num_kv_heads)
        .into_par_iter()
        .map(|task| {
            backward_task(
                shape,
                saved,
                task / shape.num_kv_heads,
                task % shape.num_kv_heads,
            )
        })
        .collect();
    for (task, gradients) in tasks.iter().enumerate() {
        let (b, kv) = (task / shape.num_kv_heads, task % shape.num_kv_heads);
        scatter(
            &gradients.dq,
            shape,
            shape.num_heads,
            b,
            kv * group,
            group,
            dq,
        );
        scatter(&gradients.dk, shape, shape.num_kv_heads, b, kv, 1, dk);
        scatter(&gradients.dv, shape, shape.num_kv_heads, b, kv, 1, dv);
    }
}

fn backward_task(shape: &Shape, saved: &Saved<'_>, b: usize, kv: usize) -> TaskGradients {
    let (d, n, group) = (shape.head_dim, shape.length, shape.group());
    let keys = gather(saved.k, shape, shape.num_kv_heads, b, kv);
    let values = gather(saved.v, shape, shape.num_kv_heads, b, kv);
    let (keys_t, values_t) = (transpose(&keys, d), transpose(&values, d));
    let mut dq = vec![0.0; group * n * d];
    let (mut dk, mut dv) = (vec![0.0; n * d], vec![0.0; n * d]);
    let (mut row, mut drow) = (vec![0.0; n], vec![0.0; n]);
    for g in 0..group {
        let head = kv * group + g;
        let queries = gather(saved.q, shape, shape.num_heads, b, head);
        let doutputs = gather(saved.dout, shape, shape.num_heads, b, head);
        for i in 0..n {
            let (query, dout) = (&queries[i * d..(i + 1) * d], &doutputs[i * d..(i + 1) * d]);
            let Some(reach) = row_probabilities(shape, b, i, query, &keys_t, &mut row) else {
                continue;
            };
            let (p, ds) = (&row[reach.clone()], &mut drow[reach.clone()]);
            ds.fill(0.0);
            for (c, value) in dout.iter().enumerate() {
                add_scaled(ds, *value, &values_t[c * n..(c + 1) * n][reach.clone()]);
            }
            // Taken from the same products that are shifted by it, so that the row's gradients
            // sum to zero as closely as f32 allows: a bias on the keys sees nothing but that sum.
            let products = p
                .iter()
                .zip(ds.iter())
                .map(|(p, ds)| f64::from(*p) * f64::from(*ds));
            let shift = products.sum::<f64>() as f32;
            for (p, ds) in p.iter().zip(ds.iter_mut()) {
                *ds = p * (*ds - shift) * shape.scale;
            }
            let dquery = &mut dq[(g * n + i) * d..(g * n + i + 1) * d];
            let rows = reach.start * d..reach.end * d;
            let pairs = p.iter().zip(ds.iter()).zip(keys[rows.clone()].chunks(d));
            let targets = dk[rows.clone()].chunks_mut(d).zip(dv[rows].chunks_mut(d));
            for (((p, ds), key), (dkey, dvalue)) in pairs.zip(targets) {
                add_scaled(dquery, *ds, key);
                add_scaled(dkey, *ds, query);
                add_scaled(dvalue, *p, dout);
            }
        }
    }
    TaskGradients { dq, dk, dv }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{assert_close, numeric_gradient, test_values};

    fn shape() -> Shape {
        Shape {
            batch: 2,
            length: 5,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 3,
            scale: 0.6,
            window: Some(4),
            segments: vec![1, 1, 1, 2, 2, 1, 1, 1, 1, 0],
        }
    }

    #[test]
    fn backward_matches_finite_differences() {
        let shape = shape();
        let rows = shape.batch * shape.length;
        let q = test_values(1, rows * shape.num_heads * shape.head_dim);
        let k = test_values(2, rows * shape.num_kv_heads * shape.head_dim);
        let v = test_values(3, rows * shape.num_kv_heads * shape.head_dim);
        let dout = test_values(4, q.len());
        let loss = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
            let mut out = vec![0.0; q.len()];
            forward(&shape, q, k, v, &mut out);
            out.iter().zip(&dout).map(|(o, d)| f64::from(o * d)).sum()
        };
        let saved = Saved {
            q: &q,
            k: &k,
            v: &v,
            dout: &dout,
        };
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        backward(&shape, &saved, &mut dq, &mut dk, &mut dv);
        assert_close("dq", &dq, &numeric_gradient(&q, |q| loss(q, &k, &v)));
        assert_close("dk", &dk, &numeric_gradient(&k, |k| loss(&q, k, &v)));
        assert_close("dv", &dv, &numeric_gradient(&v, |v| loss(&q, &k, v)));
    }

    #[test]
    fn padding_sees_nothing_and_is_not_seen() {
        let shape = shape();
        let q = test_values(1, 10 * 12);
        let k = test_values(2, 10 * 6);
        let mut v = test_values(3, 10 * 6);
        let mut out = vec![0.0; q.len()];
        forward(&shape, &q, &k, &v, &mut out);
        assert!(out[9 * 12..].iter().all(|o| *o == 0.0));
        let before = out.clone();
        v[9 * 6..].fill(1e9);
        out.fill(0.0);
        forward(&shape, &q, &k, &v, &mut out);
        assert_eq!(before, out);
    }
}
