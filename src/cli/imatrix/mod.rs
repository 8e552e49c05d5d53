//! `micota imatrix`: how much each column of each matrix matters, for quantising.
//!
//! Runs text through the engine and sums the squares of what every matrix is multiplied with.
//! Flags are those of llama.cpp's `llama-imatrix`.

mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use super::engine_args::EngineArgs;
use super::exit::{Exit, usage};
use super::interrupt::Interrupt;
use super::model_source::ModelSource;
use super::notice::notice;
use crate::convert::ImportanceMatrix;
use crate::engine::backends::cpu::{CpuOptions, CpuRunner, LayerInput, SquareSums};
use crate::engine::{ModelRunner, StepInput, StepSequence};
use crate::formats::{Checkpoint, Tokenizer};
use crate::kernels::cpu::Isa;
use crate::model::{DecoderSpec, Model};
use text::{TextArgs, Tokens};

/// Positions of a KV block.
const BLOCK_SIZE: usize = 32;

/// Collect an importance matrix from a text or from the prompts of tasks.
///
/// The text is cut into chunks of --ctx-size tokens, each of which is computed by itself. What is
/// there already of the same run is continued.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder, GGUF file or hub name of the model; best the unquantised one.
    #[arg(long, short, value_name = "MODEL", required_unless_present = "in_file")]
    model: Option<String>,
    #[command(flatten)]
    text: TextArgs,
    /// A matrix that was collected before, to be added to this one; may be repeated. Without a
    /// text, such matrices are only added up. Runs with it do not go on where they were ended.
    #[arg(long, value_name = "FILE")]
    in_file: Vec<PathBuf>,
    /// Where to write.
    #[arg(
        long = "output-file",
        short,
        value_name = "FILE",
        default_value = "imatrix.gguf"
    )]
    output: PathBuf,
    /// The format; gguf is llama.cpp's newer one.
    #[arg(long, value_enum, default_value_t = Format::Gguf)]
    output_format: Format,
    /// Tokens of a chunk.
    #[arg(long, short, value_name = "N", default_value_t = 512)]
    ctx_size: usize,
    /// At most this many chunks; all by default.
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Leave out the first chunks.
    #[arg(
        long = "chunk",
        alias = "from-chunk",
        value_name = "N",
        default_value_t = 0
    )]
    first_chunk: usize,
    /// Collect for output.weight too.
    #[arg(long)]
    process_output: bool,
    /// Write what there is after every so many chunks; a run that was ended goes on from there.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    output_frequency: u32,
    #[command(flatten)]
    engine: EngineArgs,
}

/// llama.cpp's formats of importance matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With sums and counts.
    Gguf,
    /// From before 2025.
    Dat,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let earlier = args.in_file.iter().map(|path| ImportanceMatrix::read(path));
    let earlier = earlier.collect::<Result<Vec<_>, _>>()?;
    let model = match &args.model {
        Some(model) if args.text.is_given() || earlier.is_empty() => model,
        _ => return add_up(args, &earlier),
    };
    let interrupt = Interrupt::listen();
    let source = ModelSource::find(model)?;
    let checkpoint = Arc::new(Checkpoint::open(source.path())?);
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let tokens = args.text.tokens(&tokenizer)?;
    let chunks = chunks(args, &tokens, &tokenizer)?;
    let model = Arc::new(Model::from_checkpoint(Arc::clone(&checkpoint))?);
    let mut matrix = begin(args, &tokens, &chunks, checkpoint.fingerprint());
    let done = matrix.num_chunks as usize;
    let mut collector = Collector::new(args, &model)?;
    let started = Instant::now();
    let groups = chunks[done..].chunks(args.output_frequency as usize);
    for group in groups {
        for chunk in group {
            if interrupt.is_set() {
                return Ok(interrupted(args, &matrix));
            }
            collector.run(chunk)?;
        }
        collector.add_to(&mut matrix)?;
        matrix.num_chunks += group.len() as u32;
        save(args, matrix.clone(), &earlier)?;
        let computed = matrix.num_chunks as usize - done;
        let seconds = started.elapsed().as_secs_f64();
        let left = chunks.len() - matrix.num_chunks as usize;
        notice(&format!(
            "{} of {} chunks, {:.0} tokens/s, {:.0} s left",
            matrix.num_chunks,
            chunks.len(),
            (computed * args.ctx_size) as f64 / seconds,
            seconds / computed as f64 * left as f64,
        ));
    }
    notice(&format!(
        "{} tensors over {} chunks of {} tokens in {}",
        matrix.tensors().count(),
        matrix.num_chunks,
        args.ctx_size,
        args.output.display()
    ));
    Ok(Exit::Done)
}

fn interrupted(args: &Args, matrix: &ImportanceMatrix) -> Exit {
    let kept = match args.output_format {
        Format::Gguf if args.in_file.is_empty() => "the same command goes on from there",
        Format::Gguf => "a run with --in-file cannot be continued",
        Format::Dat => "this format cannot be continued",
    };
    notice(&format!(
        "ended; {} chunks are in {} ({kept})",
        matrix.num_chunks,
        args.output.display()
    ));
    Exit::Interrupted
}

/// The chunks that will be computed, each with a BOS in front if the model wants one.
fn chunks(args: &Args, tokens: &Tokens, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    if args.ctx_size < 2 {
        return Err(usage(anyhow!("--ctx-size: at least 2 tokens")));
    }
    let bos = tokenizer.bos_token_id().filter(|_| tokenizer.adds_bos());
    let whole = tokens.ids.chunks_exact(args.ctx_size);
    let chunks: Vec<Vec<u32>> = whole
        .skip(args.first_chunk)
        .take(args.chunks.unwrap_or(usize::MAX))
        .map(|chunk| {
            let mut chunk = chunk.to_vec();
            if let Some(bos) = bos {
                chunk[0] = bos;
            }
            chunk
        })
        .collect();
    if chunks.is_empty() {
        return Err(usage(anyhow!(
            "{} tokens are no chunk of {} beyond the first {}; give more text or a smaller \
             --ctx-size",
            tokens.ids.len(),
            args.ctx_size,
            args.first_chunk
        )));
    }
    Ok(chunks)
}

/// What an earlier run of the same command has left, or nothing yet.
fn begin(args: &Args, tokens: &Tokens, chunks: &[Vec<u32>], fingerprint: &str) -> ImportanceMatrix {
    let mut hash = Sha256::new();
    hash.update(fingerprint);
    let numbers = [
        args.ctx_size,
        args.output_frequency as usize,
        usize::from(args.process_output),
    ];
    hash.update(format!(
        "{numbers:?} {}",
        args.engine.options().compute_type
    ));
    for id in chunks.iter().flatten() {
        hash.update(id.to_le_bytes());
    }
    let run: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    // A file that cannot be read is of no run and is replaced, as any other output is.
    let earlier = ImportanceMatrix::read(&args.output).ok();
    let goes_on =
        |found: &ImportanceMatrix| args.in_file.is_empty() && found.run.as_ref() == Some(&run);
    if let Some(earlier) = earlier.filter(goes_on) {
        notice(&format!("{} chunks are there already", earlier.num_chunks));
        return earlier;
    }
    let mut matrix = ImportanceMatrix::new(tokens.sources.clone(), args.ctx_size as u32);
    matrix.run = Some(run);
    matrix
}

/// Writes what matrices from before have together.
fn add_up(args: &Args, earlier: &[ImportanceMatrix]) -> anyhow::Result<Exit> {
    if args.text.is_given() {
        return Err(usage(anyhow!("a text is computed by a model: add --model")));
    }
    let size = earlier.iter().map(|matrix| matrix.chunk_size).max();
    let size = size.filter(|size| *size > 0);
    let sum = ImportanceMatrix::new(Vec::new(), size.unwrap_or(args.ctx_size as u32));
    let chunks: u32 = earlier.iter().map(|matrix| matrix.num_chunks).sum();
    save(args, sum, earlier)?;
    notice(&format!(
        "{} matrices over {chunks} chunks in {}",
        earlier.len(),
        args.output.display()
    ));
    Ok(Exit::Done)
}

/// Writes `matrix` with what was collected before.
fn save(
    args: &Args,
    mut matrix: ImportanceMatrix,
    earlier: &[ImportanceMatrix],
) -> anyhow::Result<()> {
    for earlier in earlier {
        matrix.absorb(earlier)?;
        matrix.run = None;
    }
    let path: &Path = &args.output;
    match args.output_format {
        Format::Gguf => matrix.write_gguf(path)?,
        Format::Dat => matrix.write_legacy(path)?,
    }
    Ok(())
}

/// A runner that sums the squares of what it multiplies with.
struct Collector {
    runner: CpuRunner,
    model: Arc<Model>,
    process_output: bool,
    logits: Vec<f32>,
}

impl Collector {
    fn new(args: &Args, model: &Arc<Model>) -> anyhow::Result<Self> {
        let engine = args.engine.options();
        let threads = match engine.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()?.get(),
        };
        let mut runner = CpuRunner::load(
            model,
            &CpuOptions {
                compute_type: engine.compute_type,
                quantize: engine.quantize,
                kv_type: engine.kv_type,
                threads,
                isa: engine.kernels.unwrap_or_else(Isa::detect),
                block_size: BLOCK_SIZE,
                num_blocks: args.ctx_size.div_ceil(BLOCK_SIZE),
                max_model_len: args.ctx_size,
            },
        )?;
        *runner.squares() = Some(SquareSums::new(&model.spec));
        Ok(Self {
            runner,
            model: Arc::clone(model),
            process_output: args.process_output,
            logits: Vec::new(),
        })
    }

    fn run(&mut self, chunk: &[u32]) -> anyhow::Result<()> {
        let blocks = chunk.len().div_ceil(BLOCK_SIZE) as u32;
        let step = StepInput {
            token_ids: chunk.to_vec(),
            sequences: vec![StepSequence {
                first_row: 0,
                num_rows: chunk.len(),
                num_computed_tokens: 0,
                block_table: (0..blocks).collect(),
                num_logits: if self.process_output { chunk.len() } else { 0 },
            }],
        };
        self.runner.forward(&step, &mut self.logits)?;
        Ok(())
    }

    /// Moves what has been collected to `matrix`, under GGUF's names.
    fn add_to(&mut self, matrix: &mut ImportanceMatrix) -> anyhow::Result<()> {
        let spec = &self.model.spec;
        let fresh = SquareSums::new(spec);
        let sums = self.runner.squares().replace(fresh);
        let sums = sums.context("the collector counts from its beginning")?;
        for layer in 0..spec.num_hidden_layers {
            for input in LayerInput::ALL {
                for part in readers(spec, input) {
                    let name = format!("blk.{layer}.{part}.weight");
                    matrix.add(&name, sums.layer(layer, input), sums.rows());
                }
            }
        }
        if self.process_output {
            matrix.add("output.weight", sums.head(), sums.head_rows());
        }
        Ok(())
    }
}

/// GGUF's names of the matrices that read an input.
fn readers(spec: &DecoderSpec, input: LayerInput) -> &'static [&'static str] {
    let is_fused = spec.family == "phi3";
    match input {
        LayerInput::Attention if is_fused => &["attn_qkv"],
        LayerInput::Attention => &["attn_q", "attn_k", "attn_v"],
        LayerInput::AttentionOutput => &["attn_output"],
        LayerInput::Mlp if is_fused => &["ffn_up"],
        LayerInput::Mlp => &["ffn_gate", "ffn_up"],
        LayerInput::Down => &["ffn_down"],
    }
}
