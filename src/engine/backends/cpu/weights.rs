//! A checkpoint's weights in the layout of the kernels.

use std::io;

use crate::kernels::cpu::{Cpu, GatedMatrix, Operand, PackedMatrix, Vector};
use crate::model::{LayerWeight, Model, Weight, WeightId};

/// The weights of one layer.
pub(super) struct LayerWeights<O: Operand> {
    pub(super) attn_norm: Vector,
    /// Query, key and value outputs, one after the other.
    pub(super) qkv: PackedMatrix<O>,
    pub(super) qkv_bias: Option<Vec<f32>>,
    /// Of query and of key heads.
    pub(super) head_norms: Option<[Vector; 2]>,
    pub(super) output: PackedMatrix<O>,
    pub(super) post_attn_norm: Option<Vector>,
    pub(super) ffn_norm: Vector,
    pub(super) gate_up: GatedMatrix<O>,
    pub(super) down: PackedMatrix<O>,
    pub(super) post_ffn_norm: Option<Vector>,
}

/// The weights of a decoder, the embedding excepted: its rows are read from the checkpoint.
pub(super) struct Weights<O: Operand> {
    pub(super) layers: Vec<LayerWeights<O>>,
    pub(super) final_norm: Vector,
    pub(super) head: PackedMatrix<O>,
}

impl<O: Operand> Weights<O> {
    /// Packs everything on all threads.
    ///
    /// # Errors
    /// The system refused the memory.
    pub(super) fn pack(cpu: &mut Cpu, model: &Model) -> io::Result<Self> {
        let layers = (0..model.spec.num_hidden_layers)
            .map(|layer| LayerWeights::pack(cpu, model, layer))
            .collect::<io::Result<_>>()?;
        let head = weight(model, WeightId::Head);
        Ok(Self {
            layers,
            final_norm: Vector::new(&weight(model, WeightId::FinalNorm).to_vec()),
            head: pack(cpu, &[head])?,
        })
    }

    /// Bytes of all packed matrices.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            layer.qkv.bytes() + layer.output.bytes() + layer.gate_up.bytes() + layer.down.bytes()
        });
        layers.sum::<usize>() + self.head.bytes()
    }
}

impl<O: Operand> LayerWeights<O> {
    fn pack(cpu: &mut Cpu, model: &Model, layer: usize) -> io::Result<Self> {
        let get = |role| weight(model, WeightId::Layer(layer, role));
        let vector = |role| Vector::new(&get(role).to_vec());
        let post_norm = |role| model.spec.post_norms.then(|| vector(role));
        let biases = [LayerWeight::QBias, LayerWeight::KBias, LayerWeight::VBias];
        let (gate, up) = (get(LayerWeight::Gate), get(LayerWeight::Up));
        Ok(Self {
            attn_norm: vector(LayerWeight::AttnNorm),
            qkv: pack(
                cpu,
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
            output: pack(cpu, &[get(LayerWeight::O)])?,
            post_attn_norm: post_norm(LayerWeight::PostAttnNorm),
            ffn_norm: vector(LayerWeight::FfnNorm),
            gate_up: GatedMatrix::pack(
                cpu,
                gate.rows(),
                gate.cols(),
                |row, values| gate.read_row(row, values),
                |row, values| up.read_row(row, values),
            )?,
            down: pack(cpu, &[get(LayerWeight::Down)])?,
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
fn pack<O: Operand>(cpu: &mut Cpu, matrices: &[Weight<'_>]) -> io::Result<PackedMatrix<O>> {
    let outputs = matrices.iter().map(Weight::rows).sum();
    PackedMatrix::pack(cpu, outputs, matrices[0].cols(), |mut row, values| {
        for matrix in matrices {
            if row < matrix.rows() {
                return matrix.read_row(row, values);
            }
            row -= matrix.rows();
        }
        unreachable!("rows are below the sum of all");
    })
}
