//! Tensors and the operations that a decoder is made of, with every condition checked that ggml
//! would end the process over.
//!
//! A [`Tensor`] is a node of ggml's: a shape, a type and how it is computed. Dimensions are in
//! ggml's order, fastest first: a matrix of `rows` rows of `cols` elements is `[cols, rows]`. A
//! tensor keeps its [`Context`] alive, and a context those of all tensors that its own are computed
//! from, so a pointer in here never dangles.

use std::cell::{Cell, OnceCell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use llama_cpp_sys_2 as sys;

use super::memory::Buffer;
use crate::kernels::quant::BlockType;

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// A type that weights are stored in.
    Stored(BlockType),
    /// Token ids, positions, row numbers; also four bytes of anything.
    I32,
    /// Row numbers to write to.
    I64,
}

impl Element {
    pub(super) const F32: Self = Self::Stored(BlockType::F32);
    pub(super) const F16: Self = Self::Stored(BlockType::F16);

    /// Its number in `ggml.h`.
    fn number(self) -> sys::ggml_type {
        match self {
            Self::Stored(block_type) => match block_type {
                BlockType::F32 => sys::GGML_TYPE_F32,
                BlockType::F16 => sys::GGML_TYPE_F16,
                BlockType::BF16 => sys::GGML_TYPE_BF16,
                BlockType::Q4_0 => sys::GGML_TYPE_Q4_0,
                BlockType::Q4_1 => sys::GGML_TYPE_Q4_1,
                BlockType::Q5_0 => sys::GGML_TYPE_Q5_0,
                BlockType::Q5_1 => sys::GGML_TYPE_Q5_1,
                BlockType::Q8_0 => sys::GGML_TYPE_Q8_0,
                BlockType::Q2K => sys::GGML_TYPE_Q2_K,
                BlockType::Q3K => sys::GGML_TYPE_Q3_K,
                BlockType::Q4K => sys::GGML_TYPE_Q4_K,
                BlockType::Q5K => sys::GGML_TYPE_Q5_K,
                BlockType::Q6K => sys::GGML_TYPE_Q6_K,
                BlockType::Q8K => sys::GGML_TYPE_Q8_K,
            },
            Self::I32 => sys::GGML_TYPE_I32,
            Self::I64 => sys::GGML_TYPE_I64,
        }
    }

    /// Bytes of `len` elements in a row.
    ///
    /// # Panics
    /// `len` is no whole number of blocks.
    pub(super) fn row_bytes(self, len: usize) -> usize {
        match self {
            Self::Stored(block_type) => block_type.row_bytes(len).expect("rows of whole blocks"),
            Self::I32 => 4 * len,
            Self::I64 => 8 * len,
        }
    }
}

/// `GGML_ROPE_TYPE_NEOX`: pairs are an element of a head's first half and one of its second.
const HALVES_SPLIT: i32 = 2;

/// A set of tensors that are freed together.
#[derive(Clone)]
pub(super) struct Context(Rc<Inner>);

struct Inner {
    raw: NonNull<sys::ggml_context>,
    /// Tensors that still fit.
    left: Cell<usize>,
    /// Contexts of the tensors that tensors here are computed from.
    sources: RefCell<Vec<Rc<Inner>>>,
    /// The memory of tensors that were given some of their own.
    buffer: OnceCell<Buffer>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the context was made by `Context::new`; every tensor of it holds a reference to
        // this value, so none is left.
        unsafe { sys::ggml_free(self.raw.as_ptr()) };
    }
}

/// A node of a graph, or a place for data.
#[derive(Clone)]
pub(super) struct Tensor {
    raw: NonNull<sys::ggml_tensor>,
    element: Element,
    owner: Rc<Inner>,
    /// Whether it is a window: a view of it would stay where the window was.
    slides: bool,
}

impl Tensor {
    pub(super) fn raw(&self) -> *mut sys::ggml_tensor {
        self.raw.as_ptr()
    }

    /// Elements along each dimension, fastest first.
    pub(super) fn shape(&self) -> [usize; 4] {
        // SAFETY: the tensor lives as long as its owner.
        unsafe { self.raw.as_ref() }.ne.map(|n| n as usize)
    }

    /// Bytes between neighbours along each dimension.
    fn strides(&self) -> [usize; 4] {
        // SAFETY: the tensor lives as long as its owner.
        unsafe { self.raw.as_ref() }.nb
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    pub(super) fn num_elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Bytes of its elements without gaps.
    pub(super) fn num_bytes(&self) -> usize {
        let [row, rest @ ..] = self.shape();
        self.element.row_bytes(row) * rest.iter().product::<usize>()
    }

    pub(super) fn is_contiguous(&self) -> bool {
        let (shape, strides) = (self.shape(), self.strides());
        let mut expected = self.element.row_bytes(shape[0]);
        (1..4).all(|i| {
            let fits = shape[i] == 1 || strides[i] == expected;
            expected *= shape[i];
            fits
        })
    }

    /// Whether the tensor has memory and can be written and read.
    pub(super) fn has_memory(&self) -> bool {
        // SAFETY: the tensor lives as long as its owner.
        !unsafe { self.raw.as_ref() }.buffer.is_null()
    }

    pub(super) fn is_in(&self, context: &Context) -> bool {
        Rc::ptr_eq(&self.owner, &context.0)
    }
}

/// Stretches of a pool that are read where they lie, one for each sequence of a group.
#[derive(Clone)]
pub(super) struct Window {
    view: Tensor,
    pool: Tensor,
}

impl Window {
    /// `[head_dim, positions, kv_heads, sequences]`. Operations may read it; views of it are
    /// refused, since they would not slide with it.
    pub(super) fn tensor(&self) -> &Tensor {
        &self.view
    }

    /// Makes sequence `i` begin at slot `first + i * spacing`, for the graph's next run. Only for
    /// [`Stage::slide`](super::stage::Stage::slide), which knows that the graph does not run.
    ///
    /// # Panics
    /// A stretch ends beyond the pool, or there is no memory yet.
    pub(super) fn slide(&self, first: usize, spacing: usize) {
        let [_, positions, _, sequences] = self.view.shape();
        let end = spacing
            .checked_mul(sequences - 1)
            .and_then(|last| last.checked_add(first)?.checked_add(positions));
        assert!(
            end.is_some_and(|end| end <= self.pool.shape()[1]),
            "{sequences} stretches of {positions} from {first}, {spacing} apart, lie in the pool"
        );
        assert!(self.view.has_memory(), "a view whose source has memory");
        let row = self.pool.strides()[1];
        // A single stretch has no neighbour; its last stride only has to be a number.
        let stride = row * if sequences == 1 { positions } else { spacing };
        let view = self.view.raw();
        // SAFETY: the tensor is alive and a view of the pool's memory, as `Context::window` made
        // it; its graph does not run (the caller's promise). With the new offset and stride every
        // element lies in the pool, which was asserted; offset and address say the same place.
        unsafe {
            let offset = first * row;
            (*view).nb[3] = stride;
            (*view).view_offs = offset;
            (*view).data = (*(*view).view_src).data.byte_add(offset);
        }
    }
}

/// Appends the result of a ggml function whose tensor arguments are all named in the list.
macro_rules! operation {
    ($context:expr, $element:expr, [$($source:ident),*], $function:ident($($argument:expr),*)) => {{
        let context: &Context = $context;
        $(context.keep($source);)*
        context.take_room();
        // SAFETY: the context has room for one more tensor. Every pointer is null or of a tensor
        // that is kept alive, and the caller checked what the function asserts.
        let raw = unsafe { sys::$function(context.raw(), $($argument),*) };
        context.own(raw, $element)
    }};
}

impl Context {
    /// Room for `num_tensors` tensors, and for a graph of as many nodes.
    ///
    /// # Panics
    /// There is no memory for the descriptions.
    pub(super) fn new(num_tensors: usize) -> Self {
        // SAFETY: pure arithmetic.
        let mem_size = unsafe {
            sys::ggml_tensor_overhead() * num_tensors
                + sys::ggml_graph_overhead_custom(num_tensors, false)
        };
        let params = sys::ggml_init_params {
            mem_size,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: the parameters are plain values; a null buffer asks ggml to allocate its own.
        let raw = unsafe { sys::ggml_init(params) };
        Self(Rc::new(Inner {
            raw: NonNull::new(raw).expect("memory for the description of tensors"),
            left: Cell::new(num_tensors),
            sources: RefCell::default(),
            buffer: OnceCell::new(),
        }))
    }

    pub(super) fn raw(&self) -> *mut sys::ggml_context {
        self.0.raw.as_ptr()
    }

    /// Gives every tensor here its own memory.
    pub(super) fn set_buffer(&self, buffer: Buffer) {
        let first = self.0.buffer.set(buffer).is_ok();
        assert!(first, "tensors are given memory once");
    }

    /// The memory that was given to the tensors here.
    pub(super) fn buffer(&self) -> Option<&Buffer> {
        self.0.buffer.get()
    }

    fn take_room(&self) {
        let left = self.0.left.get();
        self.0.left.set(
            left.checked_sub(1)
                .expect("room for the tensor was asked for"),
        );
    }

    fn keep(&self, tensor: &Tensor) {
        let mut sources = self.0.sources.borrow_mut();
        let known = Rc::ptr_eq(&tensor.owner, &self.0)
            || sources
                .iter()
                .any(|source| Rc::ptr_eq(source, &tensor.owner));
        if !known {
            sources.push(Rc::clone(&tensor.owner));
        }
    }

    fn own(&self, raw: *mut sys::ggml_tensor, element: Element) -> Tensor {
        Tensor {
            raw: NonNull::new(raw).expect("ggml ends the process where it has no tensor to give"),
            element,
            owner: Rc::clone(&self.0),
            slides: false,
        }
    }

    /// A place for data. *Shapes* as given, fastest first.
    pub(super) fn tensor(&self, element: Element, shape: [usize; 4]) -> Tensor {
        element.row_bytes(shape[0]);
        let bound = shape
            .iter()
            .try_fold(8usize, |product, n| product.checked_mul(*n));
        assert!(
            bound.is_some_and(|n| n > 0 && n < i64::MAX as usize),
            "a tensor of {shape:?} has a size"
        );
        let shape = shape.map(|n| n as i64);
        operation!(
            self,
            element,
            [],
            ggml_new_tensor(element.number(), 4, shape.as_ptr())
        )
    }

    /// A place for data that the host writes before each run of a graph.
    pub(super) fn input(&self, element: Element, shape: [usize; 4]) -> Tensor {
        let tensor = self.tensor(element, shape);
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_set_input(tensor.raw()) };
        tensor
    }

    /// Marks a result that the host reads after a run: its memory is not used again.
    pub(super) fn mark_output(&self, tensor: &Tensor) {
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_set_output(tensor.raw()) };
    }

    /// `weights x rows`. *Shapes* `weights` `[inputs, outputs, heads, batch]`, `rows`
    /// `[inputs, n, heads', batch']` in `f32`, where the last two are multiples of the weights';
    /// the result is `[outputs, n, heads', batch']`.
    pub(super) fn mul_mat(&self, weights: &Tensor, rows: &Tensor) -> Tensor {
        let (w, x) = (weights.shape(), rows.shape());
        assert!(
            w[0] == x[0] && x[2].is_multiple_of(w[2]) && x[3].is_multiple_of(w[3]),
            "a product of {w:?} and {x:?}"
        );
        assert_eq!(rows.element, Element::F32, "rows are f32");
        assert!(
            weights.strides()[0] <= weights.strides()[1],
            "weights are not transposed"
        );
        operation!(
            self,
            Element::F32,
            [weights, rows],
            ggml_mul_mat(weights.raw(), rows.raw())
        )
    }

    /// As [`Self::mul_mat`], with sums in `f32` on devices that would take less.
    pub(super) fn mul_mat_f32(&self, weights: &Tensor, rows: &Tensor) -> Tensor {
        let product = self.mul_mat(weights, rows);
        // SAFETY: the tensor is alive and the result of a product.
        unsafe { sys::ggml_mul_mat_set_prec(product.raw(), sys::GGML_PREC_F32) };
        product
    }

    /// Root-mean-square norm over the first dimension, without weights.
    pub(super) fn rms_norm(&self, x: &Tensor, eps: f32) -> Tensor {
        operation!(self, Element::F32, [x], ggml_rms_norm(x.raw(), eps))
    }

    /// `a + b`, `b` repeated to the shape of `a`.
    pub(super) fn add(&self, a: &Tensor, b: &Tensor) -> Tensor {
        assert_repeats(a, b);
        operation!(self, Element::F32, [a, b], ggml_add(a.raw(), b.raw()))
    }

    /// `a * b` element by element, `b` repeated to the shape of `a`.
    pub(super) fn mul(&self, a: &Tensor, b: &Tensor) -> Tensor {
        assert_repeats(a, b);
        operation!(self, Element::F32, [a, b], ggml_mul(a.raw(), b.raw()))
    }

    /// `x * factor + offset`.
    pub(super) fn affine(&self, x: &Tensor, factor: f32, offset: f32) -> Tensor {
        assert!(x.is_contiguous(), "scaled tensors have no gaps");
        operation!(
            self,
            Element::F32,
            [x],
            ggml_scale_bias(x.raw(), factor, offset)
        )
    }

    pub(super) fn tanh(&self, x: &Tensor) -> Tensor {
        assert!(x.is_contiguous(), "an activation's rows have no gaps");
        operation!(self, Element::F32, [x], ggml_tanh(x.raw()))
    }

    pub(super) fn sigmoid(&self, x: &Tensor) -> Tensor {
        assert!(x.is_contiguous(), "an activation's rows have no gaps");
        operation!(self, Element::F32, [x], ggml_sigmoid(x.raw()))
    }

    /// `silu(gate) * up`.
    pub(super) fn silu_gate(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        assert_pair(gate, up);
        operation!(
            self,
            Element::F32,
            [gate, up],
            ggml_swiglu_split(gate.raw(), up.raw())
        )
    }

    /// `gelu(gate) * up`, in the approximation by a hyperbolic tangent.
    pub(super) fn gelu_gate(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        assert_pair(gate, up);
        operation!(
            self,
            Element::F32,
            [gate, up],
            ggml_geglu_split(gate.raw(), up.raw())
        )
    }

    /// Rotates the first `dims` elements of every head, halves split. *Shapes* `heads`
    /// `[head_dim, heads, rows]`, `positions` `[rows]`, `divisors` `[dims / 2]`: the angle of pair
    /// `i` is `position / divisors[i]`. Cosine and sine are multiplied by `magnitude`.
    pub(super) fn rope(
        &self,
        heads: &Tensor,
        positions: &Tensor,
        divisors: &Tensor,
        dims: usize,
        magnitude: f32,
    ) -> Tensor {
        let shape = heads.shape();
        assert!(
            dims.is_multiple_of(2) && dims <= shape[0] && shape[3] == 1,
            "{dims} rotating elements of {shape:?}"
        );
        assert_eq!(positions.shape(), [shape[2], 1, 1, 1], "a position per row");
        assert_eq!(positions.element, Element::I32, "positions are i32");
        assert_eq!(divisors.shape(), [dims / 2, 1, 1, 1], "a divisor per pair");
        assert_eq!(divisors.element, Element::F32, "divisors are f32");
        // A base of 1 makes every frequency 1, so that the divisors alone say them; the factors
        // of ggml's own scalings stay neutral.
        operation!(
            self,
            Element::F32,
            [heads, positions, divisors],
            ggml_rope_ext(
                heads.raw(),
                positions.raw(),
                divisors.raw(),
                dims as i32,
                HALVES_SPLIT,
                0,
                1.0,
                1.0,
                0.0,
                magnitude,
                0.0,
                0.0
            )
        )
    }

    /// Writes rows into `pool` and returns it as it is afterwards. *Shapes* `pool` `[len, slots]`,
    /// `rows` `[len, n]` in `f32`, `slots` `[n]` in `i64`, all below the pool's.
    pub(super) fn set_rows(&self, pool: &Tensor, rows: &Tensor, slots: &Tensor) -> Tensor {
        let (p, r) = (pool.shape(), rows.shape());
        assert!(
            p[0] == r[0] && p[2..] == [1, 1] && r[2..] == [1, 1],
            "rows {r:?} into {p:?}"
        );
        assert_eq!(slots.shape(), [r[1], 1, 1, 1], "a slot per row");
        assert_eq!(slots.element, Element::I64, "slots are i64");
        assert_eq!(rows.element, Element::F32, "rows are f32");
        operation!(
            self,
            pool.element,
            [pool, rows, slots],
            ggml_set_rows(pool.raw(), rows.raw(), slots.raw())
        )
    }

    /// Rows of a matrix by number. *Shapes* `rows` `[len, count]` in `f32` or `i32`, `numbers`
    /// `[n]` in `i32`, all below `count`; the result is `[len, n]`.
    pub(super) fn get_rows(&self, rows: &Tensor, numbers: &Tensor) -> Tensor {
        let shape = rows.shape();
        assert!(shape[2..] == [1, 1], "a matrix, not {shape:?}");
        assert!(
            matches!(rows.element, Element::F32 | Element::I32),
            "rows of four bytes"
        );
        assert!(numbers.shape()[1..] == [1, 1, 1], "one list of numbers");
        assert_eq!(numbers.element, Element::I32, "row numbers are i32");
        operation!(
            self,
            rows.element,
            [rows, numbers],
            ggml_get_rows(rows.raw(), numbers.raw())
        )
    }

    /// The same elements in another shape.
    pub(super) fn reshape(&self, x: &Tensor, shape: [usize; 4]) -> Tensor {
        assert_stays(x);
        assert!(x.is_contiguous(), "a reshaped tensor has no gaps");
        assert_eq!(
            x.num_elements(),
            shape.iter().product::<usize>(),
            "the same elements"
        );
        let [a, b, c, d] = shape.map(|n| n as i64);
        operation!(self, x.element, [x], ggml_reshape_4d(x.raw(), a, b, c, d))
    }

    /// Elements of `x` from byte `offset` on, with the byte strides of dimensions 1 to 3. The
    /// caller has checked that they lie in `x`.
    fn view(&self, x: &Tensor, shape: [usize; 4], strides: [usize; 3], offset: usize) -> Tensor {
        assert_stays(x);
        let [a, b, c, d] = shape.map(|n| n as i64);
        let [row, matrix, batch] = strides;
        operation!(
            self,
            x.element,
            [x],
            ggml_view_4d(x.raw(), a, b, c, d, row, matrix, batch, offset)
        )
    }

    /// The first `len` of dimension 1, in `count` stretches of `stride`: elements
    /// `[dim, len, 1, count]` of a matrix `[dim, stride * count]`.
    pub(super) fn stretches(&self, x: &Tensor, len: usize, stride: usize, count: usize) -> Tensor {
        let shape = x.shape();
        assert!(x.is_contiguous(), "stretches of a tensor without gaps");
        assert!(
            len <= stride && stride * count == shape[1] && shape[2..] == [1, 1],
            "{count} stretches of {stride} in {shape:?}"
        );
        let row = x.strides()[1];
        let strides = [row, row * stride, row * stride];
        self.view(x, [shape[0], len, 1, count], strides, 0)
    }

    /// Splits every row of `[heads * head_dim, len, 1, count]` into heads, and puts the heads
    /// before the rows: `[head_dim, len, heads, count]`, without moving anything.
    pub(super) fn heads(&self, x: &Tensor, head_dim: usize) -> Tensor {
        let (shape, strides) = (x.shape(), x.strides());
        assert!(
            shape[0].is_multiple_of(head_dim) && shape[2] == 1,
            "heads of {head_dim} in {shape:?}"
        );
        let head = x.element.row_bytes(head_dim);
        let heads = [head_dim, shape[1], shape[0] / head_dim, shape[3]];
        self.view(x, heads, [strides[1], head, strides[3]], 0)
    }

    /// A window of `sequences` stretches of `positions` slots, each split into heads. *Shapes*
    /// `pool` `[kv_heads * head_dim, slots]`, or such a tensor after rows were written into it.
    pub(super) fn window(
        &self,
        pool: &Tensor,
        head_dim: usize,
        positions: usize,
        sequences: usize,
    ) -> Window {
        let shape = pool.shape();
        assert!(
            shape[0].is_multiple_of(head_dim) && positions <= shape[1] && pool.is_contiguous(),
            "{positions} slots of heads of {head_dim} in {shape:?}"
        );
        let strides = [pool.strides()[1], pool.element.row_bytes(head_dim), 0];
        let heads = [head_dim, positions, shape[0] / head_dim, 1];
        let view = self.view(pool, heads, strides, 0);
        // SAFETY: the tensor is a view that nobody has seen yet. All its stretches are the first
        // one, as the stride of nothing says, until they are told apart.
        unsafe { (*view.raw()).ne[3] = sequences as i64 };
        Window {
            view: Tensor {
                slides: true,
                ..view
            },
            pool: pool.clone(),
        }
    }

    /// Rows `first..first + count` of a matrix.
    pub(super) fn rows(&self, x: &Tensor, first: usize, count: usize) -> Tensor {
        let (shape, strides) = (x.shape(), x.strides());
        assert!(
            first + count <= shape[1] && shape[2..] == [1, 1],
            "{count} rows from {first} of {shape:?}"
        );
        let all = strides[1] * count;
        let strides_of_rows = [strides[1], all, all];
        self.view(
            x,
            [shape[0], count, 1, 1],
            strides_of_rows,
            first * strides[1],
        )
    }

    /// The bytes of a tensor as elements of another type and shape.
    pub(super) fn reinterpret(&self, x: &Tensor, element: Element, shape: [usize; 4]) -> Tensor {
        assert_stays(x);
        assert!(x.is_contiguous(), "reinterpreted tensors have no gaps");
        let row = element.row_bytes(shape[0]);
        let strides = [
            element.row_bytes(shape[0]) / shape[0],
            row,
            row * shape[1],
            row * shape[1] * shape[2],
        ];
        assert_eq!(x.num_bytes(), strides[3] * shape[3], "the same bytes");
        let [a, b, c, d] = x.shape().map(|n| n as i64);
        let mut view = operation!(self, element, [x], ggml_reshape_4d(x.raw(), a, b, c, d));
        // SAFETY: the tensor is a view that nobody has seen yet; type, extents and strides
        // describe the bytes of its source exactly, which was asserted. Only element types whose
        // blocks are one element get here, as the division above shows.
        let raw = unsafe { view.raw.as_mut() };
        raw.type_ = element.number();
        raw.ne = shape.map(|n| n as i64);
        raw.nb = strides;
        view
    }

    /// Dimensions in the order 0, 2, 1, 3.
    pub(super) fn swap_middle(&self, x: &Tensor) -> Tensor {
        assert_stays(x);
        operation!(self, x.element, [x], ggml_permute(x.raw(), 0, 2, 1, 3))
    }

    /// The first two dimensions exchanged, as a new tensor without gaps.
    pub(super) fn transposed(&self, x: &Tensor) -> Tensor {
        assert_stays(x);
        let view = operation!(self, x.element, [x], ggml_permute(x.raw(), 1, 0, 2, 3));
        self.compact(&view)
    }

    /// The same elements without gaps.
    pub(super) fn compact(&self, x: &Tensor) -> Tensor {
        operation!(self, x.element, [x], ggml_cont(x.raw()))
    }

    /// The rows of `a`, then those of `b`.
    pub(super) fn append_rows(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let (x, y) = (a.shape(), b.shape());
        assert!(x[0] == y[0] && x[2..] == y[2..], "rows {x:?} and {y:?}");
        assert_eq!(a.element, b.element, "rows of one type");
        operation!(self, a.element, [a, b], ggml_concat(a.raw(), b.raw(), 1))
    }

    /// Attention in one operation. *Shapes* `q` `[head_dim, rows, heads, batch]` in `f32`, `k` and
    /// `v` `[head_dim, positions, kv_heads, batch]`, `mask` `[positions, rows, 1, batch]` in `f16`;
    /// the result is `[head_dim, heads, rows, batch]`.
    pub(super) fn flash_attention(
        &self,
        q: &Tensor,
        keys: [&Tensor; 2],
        mask: &Tensor,
        scale: f32,
        soft_cap: f32,
    ) -> Tensor {
        let [k, v] = keys;
        let (query, key) = (q.shape(), k.shape());
        assert_eq!(key, v.shape(), "values beside keys");
        assert!(
            query[0] == key[0] && query[2].is_multiple_of(key[2]) && query[3] == key[3],
            "queries {query:?} for keys {key:?}"
        );
        assert_eq!(
            mask.shape(),
            [key[1], query[1], 1, query[3]],
            "a mask per row"
        );
        assert_eq!(mask.element, Element::F16, "masks are f16");
        assert!(mask.is_contiguous(), "masks have no gaps");
        let attended = operation!(
            self,
            Element::F32,
            [q, k, v, mask],
            ggml_flash_attn_ext(q.raw(), k.raw(), v.raw(), mask.raw(), scale, 0.0, soft_cap)
        );
        // SAFETY: the tensor is alive and the result of attention.
        unsafe { sys::ggml_flash_attn_ext_set_prec(attended.raw(), sys::GGML_PREC_F32) };
        attended
    }

    /// `softmax(scores * scale + mask)` over the first dimension. *Shapes* `scores`
    /// `[positions, rows, heads, batch]`, `mask` `[positions, rows, 1, batch]` in `f16`.
    pub(super) fn softmax(&self, scores: &Tensor, mask: &Tensor, scale: f32) -> Tensor {
        let shape = scores.shape();
        assert_eq!(
            mask.shape(),
            [shape[0], shape[1], 1, shape[3]],
            "a mask per row"
        );
        assert_eq!(mask.element, Element::F16, "masks are f16");
        assert!(scores.is_contiguous() && mask.is_contiguous(), "no gaps");
        operation!(
            self,
            Element::F32,
            [scores, mask],
            ggml_soft_max_ext(scores.raw(), mask.raw(), scale, 0.0)
        )
    }
}

fn assert_stays(x: &Tensor) {
    assert!(!x.slides, "views of a window would not slide with it");
}

fn assert_repeats(a: &Tensor, b: &Tensor) {
    let (x, y) = (a.shape(), b.shape());
    assert!(
        (0..4).all(|i| x[i].is_multiple_of(y[i])),
        "{y:?} repeated to {x:?}"
    );
    assert!(
        a.element == Element::F32 && b.element == Element::F32,
        "both f32"
    );
}

fn assert_pair(gate: &Tensor, up: &Tensor) {
    assert_eq!(gate.shape(), up.shape(), "gates beside what they gate");
    assert!(gate.is_contiguous() && up.is_contiguous(), "no gaps");
}
