//! Devices that `--device` can name, and what this build would need for more.

use serde::Serialize;

use crate::cli::quantities::human_bytes;
use crate::engine::GPU_FEATURES;

/// What models can run on beside our own kernels.
#[derive(Serialize)]
pub(super) struct Devices {
    /// Parts of ggml that drive graphics processors, as this build has them.
    built_for: Vec<&'static str>,
    found: Vec<Found>,
}

/// A device of ggml's.
#[derive(Serialize)]
struct Found {
    /// What `--device` takes.
    name: String,
    description: String,
    free_bytes: u64,
    total_bytes: u64,
}

impl Devices {
    pub(super) fn detect() -> Self {
        let built = GPU_FEATURES.into_iter().filter(|(_, built)| *built);
        Self {
            built_for: built.map(|(name, _)| name).collect(),
            found: found(),
        }
    }

    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<_> = self.found.iter().map(Found::line).collect();
        if self.built_for.is_empty() {
            let how = "none in this build: build with --features cuda, vulkan or metal";
            lines.push(("gpus", how.to_owned()));
        }
        for part in self.built_for.iter().filter(|part| !self.has(part)) {
            let what = format!(
                "this build can use {part}, and no such device is found: is its driver there?"
            );
            lines.push(("gpus", what));
        }
        lines
    }

    /// Whether a device that this part of ggml drives was found.
    fn has(&self, part: &str) -> bool {
        let of_part = |found: &Found| found.name.split(':').next() == Some(part);
        self.found.iter().any(of_part)
    }
}

#[cfg(not(feature = "ggml"))]
fn found() -> Vec<Found> {
    Vec::new()
}

#[cfg(feature = "ggml")]
fn found() -> Vec<Found> {
    let found = crate::engine::backends::ggml::devices().into_iter();
    found
        .map(|info| Found {
            name: match info.backend.as_str() {
                "cpu" => "ggml-cpu".to_owned(),
                backend => format!("{backend}:{}", info.index),
            },
            description: info.description,
            free_bytes: info.free_bytes,
            total_bytes: info.total_bytes,
        })
        .collect()
}

impl Found {
    fn line(&self) -> (&'static str, String) {
        let memory = format!(
            "{}, {} of {} free",
            self.description,
            human_bytes(self.free_bytes),
            human_bytes(self.total_bytes)
        );
        ("device", format!("{}: {memory}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_without_a_device_is_named() {
        let found = |name: &str| Found {
            name: name.to_owned(),
            description: "a maker's name".to_owned(),
            free_bytes: 1 << 30,
            total_bytes: 2 << 30,
        };
        let lines = |built_for: &[&'static str], names: &[&str]| -> Vec<String> {
            let devices = Devices {
                built_for: built_for.to_vec(),
                found: names.iter().copied().map(found).collect(),
            };
            devices.lines().into_iter().map(|(_, line)| line).collect()
        };
        assert!(lines(&[], &["ggml-cpu"])[1].starts_with("none in this build"));
        let some = lines(&["cuda", "vulkan"], &["cuda:0", "ggml-cpu"]);
        assert_eq!(some.len(), 3);
        assert_eq!(some[0], "cuda:0: a maker's name, 1.0 GiB of 2.0 GiB free");
        assert!(some[2].starts_with("this build can use vulkan, and no such device is found"));
    }
}
