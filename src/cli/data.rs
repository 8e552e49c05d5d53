//! `micota data`: makes data sets.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use super::Exit;
use super::data_make;
use super::exit::usage;
use crate::data::synth::{self, MAX_LEVEL, Problem};
use crate::data::vocabulary;
use crate::durable::AtomicFile;

/// Make data sets.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Synth(Synth),
    Tokenizer(Tokenizer),
    Make(Box<data_make::Args>),
}

/// Invent arithmetic word problems with worked solutions.
///
/// Writes one JSON object a line: instruction, output (the worked solution), answer, level. The
/// same seed gives the same problems, however many are asked for.
#[derive(clap::Args)]
struct Synth {
    /// How many problems.
    #[arg(long)]
    count: u64,
    /// Seeds the problems; take another one for a held-out set.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Levels (number of steps) to mix, in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4")]
    levels: Vec<usize>,
    /// Solutions that restate the question, number the steps and check each.
    #[arg(long)]
    long: bool,
    /// Put before each question; `\n` stands for a line feed.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Put after each question; `\n` stands for a line feed.
    #[arg(long, default_value = "")]
    suffix: String,
    /// Leave out questions that this file holds (as made by this command).
    #[arg(long)]
    exclude: Option<PathBuf>,
    /// Where to write.
    #[arg(long)]
    out: PathBuf,
}

/// Train a byte-level BPE tokenizer (Qwen2's pre-tokenizer, ChatML specials) on a data set.
#[derive(clap::Args)]
struct Tokenizer {
    /// Data made by `micota data synth`.
    #[arg(long)]
    data: PathBuf,
    /// Entries, the three special tokens included.
    #[arg(long, default_value_t = 512)]
    vocab_size: usize,
    /// The folder that gets tokenizer.json and tokenizer_config.json.
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Synth(args) => synth(args),
        Command::Tokenizer(args) => tokenizer(args),
        Command::Make(args) => data_make::run(args),
    }
}

fn synth(args: &Synth) -> anyhow::Result<Exit> {
    if let Some(level) = args
        .levels
        .iter()
        .find(|level| !(1..=MAX_LEVEL).contains(*level))
    {
        return Err(usage(anyhow::anyhow!(
            "--levels: expected 1 to {MAX_LEVEL}, found {level}"
        )));
    }
    let unescape = |text: &str| text.replace("\\n", "\n");
    let (prefix, suffix) = (unescape(&args.prefix), unescape(&args.suffix));
    let excluded = match &args.exclude {
        Some(path) => column(path, "question")?,
        None => Default::default(),
    };
    let mut seen: std::collections::HashSet<String> = excluded.into_iter().collect();
    let mut file = AtomicFile::create(&args.out)?;
    let (mut written, mut index) = (0, 0u64);
    while written < args.count {
        ensure!(
            index < 20 * args.count + 1000,
            "only {written} different problems found; ask for fewer or for higher levels"
        );
        let level = args.levels[index as usize % args.levels.len()];
        let problem = synth::problem(args.seed, index, level);
        index += 1;
        if !seen.insert(problem.question.clone()) {
            continue;
        }
        writeln!(file, "{}", line(&problem, &prefix, &suffix, args.long))?;
        written += 1;
    }
    file.commit()?;
    Ok(Exit::Done)
}

fn line(problem: &Problem, prefix: &str, suffix: &str, long: bool) -> serde_json::Value {
    let question = &problem.question;
    json!({
        "instruction": format!("{prefix}{question}{suffix}"),
        "output": if long { problem.long_solution() } else { problem.short_solution() },
        "question": question,
        "answer": problem.answer.to_string(),
        "level": problem.level,
    })
}

/// A text column of a JSONL file.
fn column(path: &Path, name: &str) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            let place = || format!("{}:{}", path.display(), number + 1);
            let row: serde_json::Value = serde_json::from_str(line).with_context(place)?;
            let value = row[name].as_str();
            value
                .map(str::to_owned)
                .with_context(|| format!("{}: no text {name}", place()))
        })
        .collect()
}

fn tokenizer(args: &Tokenizer) -> anyhow::Result<Exit> {
    let mut texts = column(&args.data, "instruction")?;
    texts.extend(column(&args.data, "output")?);
    let files = vocabulary::train(&texts, args.vocab_size).map_err(usage)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    crate::durable::write_atomic(&args.out.join("tokenizer.json"), files.tokenizer.as_bytes())?;
    crate::durable::write_atomic(
        &args.out.join("tokenizer_config.json"),
        files.config.as_bytes(),
    )?;
    Ok(Exit::Done)
}
