//! The paged KV cache, laid out for the dot product.
//!
//! A block holds `block_size` positions of every key/value head of one layer. Per head it has
//! - keys as panels of sixteen *positions*: line `w` of a panel has word `w` of each key, so scores
//!   of sixteen keys come out of one register;
//! - values as panels of sixteen *elements*: line `w` has, for each element, the word of positions
//!   `w * PER_WORD ..`, so the weighted sum runs over positions as any product runs over inputs.
//!
//! Both are the layout of `linear.rs`'s weights; attention is products on the same tiles.
//!
//! As integers the same holds with words of two bytes, two elements or positions, so that half a
//! line is what sixteen lanes take. A panel of keys begins with lines of scales, a scale of each key
//! for each [`KEY_GROUP`] elements; before the panels of values stand the scales of the positions.

use super::buffer::{LineBuffer, Plain};
use super::disjoint::Disjoint;
use super::line::{Arithmetic, Line, Operand};
use super::simd::{LANES, Simd};

/// How the keys and values of a cache are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// In the type that is computed in.
    #[default]
    Floats,
    /// As 8-bit integers: a scale for each 32 elements of a key, and one for a value.
    Int8,
}

/// Elements of a key that share a scale where keys are integers. Some elements of keys are hundreds
/// of times as large as the rest; a group keeps that damage to itself.
pub(super) const KEY_GROUP: usize = 32;

/// Bytes of an integer word of sixteen lanes.
pub(super) const BYTES_PER_WORD: usize = 2 * LANES;

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
    /// How keys and values are held.
    pub format: KvFormat,
}

/// Lines of one head's part of a block.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Of scales at the start of a panel of keys.
    key_scales: usize,
    /// Of a panel of keys, its scales included.
    key_panel: usize,
    /// Of all panels of keys.
    keys: usize,
    /// Of scales before the panels of values.
    value_scales: usize,
    /// Of a panel of values.
    value_panel: usize,
    /// Of everything.
    head: usize,
    /// Of all heads.
    block: usize,
}

impl KvShape {
    /// Block sizes are multiples of this: keys lie in panels of sixteen.
    pub const BLOCK_SIZE_STEP: usize = LANES;

    /// Bytes of one block over all layers, keys and values together.
    pub fn block_bytes<O: Operand>(&self) -> usize {
        self.num_layers * self.layout::<O>().block * size_of::<Line<O::Word>>()
    }

    /// Panels of sixteen elements of a value.
    pub(super) fn value_panels(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn layout<O: Operand>(&self) -> Layout {
        let panels = self.block_size / LANES;
        let (key_scales, key_panel, value_scales, value_panel) = match self.format {
            KvFormat::Floats => (
                0,
                self.head_dim.div_ceil(O::PER_WORD),
                0,
                self.block_size / O::PER_WORD,
            ),
            KvFormat::Int8 => {
                let scales = self.head_dim.div_ceil(KEY_GROUP);
                let words = self.head_dim.div_ceil(2);
                (
                    scales,
                    scales + words.div_ceil(2),
                    panels,
                    self.block_size / 4,
                )
            }
        };
        let keys = panels * key_panel;
        let head = keys + value_scales + self.value_panels() * value_panel;
        Layout {
            key_scales,
            key_panel,
            keys,
            value_scales,
            value_panel,
            head,
            block: self.num_key_value_heads * head,
        }
    }
}

/// Keys and values of all layers, in blocks.
#[derive(Debug)]
pub struct KvCache<O: Operand> {
    lines: LineBuffer<O::Word>,
    shape: KvShape,
    layout: Layout,
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
        let layout = shape.layout::<O>();
        let blocks = shape.num_layers.checked_mul(shape.num_blocks);
        let lines = blocks
            .and_then(|blocks| blocks.checked_mul(layout.block))
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            lines: LineBuffer::zeros(lines)?,
            shape,
            layout,
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
        let lines = self.layout.block;
        for layer in 0..self.shape.num_layers {
            let from = self.block_start(layer, source);
            let to = self.block_start(layer, target);
            self.lines.copy_within(from..from + lines, to);
        }
    }

    #[inline(always)]
    fn block_start(&self, layer: usize, block: usize) -> usize {
        assert!(
            layer < self.shape.num_layers && block < self.shape.num_blocks,
            "block {block} of {}",
            self.shape.num_blocks
        );
        (layer * self.shape.num_blocks + block) * self.layout.block
    }

    /// The keys and values of a block's head, for reading.
    #[inline(always)]
    pub(super) fn head(&self, layer: usize, block: usize, head: usize) -> BlockHead<'_, O> {
        assert!(head < self.shape.num_key_value_heads);
        let start = self.block_start(layer, block) + head * self.layout.head;
        BlockHead {
            lines: &self.lines[start..start + self.layout.head],
            layout: self.layout,
        }
    }

    /// For several threads that write different positions.
    pub(super) fn writer(&mut self, layer: usize) -> KvWriter<'_, O> {
        let lines = self.shape.num_blocks * self.layout.block;
        let all = &mut self.lines[layer * lines..(layer + 1) * lines];
        KvWriter {
            lines: Disjoint::new(all),
            shape: self.shape,
            layout: self.layout,
        }
    }
}

/// One head's part of a block.
#[derive(Clone, Copy)]
pub(super) struct BlockHead<'a, O: Operand> {
    lines: &'a [Line<O::Word>],
    layout: Layout,
}

type Lines<'a, O> = &'a [Line<<O as Operand>::Word>];

impl<'a, O: Operand> BlockHead<'a, O> {
    /// All of it, keys first.
    #[inline(always)]
    pub(super) fn lines(&self) -> &'a [Line<O::Word>] {
        self.lines
    }

    /// The panel of sixteen keys from position `16 * panel` of the block: lines of scales, and lines
    /// of words.
    #[inline(always)]
    pub(super) fn key_panel(&self, panel: usize) -> (Lines<'a, O>, Lines<'a, O>) {
        let layout = &self.layout;
        self.lines[panel * layout.key_panel..][..layout.key_panel].split_at(layout.key_scales)
    }

    /// The scales of the values of sixteen positions from `16 * panel` on.
    #[inline(always)]
    pub(super) fn value_scales(&self, panel: usize) -> &'a Line<O::Word> {
        &self.lines[self.layout.keys..][..self.layout.value_scales][panel]
    }

    /// All panels of elements, each with all positions of the block.
    #[inline(always)]
    pub(super) fn value_panels(&self) -> &'a [Line<O::Word>] {
        &self.lines[self.layout.keys + self.layout.value_scales..]
    }

    /// Lines from one panel of values to the next.
    #[inline(always)]
    pub(super) fn value_panel_lines(&self) -> usize {
        self.layout.value_panel
    }
}

/// Writes keys and values of one layer.
#[derive(Clone, Copy)]
pub(super) struct KvWriter<'a, O: Operand> {
    lines: Disjoint<'a, Line<O::Word>>,
    shape: KvShape,
    layout: Layout,
}

impl<O: Arithmetic> KvWriter<'_, O> {
    /// Brings what [`KvWriter::put`] will write near.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, simd: S, block: usize, slot: usize, head: usize) {
        let (shape, layout) = (&self.shape, &self.layout);
        let start = block * layout.block + head * layout.head;
        let panel = start + slot / LANES * layout.key_panel;
        for line in 0..layout.key_panel {
            simd.prefetch(self.lines.address(panel + line).cast());
        }
        let values = start + layout.keys + layout.value_scales;
        let line = slot * layout.value_panel / shape.block_size;
        for panel in 0..shape.value_panels() {
            simd.prefetch(
                self.lines
                    .address(values + panel * layout.value_panel + line)
                    .cast(),
            );
        }
    }

    /// Stores the key and the value of one position of one head. Storing the first position of a
    /// word clears the others, so a reader never meets what an earlier owner of the block left
    /// there.
    ///
    /// # Safety
    /// No other thread reads or writes this word of positions (`slot / PER_WORD`, or `slot / 2` of
    /// integers) of this head and block at the same time.
    #[inline(always)]
    pub(super) unsafe fn put<S: Simd>(
        &self,
        simd: S,
        block: usize,
        slot: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let start = block * self.layout.block + head * self.layout.head;
        match self.shape.format {
            // SAFETY: the caller's promise.
            KvFormat::Floats => unsafe { self.put_floats(simd, start, slot, key, value) },
            // SAFETY: as above.
            KvFormat::Int8 => unsafe { self.put_bytes(simd, start, slot, key, value) },
        }
    }

    /// # Safety
    /// As [`KvWriter::put`]; `start` is the first line of the head's part.
    #[inline(always)]
    unsafe fn put_floats<S: Simd>(
        &self,
        simd: S,
        start: usize,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (all, layout) = (self.lines.flattened(), &self.layout);
        let per_vector = LANES / O::PER_WORD;
        let panel = start + slot / LANES * layout.key_panel;
        for (vector, values) in key.chunks(LANES).enumerate() {
            let mut words = [O::Word::default(); LANES];
            O::store_row(simd, padded(simd, values), &mut words[..per_vector]);
            let count = values.len().div_ceil(O::PER_WORD);
            for (word, value) in words[..count].iter().enumerate() {
                let at = (panel + vector * per_vector + word) * LANES + slot % LANES;
                // SAFETY: this position belongs to the caller, and a word of a key is one lane.
                let lane = unsafe { all.range(at..at + 1) };
                lane[0] = *value;
            }
        }
        let first = start + layout.keys + slot / O::PER_WORD;
        for (panel, values) in value.chunks(LANES).enumerate() {
            let at = (first + panel * layout.value_panel) * LANES;
            // SAFETY: this word of positions belongs to the caller.
            let line = unsafe { all.range(at..at + LANES) };
            let line = line.first_chunk_mut().expect("a line is sixteen words");
            O::put(simd, line, slot % O::PER_WORD, padded(simd, values));
        }
    }

    /// # Safety
    /// As [`KvWriter::put_floats`].
    #[inline(always)]
    unsafe fn put_bytes<S: Simd>(
        &self,
        simd: S,
        start: usize,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (words, bytes) = (self.lines.flattened(), self.lines.bytes());
        let (layout, lane) = (&self.layout, slot % LANES);
        let set_scale = |line: usize, scale: f32| {
            let at = line * LANES + lane;
            // SAFETY: a position's scale is one lane, and the position belongs to the caller.
            let lane = unsafe { words.range(at..at + 1) };
            lane[0] = O::Word::from_f32_bits(scale);
        };
        let panel = start + slot / LANES * layout.key_panel;
        let key_words = (panel + layout.key_scales) * size_of::<Line<O::Word>>();
        for (group, values) in key.chunks(KEY_GROUP).enumerate() {
            let largest = largest_magnitude(simd, values);
            set_scale(panel + group, largest / 127.0);
            for (vector, values) in values.chunks(LANES).enumerate() {
                let integers = to_bytes(simd, values, largest);
                for word in 0..values.len().div_ceil(2) {
                    let index = (group * KEY_GROUP + vector * LANES) / 2 + word;
                    let at = key_words + index * BYTES_PER_WORD + 2 * lane;
                    // SAFETY: as above; a word of a key is two bytes of one lane.
                    let to = unsafe { bytes.range(at..at + 2) };
                    to.copy_from_slice(&integers[2 * word..2 * word + 2]);
                }
            }
        }
        let largest = largest_magnitude(simd, value);
        set_scale(start + layout.keys + slot / LANES, largest / 127.0);
        let values = start + layout.keys + layout.value_scales;
        for (panel, value) in value.chunks(LANES).enumerate() {
            let integers = to_bytes(simd, value, largest);
            let line = (values + panel * layout.value_panel) * size_of::<Line<O::Word>>();
            let at = line + slot / 2 * BYTES_PER_WORD;
            // SAFETY: this pair of positions belongs to the caller.
            let to = unsafe { bytes.range(at..at + BYTES_PER_WORD) };
            let (pairs, _) = to.as_chunks_mut::<2>();
            if slot.is_multiple_of(2) {
                for (pair, integer) in pairs.iter_mut().zip(integers) {
                    *pair = [integer, 0];
                }
            } else {
                for (pair, integer) in pairs.iter_mut().zip(integers) {
                    pair[1] = integer;
                }
            }
        }
    }
}

/// Up to sixteen values, zeros after them.
#[inline(always)]
fn padded<S: Simd>(simd: S, values: &[f32]) -> S::F32 {
    match values.first_chunk() {
        Some(lanes) => simd.load(lanes),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..values.len()].copy_from_slice(values);
            simd.load(&lanes)
        }
    }
}

/// The largest magnitude; not a number where a value is none or infinite.
#[inline(always)]
fn largest_magnitude<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let zero = simd.splat(0.0);
    let (mut largest, mut damage) = (zero, zero);
    for values in values.chunks(LANES) {
        let x = padded(simd, values);
        largest = simd.max(simd.max(x, simd.sub(zero, x)), largest);
        // Zero for every number, and not a number for all else.
        damage = simd.add(damage, simd.mul(x, zero));
    }
    simd.max_lane(largest) + simd.sum(damage)
}

/// Up to sixteen values as integers from -127 to 127, `largest` being 127.
#[inline(always)]
fn to_bytes<S: Simd>(simd: S, values: &[f32], largest: f32) -> [u8; LANES] {
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let x = simd.round(simd.mul(padded(simd, values), simd.splat(inverse)));
    let x = simd.min(simd.max(x, simd.splat(-127.0)), simd.splat(127.0));
    let words = simd.to_bytes(x).map(u32::to_le_bytes);
    std::array::from_fn(|lane| words[lane / 4][lane % 4])
}
