//! `micota train`: runs a training recipe.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Exit;
use super::exit::usage;
use super::interrupt::Interrupt;
use super::model_source::ModelSource;
use super::notice::notice;
use crate::task::{ChatOptions, ChatTemplate, Message};
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
    let (mut recipe, notes) = Recipe::load(&args.recipe, &args.overrides).map_err(usage)?;
    for note in notes {
        notice(&format!("note: {note}"));
    }
    // Alive until the end: the tokenizer's files are copied from it.
    let mut source = ModelSource::find(&recipe.model_name_or_path.to_string_lossy())?;
    if !recipe.train_from_scratch {
        source = source.into_folder()?;
    }
    recipe.model_name_or_path = source.path().to_owned();
    let output = recipe.output_dir.clone();
    let run = Run::prepare(recipe).map_err(|error| match error {
        TrainError::Setting(_) => usage(error),
        error => error.into(),
    })?;
    for warning in &run.plan().warnings {
        notice(&format!("warning: {warning}"));
    }
    if let Some(warning) = other_prompt(&run)? {
        notice(&format!("warning: {warning}"));
    }
    if args.dry_run {
        dry_run(&run, &mut std::io::stdout().lock())?;
        return Ok(Exit::Done);
    }
    for line in describe(run.plan()) {
        notice(&line);
    }
    if let Some(path) = &run.plan().token_file {
        notice(&format!("tokenised rows are taken from {}", path.display()));
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

/// What a run is about to do, in words.
fn describe(plan: &Plan) -> [String; 3] {
    let counts = &plan.counts;
    let share = 100.0 * plan.num_trained as f64 / plan.num_parameters as f64;
    let packs = if plan.is_packed {
        format!(" in {} packs of {}", plan.num_visited, plan.longest)
    } else {
        String::new()
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let memory = &plan.memory;
    [
        format!(
            "{} rows of {} tokens{packs} (median {}, 90% up to {}, longest {}), {} labels; {} rows \
             for evaluation",
            counts.lengths.len(),
            counts.num_tokens(),
            counts.quantile(0.5),
            counts.quantile(0.9),
            counts.quantile(1.0),
            counts.num_labels,
            plan.num_evaluated,
        ),
        format!(
            "{} of {} values trained ({share:.2}%); {} steps, {} per epoch",
            plan.num_trained, plan.num_parameters, plan.total_steps, plan.steps_per_epoch
        ),
        format!(
            "memory about {:.0} MiB: weights {:.0}, moments and gradients {:.0}, activations {:.0}",
            mib(memory.total()),
            mib(memory.weights),
            mib(memory.optimizer),
            mib(memory.activations),
        ),
    ]
}

/// Everything that can be known before the first step, with one row as the model will see it.
fn dry_run(run: &Run, out: &mut impl Write) -> anyhow::Result<()> {
    let plan = run.plan();
    for line in describe(plan) {
        writeln!(out, "{line}")?;
    }
    let counts = &plan.counts;
    writeln!(
        out,
        "of {} rows read: {} unusable, {} too long and left out, {} cut, {} of these without the \
         end of their answer",
        counts.read, counts.unusable, counts.too_long, counts.cut, counts.lost_end
    )?;
    let micro_batch = run.measure()?.as_secs_f64();
    let step = micro_batch * run.recipe().gradient_accumulation_steps as f64;
    writeln!(
        out,
        "time about {:.0} s: the first micro-batch took {micro_batch:.2} s here",
        step * plan.total_steps as f64
    )?;
    writeln!(out, "the first row, what is learned between » and «:")?;
    let mut is_trained = false;
    for token in run.example() {
        if token.is_trained != is_trained {
            write!(out, "{}", if token.is_trained { "»" } else { "«" })?;
            is_trained = token.is_trained;
        }
        write!(out, "{}", token.text)?;
    }
    writeln!(out, "{}", if is_trained { "«" } else { "" })?;
    let (eos, id) = run.end_of_answer();
    let id = id.map_or("not in the vocabulary".to_owned(), |id| format!("id {id}"));
    writeln!(out, "stops at {eos} ({id})")?;
    Ok(())
}

/// Compares what stands before the first answer in training with what the model's chat template
/// would put there in an evaluation; says so where they differ.
fn other_prompt(run: &Run) -> anyhow::Result<Option<String>> {
    let Some((row, trained)) = run.first_prompt() else {
        return Ok(None);
    };
    let tokenizer = run.tokenizer();
    let Some(source) = tokenizer.chat_template() else {
        return Ok(None);
    };
    let Some((user, _)) = row.turns.first() else {
        return Ok(None);
    };
    let mut messages = Vec::new();
    if !row.system.is_empty() {
        messages.push(Message::new("system", row.system.clone()));
    }
    messages.push(Message::new("user", user.clone()));
    let template = ChatTemplate::new(source, &tokenizer.special_tokens())?;
    let options = ChatOptions {
        enable_thinking: run.recipe().enable_thinking,
        ..ChatOptions::default()
    };
    let asked = template.render(&messages, &options)?;
    let asked = tokenizer.encode(&asked, false)?;
    if asked == trained {
        return Ok(None);
    }
    let same = asked
        .iter()
        .zip(trained)
        .take_while(|(a, b)| a == b)
        .count();
    // Where they part, with a little before it.
    let part = |ids: &[u32]| {
        let from = same.saturating_sub(SHOWN_BEFORE);
        let to = ids.len().min(same + SHOWN_AFTER);
        tokenizer.decode(&ids[from..to], false)
    };
    Ok(Some(format!(
        "the prompt differs from what an evaluation would ask with the model's chat template, from \
         token {same} on: trained {:?}, evaluation would ask {:?}; choose the template or \
         default_system that fits",
        part(trained),
        part(&asked)
    )))
}

/// Tokens shown of two prompts before and after the place where they part.
const SHOWN_BEFORE: usize = 6;
const SHOWN_AFTER: usize = 12;

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
