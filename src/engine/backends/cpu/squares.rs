//! Sums of squares of what each matrix is multiplied with, for importance matrices.

use crate::kernels::cpu::{Operand, Rows};
use crate::model::DecoderSpec;

/// An input of a layer, by the matrices that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerInput {
    /// Query, key and value.
    Attention,
    /// The output of attention.
    AttentionOutput,
    /// Gate and up.
    Mlp,
    /// Down.
    Down,
}

impl LayerInput {
    /// Every input of a layer.
    pub const ALL: [Self; 4] = [
        Self::Attention,
        Self::AttentionOutput,
        Self::Mlp,
        Self::Down,
    ];
}

/// Sums of squares over all rows that a decoder has computed since it was given this.
#[derive(Clone, Debug, PartialEq)]
pub struct SquareSums {
    /// Per layer and [`LayerInput`].
    layers: Vec<[Vec<f64>; 4]>,
    head: Vec<f64>,
    rows: u64,
    head_rows: u64,
}

impl SquareSums {
    /// Zeros for a decoder of these sizes.
    pub fn new(spec: &DecoderSpec) -> Self {
        let zeros = |width: usize| vec![0.0; width];
        let layer = || {
            LayerInput::ALL.map(|input| match input {
                LayerInput::Attention | LayerInput::Mlp => zeros(spec.hidden_size),
                LayerInput::AttentionOutput => zeros(spec.q_size()),
                LayerInput::Down => zeros(spec.intermediate_size),
            })
        };
        Self {
            layers: (0..spec.num_hidden_layers).map(|_| layer()).collect(),
            head: zeros(spec.hidden_size),
            rows: 0,
            head_rows: 0,
        }
    }

    /// The sums of a layer's input, one per column.
    ///
    /// # Panics
    /// There is no such layer.
    pub fn layer(&self, layer: usize, input: LayerInput) -> &[f64] {
        &self.layers[layer][input as usize]
    }

    /// The sums of the head's input, over [`SquareSums::head_rows`].
    pub fn head(&self) -> &[f64] {
        &self.head
    }

    /// Rows that every layer has seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows that the head has seen: those that logits were asked of.
    pub fn head_rows(&self) -> u64 {
        self.head_rows
    }

    pub(super) fn add_layer<O: Operand>(
        &mut self,
        layer: usize,
        input: LayerInput,
        rows: &Rows<O>,
        num_rows: usize,
    ) {
        add(&mut self.layers[layer][input as usize], rows, num_rows);
        if layer == 0 && input == LayerInput::Attention {
            self.rows += num_rows as u64;
        }
    }

    pub(super) fn add_head<O: Operand>(&mut self, rows: &Rows<O>, num_rows: usize) {
        add(&mut self.head, rows, num_rows);
        self.head_rows += num_rows as u64;
    }
}

fn add<O: Operand>(sums: &mut [f64], rows: &Rows<O>, num_rows: usize) {
    for row in 0..num_rows {
        for (sum, value) in sums.iter_mut().zip(rows.row_values(row)) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
}
