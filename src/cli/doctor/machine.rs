//! The machine: processor, memory, kernels, and the places where data are looked for.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::quantities::human_bytes;
use crate::durable::free_bytes;
use crate::engine::{EngineOptions, available_bytes};
use crate::hub::HubSettings;
use crate::kernels::cpu::{Bf16, Cpu, F32, Isa, peak_flops, read_bandwidth};

type Line = (&'static str, String);

/// What models run on.
#[derive(Serialize)]
pub(super) struct Machine {
    cpu: Option<String>,
    threads: usize,
    features: Vec<&'static str>,
    kernels: &'static str,
    kernels_available: Vec<&'static str>,
    memory_bytes: u64,
    available_bytes: Option<u64>,
}

impl Machine {
    pub(super) fn detect(options: &EngineOptions) -> Self {
        let memory = rustix::system::sysinfo();
        let isas = Isa::available();
        Self {
            cpu: cpu_name(),
            threads: threads(options),
            features: features(),
            kernels: options.kernels.unwrap_or_else(Isa::detect).name(),
            kernels_available: isas.into_iter().map(Isa::name).collect(),
            memory_bytes: memory.totalram as u64 * u64::from(memory.mem_unit),
            available_bytes: available_bytes(),
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let cpu = self.cpu.as_deref().unwrap_or(std::env::consts::ARCH);
        let available = match self.available_bytes {
            Some(bytes) => format!("{} available", human_bytes(bytes)),
            None => "the system does not say how much is available".to_owned(),
        };
        vec![
            ("cpu", format!("{cpu}, {} threads", self.threads)),
            ("features", self.features.join(" ")),
            (
                "kernels",
                format!(
                    "{} (of {})",
                    self.kernels,
                    self.kernels_available.join(", ")
                ),
            ),
            (
                "memory",
                format!("{}, {available}", human_bytes(self.memory_bytes)),
            ),
        ]
    }
}

fn threads(options: &EngineOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    options.threads.unwrap_or_else(cores)
}

/// The model name of the first processor, where the system lists it.
fn cpu_name() -> Option<String> {
    let listing = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = listing
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The instruction sets that matter for matrix products, of those that the CPU has.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! present {
            ($($name:tt),*) => {
                [$(($name, std::is_x86_feature_detected!($name))),*]
            };
        }
        let known = present!(
            "avx2",
            "fma",
            "f16c",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512vnni",
            "avx512bf16",
            "avxvnni"
        );
        known
            .into_iter()
            .filter(|known| known.1)
            .map(|known| known.0)
            .collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// What the kernels reach at most on all threads.
#[derive(Serialize)]
pub(super) struct Measured {
    bf16_gflops: f64,
    f32_gflops: f64,
    read_gbytes_per_s: f64,
}

impl Measured {
    pub(super) fn now(options: &EngineOptions) -> std::io::Result<Self> {
        let isa = options.kernels.unwrap_or_else(Isa::detect);
        let mut cpu = Cpu::new(isa, threads(options).max(1))?;
        Ok(Self {
            bf16_gflops: peak_flops::<Bf16>(&mut cpu) / 1e9,
            f32_gflops: peak_flops::<F32>(&mut cpu) / 1e9,
            read_gbytes_per_s: read_bandwidth(&mut cpu) / 1e9,
        })
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let peak = format!(
            "{:.0} GFLOP/s in bf16, {:.0} in f32; memory is read at {:.0} GB/s",
            self.bf16_gflops, self.f32_gflops, self.read_gbytes_per_s
        );
        vec![("measured", peak)]
    }
}

/// Where models and data are looked for.
#[derive(Serialize)]
pub(super) struct Places {
    hub_cache: PathBuf,
    hub_cache_exists: bool,
    hub_cache_free_bytes: Option<u64>,
    hub_offline: bool,
    data: Option<PathBuf>,
}

impl Places {
    pub(super) fn detect() -> Self {
        let hub = HubSettings::from_env();
        Self {
            hub_cache_exists: hub.cache.is_dir(),
            hub_cache_free_bytes: free_bytes(&hub.cache).ok(),
            hub_cache: hub.cache,
            hub_offline: hub.offline,
            data: std::env::var_os("MICOTA_DATA").map(PathBuf::from),
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let mut hub = self.hub_cache.display().to_string();
        if !self.hub_cache_exists {
            hub.push_str(" (not there yet)");
        }
        if let Some(free) = self.hub_cache_free_bytes {
            hub.push_str(&format!(", {} free", human_bytes(free)));
        }
        if self.hub_offline {
            hub.push_str(", offline (HF_HUB_OFFLINE)");
        }
        let data = match &self.data {
            Some(path) => path.display().to_string(),
            None => "none (set MICOTA_DATA, or give --data-dir)".to_owned(),
        };
        vec![("hub cache", hub), ("data", data)]
    }
}
