//! Asking memory for what comes next.
//!
//! A sequence's blocks lie anywhere in the pool, a few kilobytes each, so the CPU's own prefetching
//! starts anew at each of them. The products of a partition therefore ask, line by line and as fast
//! as they read their own, for the blocks of the partition that follows.

use super::super::line::{Arithmetic, Operand};
use super::super::simd::Simd;
use super::{Context, PARTITION, Queries};

/// The lines of some blocks that were not yet asked for. The default has none.
pub(super) struct Ahead<'a, O: Operand> {
    context: Option<(&'a Context<'a, O>, usize)>,
    blocks: &'a [u32],
    at: *const u8,
    lines: usize,
}

impl<O: Operand> Default for Ahead<'_, O> {
    fn default() -> Self {
        Self {
            context: None,
            blocks: &[],
            at: std::ptr::null(),
            lines: 0,
        }
    }
}

impl<'a, O: Arithmetic> Ahead<'a, O> {
    /// The blocks that begin in a partition (or, where they are larger, overlap it).
    #[inline(always)]
    pub(super) fn new(context: &'a Context<'a, O>, queries: &Queries, partition: usize) -> Self {
        let block_size = context.plan.shape().block_size;
        let (first, last) = context.seen(queries, partition);
        if block_size > PARTITION {
            // Most of such a block belongs to other partitions; it is long enough to stream.
            return Self::default();
        }
        let table = context
            .plan
            .table(&context.plan.sequences[queries.sequence]);
        Self {
            context: Some((context, queries.kv_head)),
            blocks: &table[first / block_size..=last / block_size],
            at: std::ptr::null(),
            lines: 0,
        }
    }

    /// Asks for some more lines.
    #[inline(always)]
    pub(super) fn step<S: Simd>(&mut self, simd: S, lines: usize) {
        if self.lines == 0 {
            self.next_block();
        }
        let lines = lines.min(self.lines);
        for _ in 0..lines {
            simd.prefetch(self.at);
            self.at = self.at.wrapping_add(64);
        }
        self.lines -= lines;
    }

    /// Goes to the block that follows, if there is one.
    #[inline(never)]
    fn next_block(&mut self) {
        let (Some((context, head)), [block, rest @ ..]) = (self.context, self.blocks) else {
            return;
        };
        let head = context.cache.head(context.layer, *block as usize, head);
        self.blocks = rest;
        self.at = head.lines().as_ptr().cast();
        self.lines = head.lines().len();
    }
}
