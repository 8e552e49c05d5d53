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
//! Here a step is cut into tasks and results are merged; `partition` computes one partition, `held`
//! knows how keys and values are multiplied in each format of the cache, `tiled` does so in matrix
//! tiles, and `ahead` asks memory for
//! the next partition while this one is computed.
//!
//! *Source*: online softmax and its partitioned form, Milakov & Gimelshein 2018 and Dao 2023.

mod ahead;
mod held;
mod partition;
#[cfg(target_arch = "x86_64")]
mod tiled;

use std::marker::PhantomData;

use super::Cpu;
use super::activation::exp2;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
use super::buffer::Plain;
use super::disjoint::Disjoint;
use super::isa::Isa;
use super::kv::{KvCache, KvFormat};
use super::line::{Arithmetic, Bf16, Line, Operand, Rows};
use super::plan::{Plan, PlannedSequence};
use super::simd::{Kernel, LANES, Simd};
use crate::reference::AttentionShape;
use ahead::Ahead;
pub(super) use held::{Bytes, Floats, Held};
use partition::PartitionRun;
#[cfg(target_arch = "x86_64")]
use tiled::TiledFloats;

/// Keys of a partition.
const PARTITION: usize = 256;

/// Panels of keys in a partition.
const PARTITION_PANELS: usize = PARTITION / LANES;

/// Queries of a task: enough to reuse a partition's keys from the first-level cache.
const QUERIES_PER_TASK: usize = 48;

/// A task whose cost exceeds this share of a thread's part of the step is split by partition.
const SPLIT_SHARE: usize = 4;

/// Neighbouring queries of one sequence and key/value head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries {
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

/// What a thread does at once: some partitions of some queries.
#[derive(Clone, Copy, Debug)]
struct Task {
    queries: Queries,
    first_partition: usize,
    num_partitions: usize,
    /// Where the partial results go; `None` where the task has all partitions and finishes.
    partials: Option<usize>,
}

/// Memory that attention works in, kept from step to step.
#[derive(Debug)]
pub struct AttentionScratch<O: Operand> {
    queries: Vec<Queries>,
    tasks: Vec<Task>,
    /// Split queries and the offset of their partial results.
    splits: Vec<(Queries, usize)>,
    partials: Vec<f32>,
    threads: Vec<ThreadScratch>,
    /// Columns of a weighted sum: the head's elements in whole panels.
    columns: usize,
    operand: PhantomData<O>,
}

/// What a thread works in. Words are those of the format at hand.
#[derive(Debug)]
struct ThreadScratch {
    /// `[QUERIES_PER_TASK, columns / PER_WORD]`.
    queries: Vec<u32>,
    /// What the scores of each query are multiplied with.
    factors: Vec<f32>,
    /// `[QUERIES_PER_TASK, PARTITION]`.
    scores: Vec<f32>,
    /// The same as words, `PARTITION / PER_WORD` to a query.
    weights: Vec<u32>,
    /// The values of a partition, in formats that gather them.
    gathered: Vec<Line<u32>>,
    /// The partition at hand and all partitions so far.
    part: Vec<f32>,
    total: Vec<f32>,
}

/// Floats of a partial result: the weighted sums, then each query's largest score and its sum, both
/// in whole vectors.
fn part_len(queries: usize, columns: usize) -> usize {
    queries * columns + 2 * queries.next_multiple_of(LANES)
}

impl<O: Operand> AttentionScratch<O> {
    /// Memory for heads of `head_dim` elements on `threads` threads.
    pub fn new(head_dim: usize, threads: usize) -> Self {
        let columns = head_dim.next_multiple_of(LANES);
        let thread = || ThreadScratch {
            queries: vec![0; QUERIES_PER_TASK * columns],
            factors: vec![0.0; QUERIES_PER_TASK],
            scores: vec![0.0; QUERIES_PER_TASK * PARTITION],
            weights: vec![0; QUERIES_PER_TASK * PARTITION],
            gathered: Vec::new(),
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
            operand: PhantomData,
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
            let whole = Task {
                queries: *queries,
                first_partition: queries.first_partition,
                num_partitions: queries.num_partitions,
                partials: None,
            };
            if threads == 1 || queries.cost() <= limit || queries.num_partitions == 1 {
                self.tasks.push(whole);
                continue;
            }
            self.splits.push((*queries, offset));
            let pieces = queries.cost().div_ceil(limit.max(1));
            let most = queries.num_partitions.div_ceil(pieces);
            let end = queries.first_partition + queries.num_partitions;
            for first_partition in (queries.first_partition..end).step_by(most) {
                let num_partitions = most.min(end - first_partition);
                self.tasks.push(Task {
                    first_partition,
                    num_partitions,
                    partials: Some(offset),
                    ..whole
                });
                offset += num_partitions * part_len(queries.count, self.columns);
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
        #[cfg(target_arch = "x86_64")]
        amx: isa.amx(),
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
            let run = Run {
                context: &context,
                task: tasks[index],
                // Probably this thread's next one; if not, another core finds it nearby.
                next: tasks.get(index + threads).copied(),
                thread,
                partials,
                format: PhantomData,
            };
            match extent.format {
                KvFormat::Floats => O::attend(isa, run),
                KvFormat::Int8 => O::attend_bytes(isa, run.of()),
            }
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
pub(super) struct Context<'a, O: Operand> {
    #[cfg(target_arch = "x86_64")]
    amx: Option<Amx>,
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

/// A task on a cache of format `H`.
pub(super) struct Run<'a, O: Operand, H> {
    context: &'a Context<'a, O>,
    task: Task,
    next: Option<Task>,
    thread: &'a mut ThreadScratch,
    partials: Disjoint<'a, f32>,
    format: PhantomData<H>,
}

/// Runs a task in matrix tiles where there are such.
pub(super) fn attend_bf16(isa: Isa, run: Run<'_, Bf16, Floats>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = isa.amx() {
        return amx.simd().vectorize(run.of::<TiledFloats>());
    }
    isa.run(run);
}

impl<'a, O: Operand> Run<'a, O, Floats> {
    /// The same task on another format.
    fn of<H>(self) -> Run<'a, O, H> {
        Run {
            context: self.context,
            task: self.task,
            next: self.next,
            thread: self.thread,
            partials: self.partials,
            format: PhantomData,
        }
    }
}

impl<O: Arithmetic, H: Held<O>> Kernel for Run<'_, O, H> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (context, task) = (self.context, self.task);
        let queries = task.queries;
        let (count, columns) = (queries.count, context.columns);
        let ThreadScratch {
            queries: query_words,
            factors,
            scores,
            weights,
            gathered,
            part,
            total,
        } = self.thread;
        context.pack::<S, H>(simd, &queries, H::Word::of_words_mut(query_words), factors);
        let mut run = PartitionRun::<O, H> {
            context,
            queries,
            sequence: &context.plan.sequences[queries.sequence],
            query_words: H::Word::of_words_mut(query_words),
            factors,
            scores,
            weights: H::Word::of_words_mut(weights),
            gathered,
            ahead: Ahead::default(),
        };
        if task.partials.is_none() {
            clear(total, count, columns);
        }
        for index in 0..task.num_partitions {
            let partition = task.first_partition + index;
            run.ahead = if index + 1 < task.num_partitions {
                Ahead::new(context, &queries, partition + 1)
            } else {
                match &self.next {
                    Some(next) => Ahead::new(context, &next.queries, next.first_partition),
                    None => Ahead::default(),
                }
            };
            let Some(offset) = task.partials else {
                run.partition(simd, partition, part);
                merge(simd, count, columns, total, part);
                continue;
            };
            let len = part_len(count, columns);
            let start = offset + index * len;
            // SAFETY: the schedule gives each partition of split queries its own range.
            let part = unsafe { self.partials.range(start..start + len) };
            run.partition(simd, partition, part);
        }
        if task.partials.is_none() {
            context.finish(simd, &queries, total);
        }
    }
}

/// Merges the parts of split queries.
pub(super) struct MergeParts<'a, O: Operand> {
    context: &'a Context<'a, O>,
    queries: Queries,
    partials: &'a [f32],
    thread: &'a mut ThreadScratch,
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

/// The weighted sums, largest scores and sums of weights of a result.
#[inline(always)]
fn fields(part: &mut [f32], count: usize, columns: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
    let (sums, rest) = part.split_at_mut(count * columns);
    let (largest, rest) = rest.split_at_mut(count.next_multiple_of(LANES));
    (sums, largest, &mut rest[..count.next_multiple_of(LANES)])
}

/// A result of no keys.
#[inline(always)]
fn clear(total: &mut [f32], count: usize, columns: usize) {
    let (sums, largest, weight) = fields(total, count, columns);
    sums.fill(0.0);
    largest.fill(f32::NEG_INFINITY);
    weight.fill(0.0);
}

/// Adds a partition to the ones before it. A query that saw no key in it stays untouched.
#[inline(always)]
fn merge<S: Simd>(simd: S, count: usize, columns: usize, total: &mut [f32], part: &[f32]) {
    let (sums, largest, weight) = fields(total, count, columns);
    let (part_sums, rest) = part.split_at(count * columns);
    let (part_largest, part_weight) = rest.split_at(count.next_multiple_of(LANES));
    let (largest, _) = largest.as_chunks_mut::<LANES>();
    let (weight, _) = weight.as_chunks_mut::<LANES>();
    let (part_largest, _) = part_largest.as_chunks::<LANES>();
    let (part_weight, _) = part_weight.as_chunks::<LANES>();
    for vector in 0..count.div_ceil(LANES) {
        // The factors of sixteen queries at once; padding yields numbers that nothing reads.
        let before = simd.load(&largest[vector]);
        let here = simd.load(&part_largest[vector]);
        let both = simd.max(before, here);
        let (mut keep, mut take) = ([0.0; LANES], [0.0; LANES]);
        let kept = exp2(simd, simd.sub(before, both));
        let taken = exp2(simd, simd.sub(here, both));
        simd.store(kept, &mut keep);
        simd.store(taken, &mut take);
        simd.store(both, &mut largest[vector]);
        let weights = simd.mul(simd.load(&weight[vector]), kept);
        let weights = simd.mul_add(simd.load(&part_weight[vector]), taken, weights);
        simd.store(weights, &mut weight[vector]);
        let first = vector * LANES;
        for query in first..count.min(first + LANES) {
            if part_largest[vector][query - first] == f32::NEG_INFINITY {
                continue;
            }
            let keep = simd.splat(keep[query - first]);
            let take = simd.splat(take[query - first]);
            let (sums, _) = sums[query * columns..][..columns].as_chunks_mut::<LANES>();
            let (part_sums, _) = part_sums[query * columns..][..columns].as_chunks::<LANES>();
            for (sum, part) in sums.iter_mut().zip(part_sums) {
                let kept = simd.mul(simd.load(sum), keep);
                simd.store(simd.mul_add(simd.load(part), take, kept), sum);
            }
        }
    }
}

impl<O: Arithmetic> Context<'_, O> {
    /// Matrix tiles, for the format that is chosen only where there are such.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn amx(&self) -> Amx {
        self.amx
            .expect("tasks in tiles are run where there are tiles")
    }

    /// Copies a task's queries into words of the cache's format.
    #[inline(always)]
    fn pack<S: Simd, H: Held<O>>(
        &self,
        simd: S,
        queries: &Queries,
        words: &mut [H::Word],
        factors: &mut [f32],
    ) {
        let sequence = &self.plan.sequences[queries.sequence];
        let (dim, stride) = (self.shape.head_dim, self.columns / H::PER_WORD);
        // Scores are powers of two, not of e.
        let scale = match self.shape.soft_cap {
            None => self.shape.scale * std::f32::consts::LOG2_E,
            Some(_) => self.shape.scale,
        };
        for (query, words) in words
            .chunks_exact_mut(stride)
            .take(queries.count)
            .enumerate()
        {
            let (row, column) = self.place(sequence, queries, query);
            let from = &self.queries.row_words(row)[column / O::PER_WORD..];
            let from = &from[..dim.div_ceil(O::PER_WORD)];
            factors[query] = scale * H::pack_query(simd, from, words);
        }
    }

    /// The positions of the first and of the last query.
    #[inline(always)]
    fn positions(&self, queries: &Queries) -> (usize, usize) {
        let first = self.plan.sequences[queries.sequence].first_position;
        (
            first + queries.first / self.group,
            first + (queries.first + queries.count - 1) / self.group,
        )
    }

    /// The positions of a partition that some of the queries see, the last one included.
    #[inline(always)]
    fn seen(&self, queries: &Queries, partition: usize) -> (usize, usize) {
        let start = partition * PARTITION;
        let (first, last) = self.positions(queries);
        (
            first_key(self.shape.window, first).max(start),
            last.min(start + PARTITION - 1),
        )
    }

    /// Divides by the sum of weights and writes the result rows.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, queries: &Queries, total: &[f32]) {
        let (count, columns, dim) = (queries.count, self.columns, self.shape.head_dim);
        let sequence = &self.plan.sequences[queries.sequence];
        let (sums, rest) = total.split_at(count * columns);
        let weight = &rest[count.next_multiple_of(LANES)..][..count];
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
