//! Where a model runs, as people say it: `auto`, `cpu`, `ggml-cpu`, `cuda`, `cuda:1`, `vulkan`,
//! `metal`, or several of ggml's as in `cuda:0,1`.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "ggml")]
use super::backends::ggml::{DeviceInfo, devices};

/// ggml's parts that drive graphics processors, each a feature of this package, and whether this
/// build has it.
pub const GPU_FEATURES: [(&str, bool); 3] = [
    ("cuda", cfg!(feature = "cuda")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
];

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor, through ggml's own kernels.
    Cpu,
    /// A graphics processor, with memory of its own or shared.
    Gpu,
    /// Anything else that ggml can only use beside the processor.
    Other,
}

/// A device to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first graphics processor that this build can use, else our own kernels.
    #[default]
    Auto,
    /// Our own kernels on the processor.
    Cpu,
    /// Devices of ggml's, at least one; of several, each has a stretch of the model's layers.
    Ggml(Vec<DeviceId>),
}

/// A device of ggml's, by what drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// The part of ggml that drives it: `cpu`, `cuda`, `vulkan`, `metal`.
    pub backend: &'static str,
    /// Its number among those.
    pub index: usize,
}

impl DeviceId {
    /// The processor, through ggml's own kernels.
    pub const CPU: Self = Self {
        backend: "cpu",
        index: 0,
    };
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The build lacks what drives it.
    #[error(
        "device {device} is not in this build; build it in with \
         `cargo build --release --features {feature}` (docs/gpu.md)"
    )]
    NotBuilt {
        /// What was asked for.
        device: DeviceId,
        /// What brings it.
        feature: &'static str,
    },
    /// The build has it, the machine does not.
    #[error("this machine has no device {device}; ggml sees {found} (`micota doctor` lists them)")]
    NotFound {
        /// What was asked for.
        device: DeviceId,
        /// What there is.
        found: String,
    },
}

impl Device {
    /// The devices of ggml's that this means, in order; none means our own executor.
    ///
    /// # Errors
    /// The build or the machine lacks one of them.
    #[cfg(feature = "ggml")]
    pub fn find(&self) -> Result<Vec<DeviceInfo>, DeviceError> {
        let wanted = match self {
            Self::Cpu => return Ok(Vec::new()),
            Self::Auto => {
                let first = devices().into_iter().find(|i| i.kind == DeviceKind::Gpu);
                return Ok(first.into_iter().collect());
            }
            Self::Ggml(wanted) => wanted,
        };
        let found = devices();
        wanted.iter().map(|id| id.find(&found)).collect()
    }

    /// As many devices as `count`, from this one on: what a number of devices without their names
    /// means. `None` where the machine has fewer, or they are processors.
    #[cfg(feature = "ggml")]
    pub fn and_its_neighbours(&self, count: usize) -> Option<Self> {
        let first = match self.find().ok()?.as_slice() {
            [only] if only.kind == DeviceKind::Gpu => only.clone(),
            _ => return None,
        };
        let (backend, _) = feature_of(&first.backend)?;
        let found = devices();
        let here = |index: &usize| {
            let is_here = |i: &DeviceInfo| i.backend == backend && i.index == *index;
            found.iter().any(is_here)
        };
        let ids: Vec<DeviceId> = (first.index..first.index.checked_add(count)?)
            .take_while(here)
            .map(|index| DeviceId { backend, index })
            .collect();
        (ids.len() == count).then_some(Self::Ggml(ids))
    }

    /// As many devices as `count`: none in a build without them.
    #[cfg(not(feature = "ggml"))]
    pub fn and_its_neighbours(&self, _: usize) -> Option<Self> {
        None
    }

    /// Whether this build can use the device; it has our own executor only.
    ///
    /// # Errors
    /// The device is one of ggml's.
    #[cfg(not(feature = "ggml"))]
    pub fn check(&self) -> Result<(), DeviceError> {
        match self {
            Self::Auto | Self::Cpu => Ok(()),
            Self::Ggml(wanted) => Err(DeviceError::NotBuilt {
                device: wanted[0],
                feature: feature_of(wanted[0].backend).map_or("ggml", |(feature, _)| feature),
            }),
        }
    }
}

impl DeviceId {
    #[cfg(feature = "ggml")]
    fn find(&self, found: &[DeviceInfo]) -> Result<DeviceInfo, DeviceError> {
        let is_it = |info: &&DeviceInfo| info.backend == self.backend && info.index == self.index;
        if let Some(info) = found.iter().find(is_it) {
            return Ok(info.clone());
        }
        Err(match feature_of(self.backend) {
            Some((feature, false)) => DeviceError::NotBuilt {
                device: *self,
                feature,
            },
            _ => {
                let names: Vec<&str> = found.iter().map(|info| info.name.as_str()).collect();
                DeviceError::NotFound {
                    device: *self,
                    found: names.join(", "),
                }
            }
        })
    }
}

/// The feature that brings a part of ggml, and whether it is built in; none for the processor,
/// which is always there.
fn feature_of(backend: &str) -> Option<(&'static str, bool)> {
    GPU_FEATURES.into_iter().find(|(name, _)| *name == backend)
}

impl FromStr for Device {
    type Err = String;

    /// A name, or several of ggml's with commas between them, where a bare number is one more of
    /// the kind before it: `cuda:0,1`, `cuda:0,vulkan:1`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            _ => {}
        }
        let mut ids: Vec<DeviceId> = Vec::new();
        for part in text.split(',') {
            let id = match ids.last() {
                Some(last) if part.bytes().all(|b| b.is_ascii_digit()) => DeviceId {
                    backend: last.backend,
                    index: number(part, text)?,
                },
                _ => named(part, text)?,
            };
            // Twice the processor is of no use but to try the rest out.
            if id != DeviceId::CPU && ids.contains(&id) {
                return Err(format!("`{text}` names {id} twice"));
            }
            ids.push(id);
        }
        Ok(Self::Ggml(ids))
    }
}

/// One device out of `text`.
fn named(part: &str, text: &str) -> Result<DeviceId, String> {
    if part == "ggml-cpu" {
        return Ok(DeviceId::CPU);
    }
    let (name, index) = part.split_once(':').unwrap_or((part, "0"));
    // What torch calls Apple's.
    let name = if name == "mps" { "metal" } else { name };
    let (backend, _) = feature_of(name).ok_or_else(|| {
        format!(
            "unknown device `{part}`; known: auto, cpu, ggml-cpu, and cuda, vulkan and metal, \
             each with a number as in cuda:1, or several as in cuda:0,1"
        )
    })?;
    let index = number(index, text)?;
    Ok(DeviceId { backend, index })
}

fn number(index: &str, text: &str) -> Result<usize, String> {
    index
        .parse()
        .map_err(|_| format!("`{index}` in `{text}` is no device number"))
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CPU => f.write_str("ggml-cpu"),
            Self { backend, index } => write!(f, "{backend}:{index}"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Ggml(ids) => {
                let names: Vec<String> = ids.iter().map(DeviceId::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for text in [
            "auto",
            "cpu",
            "ggml-cpu",
            "cuda:0",
            "vulkan:1",
            "metal:0",
            "cuda:0,cuda:1",
            "ggml-cpu,ggml-cpu",
            "cuda:2,vulkan:0",
        ] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), "cuda:0".parse::<Device>());
        assert_eq!("mps".parse(), "metal".parse::<Device>());
        assert_eq!("cuda:0,1".parse(), "cuda:0,cuda:1".parse::<Device>());
        assert_eq!("cuda,3".parse(), "cuda:0,cuda:3".parse::<Device>());
        let refuse = |text: &str| text.parse::<Device>().unwrap_err();
        assert!(refuse("gpu").starts_with("unknown device `gpu`; known: auto, cpu"));
        assert_eq!(refuse("cuda:0,0"), "`cuda:0,0` names cuda:0 twice");
        assert!(refuse("cuda:0,cpu").starts_with("unknown device `cpu`"));
        assert!(refuse("cuda:0,").contains("`` in `cuda:0,` is no device number"));
        assert!(refuse("0,1").starts_with("unknown device `0`"));
        assert!(refuse("cuda:x").contains("`x` in `cuda:x` is no device number"));
    }

    #[cfg(all(feature = "ggml", not(feature = "cuda")))]
    #[test]
    fn a_device_that_is_not_built_in_says_how_to_get_it() {
        let device: Device = "cuda".parse().unwrap();
        let message = device.find().unwrap_err().to_string();
        assert!(
            message.contains("cargo build --release --features cuda"),
            "{message}"
        );
    }

    #[cfg(feature = "ggml")]
    #[test]
    fn the_processor_is_always_a_device_of_ggmls() {
        let device: Device = "ggml-cpu".parse().unwrap();
        assert_eq!(device.find().unwrap()[0].name, "CPU");
        let twice: Device = "ggml-cpu,ggml-cpu".parse().unwrap();
        assert_eq!(twice.find().unwrap().len(), 2);
        assert_eq!(Device::Cpu.find(), Ok(Vec::new()));
        // A number of devices means graphics processors.
        assert_eq!(device.and_its_neighbours(2), None);
    }
}
