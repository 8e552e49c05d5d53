//! The paged KV cache, laid out for the dot product.
//!
//! A block holds `block_size` positions of every key/value head of one layer. Per head it has
//! - keys as panels of sixteen *positions*: line `w` of a panel has word `w` of each key, so scores
//!   of sixteen keys come out of one register;
//! - values as panels of sixteen *elements*: line `w` has, for each element, the word of positions
//!   `w * PER_WORD ..`, so the weighted sum runs over positions as any product runs over inputs.
//!
//! Both are the layout of `linear.rs`'s weights; attention is products on the same tiles.

use super::buffer::LineBuffer;
use super::disjoint::Disjoint;
use super::line::{Line, Operand};
use super::simd::LANES;

/// Extent of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers, each with its own keys and values.
    pub num_layers: usize,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Positions in a block, a multiple of [`KvShape::BLOCK_SIZE_STEP`].
    pub block_size: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Elements per head, an even number.
    pub head_dim: usize,
}

impl KvShape {
    /// Block sizes are multiples of this: keys lie in panels of sixteen.
    pub const BLOCK_SIZE_STEP: usize = LANES;

    /// Bytes of one block over all layers, keys and values together.
    pub fn block_bytes<O: Operand>(&self) -> usize {
        self.num_layers * self.layer_block_lines::<O>() * size_of::<Line<O::Word>>()
    }

    /// Words of one key.
    pub(super) fn key_words<O: Operand>(&self) -> usize {
        self.head_dim.div_ceil(O::PER_WORD)
    }

    /// Panels of sixteen elements of a value.
    pub(super) fn value_panels(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn key_lines<O: Operand>(&self) -> usize {
        self.block_size / LANES * self.key_words::<O>()
    }

    fn head_lines<O: Operand>(&self) -> usize {
        self.key_lines::<O>() + self.value_panels() * (self.block_size / O::PER_WORD)
    }

    fn layer_block_lines<O: Operand>(&self) -> usize {
        self.num_key_value_heads * self.head_lines::<O>()
    }
}

/// Keys and values of all layers, in blocks.
#[derive(Debug)]
pub struct KvCache<O: Operand> {
    lines: LineBuffer<O::Word>,
    shape: KvShape,
}

impl<O: Operand> KvCache<O> {
    /// An empty cache. Memory is taken as blocks are written.
    ///
    /// # Errors
    /// The system refused the memory.
    ///
    /// # Panics
    /// The block size is no multiple of [`KvShape::BLOCK_SIZE_STEP`], or the head is odd.
    pub fn new(shape: KvShape) -> std::io::Result<Self> {
        assert!(
            shape.block_size > 0 && shape.block_size.is_multiple_of(KvShape::BLOCK_SIZE_STEP),
            "whole panels of keys in a block"
        );
        assert!(shape.head_dim.is_multiple_of(2), "halves to rotate");
        let blocks = shape.num_layers.checked_mul(shape.num_blocks);
        let lines = blocks
            .and_then(|blocks| blocks.checked_mul(shape.layer_block_lines::<O>()))
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            lines: LineBuffer::zeros(lines)?,
            shape,
        })
    }

    /// Its extent.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Bytes of the pool when every block is in use.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Copies a block in every layer.
    ///
    /// # Panics
    /// A block does not exist.
    pub fn copy_block(&mut self, source: usize, target: usize) {
        let lines = self.shape.layer_block_lines::<O>();
        for layer in 0..self.shape.num_layers {
            let from = self.block_start(layer, source);
            let to = self.block_start(layer, target);
            self.lines.copy_within(from..from + lines, to);
        }
    }

    fn block_start(&self, layer: usize, block: usize) -> usize {
        assert!(
            layer < self.shape.num_layers && block < self.shape.num_blocks,
            "block {block} of {}",
            self.shape.num_blocks
        );
        (layer * self.shape.num_blocks + block) * self.shape.layer_block_lines::<O>()
    }

    /// The keys and values of a block's head, for reading.
    #[inline(always)]
    pub(super) fn head(&self, layer: usize, block: usize, head: usize) -> BlockHead<'_, O> {
        assert!(head < self.shape.num_key_value_heads);
        let lines = self.shape.head_lines::<O>();
        let start = self.block_start(layer, block) + head * lines;
        let (keys, values) = self.lines[start..start + lines].split_at(self.shape.key_lines::<O>());
        BlockHead {
            keys,
            values,
            key_words: self.shape.key_words::<O>(),
            value_words: self.shape.block_size / O::PER_WORD,
        }
    }

    /// For several threads that write different positions.
    pub(super) fn writer(&mut self, layer: usize) -> KvWriter<'_, O> {
        let shape = self.shape;
        let lines = shape.num_blocks * shape.layer_block_lines::<O>();
        let all = &mut self.lines[layer * lines..(layer + 1) * lines];
        KvWriter {
            lines: Disjoint::new(all),
            shape,
        }
    }
}

/// One head's part of a block.
#[derive(Clone, Copy)]
pub(super) struct BlockHead<'a, O: Operand> {
    keys: &'a [Line<O::Word>],
    values: &'a [Line<O::Word>],
    key_words: usize,
    value_words: usize,
}

impl<'a, O: Operand> BlockHead<'a, O> {
    /// The panel of sixteen keys from position `16 * panel` of the block.
    #[inline(always)]
    pub(super) fn key_panel(&self, panel: usize) -> &'a [Line<O::Word>] {
        &self.keys[panel * self.key_words..][..self.key_words]
    }

    /// The panel of elements from `16 * panel`, all positions of the block.
    #[inline(always)]
    pub(super) fn value_panel(&self, panel: usize) -> &'a [Line<O::Word>] {
        &self.values[panel * self.value_words..][..self.value_words]
    }
}

/// Writes keys and values of one layer.
#[derive(Clone, Copy)]
pub(super) struct KvWriter<'a, O: Operand> {
    lines: Disjoint<'a, Line<O::Word>>,
    shape: KvShape,
}

impl<O: Operand> KvWriter<'_, O> {
    /// Stores the key and the value of one position of one head. Storing the first position of a
    /// word clears the others, so a reader never meets what an earlier owner of the block left
    /// there.
    ///
    /// # Safety
    /// No other thread reads or writes this word of positions (`slot / PER_WORD`) of this head and
    /// block at the same time.
    #[inline(always)]
    pub(super) unsafe fn put(
        &self,
        block: usize,
        slot: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (all, shape) = (self.lines.flattened(), &self.shape);
        let lines = shape.head_lines::<O>();
        let start = block * shape.layer_block_lines::<O>() + head * lines;
        let words = shape.key_words::<O>();
        let panel = start + slot / LANES * words;
        for (word, values) in key.chunks(O::PER_WORD).enumerate() {
            let at = (panel + word) * LANES + slot % LANES;
            // SAFETY: this position belongs to the caller, and a word of a key is one lane.
            let lane = unsafe { all.range(at..at + 1) };
            lane[0] = O::word(values);
        }
        let words = shape.block_size / O::PER_WORD;
        let first = start + shape.key_lines::<O>() + slot / O::PER_WORD;
        for (panel, values) in value.chunks(LANES).enumerate() {
            for (lane, value) in values.iter().enumerate() {
                let at = (first + panel * words) * LANES + lane;
                // SAFETY: this word of positions belongs to the caller.
                let word = &mut unsafe { all.range(at..at + 1) }[0];
                *word = O::put(*word, slot % O::PER_WORD, *value);
            }
        }
    }
}
