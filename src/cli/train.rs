//! `micota train`: runs a training recipe.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Exit;
use super::exit::usage;
use super::interrupt::Interrupt;
use super::notice::notice;
use crate::train::TrainError;
use crate::train::prepare::Plan;
use crate::train::recipe::Recipe;
use crate::train::run::{Event, Hooks, Outcome, Progress, Run};

/// Fine-tune a model by a recipe (LLaMA-Factory's YAML keys).
///
/// Started again after an interruption, the same command goes on from the newest checkpoint, with
/// the same bits. See docs/training.md.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The recipe.
    recipe: PathBuf,
    /// Settings over the recipe's, for example learning_rate=2e-5.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Read everything, say what would be done, and stop.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (recipe, notes) = Recipe::load(&args.recipe, &args.overrides).map_err(usage)?;
    for note in notes {
        notice(&format!("note: {note}"));
    }
    let output = recipe.output_dir.clone();
    let run = Run::prepare(recipe).map_err(|error| match error {
        TrainError::Setting(_) => usage(error),
        error => error.into(),
    })?;
    describe(run.plan());
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let interrupt = Interrupt::listen();
    let outcome = run
        .train(&mut Hooks {
            report: &mut show,
            interrupted: &|| interrupt.is_set(),
        })
        .context("training stopped")?;
    match outcome {
        Outcome::Finished => {
            writeln!(std::io::stdout(), "{}", output.display())?;
            Ok(Exit::Done)
        }
        Outcome::Interrupted { step, checkpoint } => {
            notice(&format!(
                "interrupted after step {step}; the same command goes on from {}",
                checkpoint.display()
            ));
            Ok(Exit::Interrupted)
        }
    }
}

fn describe(plan: &Plan) {
    let counts = &plan.counts;
    let share = 100.0 * plan.num_trained as f64 / plan.num_parameters as f64;
    let packs = if plan.is_packed {
        format!(" in {} packs of {}", plan.num_visited, plan.longest)
    } else {
        String::new()
    };
    notice(&format!(
        "{} rows of {} tokens{packs} (median {}, 90% below {}, longest {}), {} for evaluation",
        counts.lengths.len(),
        counts.num_tokens(),
        counts.quantile(0.5),
        counts.quantile(0.9),
        counts.quantile(1.0),
        plan.num_evaluated,
    ));
    notice(&format!(
        "{} of {} values trained ({share:.2}%); {} steps, {} per epoch",
        plan.num_trained, plan.num_parameters, plan.total_steps, plan.steps_per_epoch
    ));
    for warning in &plan.warnings {
        notice(&format!("warning: {warning}"));
    }
}

fn show(event: &Event) {
    match event {
        Event::Progress(progress) => {
            let Progress {
                step,
                total_steps,
                loss,
                grad_norm,
                learning_rate,
                epoch,
                tokens_per_s,
                remaining,
            } = progress;
            notice(&format!(
                "step {step}/{total_steps}  loss {loss:.4}  grad norm {grad_norm:.3}  lr \
                 {learning_rate:.2e}  epoch {epoch:.2}  {tokens_per_s:.0} tok/s  {:.0} s left",
                remaining.as_secs_f64()
            ));
        }
        Event::Evaluated { step, loss } => {
            notice(&format!("step {step}  evaluation loss {loss:.4}"));
        }
        Event::Saved(path) => notice(&format!("saved {}", path.display())),
        Event::Resumed {
            path,
            step,
            is_verified,
        } => {
            notice(&format!(
                "going on after step {step} from {}",
                path.display()
            ));
            if !is_verified {
                notice(
                    "warning: the checkpoint does not say which data and settings it was made \
                     with; the recipe is trusted",
                );
            }
        }
    }
}
