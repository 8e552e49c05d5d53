//! A planned tensor with its inputs opened, ready to compute.

use super::architecture::{EMBEDDING, HEAD, Part};
use super::dtype::FloatType;
use super::error::MergeError;
use super::methods::MAX_KEPT_BYTES;
use super::plan::{InputPlan, TensorPlan};
use super::randomness::{Randomness, STREAM_AHEAD};
use super::run::Merge;
use super::tensor::{Aligned, AnyTensor, Draws, Input, SeededStream, Sink, Source, Tensor, blocks};
use super::vocabulary::Alignment;
use super::write::LANES;
use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::Rounding;
use crate::random::Mt19937;

/// The program itself, with the headers and configurations of the models.
const BASE_MEMORY: u64 = 64 << 20;

impl Merge<'_> {
    /// Room for the blocks of every thread and for the states of the random stream, beyond the
    /// page cache.
    pub(super) fn memory_estimate(&self) -> u64 {
        let threads = self.options.threads.or_else(|| {
            std::thread::available_parallelism()
                .ok()
                .map(std::num::NonZero::get)
        });
        let tensor = |plan: &TensorPlan| {
            let drawing = plan.inputs.iter().filter(|input| input.draws).count();
            let blocks = blocks(&plan.shape);
            let block = blocks.first().map_or(0, |block| block.range.len());
            let element = plan.dtype.bytes().max(4);
            let scratch = block * (element + plan.out_dtype.bytes())
                + (plan.inputs.len() + 6)
                    * element
                    * (1 << 12).max(plan.shape.last().copied().unwrap_or(1));
            let states = match self.options.randomness {
                Randomness::Reference(_) => {
                    (LANES + STREAM_AHEAD + 1)
                        * drawing
                        * SeededStream::states_per_input(blocks.len(), drawing)
                        * size_of::<Mt19937>()
                }
                _ => 0,
            };
            let kept = (drawing * plan.num_elements() / 8).min(MAX_KEPT_BYTES);
            scratch * threads.unwrap_or(1) + states + LANES * kept
        };
        self.tensors.iter().map(tensor).max().unwrap_or(0) as u64 + BASE_MEMORY
    }

    pub(super) fn task<'a>(
        &'a self,
        plan: &'a TensorPlan,
        draws: Draws<'a>,
        sink: &'a dyn Sink,
    ) -> Result<AnyTensor<'a>, MergeError> {
        let inputs = plan.inputs.iter().enumerate().map(|(slot, input)| {
            Ok(Input {
                source: self.source(plan, slot)?,
                values: &input.values,
            })
        });
        let inputs = inputs.collect::<Result<Vec<_>, MergeError>>()?;
        macro_rules! tensor {
            () => {
                Tensor {
                    name: &plan.name,
                    shape: &plan.shape,
                    isa: Isa::detect(),
                    rounding: Rounding::of(plan.dtype),
                    inputs,
                    base: plan.base,
                    shared: &plan.shared,
                    draws,
                    out_dtype: plan.out_dtype,
                    sink,
                    real: std::marker::PhantomData,
                }
            };
        }
        Ok(match plan.dtype {
            FloatType::F64 => AnyTensor::Double(tensor!()),
            _ => AnyTensor::Single(tensor!()),
        })
    }

    /// The elements of one input of a tensor.
    pub(super) fn source(&self, plan: &TensorPlan, slot: usize) -> Result<Source<'_>, MergeError> {
        let input = &plan.inputs[slot];
        let model = self.models.get(input.model);
        let (shape, stored) = model.stored(&input.tensor)?;
        let folded = match (&model.adapter, model.folded_dtype) {
            (Some(adapter), Some(dtype)) => adapter.fold(&input.tensor, shape, stored, dtype)?,
            _ => None,
        };
        let vocabulary = matches!(plan.part, Part::Embedding | Part::Head);
        match (&self.tokenizer, folded) {
            (Some(tokenizer), None) if vocabulary => self
                .aligned(plan, input, &tokenizer.alignment)
                .map(Source::Aligned),
            (Some(_), Some(_)) if vocabulary => Err(MergeError::model(
                &model.name,
                format!(
                    "the adapter changes {}, which a tokenizer setting rearranges; fold the \
                     adapter in first",
                    input.tensor
                ),
            )),
            (_, Some(folded)) => Ok(Source::Folded(folded)),
            (_, None) => Ok(Source::Stored(stored)),
        }
    }

    fn aligned<'a>(
        &'a self,
        plan: &TensorPlan,
        input: &InputPlan,
        alignment: &'a Alignment,
    ) -> Result<Aligned<'a>, MergeError> {
        let mut embeddings = Vec::new();
        for model in self.models.iter() {
            let name = match plan.part == Part::Head && model.has(HEAD) {
                true => HEAD,
                false => EMBEDDING,
            };
            embeddings.push(model.stored(name)?.1);
        }
        let rows = &alignment.rows[&input.model];
        let mut aligned = Aligned {
            embeddings,
            row_len: plan.shape[1],
            rows,
            padding: Vec::new(),
        };
        if alignment.padded_rows > rows.len() {
            aligned.padding = aligned.mean_row(Isa::detect(), Rounding::of(plan.dtype));
        }
        Ok(aligned)
    }
}
