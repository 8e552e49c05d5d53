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
        lines
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
