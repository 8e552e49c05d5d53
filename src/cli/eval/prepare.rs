//! Tasks, data and settings, read and checked before a model is touched.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value};

use super::{CompatibilityArgs, GenerationArgs, OutputArgs, SourceArgs};
use crate::cli::exit::{Exit, usage};
use crate::cli::notice::notice;
use crate::cli::prompting;
use crate::durable::check_writable;
use crate::engine::Request;
use crate::eval::plan::PlannedTask;
use crate::eval::prepare::{DocChoice, PlanOptions, TextOnly, plan};
use crate::eval::run::journal_in;
use crate::task::{
    DataSources, GenerationConfig, GroupConfig, Overrides, Registry, TaskConfig, TaskData,
    parse_kwargs,
};

/// Tasks with their data, in the order of their names.
pub(super) struct Prepared {
    pub(super) tasks: Vec<(TaskConfig, TaskData)>,
    pub(super) groups: Vec<GroupConfig>,
}

/// Reads the tasks and their data, and checks their settings.
pub(super) fn prepare(source: &SourceArgs, overrides: &Overrides) -> anyhow::Result<Prepared> {
    if source.tasks.is_empty() {
        return Err(usage(anyhow::anyhow!(
            "--tasks: which tasks? `micota eval ls` lists them"
        )));
    }
    let registry = Registry::load(&source.include_path).map_err(usage)?;
    let selection = registry.resolve(&source.tasks).map_err(usage)?;
    let sources = DataSources {
        data_dir: source.data_dir.clone(),
        hub: Some(prompting::hub()),
    };
    let mut tasks = Vec::with_capacity(selection.tasks.len());
    for mut task in selection.tasks {
        task.apply(overrides);
        GenerationConfig::from_kwargs(&task.generation_kwargs)
            .with_context(|| format!("task {}", task.name))
            .map_err(usage)?;
        let data = sources.load(&task).map_err(usage)?;
        for file in &data.files {
            tracing::debug!("{}: data from {}", task.name, file.display());
        }
        tasks.push((task, data));
    }
    anyhow::ensure!(
        !tasks.is_empty(),
        usage(anyhow::anyhow!("--tasks: no task in it"))
    );
    Ok(Prepared {
        tasks,
        groups: selection.groups,
    })
}

/// `micota eval validate`.
pub(super) fn validate(source: &SourceArgs) -> anyhow::Result<Exit> {
    let overrides = Overrides {
        metadata: metadata(source)?,
        ..Overrides::default()
    };
    check_integrity(&prepare(source, &overrides)?)?;
    Ok(Exit::Done)
}

/// Plans documents as a run does, but for a model: prompts, few-shot examples, targets, gold
/// answers, filters and metrics.
fn plan_without_model(
    (task, data): &(TaskConfig, TaskData),
    choice: &DocChoice,
) -> anyhow::Result<PlannedTask> {
    let options = PlanOptions {
        choice: choice.clone(),
        ..PlanOptions::default()
    };
    let fits = |request: &Request| Ok(request.params.max_gen_toks);
    let planned = plan(task, data, &options, &TextOnly::default(), &fits);
    let (planned, _) = planned.map_err(usage)?;
    Ok(planned)
}

/// Finds out, before the model is loaded, whether the documents of a run can be asked and graded.
pub(super) fn check_chosen(prepared: &Prepared, choice: &DocChoice) -> anyhow::Result<()> {
    for task in &prepared.tasks {
        plan_without_model(task, choice)?;
    }
    Ok(())
}

/// Finds out whether every document of every task can be asked and graded, and says so.
pub(super) fn check_integrity(prepared: &Prepared) -> anyhow::Result<()> {
    for task in &prepared.tasks {
        let planned = plan_without_model(task, &DocChoice::All)?;
        let empty = planned.docs.iter().filter(|doc| doc.gold.is_empty());
        let empty: Vec<String> = empty.map(|doc| doc.doc_id.to_string()).collect();
        if !empty.is_empty() {
            return Err(usage(anyhow::anyhow!(
                "task {}: no gold answer in document {}",
                planned.name,
                empty.join(", ")
            )));
        }
        notice(&format!(
            "{}: {} documents, fine",
            planned.name,
            planned.docs.len()
        ));
    }
    Ok(())
}

/// Finds out, before anything expensive, whether the files of the run can be written.
pub(super) fn check_output(output: &OutputArgs, model_name: &str) -> anyhow::Result<()> {
    let folder_of = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    let places = [
        (
            "--output_path",
            output.output_path.as_deref(),
            output
                .output_path
                .as_deref()
                .map(|path| folder_of(&journal_in(path, model_name))),
        ),
        (
            "--use_cache",
            output.use_cache.as_deref(),
            output.use_cache.as_deref().map(folder_of),
        ),
    ];
    for (flag, path, folder) in places {
        let (Some(path), Some(folder)) = (path, folder) else {
            continue;
        };
        check_writable(&folder).map_err(|error| {
            usage(anyhow::anyhow!(
                "{flag} {}: cannot be written ({error}); choose another folder, or make this one \
                 writable",
                path.display()
            ))
        })?;
    }
    Ok(())
}

/// `--metadata`.
pub(super) fn metadata(source: &SourceArgs) -> anyhow::Result<Map<String, Value>> {
    match &source.metadata {
        None => Ok(Map::new()),
        Some(text) => parse_kwargs(text).context("--metadata").map_err(usage),
    }
}

/// `--limit` and `--samples`.
pub(super) fn doc_choice(args: &GenerationArgs) -> anyhow::Result<DocChoice> {
    if let Some(limit) = args.limit {
        if limit.is_nan() || limit <= 0.0 {
            return Err(usage(anyhow::anyhow!(
                "--limit {limit}: expected a number of documents, or a share between 0 and 1"
            )));
        }
        return Ok(DocChoice::Limit(limit));
    }
    let Some(samples) = &args.samples else {
        return Ok(DocChoice::All);
    };
    let text = if samples.trim_start().starts_with('{') {
        samples.clone()
    } else {
        std::fs::read_to_string(samples)
            .with_context(|| format!("--samples {samples}"))
            .map_err(usage)?
    };
    let by_task: Map<String, Value> = serde_json::from_str(&text)
        .context("--samples: expected {\"TASK\": [ids]}")
        .map_err(usage)?;
    Ok(DocChoice::Samples(by_task))
}

/// `--seed`: python, numpy, torch, few-shot.
pub(super) fn seeds(text: &str) -> anyhow::Result<[Option<u64>; 4]> {
    let read = |part: &str| match part.trim() {
        "None" | "none" => Ok(None),
        part => part.parse().map(Some).map_err(|_| {
            usage(anyhow::anyhow!(
                "--seed {text}: expected one whole number or None, or four with commas"
            ))
        }),
    };
    let parts = text.split(',').map(read).collect::<Result<Vec<_>, _>>()?;
    match parts.as_slice() {
        [all] => Ok([*all; 4]),
        [python, numpy, torch, fewshot] => Ok([*python, *numpy, *torch, *fewshot]),
        _ => Err(usage(anyhow::anyhow!(
            "--seed {text}: expected one value or four, found {}",
            parts.len()
        ))),
    }
}

/// `--batch_size` and `--max_batch_size` as a cap on running sequences; `None` leaves it to the
/// engine.
pub(super) fn max_num_seqs(args: &GenerationArgs) -> anyhow::Result<Option<usize>> {
    let text = args.batch_size.as_str();
    if text == "auto" || text.starts_with("auto:") {
        return Ok(args.max_batch_size);
    }
    match text.parse::<usize>() {
        Ok(size) if size > 0 => Ok(Some(size)),
        _ => Err(usage(anyhow::anyhow!(
            "--batch_size {text}: expected a whole number of at least 1, auto or auto:N"
        ))),
    }
}

/// Says of every accepted flag that it changes nothing here.
pub(super) fn say_without_effect(args: &CompatibilityArgs) {
    if args.cache_requests.is_some() {
        notice("--cache_requests: prompts are rendered in milliseconds and not cached");
    }
    if args.trust_remote_code {
        notice("--trust_remote_code: code of a model repository is never run; there is no Python");
    }
    if args.confirm_run_unsafe_code {
        notice("--confirm_run_unsafe_code: tasks run no code here; nothing to confirm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_four() {
        assert_eq!(seeds("7").unwrap(), [Some(7); 4]);
        assert_eq!(
            seeds("0,None,2,3").unwrap(),
            [Some(0), None, Some(2), Some(3)]
        );
        assert!(seeds("1,2").is_err() && seeds("x").is_err());
    }
}
