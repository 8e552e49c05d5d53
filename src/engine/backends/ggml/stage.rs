//! Graphs, and the device memory that they share while they run.
//!
//! All graphs use one piece of memory for what they compute, one after the other. It is planned for
//! each graph once; a graph that was planned runs again and again until a larger one makes the
//! memory move, which [`Stage::is_ready`] tells.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::device::Backend;
use super::memory::{self, Plain};
use super::tensor::{Context, Tensor, Window};

/// A computation, in the order that its tensors were added.
pub(super) struct Graph {
    context: Context,
    raw: NonNull<sys::ggml_cgraph>,
    /// The generation of the stage's memory that it was planned for; 0 before.
    generation: u64,
}

impl Graph {
    /// The computation of everything in `context` that `results` need, in their order.
    ///
    /// # Panics
    /// A result belongs to another context, or the device's descriptions do not fit.
    pub(super) fn new(context: Context, max_nodes: usize, results: &[Tensor]) -> Self {
        // SAFETY: the context was made with room for a graph of `max_nodes` nodes.
        let raw = unsafe { sys::ggml_new_graph_custom(context.raw(), max_nodes, false) };
        let raw = NonNull::new(raw).expect("room for the graph was asked for");
        for result in results {
            assert!(result.is_in(&context), "a result of this graph");
            // SAFETY: graph and tensor are alive. Nodes and leaves are tensors of the context or
            // of its sources, and the context had no room for more than `max_nodes`; the graph's
            // table of all of them is larger than that by ggml's own measure.
            unsafe { sys::ggml_build_forward_expand(raw.as_ptr(), result.raw()) };
        }
        Self {
            context,
            raw,
            generation: 0,
        }
    }

    /// The first tensor that the device cannot compute, described.
    pub(super) fn unsupported(&self, backend: &Backend) -> Option<String> {
        // SAFETY: the graph is alive; `i` is below its number of nodes, and a node is a tensor
        // with a known operation.
        unsafe {
            let nodes = sys::ggml_graph_n_nodes(self.raw.as_ptr());
            (0..nodes)
                .map(|i| sys::ggml_graph_node(self.raw.as_ptr(), i))
                .find(|node| !backend.supports_raw(*node))
                .map(|node| {
                    let name = std::ffi::CStr::from_ptr(sys::ggml_op_desc(node));
                    format!("{} on tensors of {:?}", name.to_string_lossy(), (*node).ne)
                })
        }
    }
}

/// An open device and the memory that graphs compute in.
pub(super) struct Stage {
    // Dropped in this order: the planner's memory is the device's.
    planner: Planner,
    backend: Backend,
    generation: u64,
}

struct Planner(NonNull<sys::ggml_gallocr>);

impl Drop for Planner {
    fn drop(&mut self) {
        // SAFETY: the planner is this value's own; no graph runs any more.
        unsafe { sys::ggml_gallocr_free(self.0.as_ptr()) };
    }
}

impl Stage {
    pub(super) fn new(backend: Backend) -> Self {
        // SAFETY: the buffer type is of an open device.
        let raw = unsafe { sys::ggml_gallocr_new(backend.buffer_type()) };
        Self {
            planner: Planner(NonNull::new(raw).expect("memory for the planner")),
            backend,
            generation: 1,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Bytes of the memory that graphs compute in.
    pub(super) fn num_bytes(&self) -> usize {
        // SAFETY: the planner is alive and has one buffer.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.planner.0.as_ptr(), 0) }
    }

    /// Takes the memory that `graph` needs, so that it and smaller ones find it there.
    ///
    /// # Errors
    /// The device has not that much memory.
    pub(super) fn reserve(&mut self, graph: &Graph) -> Result<(), String> {
        let before = self.num_bytes();
        // SAFETY: planner and graph are alive; what the graph reads from elsewhere has memory.
        let done =
            unsafe { sys::ggml_gallocr_reserve(self.planner.0.as_ptr(), graph.raw.as_ptr()) };
        if self.num_bytes() != before || !done {
            self.generation += 1;
        }
        if done {
            return Ok(());
        }
        Err(format!(
            "{} has no memory for the activations of a step",
            self.backend.info().name
        ))
    }

    /// Plans a graph that was not planned before, so that it can run.
    ///
    /// # Errors
    /// The device has not that much memory.
    pub(super) fn plan(&mut self, graph: &mut Graph) -> Result<(), String> {
        assert_eq!(graph.generation, 0, "a graph is planned once");
        self.reserve(graph)?;
        // SAFETY: planner and graph are alive, the plan just made is this graph's, and its tensors
        // have no memory yet.
        let done =
            unsafe { sys::ggml_gallocr_alloc_graph(self.planner.0.as_ptr(), graph.raw.as_ptr()) };
        assert!(done, "what was reserved can be given out");
        graph.generation = self.generation;
        Ok(())
    }

    /// Whether the memory that `graph` was planned for is still there.
    pub(super) fn is_ready(&self, graph: &Graph) -> bool {
        graph.generation == self.generation
    }

    /// Writes an input of a graph.
    ///
    /// # Panics
    /// The graph is not ready, the tensor is not its, or `values` do not fill it.
    pub(super) fn write<T: Plain>(&self, graph: &Graph, input: &Tensor, values: &[T]) {
        self.assert_place(graph, input);
        assert_eq!(size_of_val(values), input.num_bytes(), "a whole input");
        // An input that nothing reads has no memory.
        if input.has_memory() {
            memory::write(input, 0, values);
        }
    }

    /// Reads the beginning of a result of a graph that ran.
    ///
    /// # Panics
    /// The graph is not ready, the tensor is not its, or `values` are more than it has.
    pub(super) fn read(&self, graph: &Graph, result: &Tensor, values: &mut [f32]) {
        self.assert_place(graph, result);
        memory::read(result, 0, values);
    }

    fn assert_place(&self, graph: &Graph, tensor: &Tensor) {
        assert!(self.is_ready(graph), "the graph's memory is there");
        assert!(tensor.is_in(&graph.context), "a tensor of the graph");
    }

    /// Says where the stretches of a graph's window begin.
    ///
    /// # Panics
    /// The graph is not ready, the window is not its, or a stretch ends beyond the pool.
    pub(super) fn slide(&self, graph: &Graph, window: &Window, first: usize, spacing: usize) {
        self.assert_place(graph, window.tensor());
        // What nothing reads has no memory: the last layer's, where nobody wants logits.
        if window.tensor().has_memory() {
            window.slide(first, spacing);
        }
    }

    /// Runs a graph to its end, and `meanwhile` beside it where the device works on its own.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn run(&mut self, graph: &Graph, meanwhile: impl FnOnce()) -> Result<(), String> {
        assert!(self.is_ready(graph), "the graph's memory is there");
        let working = Working(&self.backend);
        // SAFETY: device and graph are alive and stay so until `working` is dropped, which waits.
        // Every tensor has memory that is there, and row numbers among the inputs were checked by
        // the caller against the extents of what they number.
        let status = unsafe {
            sys::ggml_backend_graph_compute_async(self.backend.raw(), graph.raw.as_ptr())
        };
        if status == sys::GGML_STATUS_SUCCESS {
            meanwhile();
        }
        drop(working);
        match status {
            sys::GGML_STATUS_SUCCESS => Ok(()),
            sys::GGML_STATUS_ALLOC_FAILED => {
                Err(format!("{} ran out of memory", self.backend.info().name))
            }
            status => Err(format!(
                "{} failed in the middle of a step (status {status})",
                self.backend.info().name
            )),
        }
    }
}

/// A device that may be computing. Dropped, it is not.
struct Working<'a>(&'a Backend);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // SAFETY: the device is open.
        unsafe { sys::ggml_backend_synchronize(self.0.raw()) };
    }
}
