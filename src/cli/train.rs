//! `micota train`: runs a training recipe.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Exit;
use super::exit::usage;
use super::model_source::ModelSource;
use crate::train::recipe::Recipe;
use crate::train::run::{Plan, Progress, Run};

/// Fine-tune a model by a recipe (LLaMA-Factory's YAML keys).
#[derive(clap::Args)]
pub(super) struct Args {
    /// The recipe.
    recipe: PathBuf,
    /// Read everything, say what would be done, and stop.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut recipe = Recipe::load(&args.recipe).map_err(usage)?;
    // Alive until the end: the tokenizer's files are copied from it.
    let mut source = ModelSource::find(&recipe.model_name_or_path.to_string_lossy())?;
    if !recipe.train_from_scratch {
        source = source.into_folder()?;
    }
    recipe.model_name_or_path = source.path().to_owned();
    let output = recipe.output_dir.clone();
    let run = Run::prepare(recipe)?;
    let mut out = std::io::stderr();
    describe(&mut out, run.plan())?;
    if args.dry_run {
        return Ok(Exit::Done);
    }
    run.train(&mut |progress| {
        // Progress that nobody can read must not stop a run.
        let _ = show(&mut out, progress);
    })
    .context("training stopped")?;
    writeln!(std::io::stdout(), "{}", output.display())?;
    Ok(Exit::Done)
}

fn describe(out: &mut impl Write, plan: &Plan) -> std::io::Result<()> {
    let Plan {
        num_rows,
        longest,
        num_tokens,
        num_parameters,
        total_steps,
        ..
    } = plan;
    writeln!(
        out,
        "{num_rows} rows ({num_tokens} tokens, longest {longest}), {num_parameters} trained \
         values, {total_steps} steps"
    )?;
    if plan.dropped > 0 {
        writeln!(
            out,
            "warning: {} rows dropped: their turns do not alternate",
            plan.dropped
        )?;
    }
    if plan.cut > 0 {
        let (cut, lost) = (plan.cut, plan.lost_end);
        writeln!(
            out,
            "warning: {cut} rows were cut to cutoff_len and {lost} of them lost the end of their \
             answer; raise cutoff_len or drop those rows"
        )?;
    }
    Ok(())
}

fn show(out: &mut impl Write, progress: &Progress) -> std::io::Result<()> {
    let Progress {
        step,
        total_steps,
        loss,
        grad_norm,
        learning_rate,
        epoch,
        ..
    } = progress;
    let left = progress.elapsed.as_secs_f64() / *step as f64 * (total_steps - step) as f64;
    writeln!(
        out,
        "step {step}/{total_steps}  loss {loss:.4}  grad norm {grad_norm:.3}  lr \
         {learning_rate:.2e}  epoch {epoch:.2}  {:.0} tok/s  {left:.0} s left",
        progress.tokens_per_s
    )
}
