//! Paged attention, decode and prefill alike.
//!
//! All query heads that share a key/value head are handled together: with `group` heads per
//! key/value head, query `m` of a sequence is head `m % group` of row `m / group`. Scores and
//! weighted sums are products on the register tiles of `tile.rs`, because the cache is laid out
//! like packed weights (`kv.rs`).
//!
//! Softmax runs online over *partitions*: [`PARTITION`] keys, aligned to absolute positions. Each
//! partition yields its largest score, its sum of exponentials and its weighted sum; partitions are
//! merged in ascending order. Where a partition begins depends on nothing but the position, and a
//! masked key has weight exactly zero, so a row's bits do not depend on block size, chunking, other
//! rows, or on whether one thread walks all partitions (many sequences) or several threads take one
//! each and the merge follows (few long sequences).
//!
//! *Source*: online softmax and its partitioned form, Milakov & Gimelshein 2018 and Dao 2023.

use std::ops::Range;

use super::Cpu;
use super::activation::{exp, soft_cap};
use super::disjoint::Disjoint;
use super::kv::KvCache;
use super::line::{Arithmetic, Line, Operand, Rows};
use super::plan::{Plan, PlannedSequence};
use super::simd::{Kernel, LANES, Simd};
use super::tile::{Tiles, accumulate, for_each_tile};
use crate::reference::AttentionShape;

/// Keys of a partition.
const PARTITION: usize = 128;

/// Panels of keys in a partition.
const PARTITION_PANELS: usize = PARTITION / LANES;

/// Queries of a task: enough to reuse a partition's keys from the first-level cache.
const QUERIES_PER_TASK: usize = 48;

/// A task whose cost exceeds this share of a thread's part of the step is split by partition.
const SPLIT_SHARE: usize = 4;

/// Neighbouring queries of one sequence and key/value head.
#[derive(Clone, Copy, Debug)]
struct Queries {
    sequence: usize,
    kv_head: usize,
    /// The first query and how many.
    first: usize,
    count: usize,
    /// The partitions that any of them sees.
    first_partition: usize,
    num_partitions: usize,
}

impl Queries {
    fn cost(&self) -> usize {
        self.count * self.num_partitions
    }
}

/// What a thread does at once.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// All partitions of some queries, to the result.
    Whole(Queries),
    /// One partition of some queries, to the partial results from this offset on.
    Part(Queries, usize, usize),
}

/// Memory that attention works in, kept from step to step.
#[derive(Debug)]
pub struct AttentionScratch<O: Operand> {
    queries: Vec<Queries>,
    tasks: Vec<Task>,
    /// Split queries and the offset of their partial results.
    splits: Vec<(Queries, usize)>,
    partials: Vec<f32>,
    threads: Vec<ThreadScratch<O>>,
    /// Columns of a weighted sum: the head's elements in whole panels.
    columns: usize,
}

#[derive(Debug)]
struct ThreadScratch<O: Operand> {
    /// `[QUERIES_PER_TASK, PARTITION]`.
    scores: Vec<f32>,
    /// The same as words.
    weights: Vec<O::Word>,
    /// The partition at hand and all partitions so far.
    part: Vec<f32>,
    total: Vec<f32>,
}

/// Floats of a partial result: the weighted sums, then each query's largest score and its sum.
fn part_len(queries: usize, columns: usize) -> usize {
    queries * (columns + 2)
}

impl<O: Operand> AttentionScratch<O> {
    /// Memory for heads of `head_dim` elements on `threads` threads.
    pub fn new(head_dim: usize, threads: usize) -> Self {
        let columns = head_dim.next_multiple_of(LANES);
        let thread = || ThreadScratch {
            scores: vec![0.0; QUERIES_PER_TASK * PARTITION],
            weights: vec![O::Word::default(); QUERIES_PER_TASK * PARTITION / O::PER_WORD],
            part: vec![0.0; part_len(QUERIES_PER_TASK, columns)],
            total: vec![0.0; part_len(QUERIES_PER_TASK, columns)],
        };
        Self {
            queries: Vec::new(),
            tasks: Vec::new(),
            splits: Vec::new(),
            partials: Vec::new(),
            threads: (0..threads).map(|_| thread()).collect(),
            columns,
        }
    }

    /// Cuts a step into tasks, the costly ones first.
    fn schedule(&mut self, plan: &Plan, shape: &AttentionShape, threads: usize) {
        self.queries.clear();
        self.tasks.clear();
        self.splits.clear();
        let group = shape.num_heads / shape.num_key_value_heads;
        for (index, sequence) in plan.sequences.iter().enumerate() {
            let all = sequence.num_rows * group;
            for first in (0..all).step_by(QUERIES_PER_TASK) {
                let count = QUERIES_PER_TASK.min(all - first);
                let start = first_key(shape.window, sequence.first_position + first / group);
                let last = sequence.first_position + (first + count - 1) / group;
                for kv_head in 0..shape.num_key_value_heads {
                    self.queries.push(Queries {
                        sequence: index,
                        kv_head,
                        first,
                        count,
                        first_partition: start / PARTITION,
                        num_partitions: last / PARTITION - start / PARTITION + 1,
                    });
                }
            }
        }
        self.queries
            .sort_unstable_by_key(|queries| std::cmp::Reverse(queries.cost()));
        let total: usize = self.queries.iter().map(Queries::cost).sum();
        let limit = total / (threads * SPLIT_SHARE);
        let mut offset = 0;
        for queries in &self.queries {
            if threads == 1 || queries.cost() <= limit || queries.num_partitions == 1 {
                self.tasks.push(Task::Whole(*queries));
                continue;
            }
            self.splits.push((*queries, offset));
            for partition in 0..queries.num_partitions {
                let partition = queries.first_partition + partition;
                self.tasks.push(Task::Part(*queries, partition, offset));
                offset += part_len(queries.count, self.columns);
            }
        }
        if self.partials.len() < offset {
            self.partials.resize(offset, 0.0);
        }
    }
}

/// The first position that a query at `position` sees.
#[inline(always)]
fn first_key(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Attention of every row of a plan, whose keys and values are in the cache already.
///
/// *Shapes* `queries` and `out`: `[num_rows, num_heads * head_dim]`.
///
/// # Panics
/// Shapes disagree, a row is missing, or the plan was made for a cache of another extent.
#[allow(
    clippy::too_many_arguments,
    reason = "attention has this many operands"
)]
pub fn attention<O: Arithmetic>(
    cpu: &mut Cpu,
    plan: &Plan,
    shape: &AttentionShape,
    queries: &Rows<O>,
    cache: &KvCache<O>,
    layer: usize,
    scratch: &mut AttentionScratch<O>,
    out: &mut Rows<O>,
) {
    let extent = cache.shape();
    assert_eq!(plan.shape(), extent, "the plan is for this cache");
    assert_eq!(shape.num_key_value_heads, extent.num_key_value_heads);
    assert_eq!(shape.head_dim, extent.head_dim);
    assert!(shape.num_heads.is_multiple_of(shape.num_key_value_heads));
    assert!(shape.window != Some(0), "a token sees itself");
    let width = shape.num_heads * shape.head_dim;
    assert!(queries.width() == width && out.width() == width);
    assert!(queries.rows() >= plan.num_rows() && out.rows() >= plan.num_rows());
    assert_eq!(scratch.columns, shape.head_dim.next_multiple_of(LANES));

    let (isa, threads) = (cpu.isa, cpu.threads());
    scratch.schedule(plan, shape, threads);
    let stride = out.stride();
    let context = Context {
        plan,
        shape,
        queries,
        cache,
        layer,
        group: shape.num_heads / shape.num_key_value_heads,
        columns: scratch.columns,
        out: Disjoint::new(out.words_mut()),
        out_stride: stride,
    };
    let (tasks, partials) = (&scratch.tasks, Disjoint::new(&mut scratch.partials));
    cpu.pool
        .for_each_with(&mut scratch.threads, tasks.len(), |thread, index| {
            let task = tasks[index];
            let run = Run {
                context: &context,
                task,
                thread,
                partials,
            };
            O::attend(isa, run);
        });
    let (splits, partials) = (&scratch.splits, scratch.partials.as_slice());
    cpu.pool
        .for_each_with(&mut scratch.threads, splits.len(), |thread, index| {
            let (queries, offset) = splits[index];
            let merge = MergeParts {
                context: &context,
                queries,
                partials: &partials[offset..],
                thread,
            };
            O::merge_parts(isa, merge);
        });
}

/// What every task needs.
struct Context<'a, O: Operand> {
    plan: &'a Plan,
    shape: &'a AttentionShape,
    queries: &'a Rows<O>,
    cache: &'a KvCache<O>,
    layer: usize,
    group: usize,
    columns: usize,
    out: Disjoint<'a, O::Word>,
    out_stride: usize,
}

pub(super) struct Run<'a, O: Operand> {
    context: &'a Context<'a, O>,
    task: Task,
    thread: &'a mut ThreadScratch<O>,
    partials: Disjoint<'a, f32>,
}

impl<O: Arithmetic> Kernel for Run<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            context, thread, ..
        } = self;
        let ThreadScratch {
            scores,
            weights,
            part,
            total,
        } = thread;
        let (queries, partitions) = match self.task {
            Task::Whole(queries) => {
                let first = queries.first_partition;
                (queries, first..first + queries.num_partitions)
            }
            Task::Part(queries, partition, _) => (queries, partition..partition + 1),
        };
        let sequence = &context.plan.sequences[queries.sequence];
        let run = PartitionRun {
            context,
            queries,
            sequence,
            table: context.plan.table(sequence),
        };
        if let Task::Part(_, partition, offset) = self.task {
            let len = part_len(queries.count, context.columns);
            // SAFETY: the schedule gives each part its own range.
            let part = unsafe { self.partials.range(offset..offset + len) };
            run.partition(simd, partition, scores, weights, part);
            return;
        }
        clear(total, queries.count, context.columns);
        for partition in partitions {
            run.partition(simd, partition, scores, weights, part);
            merge(simd, queries.count, context.columns, total, part);
        }
        context.finish(simd, &queries, total);
    }
}

/// Merges the parts of split queries.
pub(super) struct MergeParts<'a, O: Operand> {
    context: &'a Context<'a, O>,
    queries: Queries,
    partials: &'a [f32],
    thread: &'a mut ThreadScratch<O>,
}

impl<O: Arithmetic> Kernel for MergeParts<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (count, columns) = (self.queries.count, self.context.columns);
        let total = &mut self.thread.total;
        clear(total, count, columns);
        let parts = self.partials.chunks_exact(part_len(count, columns));
        for part in parts.take(self.queries.num_partitions) {
            merge(simd, count, columns, total, part);
        }
        self.context.finish(simd, &self.queries, total);
    }
}

/// A result of no keys.
#[inline(always)]
fn clear(total: &mut [f32], count: usize, columns: usize) {
    let (sums, rest) = total.split_at_mut(count * columns);
    let (largest, weight) = rest.split_at_mut(count);
    sums.fill(0.0);
    largest.fill(f32::NEG_INFINITY);
    weight[..count].fill(0.0);
}

/// Adds a partition to the ones before it. A query that saw no key in it stays untouched.
#[inline(always)]
fn merge<S: Simd>(simd: S, count: usize, columns: usize, total: &mut [f32], part: &[f32]) {
    let (sums, rest) = total.split_at_mut(count * columns);
    let (largest, weight) = rest.split_at_mut(count);
    let (part_sums, rest) = part.split_at(count * columns);
    let (part_largest, part_weight) = rest.split_at(count);
    for query in 0..count {
        let (before, here) = (largest[query], part_largest[query]);
        if here == f32::NEG_INFINITY {
            continue;
        }
        let both = if before > here { before } else { here };
        let keep = exp(simd, simd.splat(before - both));
        let take = exp(simd, simd.splat(here - both));
        let (sums, _) = sums[query * columns..][..columns].as_chunks_mut::<LANES>();
        let (part_sums, _) = part_sums[query * columns..][..columns].as_chunks::<LANES>();
        for (sum, part) in sums.iter_mut().zip(part_sums) {
            let kept = simd.mul(simd.load(sum), keep);
            simd.store(simd.mul_add(simd.load(part), take, kept), sum);
        }
        let weights = simd.mul(simd.splat(weight[query]), keep);
        let weights = simd.mul_add(simd.splat(part_weight[query]), take, weights);
        weight[query] = simd.max_lane(weights);
        largest[query] = both;
    }
}

impl<O: Arithmetic> Context<'_, O> {
    /// Divides by the sum of weights and writes the result rows.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, queries: &Queries, total: &[f32]) {
        let (count, columns, dim) = (queries.count, self.columns, self.shape.head_dim);
        let sequence = &self.plan.sequences[queries.sequence];
        let (sums, rest) = total.split_at(count * columns);
        let weight = &rest[count..][..count];
        for query in 0..count {
            let scale = simd.splat(1.0 / weight[query]);
            let (row, column) = self.place(sequence, queries, query);
            let start = row * self.out_stride + column / O::PER_WORD;
            let words = dim.div_ceil(O::PER_WORD);
            // SAFETY: each query has its own row and head; tasks have disjoint queries.
            let out = unsafe { self.out.range(start..start + words) };
            let (sums, _) = sums[query * columns..][..columns].as_chunks::<LANES>();
            for (sums, out) in sums.iter().zip(out.chunks_mut(LANES / O::PER_WORD)) {
                let value = simd.mul(simd.load(sums), scale);
                if out.len() == LANES / O::PER_WORD {
                    O::store_row(simd, value, out);
                } else {
                    // The last panel of a head whose size is no multiple of sixteen.
                    let mut whole = [O::Word::default(); LANES];
                    O::store_row(simd, value, &mut whole[..LANES / O::PER_WORD]);
                    out.copy_from_slice(&whole[..out.len()]);
                }
            }
        }
    }

    /// Row and first column of a query in `queries` and `out`.
    #[inline(always)]
    fn place(&self, sequence: &PlannedSequence, queries: &Queries, query: usize) -> (usize, usize) {
        let query = queries.first + query;
        let head = queries.kv_head * self.group + query % self.group;
        (
            sequence.first_row + query / self.group,
            head * self.shape.head_dim,
        )
    }
}

/// Some queries and where their keys are.
struct PartitionRun<'a, O: Operand> {
    context: &'a Context<'a, O>,
    queries: Queries,
    sequence: &'a PlannedSequence,
    table: &'a [u32],
}

impl<O: Arithmetic> PartitionRun<'_, O> {
    fn position(&self, query: usize) -> usize {
        self.sequence.first_position + (self.queries.first + query) / self.context.group
    }

    /// Computes one partition: weighted sums, largest scores and sums of weights into `part`.
    #[inline(always)]
    fn partition<S: Simd>(
        &self,
        simd: S,
        partition: usize,
        scores: &mut [f32],
        weights: &mut [O::Word],
        part: &mut [f32],
    ) {
        let (count, columns) = (self.queries.count, self.context.columns);
        let start = partition * PARTITION;
        let last = self.position(count - 1).min(start + PARTITION - 1);
        let first = first_key(self.context.shape.window, self.position(0)).max(start);
        // Panels that some query sees, and the end of the keys that exist.
        let panels = (first - start) / LANES..(last - start) / LANES + 1;
        let end = last - start + 1;
        let (sums, rest) = part.split_at_mut(count * columns);
        let (largest, weight) = rest.split_at_mut(count);
        self.scores(simd, start, panels.clone(), scores);
        for query in 0..count {
            let position = self.position(query);
            let from = first_key(self.context.shape.window, position).saturating_sub(start);
            let to = (position + 1).saturating_sub(start);
            let scores = &mut scores[query * PARTITION..][..PARTITION];
            let words = PARTITION / O::PER_WORD;
            let weights = &mut weights[query * words..][..words];
            (largest[query], weight[query]) =
                softmax::<S, O>(simd, panels.clone(), from..to, scores, weights);
        }
        self.weighted_sums(simd, start, panels.start * LANES..end, weights, sums);
    }

    /// Scores of all queries against the keys of some panels of the partition.
    #[inline(always)]
    fn scores<S: Simd>(&self, simd: S, start: usize, panels: Range<usize>, scores: &mut [f32]) {
        let mut lines = [std::ptr::null::<Line<O::Word>>(); PARTITION_PANELS];
        for panel in panels.clone() {
            let position = start + panel * LANES;
            let head = self.block(position);
            let in_block = position % self.context.plan.shape().block_size;
            lines[panel] = head.key_panel(in_block / LANES).as_ptr();
        }
        let rows = 0..self.queries.count;
        let mut work = Scores {
            run: self,
            lines: &lines,
            scores,
        };
        for_each_tile(simd, panels, rows, &mut work);
    }

    /// Sums of the values at some keys of the partition, by weight.
    #[inline(always)]
    fn weighted_sums<S: Simd>(
        &self,
        simd: S,
        start: usize,
        keys: Range<usize>,
        weights: &[O::Word],
        sums: &mut [f32],
    ) {
        let panels = 0..self.context.plan.shape().value_panels();
        let rows = 0..self.queries.count;
        let mut work = WeightedSums {
            run: self,
            start,
            keys,
            weights,
            sums,
        };
        for_each_tile(simd, panels, rows, &mut work);
    }

    /// The block of a position.
    #[inline(always)]
    fn block(&self, position: usize) -> super::kv::BlockHead<'_, O> {
        let block = self.table[position / self.context.plan.shape().block_size];
        let (layer, head) = (self.context.layer, self.queries.kv_head);
        self.context.cache.head(layer, block as usize, head)
    }
}

/// Scores of queries against panels of keys.
struct Scores<'a, O: Operand> {
    run: &'a PartitionRun<'a, O>,
    /// The start of each panel of keys that is wanted.
    lines: &'a [*const Line<O::Word>; PARTITION_PANELS],
    scores: &'a mut [f32],
}

impl<S: Simd, O: Arithmetic> Tiles<S> for Scores<'_, O> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, query: usize) {
        let context = self.run.context;
        let shape = context.shape;
        let words = context.plan.shape().key_words::<O>();
        let panels = std::array::from_fn(|index| self.lines[panel + index]);
        let rows = std::array::from_fn(|index| {
            let (sequence, queries) = (self.run.sequence, &self.run.queries);
            let (row, column) = context.place(sequence, queries, query + index);
            let row = context.queries.row_words(row);
            row[column / O::PER_WORD..][..words].as_ptr()
        });
        let zero = [[simd.splat(0.0); P]; T];
        // SAFETY: `scores` has put the start of a whole panel, `words` lines, at each index that a
        // tile uses; the slices above show `words` words behind each row pointer.
        let sums = unsafe { accumulate::<S, O, P, T>(simd, zero, panels, rows, words) };
        for (index, sums) in sums.into_iter().enumerate() {
            let row = &mut self.scores[(query + index) * PARTITION..][..PARTITION];
            let (row, _) = row.as_chunks_mut::<LANES>();
            for (sum, out) in sums.into_iter().zip(&mut row[panel..panel + P]) {
                let score = simd.mul(sum, simd.splat(shape.scale));
                let score = match shape.soft_cap {
                    Some(cap) => soft_cap(simd, score, cap),
                    None => score,
                };
                simd.store(score, out);
            }
        }
    }
}

/// Weighted sums of values over panels of elements.
struct WeightedSums<'a, O: Operand> {
    run: &'a PartitionRun<'a, O>,
    start: usize,
    keys: Range<usize>,
    weights: &'a [O::Word],
    sums: &'a mut [f32],
}

impl<S: Simd, O: Arithmetic> Tiles<S> for WeightedSums<'_, O> {
    const LARGEST: (usize, usize) = S::TILE;

    #[inline(always)]
    fn tile<const P: usize, const T: usize>(&mut self, simd: S, panel: usize, query: usize) {
        let context = self.run.context;
        let block_size = context.plan.shape().block_size;
        let mut acc = [[simd.splat(0.0); P]; T];
        let mut key = self.keys.start;
        while key < self.keys.end {
            let position = self.start + key;
            let in_block = position % block_size;
            let run = (block_size - in_block).min(self.keys.end - key);
            let words = run.div_ceil(O::PER_WORD);
            let head = self.run.block(position);
            let panels = std::array::from_fn(|index| {
                head.value_panel(panel + index)[in_block / O::PER_WORD..][..words].as_ptr()
            });
            let rows = std::array::from_fn(|index| {
                let row = (query + index) * PARTITION / O::PER_WORD;
                self.weights[row + key / O::PER_WORD..][..words].as_ptr()
            });
            // SAFETY: the slices above show `words` lines and words behind each pointer.
            acc = unsafe { accumulate::<S, O, P, T>(simd, acc, panels, rows, words) };
            key += run;
        }
        let columns = context.columns;
        for (index, values) in acc.into_iter().enumerate() {
            let row = &mut self.sums[(query + index) * columns..][..columns];
            let (row, _) = row.as_chunks_mut::<LANES>();
            for (value, out) in values.into_iter().zip(&mut row[panel..panel + P]) {
                simd.store(value, out);
            }
        }
    }
}

/// Turns one query's scores into weights: `exp(score - largest)` for the keys in `seen`, zero for
/// the others. Returns the largest score (minus infinity where no key is seen) and the sum.
#[inline(always)]
fn softmax<S: Simd, O: Arithmetic>(
    simd: S,
    panels: Range<usize>,
    seen: Range<usize>,
    scores: &mut [f32],
    weights: &mut [O::Word],
) -> (f32, f32) {
    let (first, end) = (panels.start * LANES, panels.end * LANES);
    let to = seen.end.clamp(first, end);
    let from = seen.start.clamp(first, to);
    scores[first..from].fill(f32::NEG_INFINITY);
    scores[to..end].fill(f32::NEG_INFINITY);
    let (scores, _) = scores.as_chunks::<LANES>();
    let words = LANES / O::PER_WORD;
    let weights = &mut weights[panels.start * words..panels.end * words];
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for line in &scores[panels.clone()] {
        largest = simd.max(largest, simd.load(line));
    }
    let largest = simd.max_lane(largest);
    if largest == f32::NEG_INFINITY {
        weights.fill(O::Word::default());
        return (largest, 0.0);
    }
    let mut sum = simd.splat(0.0);
    for (line, out) in scores[panels].iter().zip(weights.chunks_exact_mut(words)) {
        let weight = exp(simd, simd.sub(simd.load(line), simd.splat(largest)));
        sum = simd.add(sum, weight);
        O::store_row(simd, weight, out);
    }
    (largest, simd.sum(sum))
}
