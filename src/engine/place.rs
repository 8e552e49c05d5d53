//! A device that was found, and what follows from it: executor, memory, usual sizes of a batch.

use std::sync::Arc;

use super::backends::cpu::{CpuOptions, CpuRunner, MachineLimit, StorageSummary, step_costs};
#[cfg(feature = "ggml")]
use super::backends::ggml::{
    DeviceInfo, GgmlOptions, GgmlRunner, devices, max_blocks, split_layers,
};
use super::demand::MemoryDemand;
#[cfg(feature = "ggml")]
use super::device::DeviceKind;
use super::device::{Device, DeviceError};
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
    /// Devices of ggml's, at least one, each with a stretch of the layers.
    #[cfg(feature = "ggml")]
    Ggml(Vec<DeviceInfo>),
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
        let found = match device.find()? {
            none if none.is_empty() => Self::Cpu,
            devices => Self::Ggml(devices),
        };
        #[cfg(not(feature = "ggml"))]
        let found = device.check().map(|()| Self::Cpu)?;
        Ok(found)
    }

    /// Its name, and the maker's.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            #[cfg(feature = "ggml")]
            Self::Ggml(infos) => {
                let name = |info: &DeviceInfo| match info.kind {
                    DeviceKind::Cpu => "ggml-cpu".to_owned(),
                    _ => format!("{}:{} ({})", info.backend, info.index, info.description),
                };
                let names: Vec<String> = infos.iter().map(name).collect();
                names.join(" then ")
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

    /// Sequences in flight and rows of a step of a device that is not measured: a graphics processor
    /// needs many rows to be busy.
    pub(super) fn usual_batch(&self) -> Option<(usize, usize)> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "ggml")]
            Self::Ggml(infos) => {
                let has_gpu = infos.iter().any(|info| info.kind != DeviceKind::Cpu);
                has_gpu.then_some((256, 2048))
            }
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
                let cpu = cpu_options(options, threads, KvShape::BLOCK_SIZE_STEP);
                step_costs(&cpu, model, context)
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(_) => Ok(None),
        }
    }

    /// What the model takes on each device here, and the bytes that weights, activations and KV
    /// pool may take there.
    ///
    /// # Errors
    /// There are more devices than layers, or one cannot be opened.
    pub(super) fn demands(
        &self,
        model: &Model,
        options: &EngineOptions,
        block_size: usize,
    ) -> Result<Vec<(Demand, Option<u64>)>, RunnerError> {
        let model_max_len = model.spec.max_position_embeddings;
        let demand = |memory, max_blocks| Demand {
            model_max_len,
            block_size,
            max_blocks,
            memory,
        };
        let compute_type = options.compute_type;
        match self {
            Self::Cpu => {
                let (quantize, kv_type) = (options.quantize, options.kv_type);
                let memory =
                    MemoryDemand::on_cpu(model, compute_type, quantize, kv_type, block_size);
                Ok(vec![(
                    demand(memory, usize::MAX),
                    memory::available_bytes(),
                )])
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(infos) => {
                let len = options.max_model_len.unwrap_or(model_max_len);
                let failure = |message| RunnerError::backend("ggml", message);
                let layers = split_layers(infos, model).map_err(failure)?;
                let of_device = |(info, layers): (&DeviceInfo, _)| {
                    let kind = info.kind;
                    let memory =
                        MemoryDemand::of_layers(model, layers, kind, compute_type, block_size, len);
                    // The processor may be named several times and has one memory.
                    let sharers = infos.iter().filter(|i| i.name == info.name).count() as u64;
                    let most =
                        max_blocks(info, &model.spec, compute_type, block_size).map_err(failure)?;
                    Ok((demand(memory, most), Some(info.free_bytes / sharers)))
                };
                infos.iter().zip(layers).map(of_device).collect()
            }
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
                    num_blocks: sizes.num_blocks,
                    max_model_len: sizes.max_model_len,
                    ..cpu_options(options, threads, block_size)
                };
                let runner = CpuRunner::load(model, &options)?;
                Ok(Placed {
                    storage: runner.storage().clone(),
                    weight_bytes: runner.weight_bytes(),
                    runner: Box::new(runner),
                })
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(devices) => {
                let options = GgmlOptions {
                    devices: devices.clone(),
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
                        held: runner.held(),
                        ..StorageSummary::default()
                    },
                    weight_bytes: runner.weight_bytes(),
                    runner: Box::new(runner),
                })
            }
        }
    }

    /// The devices as ggml knows them; our own kernels stand for its processor.
    #[cfg(feature = "ggml")]
    pub(super) fn ggml_devices(&self) -> Vec<DeviceInfo> {
        let is_cpu = |info: &DeviceInfo| info.kind == DeviceKind::Cpu;
        match self {
            Self::Ggml(infos) => infos.clone(),
            Self::Cpu => devices().into_iter().filter(is_cpu).collect(),
        }
    }
}

/// Our own executor as `options` want it, with a pool of one block.
fn cpu_options(options: &EngineOptions, threads: usize, block_size: usize) -> CpuOptions {
    CpuOptions {
        compute_type: options.compute_type,
        quantize: options.quantize,
        kv_type: options.kv_type,
        threads,
        isa: options.kernels.unwrap_or_else(Isa::detect),
        block_size,
        num_blocks: 1,
        max_model_len: 1,
    }
}
