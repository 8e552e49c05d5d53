//! The graph of one step: the decoder that a [`DecoderSpec`] describes, or a stretch of its layers,
//! for rows laid out by [`super::batch`].
//!
//! Per layer, keys and values of all rows are written into the pool, then each group gathers its
//! sequences' blocks and attends over them, or attends over them where they lie if they lie in one
//! stretch. Gathering treats pieces of blocks as rows of four-byte words, so that it copies bits
//! whatever type the cache has.

use std::ops::Range;

use crate::engine::backends::cpu::ComputeType;
use crate::engine::demand::kv_type;
use crate::model::{Activation, DecoderSpec};

use super::batch::{GroupShape, Shape};
use super::device::{Backend, DeviceInfo};
use super::memory::{self, Purpose};
use super::stage::{Graph, Stage};
use super::tensor::{Context, Element, Tensor, Window};
use super::weights::{HeadTensors, LayerTensors, RopeTensor, Weights};

/// Words of a row that is gathered, at most: of rows of four-byte integers, ggml's Vulkan part copies
/// 512 elements in each thousand, because its `get_rows_i32` is dispatched for groups of 1,024
/// invocations and has 512.
const MAX_PIECE_WORDS: usize = 512;

/// Keys and values of a device's layers. *Shapes* each `[kv_size, slots]`; the last block is the
/// sink.
pub(super) struct Pool {
    pub(super) layers: Vec<[Tensor; 2]>,
    element: Element,
    block_size: usize,
    /// Rows that a block is gathered in.
    pieces_per_block: usize,
}

impl Pool {
    /// Takes the memory for `layers` layers and clears it: what padding reads must be numbers.
    ///
    /// # Errors
    /// The device has not that much, or ggml cannot number its rows.
    pub(super) fn allocate(
        backend: &Backend,
        spec: &DecoderSpec,
        layers: usize,
        element: Element,
        block_size: usize,
        num_blocks: usize,
    ) -> Result<Self, String> {
        let context = Context::new(2 * layers);
        let slots = (num_blocks + 1)
            .checked_mul(block_size)
            .ok_or("the KV cache is larger than any memory")?;
        let pieces_per_block = pieces_per_block(spec, element, block_size);
        if num_blocks > numbered_blocks(pieces_per_block) {
            return Err(format!(
                "ggml cannot number the rows of {num_blocks} KV blocks; lower the KV memory"
            ));
        }
        let tensor = || context.tensor(element, [spec.kv_size(), slots, 1, 1]);
        let layers = (0..layers).map(|_| [tensor(), tensor()]).collect();
        memory::allocate(backend, &context, Purpose::Cache)?;
        Ok(Self {
            layers,
            element,
            block_size,
            pieces_per_block,
        })
    }

    /// Bytes of all of it, the sink excepted.
    pub(super) fn num_bytes(&self) -> u64 {
        let sink = self.block_bytes();
        let tensors = self.layers.iter().flatten();
        tensors.map(|t| (t.num_bytes() - sink) as u64).sum()
    }

    /// Bytes of one block of keys, or of values, in one layer.
    pub(super) fn block_bytes(&self) -> usize {
        let [keys, _] = &self.layers[0];
        keys.element().row_bytes(keys.shape()[0]) * self.block_size
    }

    /// One of the pool's tensors as rows of four-byte words, a piece of a block each.
    fn words(&self, context: &Context, tensor: &Tensor) -> Tensor {
        let pieces = tensor.shape()[1] / self.block_size * self.pieces_per_block;
        let piece_words = self.block_bytes() / 4 / self.pieces_per_block;
        context.reinterpret(tensor, Element::I32, [piece_words, pieces, 1, 1])
    }

    /// Numbers of the pieces of `blocks`, in their order.
    pub(super) fn number_pieces(&self, blocks: &[i32], pieces: &mut Vec<i32>) {
        let count = self.pieces_per_block as i32;
        pieces.clear();
        pieces.extend(
            blocks
                .iter()
                .flat_map(|block| block * count..(block + 1) * count),
        );
    }

    /// Copies a block in every layer, by way of the host: it happens once where samples part.
    pub(super) fn copy_block(&self, source: usize, target: usize) {
        let bytes = self.block_bytes();
        let mut block = vec![0u8; bytes];
        for tensor in self.layers.iter().flatten() {
            memory::read(tensor, source * bytes, &mut block);
            memory::write(tensor, target * bytes, &block);
        }
    }
}

/// The pieces that a block is gathered in.
fn pieces_per_block(spec: &DecoderSpec, element: Element, block_size: usize) -> usize {
    pieces(element.row_bytes(spec.kv_size()) * block_size / 4)
}

/// The fewest equal pieces of so many words that are no longer than [`MAX_PIECE_WORDS`].
fn pieces(words: usize) -> usize {
    let fits = |count: &usize| words.is_multiple_of(*count) && words / count <= MAX_PIECE_WORDS;
    (1..=words).find(fits).unwrap_or(1)
}

/// Blocks of which every piece has a number, beside the sink.
fn numbered_blocks(pieces_per_block: usize) -> usize {
    i32::MAX as usize / pieces_per_block - 1
}

/// The most KV blocks that a device can address in one pool, which may be fewer than its memory
/// holds: a shader of Vulkan reaches as many bytes of a tensor as the driver says.
///
/// # Errors
/// The device cannot be opened.
pub(in crate::engine) fn max_blocks(
    device: &DeviceInfo,
    spec: &DecoderSpec,
    compute_type: ComputeType,
    block_size: usize,
) -> Result<usize, String> {
    let backend = Backend::open(device, 1)?;
    let element = Element::Stored(kv_type(device.kind, compute_type));
    let is_writable = |num_blocks: usize| {
        let probe = Context::new(4);
        let slots = (num_blocks + 1) * block_size;
        let pool = probe.tensor(element, [spec.kv_size(), slots, 1, 1]);
        let rows = probe.tensor(Element::F32, [spec.kv_size(), 1, 1, 1]);
        let slot = probe.tensor(Element::I64, [1; 4]);
        backend.supports(&probe.set_rows(&pool, &rows, &slot))
    };
    let numbered = numbered_blocks(pieces_per_block(spec, element, block_size));
    if is_writable(numbered) {
        return Ok(numbered);
    }
    // Where not even one is, the check of the first graph says so.
    let (mut fits, mut beyond) = (1, numbered);
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        match is_writable(middle) {
            true => fits = middle,
            false => beyond = middle,
        }
    }
    Ok(fits)
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionPath {
    /// In one operation, which needs no memory for the scores.
    Flash,
    /// Scores, softmax and weighted sum one after the other, in `f32`.
    Plain,
}

/// What a graph is built from.
pub(super) struct Parts<'a> {
    pub(super) spec: &'a DecoderSpec,
    /// The layers whose weights and pool these are.
    pub(super) layers: Range<usize>,
    pub(super) weights: &'a Weights,
    pub(super) pool: &'a Pool,
    pub(super) attention: AttentionPath,
    /// Whether the device is a processor.
    pub(super) on_cpu: bool,
}

/// A graph with the places of its inputs and its result.
pub(super) struct StepGraph {
    pub(super) graph: Graph,
    /// `[hidden_size, rows]`.
    pub(super) hidden: Tensor,
    pub(super) positions: Tensor,
    pub(super) slots: Tensor,
    /// The rows that need logits, where the last layer is here.
    pub(super) outputs: Option<Tensor>,
    pub(super) groups: Vec<GroupInputs>,
    /// `[vocab_size, outputs]` where the last layer is here, else `[hidden_size, rows]` for the
    /// next device; none where nobody wants logits.
    pub(super) result: Option<Tensor>,
}

/// One group's own inputs.
pub(super) struct GroupInputs {
    /// Pieces of blocks to gather, sequence after sequence; none where keys are read in place.
    pub(super) pieces: Option<Tensor>,
    /// Every layer's keys and values that are read in place.
    pub(super) windows: Vec<Window>,
    /// Per attention window of the model: which keys a row sees.
    pub(super) masks: Vec<(Option<usize>, Tensor)>,
}

/// Tensors that one layer adds at most, with `groups` groups.
fn layer_tensors(groups: usize) -> usize {
    48 + 32 * groups
}

impl StepGraph {
    pub(super) fn build(parts: &Parts<'_>, shape: &Shape) -> Self {
        let spec = parts.spec;
        let windows = distinct_windows(spec);
        let groups = shape.groups.len();
        let layers = parts.layers.clone();
        let has_head = parts.weights.head.is_some();
        let max_tensors = 64 + groups * (1 + windows.len()) + layers.len() * layer_tensors(groups);
        let context = Context::new(max_tensors);
        let num_rows = shape.num_rows();
        let hidden = context.input(Element::F32, [spec.hidden_size, num_rows, 1, 1]);
        let positions = context.input(Element::I32, [num_rows, 1, 1, 1]);
        let slots = context.input(Element::I64, [num_rows, 1, 1, 1]);
        let outputs = (has_head && shape.outputs > 0)
            .then(|| context.input(Element::I32, [shape.outputs, 1, 1, 1]));
        let mut inputs: Vec<GroupInputs> = shape
            .groups
            .iter()
            .map(|group| GroupInputs::new(&context, group, parts.pool, &windows))
            .collect();
        let mut builder = Builder {
            parts,
            context: &context,
            shape,
            positions: &positions,
            slots: &slots,
            groups: &mut inputs,
            written: Vec::new(),
        };
        let mut rows = hidden.clone();
        for layer in layers {
            let is_last = layer + 1 == spec.num_hidden_layers;
            rows = builder.layer(layer, &rows, outputs.as_ref().filter(|_| is_last));
        }
        let result = match &parts.weights.head {
            Some(head) => outputs.as_ref().map(|_| builder.head(head, &rows)),
            None => Some(rows),
        };
        // The cache is written whether or not anybody reads what follows from it.
        let mut results = builder.written;
        if let Some(result) = &result {
            context.mark_output(result);
            results.push(result.clone());
        }
        let graph = Graph::new(context, max_tensors, &results);
        Self {
            graph,
            hidden,
            positions,
            slots,
            outputs,
            groups: inputs,
            result,
        }
    }

    /// Only what gathers every layer's keys and values: what the step pays for blocks that lie
    /// apart. It has no other inputs than the groups', none of which may be read in place.
    pub(super) fn gathers(parts: &Parts<'_>, shape: &Shape) -> (Graph, Vec<GroupInputs>) {
        let max_tensors = shape.groups.len() * (1 + parts.layers.len() * layer_tensors(1));
        let context = Context::new(max_tensors);
        let mut results = Vec::new();
        let mut inputs = Vec::new();
        for group in &shape.groups {
            let group_inputs = GroupInputs::new(&context, group, parts.pool, &[]);
            let pieces = group_inputs.pieces();
            for pool in parts.pool.layers.iter().flatten() {
                let words = parts.pool.words(&context, pool);
                results.push(context.get_rows(&words, pieces));
            }
            inputs.push(group_inputs);
        }
        (Graph::new(context, max_tensors, &results), inputs)
    }

    /// Whether the device can compute it.
    ///
    /// # Errors
    /// The first operation that it cannot.
    pub(super) fn check(&self, stage: &Stage) -> Result<(), String> {
        match self.graph.unsupported(stage.backend()) {
            None => Ok(()),
            Some(operation) => Err(format!(
                "{} cannot compute {operation}; use another device",
                stage.backend().info().name
            )),
        }
    }
}

/// The windows that layers of a model have, each once.
pub(super) fn distinct_windows(spec: &DecoderSpec) -> Vec<Option<usize>> {
    let mut windows = spec.sliding_window.clone();
    windows.sort_unstable();
    windows.dedup();
    windows
}

impl GroupInputs {
    fn new(context: &Context, group: &GroupShape, pool: &Pool, windows: &[Option<usize>]) -> Self {
        let blocks = group.blocks(pool.block_size) * group.sequences;
        let pieces = blocks * pool.pieces_per_block;
        let mask = [group.positions, group.rows, 1, group.sequences];
        Self {
            pieces: (!group.in_place).then(|| context.input(Element::I32, [pieces, 1, 1, 1])),
            windows: Vec::new(),
            masks: windows
                .iter()
                .map(|window| (*window, context.input(Element::F16, mask)))
                .collect(),
        }
    }

    pub(super) fn pieces(&self) -> &Tensor {
        let pieces = self.pieces.as_ref();
        pieces.expect("a group that is not read in place has blocks to gather")
    }

    fn mask(&self, window: Option<usize>) -> &Tensor {
        let found = self.masks.iter().find(|(of, _)| *of == window);
        let (_, mask) = found.expect("there is a mask for every window");
        mask
    }
}

/// Adds the decoder's parts to a context.
struct Builder<'a> {
    parts: &'a Parts<'a>,
    context: &'a Context,
    shape: &'a Shape,
    positions: &'a Tensor,
    slots: &'a Tensor,
    groups: &'a mut [GroupInputs],
    /// The pool's tensors after this step's rows were written.
    written: Vec<Tensor>,
}

impl Builder<'_> {
    /// One layer; where `outputs` are given, only they go on after attention.
    fn layer(&mut self, layer: usize, rows: &Tensor, outputs: Option<&Tensor>) -> Tensor {
        let (context, spec) = (self.context, self.parts.spec);
        let weights = &self.parts.weights.layers[layer - self.parts.layers.start];
        let mut attended = self.attention(layer, weights, rows);
        let mut rows = rows.clone();
        if let Some(outputs) = outputs {
            attended = context.get_rows(&attended, outputs);
            rows = context.get_rows(&rows, outputs);
        }
        let branch = context.mul_mat(&weights.output, &attended);
        let rows = self.join(&rows, branch, weights.post_attn_norm.as_ref());
        let normed = self.norm(&rows, &weights.ffn_norm);
        let gate = context.mul_mat(&weights.gate, &normed);
        let up = context.mul_mat(&weights.up, &normed);
        let gated = match spec.activation {
            Activation::Silu => context.silu_gate(&gate, &up),
            Activation::GeluTanh if !self.parts.on_cpu => context.gelu_gate(&gate, &up),
            // A processor's own reads a table of half precision.
            Activation::GeluTanh => {
                let activated = self.gelu(&gate);
                context.mul(&activated, &up)
            }
        };
        let branch = context.mul_mat(&weights.down, &gated);
        self.join(&rows, branch, weights.post_ffn_norm.as_ref())
    }

    fn norm(&self, rows: &Tensor, weights: &Tensor) -> Tensor {
        let normed = self.context.rms_norm(rows, self.parts.spec.rms_norm_eps);
        self.context.mul(&normed, weights)
    }

    fn join(&self, rows: &Tensor, mut branch: Tensor, norm: Option<&Tensor>) -> Tensor {
        if let Some(norm) = norm {
            branch = self.norm(&branch, norm);
        }
        self.context.add(rows, &branch)
    }

    /// `x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`, which is GELU's approximation by tanh.
    fn gelu(&self, x: &Tensor) -> Tensor {
        let context = self.context;
        let twice = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
        let square = context.mul(x, x);
        let slope = context.affine(&square, 0.044_715 * twice, twice);
        let inner = context.mul(&slope, x);
        context.mul(&context.sigmoid(&inner), x)
    }

    /// Everything up to the output projection: `[q_size, rows]`.
    fn attention(&mut self, layer: usize, weights: &LayerTensors, rows: &Tensor) -> Tensor {
        let (context, spec) = (self.context, self.parts.spec);
        let normed = self.norm(rows, &weights.attn_norm);
        let [mut q, mut k, mut v] =
            [&weights.q, &weights.k, &weights.v].map(|matrix| context.mul_mat(matrix, &normed));
        if let Some([of_q, of_k, of_v]) = &weights.biases {
            q = context.add(&q, of_q);
            k = context.add(&k, of_k);
            v = context.add(&v, of_v);
        }
        let norms = weights.head_norms.as_ref();
        let rope = &self.parts.weights.ropes[spec.layer_rope[layer]];
        let dims = spec.rope_of(layer).rotary_dim;
        q = self.rotated(&q, norms.map(|[q, _]| q), rope, dims);
        k = self.rotated(&k, norms.map(|[_, k]| k), rope, dims);
        let [keys, values] = &self.parts.pool.layers[layer - self.parts.layers.start];
        let keys = context.set_rows(keys, &k, self.slots);
        let values = context.set_rows(values, &v, self.slots);
        self.written.extend([keys.clone(), values.clone()]);
        let window = spec.sliding_window[layer];
        let mut first = 0;
        let mut parts = Vec::new();
        for (index, group) in self.shape.groups.iter().enumerate() {
            let queries = context.rows(&q, first, group.num_rows());
            first += group.num_rows();
            let [keys, values] = [&keys, &values].map(|pool| self.read(pool, index));
            let mask = self.groups[index].mask(window);
            parts.push(self.attend(group, &queries, &keys, &values, mask));
        }
        self.concatenate(parts)
    }

    /// Normalises where the family does, and rotates. *Shapes* `[heads * head_dim, rows]`.
    fn rotated(&self, x: &Tensor, norm: Option<&Tensor>, rope: &RopeTensor, dims: usize) -> Tensor {
        let context = self.context;
        let [size, rows, ..] = x.shape();
        let head_dim = self.parts.spec.head_dim;
        let mut heads = context.reshape(x, [head_dim, size / head_dim, rows, 1]);
        if let Some(norm) = norm {
            heads = self.norm(&heads, norm);
        }
        let rotated = context.rope(&heads, self.positions, &rope.divisors, dims, rope.magnitude);
        context.reshape(&rotated, [size, rows, 1, 1])
    }

    /// A group's keys or values: `[head_dim, positions, kv_heads, sequences]`.
    fn read(&mut self, pool: &Tensor, group: usize) -> Tensor {
        let shape = &self.shape.groups[group];
        if !shape.in_place {
            return self.gather(pool, shape, self.groups[group].pieces());
        }
        let head_dim = self.parts.spec.head_dim;
        let window = self
            .context
            .window(pool, head_dim, shape.positions, shape.sequences);
        let read = window.tensor().clone();
        self.groups[group].windows.push(window);
        read
    }

    /// A group's keys or values copied out of the pool.
    fn gather(&self, pool: &Tensor, group: &GroupShape, pieces: &Tensor) -> Tensor {
        let context = self.context;
        let kv_size = pool.shape()[0];
        let (block_size, element) = (self.parts.pool.block_size, self.parts.pool.element);
        let words = self.parts.pool.words(context, pool);
        let gathered = context.get_rows(&words, pieces);
        let stride = group.blocks(block_size) * block_size;
        let shape = [kv_size, stride * group.sequences, 1, 1];
        let gathered = context.reinterpret(&gathered, element, shape);
        let of_sequences = context.stretches(&gathered, group.positions, stride, group.sequences);
        context.heads(&of_sequences, self.parts.spec.head_dim)
    }

    /// Attention of a group: `[q_size, rows of the group]`.
    fn attend(
        &self,
        group: &GroupShape,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: &Tensor,
    ) -> Tensor {
        let (context, spec) = (self.context, self.parts.spec);
        let queries = context.stretches(queries, group.rows, group.rows, group.sequences);
        let queries = context.heads(&queries, spec.head_dim);
        let scale = spec.attention_scale;
        let attended = match self.parts.attention {
            AttentionPath::Flash => {
                let soft_cap = spec.attention_soft_cap.unwrap_or(0.0);
                context.flash_attention(&queries, [keys, values], mask, scale, soft_cap)
            }
            AttentionPath::Plain => {
                // ggml's Vulkan part multiplies rows with gaps between them in half precision.
                let [keys, values] = [keys, values].map(|rows| context.compact(rows));
                let mut scores = context.mul_mat_f32(&keys, &queries);
                let mut left = scale;
                if let Some(cap) = spec.attention_soft_cap {
                    let small = context.affine(&scores, scale / cap, 0.0);
                    scores = context.affine(&context.tanh(&small), cap, 0.0);
                    left = 1.0;
                }
                let shares = context.softmax(&scores, mask, left);
                let values = context.transposed(&values);
                let sums = context.mul_mat_f32(&values, &shares);
                context.compact(&context.swap_middle(&sums))
            }
        };
        context.reshape(&attended, [spec.q_size(), group.num_rows(), 1, 1])
    }

    /// All parts' rows, one part after the other, joined in pairs.
    fn concatenate(&self, mut parts: Vec<Tensor>) -> Tensor {
        while parts.len() > 1 {
            parts = parts
                .chunks(2)
                .map(|pair| match pair {
                    [a, b] => self.context.append_rows(a, b),
                    _ => pair[0].clone(),
                })
                .collect();
        }
        parts.pop().expect("a step has rows")
    }

    fn head(&self, head: &HeadTensors, rows: &Tensor) -> Tensor {
        let context = self.context;
        let normed = self.norm(rows, &head.norm);
        let mut logits = context.mul_mat(&head.matrix, &normed);
        if let Some(cap) = self.parts.spec.logit_soft_cap {
            let small = context.affine(&logits, 1.0 / cap, 0.0);
            logits = context.affine(&context.tanh(&small), cap, 0.0);
        }
        logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_gathered_in_equal_rows_that_every_device_copies_whole() {
        let found = [16, 512, 513, 2048, 2304, 49152].map(pieces);
        assert_eq!(found, [1, 1, 3, 4, 6, 96]);
    }
}
