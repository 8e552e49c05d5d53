//! What a merge would do, found out before it does it: sizes, deltas, vocabularies.

use super::architecture::Part;
use super::error::MergeError;
use super::plan::TensorPlan;
use super::run::Merge;
use super::tensor::{AnyTensor, Draws, Sink, Tensor};
use crate::kernels::elementwise::Elementwise;

/// DARE's authors drop 90% and more of the deltas of fine-tuned models, which lie within this
/// (arXiv:2311.03099, section 4).
pub const SAFE_DELTA: f64 = 0.002;
/// Deltas of continued pre-training reach this; there, dropping even 10% fails (same section).
pub const UNSAFE_DELTA: f64 = 0.03;

/// What `micota merge --check` prints.
pub struct CheckReport {
    /// Bytes of the inputs' tensors, by model.
    pub inputs: Vec<(String, u64)>,
    /// Bytes of the output's tensors.
    pub output_bytes: u64,
    /// Number of output tensors.
    pub num_tensors: usize,
    /// Layers of the output.
    pub num_layers: usize,
    /// An upper estimate of memory beyond the page cache.
    pub memory_bytes: u64,
    /// Task vectors, where the method has a base.
    pub deltas: Vec<DeltaStatistics>,
    /// Rows of the embedding, by model, and of the output.
    pub vocabularies: Vec<(String, usize)>,
    /// What should be looked at, beyond the warnings of [`Merge::prepare`].
    pub warnings: Vec<String>,
}

/// The task vector of one input and tensor.
#[derive(Clone, Debug)]
pub struct DeltaStatistics {
    /// The output tensor.
    pub tensor: String,
    /// The input's model.
    pub model: String,
    /// Mean magnitude.
    pub mean: f64,
    /// Largest magnitude.
    pub max: f64,
    /// Share of elements that differ from the base.
    pub changed: f64,
}

impl Merge<'_> {
    /// Reads all task vectors and sums up what the merge would do. Nothing is written.
    ///
    /// # Errors
    /// As in computing the merge.
    pub fn check(&self) -> Result<CheckReport, MergeError> {
        let mut report = CheckReport {
            inputs: Vec::new(),
            output_bytes: self.output_bytes(),
            num_tensors: self.tensors.len(),
            num_layers: self.layout.num_layers,
            memory_bytes: self.memory_estimate(),
            deltas: Vec::new(),
            vocabularies: Vec::new(),
            warnings: Vec::new(),
        };
        for model in self.models.iter() {
            let bytes = model
                .checkpoint
                .tensors()
                .map(|t| t.data.len() as u64)
                .sum();
            report.inputs.push((model.name.clone(), bytes));
            let rows = model.stored(super::architecture::EMBEDDING)?.0[0];
            report.vocabularies.push((model.name.clone(), rows));
        }
        let embedding = self.tensors.iter().find(|t| t.part == Part::Embedding);
        if let Some(embedding) = embedding {
            report
                .vocabularies
                .push(("output".into(), embedding.shape[0]));
        }
        for plan in self.tensors.iter().filter(|plan| plan.base.is_some()) {
            self.deltas(plan, &mut report.deltas)?;
        }
        if self.is_random() {
            warn_of_large_deltas(&mut report);
        }
        Ok(report)
    }

    fn deltas(
        &self,
        plan: &TensorPlan,
        deltas: &mut Vec<DeltaStatistics>,
    ) -> Result<(), MergeError> {
        let task = self.task(plan, Draws::None, &Nowhere)?;
        let sums = match &task {
            AnyTensor::Single(tensor) => delta_sums(tensor),
            AnyTensor::Double(tensor) => delta_sums(tensor),
        };
        let elements = plan.num_elements().max(1) as f64;
        let others = plan.inputs.iter().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != plan.base);
        for ((_, input), sums) in others.zip(sums) {
            deltas.push(DeltaStatistics {
                tensor: plan.name.clone(),
                model: self.models.get(input.model).name.clone(),
                mean: sums.magnitude / elements,
                max: sums.max,
                changed: sums.changed as f64 / elements,
            });
        }
        Ok(())
    }
}

/// A sink for tensors of which nothing is stored.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<(), MergeError> {
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
struct DeltaSums {
    magnitude: f64,
    max: f64,
    changed: u64,
}

fn delta_sums<F: Elementwise>(tensor: &Tensor<'_, F>) -> Vec<DeltaSums> {
    let inputs = tensor.others().count();
    let mut totals = vec![DeltaSums::default(); inputs];
    let per_block = |block: &super::tensor::Block| {
        let mut sums = vec![DeltaSums::default(); inputs];
        let (mut base, mut delta) = (Vec::new(), Vec::new());
        for chunk in tensor.chunks(block) {
            tensor.read_len(tensor.required_base(), chunk.start, chunk.len(), &mut base);
            for (sums, input) in sums.iter_mut().zip(tensor.others()) {
                tensor.read_delta(input, chunk.start, &base, &mut delta);
                let (largest, changed) = F::extent(tensor.isa, &delta);
                sums.magnitude += F::sum_of_magnitudes(tensor.isa, &delta);
                sums.changed += changed as u64;
                sums.max = sums.max.max(largest.to_f64());
            }
        }
        sums
    };
    tensor.fold(per_block, |block: Vec<DeltaSums>| {
        for (total, sums) in totals.iter_mut().zip(block) {
            total.magnitude += sums.magnitude;
            total.changed += sums.changed;
            total.max = total.max.max(sums.max);
        }
    });
    totals
}

/// One line per model whose deltas are larger than random dropping bears.
fn warn_of_large_deltas(report: &mut CheckReport) {
    let mut models: Vec<&str> = report.deltas.iter().map(|d| d.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut warnings = Vec::new();
    for model in models {
        let own = || report.deltas.iter().filter(|d| d.model == model);
        let above = |limit: f64| own().filter(|d| d.mean > limit).count();
        let Some(worst) = own().max_by(|a, b| a.mean.total_cmp(&b.mean)) else {
            continue;
        };
        let (limit, verdict) = match worst.mean {
            mean if mean > UNSAFE_DELTA => (UNSAFE_DELTA, "dropping fails even at high density"),
            mean if mean > SAFE_DELTA => (SAFE_DELTA, "keep the density high"),
            _ => continue,
        };
        warnings.push(format!(
            "{model}: {} of {} tensors have a mean |delta| above {limit} (largest {:.2e} in {}); \
             according to DARE's authors {verdict}",
            above(limit),
            own().count(),
            worst.mean,
            worst.tensor,
        ));
    }
    report.warnings.extend(warnings);
}
