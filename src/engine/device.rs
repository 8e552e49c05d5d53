//! Where a model runs, as people say it: `auto`, `cpu`, `ggml-cpu`, `cuda`, `cuda:1`, `vulkan`,
//! `metal`.

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
    /// A device of ggml's.
    Ggml {
        /// The part of ggml that drives it: `cpu`, `cuda`, `vulkan`, `metal`.
        backend: &'static str,
        /// Its number among those.
        index: usize,
    },
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The build lacks what drives it.
    #[error(
        "device {device} is not in this build; build it in with \
         `cargo build --release --features {feature}` (README, \"Graphics processors\")"
    )]
    NotBuilt {
        /// What was asked for.
        device: Device,
        /// What brings it.
        feature: &'static str,
    },
    /// The build has it, the machine does not.
    #[error("this machine has no device {device}; ggml sees {found} (`micota doctor` lists them)")]
    NotFound {
        /// What was asked for.
        device: Device,
        /// What there is.
        found: String,
    },
}

impl Device {
    /// The device of ggml's that this means; `None` means our own executor.
    ///
    /// # Errors
    /// The build or the machine has no such device.
    #[cfg(feature = "ggml")]
    pub fn find(&self) -> Result<Option<DeviceInfo>, DeviceError> {
        let is_wanted = |info: &DeviceInfo| match self {
            Self::Auto => info.kind == DeviceKind::Gpu,
            Self::Cpu => false,
            Self::Ggml { backend, index } => info.backend == *backend && info.index == *index,
        };
        if *self == Self::Cpu {
            return Ok(None);
        }
        let found = devices();
        let wanted = found.iter().find(|info| is_wanted(info)).cloned();
        let Self::Ggml { backend, .. } = self else {
            return Ok(wanted);
        };
        if wanted.is_some() {
            return Ok(wanted);
        }
        Err(match feature_of(backend) {
            Some((feature, false)) => DeviceError::NotBuilt {
                device: self.clone(),
                feature,
            },
            _ => {
                let names: Vec<&str> = found.iter().map(|info| info.name.as_str()).collect();
                DeviceError::NotFound {
                    device: self.clone(),
                    found: names.join(", "),
                }
            }
        })
    }

    /// Whether this build can use the device; it has our own executor only.
    ///
    /// # Errors
    /// The device is one of ggml's.
    #[cfg(not(feature = "ggml"))]
    pub fn check(&self) -> Result<(), DeviceError> {
        match self {
            Self::Auto | Self::Cpu => Ok(()),
            Self::Ggml { backend, .. } => Err(DeviceError::NotBuilt {
                device: self.clone(),
                feature: feature_of(backend).map_or("ggml", |(feature, _)| feature),
            }),
        }
    }
}

/// The feature that brings a part of ggml, and whether it is built in; none for the processor,
/// which is always there.
fn feature_of(backend: &str) -> Option<(&'static str, bool)> {
    GPU_FEATURES.into_iter().find(|(name, _)| *name == backend)
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "ggml-cpu" => {
                return Ok(Self::Ggml {
                    backend: "cpu",
                    index: 0,
                });
            }
            _ => {}
        }
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        // What torch calls Apple's.
        let name = if name == "mps" { "metal" } else { name };
        let (backend, _) = feature_of(name).ok_or_else(|| {
            format!(
                "unknown device `{text}`; known: auto, cpu, ggml-cpu, and cuda, vulkan and metal, \
                 each with a number as in cuda:1"
            )
        })?;
        if index.contains(',') {
            return Err(format!(
                "`{text}` names several devices and a model runs on one; name one, and start one \
                 process per device for more speed"
            ));
        }
        let index = index
            .parse()
            .map_err(|_| format!("`{index}` in `{text}` is no device number"))?;
        Ok(Self::Ggml { backend, index })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Ggml { backend: "cpu", .. } => f.write_str("ggml-cpu"),
            Self::Ggml { backend, index } => write!(f, "{backend}:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for text in ["auto", "cpu", "ggml-cpu", "cuda:0", "vulkan:1", "metal:0"] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), "cuda:0".parse::<Device>());
        assert_eq!("mps".parse(), "metal".parse::<Device>());
        let refuse = |text: &str| text.parse::<Device>().unwrap_err();
        assert!(refuse("gpu").starts_with("unknown device `gpu`; known: auto, cpu"));
        assert!(refuse("cuda:0,1").contains("names several devices"));
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
        assert_eq!(device.find().unwrap().unwrap().name, "CPU");
        assert_eq!(Device::Cpu.find(), Ok(None));
    }
}
