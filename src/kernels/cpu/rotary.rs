//! Between the projections and attention: head norms, rotary embedding, storing keys and values.

use super::Cpu;
use super::disjoint::Disjoint;
use super::kv::{KvCache, KvWriter};
use super::line::{Arithmetic, F32, Operand, Rows};
use super::norm::{Vector, normalise_head};
use super::plan::{Plan, Span};
use super::simd::{Kernel, LANES, Simd};

/// Cosines and sines of positions `0..`, grown as positions are met.
#[derive(Clone, Debug, Default)]
pub struct RotaryTable {
    /// Per position: the cosines of all pairs, then the sines.
    values: Vec<f32>,
    pairs: usize,
}

impl RotaryTable {
    /// An empty table for `pairs` rotating pairs.
    pub fn new(pairs: usize) -> Self {
        Self {
            values: Vec::new(),
            pairs,
        }
    }

    /// Takes the memory of that many positions, so that growing to them takes none.
    pub fn reserve(&mut self, positions: usize) {
        let missing = positions.saturating_sub(self.positions());
        self.values.reserve(missing * 2 * self.pairs);
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.values.len().checked_div(2 * self.pairs).unwrap_or(0)
    }

    /// Makes the table reach `positions` positions; `cos_sin` writes those of one position.
    pub fn extend(
        &mut self,
        positions: usize,
        mut cos_sin: impl FnMut(usize, &mut [f32], &mut [f32]),
    ) {
        for position in self.positions()..positions {
            let start = self.values.len();
            self.values.resize(start + 2 * self.pairs, 0.0);
            let (cos, sin) = self.values[start..].split_at_mut(self.pairs);
            cos_sin(position, cos, sin);
        }
    }

    #[inline(always)]
    fn row(&self, position: usize) -> (&[f32], &[f32]) {
        self.values[position * 2 * self.pairs..][..2 * self.pairs].split_at(self.pairs)
    }
}

/// Norms of query and key heads before they rotate.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// `[head_dim]`.
    pub query: &'a Vector,
    /// `[head_dim]`.
    pub key: &'a Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// Splits the projections of a step: queries are normalised, rotated and rounded into `queries`;
/// keys are normalised, rotated and stored in the cache; values are stored.
///
/// *Shapes* `qkv`: `[num_rows, (num_heads + 2 * num_key_value_heads) * head_dim]`, overwritten;
/// `queries`: `[num_rows, num_heads * head_dim]`.
///
/// # Panics
/// Widths disagree, a row is missing, the table is too short or rotates more than a head, or the
/// plan was made for a cache of another extent.
#[allow(
    clippy::too_many_arguments,
    reason = "it touches everything that attention needs"
)]
pub fn rotate_and_store<O: Arithmetic>(
    cpu: &mut Cpu,
    plan: &Plan,
    qkv: &mut Rows<F32>,
    norms: Option<HeadNorms<'_>>,
    rotary: &RotaryTable,
    cache: &mut KvCache<O>,
    layer: usize,
    queries: &mut Rows<O>,
) {
    let shape = cache.shape();
    assert_eq!(plan.shape(), shape, "the plan is for this cache");
    let head_dim = shape.head_dim;
    let num_heads = queries.width() / head_dim;
    let heads = num_heads + 2 * shape.num_key_value_heads;
    assert_eq!(queries.width(), num_heads * head_dim, "whole query heads");
    assert_eq!(qkv.width(), heads * head_dim, "queries, keys and values");
    assert!(qkv.rows() >= plan.num_rows() && queries.rows() >= plan.num_rows());
    assert!(2 * rotary.pairs <= head_dim, "pairs within a head");
    if let Some(norms) = norms {
        assert_eq!(norms.query.len(), head_dim, "a weight per element");
        assert_eq!(norms.key.len(), head_dim, "a weight per element");
    }
    let isa = cpu.isa;
    let (qkv_stride, query_stride) = (qkv.stride(), queries.stride());
    let qkv = Disjoint::new(qkv.words_mut());
    let queries = Disjoint::new(queries.words_mut());
    let writer = cache.writer(layer);
    cpu.pool.for_each(plan.spans.len(), |index| {
        let span = Rotate {
            plan,
            span: plan.spans[index],
            norms,
            rotary,
            writer,
            num_heads,
            qkv,
            qkv_stride,
            queries,
            query_stride,
        };
        O::rotate(isa, span);
    });
}

pub(super) struct Rotate<'a, O: Operand> {
    plan: &'a Plan,
    span: Span,
    norms: Option<HeadNorms<'a>>,
    rotary: &'a RotaryTable,
    writer: KvWriter<'a, O>,
    num_heads: usize,
    qkv: Disjoint<'a, f32>,
    qkv_stride: usize,
    queries: Disjoint<'a, O::Word>,
    query_stride: usize,
}

impl<O: Arithmetic> Kernel for Rotate<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.plan.shape();
        let (dim, kv_heads) = (shape.head_dim, shape.num_key_value_heads);
        let sequence = &self.plan.sequences[self.span.sequence];
        let table = self.plan.table(sequence);
        for row in self.span.first..self.span.first + self.span.count {
            let position = sequence.first_position + row;
            let block = table[position / shape.block_size] as usize;
            let slot = position % shape.block_size;
            for head in 0..kv_heads {
                self.writer.prefetch(simd, block, slot, head);
            }
            let (cos, sin) = self.rotary.row(position);
            let row = sequence.first_row + row;
            let width = (self.num_heads + 2 * kv_heads) * dim;
            let start = row * self.qkv_stride;
            // SAFETY: the spans of a plan have disjoint rows, and a span is one task.
            let qkv = unsafe { self.qkv.range(start..start + width) };
            let (heads, values) = qkv.split_at_mut((self.num_heads + kv_heads) * dim);
            for (index, head) in heads.chunks_exact_mut(dim).enumerate() {
                if let Some(norms) = self.norms {
                    let weight = if index < self.num_heads {
                        norms.query
                    } else {
                        norms.key
                    };
                    normalise_head(simd, head, weight, norms.eps);
                }
                rotate(head, cos, sin);
            }
            let (query, keys) = heads.split_at(self.num_heads * dim);
            let start = row * self.query_stride;
            let words = query.len().div_ceil(O::PER_WORD);
            // SAFETY: as above.
            let out = unsafe { self.queries.range(start..start + words) };
            let per_vector = LANES / O::PER_WORD;
            let mut vectors = query.chunks_exact(LANES);
            let mut out = out.chunks_exact_mut(per_vector);
            for (values, out) in (&mut vectors).zip(&mut out) {
                let values = values.first_chunk().expect("sixteen values");
                O::store_row(simd, simd.load(values), out);
            }
            let tail = vectors.remainder().chunks(O::PER_WORD);
            for (word, values) in out.into_remainder().iter_mut().zip(tail) {
                *word = O::word(values);
            }
            let pairs = keys.chunks_exact(dim).zip(values.chunks_exact(dim));
            for (head, (key, value)) in pairs.enumerate() {
                // SAFETY: the plan lets no two sequences write to one block, spans of a sequence
                // share no word of positions, and nothing reads the cache in this phase.
                unsafe { self.writer.put(simd, block, slot, head, key, value) };
            }
        }
    }
}

/// Rotates pairs `(i, i + pairs)`; the rest of the head passes through.
#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
