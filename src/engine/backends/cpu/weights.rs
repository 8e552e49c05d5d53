//! A checkpoint's weights in the layout of the kernels.

use std::io;

use crate::kernels::cpu::{
    Activation, Arithmetic, Cpu, F32, GatedMatrix, IntGatedMatrix, IntMatrix, IntRow, IntRows,
    Operand, PackedMatrix, Rows, Target, Vector, gated_linear, gated_linear_ints,
    linear_ints_strided, linear_strided, quantise_rows,
};
use crate::model::{LayerWeight, Model, Weight, WeightId};

use super::storage::Storage;

/// A packed matrix, of floats or of integers.
pub(super) enum Matrix<O: Operand> {
    Floats(PackedMatrix<O>),
    Ints(IntMatrix),
}

/// Gate and up projections, of floats or of integers.
pub(super) enum Gate<O: Operand> {
    Floats(GatedMatrix<O>),
    Ints(IntGatedMatrix),
}

/// What a product reads: rows, and where they go as integers if the weights are integers.
pub(super) struct Input<'a, O: Operand> {
    pub(super) rows: &'a Rows<O>,
    pub(super) ints: &'a mut IntRows,
    pub(super) num_rows: usize,
}

impl<O: Arithmetic> Matrix<O> {
    /// See [`linear_strided`].
    pub(super) fn multiply(
        &self,
        cpu: &mut Cpu,
        input: Input<'_, O>,
        bias: Option<&[f32]>,
        target: Target,
        out: &mut [f32],
        stride: usize,
    ) {
        let Input {
            rows,
            ints,
            num_rows,
        } = input;
        match self {
            Self::Floats(matrix) => {
                linear_strided(cpu, matrix, rows, num_rows, bias, target, out, stride);
            }
            Self::Ints(matrix) => {
                quantise_rows(cpu, rows, num_rows, ints);
                linear_ints_strided(cpu, matrix, ints, num_rows, bias, target, out, stride);
            }
        }
    }

    /// The same into rows.
    pub(super) fn multiply_into(
        &self,
        cpu: &mut Cpu,
        input: Input<'_, O>,
        bias: Option<&[f32]>,
        target: Target,
        out: &mut Rows<F32>,
    ) {
        let stride = out.stride();
        self.multiply(cpu, input, bias, target, out.values_mut(), stride);
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Floats(matrix) => matrix.bytes(),
            Self::Ints(matrix) => matrix.bytes(),
        }
    }
}

impl<O: Arithmetic> Gate<O> {
    /// See [`gated_linear`].
    pub(super) fn multiply(
        &self,
        cpu: &mut Cpu,
        input: Input<'_, O>,
        activation: Activation,
        out: &mut Rows<O>,
    ) {
        let Input {
            rows,
            ints,
            num_rows,
        } = input;
        match self {
            Self::Floats(matrix) => gated_linear(cpu, matrix, rows, num_rows, activation, out),
            Self::Ints(matrix) => {
                quantise_rows(cpu, rows, num_rows, ints);
                gated_linear_ints(cpu, matrix, ints, num_rows, activation, out);
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Floats(matrix) => matrix.bytes(),
            Self::Ints(matrix) => matrix.bytes(),
        }
    }
}

/// The weights of one layer.
pub(super) struct LayerWeights<O: Operand> {
    pub(super) attn_norm: Vector,
    /// Query, key and value outputs, one after the other.
    pub(super) qkv: Matrix<O>,
    pub(super) qkv_bias: Option<Vec<f32>>,
    /// Of query and of key heads.
    pub(super) head_norms: Option<[Vector; 2]>,
    pub(super) output: Matrix<O>,
    pub(super) post_attn_norm: Option<Vector>,
    pub(super) ffn_norm: Vector,
    pub(super) gate_up: Gate<O>,
    pub(super) down: Matrix<O>,
    pub(super) post_ffn_norm: Option<Vector>,
}

/// The weights of a decoder, the embedding excepted: its rows are read from the checkpoint.
pub(super) struct Weights<O: Operand> {
    pub(super) layers: Vec<LayerWeights<O>>,
    pub(super) final_norm: Vector,
    pub(super) head: Matrix<O>,
}

impl<O: Arithmetic> Weights<O> {
    /// Packs everything on all threads.
    ///
    /// # Errors
    /// The system refused the memory.
    pub(super) fn pack(cpu: &mut Cpu, model: &Model, storage: Storage) -> io::Result<Self> {
        let layers = (0..model.spec.num_hidden_layers)
            .map(|layer| LayerWeights::pack(cpu, model, storage, layer))
            .collect::<io::Result<_>>()?;
        let head = weight(model, WeightId::Head);
        Ok(Self {
            layers,
            final_norm: Vector::new(&weight(model, WeightId::FinalNorm).to_vec()),
            head: pack(cpu, storage, &[head])?,
        })
    }

    /// Whether some matrix is of integers.
    pub(super) fn has_ints(&self) -> bool {
        let ints = |matrix: &Matrix<O>| matches!(matrix, Matrix::Ints(_));
        let layer = |layer: &LayerWeights<O>| {
            let matrices = [&layer.qkv, &layer.output, &layer.down];
            matrices.into_iter().any(ints) || matches!(layer.gate_up, Gate::Ints(_))
        };
        ints(&self.head) || self.layers.iter().any(layer)
    }

    /// Bytes of all packed matrices.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            layer.qkv.bytes() + layer.output.bytes() + layer.gate_up.bytes() + layer.down.bytes()
        });
        layers.sum::<usize>() + self.head.bytes()
    }
}

impl<O: Arithmetic> LayerWeights<O> {
    fn pack(cpu: &mut Cpu, model: &Model, storage: Storage, layer: usize) -> io::Result<Self> {
        let get = |role| weight(model, WeightId::Layer(layer, role));
        let vector = |role| Vector::new(&get(role).to_vec());
        let post_norm = |role| model.spec.post_norms.then(|| vector(role));
        let biases = [LayerWeight::QBias, LayerWeight::KBias, LayerWeight::VBias];
        let (gate, up) = (get(LayerWeight::Gate), get(LayerWeight::Up));
        Ok(Self {
            attn_norm: vector(LayerWeight::AttnNorm),
            qkv: pack(
                cpu,
                storage,
                &[
                    get(LayerWeight::Q),
                    get(LayerWeight::K),
                    get(LayerWeight::V),
                ],
            )?,
            qkv_bias: model
                .spec
                .qkv_bias
                .then(|| biases.map(|role| get(role).to_vec()).concat()),
            head_norms: model
                .spec
                .qk_norm
                .then(|| [vector(LayerWeight::QNorm), vector(LayerWeight::KNorm)]),
            output: pack(cpu, storage, &[get(LayerWeight::O)])?,
            post_attn_norm: post_norm(LayerWeight::PostAttnNorm),
            ffn_norm: vector(LayerWeight::FfnNorm),
            gate_up: match storage.format(&[gate, up]) {
                Some(format) => Gate::Ints(IntGatedMatrix::pack(
                    cpu,
                    format,
                    gate.rows(),
                    gate.cols(),
                    |row, ints| read_ints(&gate, row, ints),
                    |row, ints| read_ints(&up, row, ints),
                )?),
                None => Gate::Floats(GatedMatrix::pack(
                    cpu,
                    gate.rows(),
                    gate.cols(),
                    |row, values| gate.read_row(row, values),
                    |row, values| up.read_row(row, values),
                )?),
            },
            down: pack(cpu, storage, &[get(LayerWeight::Down)])?,
            post_ffn_norm: post_norm(LayerWeight::PostFfnNorm),
        })
    }
}

/// A weight that the model's specification says is there.
pub(super) fn weight(model: &Model, id: WeightId) -> Weight<'_> {
    model
        .weight(id)
        .expect("a model has every weight of its specification")
}

/// Matrices with the same inputs, their outputs one after the other.
fn pack<O: Operand>(
    cpu: &mut Cpu,
    storage: Storage,
    matrices: &[Weight<'_>],
) -> io::Result<Matrix<O>> {
    let outputs = matrices.iter().map(Weight::rows).sum();
    let inputs = matrices[0].cols();
    let find = |mut row: usize| {
        for matrix in matrices {
            if row < matrix.rows() {
                return (matrix, row);
            }
            row -= matrix.rows();
        }
        unreachable!("rows are below the sum of all");
    };
    Ok(match storage.format(matrices) {
        Some(format) => Matrix::Ints(IntMatrix::pack(
            cpu,
            format,
            outputs,
            inputs,
            |row, ints| {
                let (matrix, row) = find(row);
                read_ints(matrix, row, ints);
            },
        )?),
        None => Matrix::Floats(PackedMatrix::pack(cpu, outputs, inputs, |row, values| {
            let (matrix, row) = find(row);
            matrix.read_row(row, values);
        })?),
    })
}

/// Reads a row as integers: blocks as they are where the format holds them.
fn read_ints(matrix: &Weight<'_>, row: usize, ints: &mut IntRow) {
    ints.read(matrix.block_type(), matrix.row_bytes(row));
}
