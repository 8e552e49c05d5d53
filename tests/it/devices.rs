//! The executors that tests run on: ours on every instruction set, and ggml's on its processor
//! device and split over two of it, or on what `MICOTA_TEST_DEVICE` names (`cpu`, `ggml-cpu`,
//! `cuda`, `cuda:0,1`, `vulkan`, `metal`).

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "ggml")]
use micota::engine::DeviceKind;
use micota::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
#[cfg(feature = "ggml")]
use micota::engine::backends::ggml::{AttentionPath, DeviceInfo, GgmlOptions, GgmlRunner};
use micota::engine::{Device, ModelRunner};
use micota::kernels::cpu::Isa;
use micota::model::Model;

/// An executor to test.
#[derive(Clone, Debug)]
pub(crate) enum TestDevice {
    /// Ours, with the kernels of one instruction set.
    Cpu(Isa),
    /// ggml's, on one device or several, with attention in one of its forms or in the one that the
    /// device gets.
    #[cfg(feature = "ggml")]
    Ggml(Vec<DeviceInfo>, Option<AttentionPath>),
}

/// The devices that engines are tested on, by name.
pub(crate) fn engine_devices() -> Vec<Device> {
    let names = match std::env::var("MICOTA_TEST_DEVICE") {
        Ok(name) => vec![name],
        Err(_) if cfg!(feature = "ggml") => ["cpu", "ggml-cpu", "ggml-cpu,ggml-cpu"]
            .map(str::to_owned)
            .to_vec(),
        Err(_) => vec!["cpu".to_owned()],
    };
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The device of ggml's that is tested; none where `MICOTA_TEST_DEVICE` names our own executor.
#[cfg(feature = "ggml")]
pub(crate) fn ggml_device() -> Option<DeviceInfo> {
    let devices = engine_devices();
    let mut of_ggml = devices.iter().filter(|device| **device != Device::Cpu);
    of_ggml.find_map(|device| device.find().unwrap().into_iter().next())
}

/// Every executor of [`engine_devices`], ours on every instruction set.
pub(crate) fn test_devices() -> Vec<TestDevice> {
    executors(&Isa::available())
}

/// Every executor of [`engine_devices`], ours on the best instruction set only.
pub(crate) fn quick_devices() -> Vec<TestDevice> {
    executors(&[Isa::detect()])
}

fn executors(isas: &[Isa]) -> Vec<TestDevice> {
    let executors = |device: &Device| -> Vec<TestDevice> {
        match device {
            Device::Cpu => isas.iter().map(|isa| TestDevice::Cpu(*isa)).collect(),
            #[cfg(feature = "ggml")]
            device => {
                let infos = device.find().unwrap();
                let flash = Some(AttentionPath::Flash);
                let paths = match &infos[..] {
                    // Not every GPU has a kernel for attention in one operation.
                    [info] if info.kind != DeviceKind::Cpu => &[None, Some(AttentionPath::Plain)],
                    [_] => &[flash, Some(AttentionPath::Plain)][..],
                    _ => &[flash],
                };
                let on = |path| TestDevice::Ggml(infos.clone(), path);
                paths.iter().copied().map(on).collect()
            }
            #[cfg(not(feature = "ggml"))]
            device => panic!("{device} is not in this build"),
        }
    };
    engine_devices().iter().flat_map(executors).collect()
}

/// Whether a part of ggml rounds what it multiplies in `f32` to half precision, unless told not to.
pub(crate) fn rounds_to_half(backend: &str) -> bool {
    backend == "vulkan"
}

impl TestDevice {
    /// An executor of `model`.
    pub(crate) fn runner(
        &self,
        model: &Arc<Model>,
        compute_type: ComputeType,
        block_size: usize,
        num_blocks: usize,
    ) -> Box<dyn ModelRunner> {
        let max_model_len = model.spec.max_position_embeddings;
        match self {
            Self::Cpu(isa) => {
                let options = CpuOptions {
                    compute_type,
                    quantize: Quantize::None,
                    kv_type: KvType::Auto,
                    threads: 2,
                    isa: *isa,
                    block_size,
                    num_blocks,
                    max_model_len,
                };
                Box::new(CpuRunner::load(model, &options).unwrap())
            }
            #[cfg(feature = "ggml")]
            Self::Ggml(devices, attention) => {
                // A model of one layer is on one device.
                let layers = model.spec.num_hidden_layers;
                let options = GgmlOptions {
                    devices: devices[..devices.len().min(layers)].to_vec(),
                    compute_type,
                    // ggml's threads wait for each other without sleeping.
                    threads: 1,
                    block_size,
                    num_blocks,
                    max_model_len,
                    max_num_seqs: 4,
                    max_num_batched_tokens: 32,
                    attention: *attention,
                };
                Box::new(GgmlRunner::load(model, &options).unwrap())
            }
        }
    }

    /// By how much tolerances are wider here: GPUs multiply `f32` in fewer bits.
    pub(crate) fn slack(&self) -> f32 {
        match self {
            Self::Cpu(_) => 1.0,
            #[cfg(feature = "ggml")]
            Self::Ggml(devices, _) if devices.iter().all(|d| d.kind == DeviceKind::Cpu) => 1.0,
            #[cfg(feature = "ggml")]
            Self::Ggml(devices, _) if devices.iter().any(|d| rounds_to_half(&d.backend)) => 400.0,
            #[cfg(feature = "ggml")]
            Self::Ggml(..) => 100.0,
        }
    }
}

impl fmt::Display for TestDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(isa) => write!(f, "cpu ({isa})"),
            #[cfg(feature = "ggml")]
            Self::Ggml(devices, attention) => {
                let names: Vec<&str> = devices.iter().map(|d| d.name.as_str()).collect();
                write!(f, "ggml {}", names.join(","))?;
                match attention {
                    Some(path) => write!(f, " ({path:?})"),
                    None => Ok(()),
                }
            }
        }
    }
}
