//! A device that was found, and what follows from it: executor, memory, usual sizes of a batch.

use std::sync::Arc;

use super::backends::cpu::{
    CpuDemand, CpuOptions, CpuRunner, MachineLimit, StorageSummary, step_costs,
};
#[cfg(feature = "ggml")]
use super::backends::ggml::{DeviceInfo, GgmlOptions, GgmlRunner};
#[cfg(feature = "ggml")]
use super::device::DeviceKind;
use super::device::{Device, DeviceError};
#[cfg(feature = "ggml")]
use super::device_demand::DeviceDemand;
use super::load::EngineOptions;
use super::memory;
use super::sizing::{Demand, Sizes, StepCosts};
use super::{ModelRunner, RunnerError};
use crate::kernels::cpu::{Isa, KvShape};
use crate::model::Model;

/// Where a model will run.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Our own kernels.
    Cpu,
    /// A device of ggml's.
    #[cfg(feature = "ggml")]
    Ggml(DeviceInfo),
}

/// An executor, how it holds the weights (empty where it does not say) and their bytes.
pub(super) struct Placed {
    pub(super) runner: Box<dyn ModelRunner>,
    pub(super) storage: StorageSummary,
    pub(super) weight_bytes: u64,
}

impl Place {
    /// Finds a device.
    ///
    /// # Errors
    /// The build or the machine has no such device.
    pub(super) fn find(device: &Device) -> Result<Self, DeviceError> {
        #[cfg(feature = "ggml")]
        let found = device.find()?.map_or(Self::Cpu, Self::Ggml);
        #[cfg(not(feature = "ggml"))]
        let found = device.check().map(|()| Self::Cpu)?;
        Ok(found)
    }

    /// Its name, and the maker's.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            #[cfg(feature = "ggml")]
            Self::Ggml(info) if info.kind == DeviceKind::Cpu => "ggml-cpu".to_owned(),
            #[cfg(feature = "ggml")]
            Self::Ggml(info) => {
                format!("{}:{} ({})", info.backend, info.index, info.description)
            }
        }
    }

    /// Whether our own kernels run.
    pub(super) fn has_own_kernels(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// The kernels that run.
    pub(super) fn kernels(&self, options: &EngineOptions) -> &'static str {
        match self {
            Self::Cpu => options.kernels.unwrap_or_else(Isa::detect).name(),
            #[cfg(feature = "ggml")]
            Self::Ggml(_) => "ggml",
        }
    }

    /// Bytes that weights, activations and KV pool may take.
    pub(super) fn available_bytes(&self) -> Option<u64> {
        match self {
            Self::Cpu => memory::available_bytes(),
            #[cfg(feature = "ggml")]
            Self::Ggml(info) if info.kind == DeviceKind::Cpu => memory::available_bytes(),
            #[cfg(feature = "ggml")]
            Self::Ggml(info) => Some(info.free_bytes),
        }
    }

    /// Sequences in flight and rows of a step of a device that is not measured: a graphics processor
    /// needs many rows to be busy.
    pub(super) fn usual_batch(&self) -> Option<(usize, usize)> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "ggml")]
            Self::Ggml(info) if info.kind == DeviceKind::Cpu => None,
            #[cfg(feature = "ggml")]
            Self::Ggml(_) => Some((256, 2048)),
        }
    }

    /// What the CPU can do at most, and what a step of decoding with `context` positions will
    /// take, measured in less than a second; `None` where there is nothing to weigh.
    ///
    /// # Errors
    /// The system refused threads.
    pub(super) fn step_costs(
        &self,
        model: &Model,
        options: &EngineOptions,
        threads: usize,
        context: usize,
    ) -> Result<Option<(MachineLimit, StepCosts)>, RunnerError> {
        match self {
            Self::Cpu => {
                let cpu = CpuOptions {
                    compute_type: options.compute_type,
                    quantize: options.quantize,
                    kv_type: options.kv_type,
                    threads,
                    isa: options.kernels.unwrap_or_else(Isa::detect),
                    block_size: KvShape::BLOCK_SIZE_STEP,
                    num_blocks: 1,
                    max_model_len: 1,
                };
                step_costs(&cpu, model, context)
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(_) => Ok(None),
        }
    }

    /// What the model takes here.
    pub(super) fn demand(
        &self,
        model: &Model,
        options: &EngineOptions,
        block_size: usize,
    ) -> Demand {
        let compute_type = options.compute_type;
        let model_max_len = model.spec.max_position_embeddings;
        let (block_bytes, weight_bytes, row_bytes) = match self {
            Self::Cpu => {
                let demand = CpuDemand::of(
                    model,
                    compute_type,
                    options.quantize,
                    options.kv_type,
                    block_size,
                );
                (demand.block_bytes, demand.weight_bytes, demand.row_bytes)
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(info) => {
                let len = options.max_model_len.unwrap_or(model_max_len);
                let demand = DeviceDemand::of(model, info.kind, compute_type, block_size, len);
                (demand.block_bytes, demand.weight_bytes, demand.row_bytes)
            }
        };
        Demand {
            model_max_len,
            block_size,
            block_bytes,
            weight_bytes,
            row_bytes,
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    /// The executor cannot run it, or memory does not suffice.
    pub(super) fn runner(
        &self,
        model: &Arc<Model>,
        options: &EngineOptions,
        sizes: &Sizes,
        block_size: usize,
        threads: usize,
    ) -> Result<Placed, RunnerError> {
        match self {
            Self::Cpu => {
                let options = CpuOptions {
                    compute_type: options.compute_type,
                    quantize: options.quantize,
                    kv_type: options.kv_type,
                    threads,
                    isa: options.kernels.unwrap_or_else(Isa::detect),
                    block_size,
                    num_blocks: sizes.num_blocks,
                    max_model_len: sizes.max_model_len,
                };
                let runner = CpuRunner::load(model, &options)?;
                Ok(Placed {
                    storage: runner.storage().clone(),
                    weight_bytes: runner.weight_bytes(),
                    runner: Box::new(runner),
                })
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(device) => {
                let options = GgmlOptions {
                    device: device.clone(),
                    compute_type: options.compute_type,
                    threads,
                    block_size,
                    num_blocks: sizes.num_blocks,
                    max_model_len: sizes.max_model_len,
                    max_num_seqs: sizes.max_num_seqs,
                    max_num_batched_tokens: sizes.max_num_batched_tokens,
                    attention: None,
                };
                let runner = GgmlRunner::load(model, &options)?;
                Ok(Placed {
                    storage: StorageSummary {
                        held: runner.held().clone(),
                        ..StorageSummary::default()
                    },
                    weight_bytes: runner.weight_bytes(),
                    runner: Box::new(runner),
                })
            }
        }
    }

    /// The device as ggml knows it; our own kernels stand for its processor.
    ///
    /// # Errors
    /// ggml has no processor, which no build has.
    #[cfg(feature = "ggml")]
    pub(super) fn ggml_device(&self) -> Result<DeviceInfo, DeviceError> {
        let processor = Device::Ggml {
            backend: "cpu",
            index: 0,
        };
        match self {
            Self::Ggml(info) => Ok(info.clone()),
            Self::Cpu => processor.find()?.ok_or(DeviceError::NotFound {
                device: processor,
                found: String::new(),
            }),
        }
    }
}
