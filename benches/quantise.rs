//! Quantising against llama.cpp's own quantiser, in the same run, on a real file.
//!
//! `cargo bench --bench quantise -- IN.gguf FOLDER [TYPE...]` quantises IN.gguf (best in BF16)
//! with both into FOLDER, in turns, and prints the best wall time and processor seconds of each
//! and whether the files are the same bytes. Needs the `ggml` feature.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a program for measuring, run by hand"
)]
#![allow(missing_docs, reason = "a program")]

#[cfg(feature = "ggml")]
#[path = "../tests/it/llama_cpp.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod llama_cpp;

/// Turns of each; the best counts, for others use the machine too.
#[cfg(feature = "ggml")]
const TURNS: usize = 3;

#[cfg(feature = "ggml")]
fn main() {
    use std::path::Path;

    use micota::convert::{QuantiseOptions, QuantisedType, TypeChoices, quantise};
    use micota::formats::{Checkpoint, GgufSplit};

    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [input, folder, types @ ..] = &args[..] else {
        eprintln!("usage: cargo bench --bench quantise -- IN.gguf FOLDER [TYPE...]");
        return;
    };
    let (input, folder) = (Path::new(input), Path::new(folder));
    let default = ["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"].map(str::to_owned);
    let types = if types.is_empty() {
        &default[..]
    } else {
        types
    };
    println!("type     wall ours  llama.cpp  ratio   cpu ours  llama.cpp  ratio  same bytes");
    for name in types {
        let file_type: QuantisedType = name.parse().unwrap();
        let ours = folder.join("ours.gguf");
        let theirs = folder.join("theirs.gguf");
        let options = QuantiseOptions {
            out: ours.clone(),
            file_type,
            types: TypeChoices::default(),
            allow_requantise: true,
            importance: None,
            overrides: Vec::new(),
            split: GgufSplit::default(),
            keep_split: false,
            check: false,
            dry_run: false,
        };
        let mut best = [Cost::MAX; 2];
        for _ in 0..TURNS {
            let cost = Cost::of(|| {
                let reference = llama_cpp::Quantise {
                    allow_requantize: true,
                    ..llama_cpp::Quantise::default()
                };
                let number = file_type.file_type().unwrap();
                assert!(llama_cpp::quantise(input, &theirs, number, &reference));
            });
            best[1] = best[1].min(cost);
            let cost = Cost::of(|| {
                let checkpoint = Checkpoint::open(input).unwrap();
                quantise(&checkpoint, &options, &|_| {}).unwrap();
            });
            best[0] = best[0].min(cost);
        }
        let same = std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap();
        let [a, b] = best;
        println!(
            "{name:<8} {:>8.2}s {:>9.2}s {:>6.2} {:>9.2}s {:>9.2}s {:>6.2}  {same}",
            a.wall,
            b.wall,
            b.wall / a.wall,
            a.cpu,
            b.cpu,
            b.cpu / a.cpu,
        );
        std::fs::remove_file(&ours).unwrap();
        std::fs::remove_file(&theirs).unwrap();
    }
}

/// Seconds.
#[cfg(feature = "ggml")]
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

#[cfg(feature = "ggml")]
impl Cost {
    const MAX: Self = Self {
        wall: f64::MAX,
        cpu: f64::MAX,
    };

    fn of(work: impl FnOnce()) -> Self {
        let (started, cpu) = (std::time::Instant::now(), cpu_seconds());
        work();
        Self {
            wall: started.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - cpu,
        }
    }

    fn min(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
        }
    }
}

/// User and system time of this process so far, as Linux counts it: in hundredths.
#[cfg(feature = "ggml")]
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

#[cfg(not(feature = "ggml"))]
fn main() {
    println!("built without ggml: nothing to compare with");
}
