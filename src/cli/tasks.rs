//! `micota tasks`: what can be evaluated, and exactly what a model would read.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use comfy_table::{Cell, Table, presets};
use serde_json::{Value, json};

use super::exit::{Exit, usage};
use super::model_source::ModelSource;
use super::prompting::{self, PromptArgs};
use crate::formats::{Checkpoint, Tokenizer};
use crate::task::{self, DataSources, Overrides, Registry, TaskConfig, TaskEntry};

/// Lists tasks, or shows the exact prompts of some.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Tasks to show: names, wildcards, tags, groups, YAML files or folders; all when absent.
    patterns: Vec<String>,

    /// Shows the prompts of these tasks instead of listing (comma list as in `--tasks`).
    #[arg(long, value_name = "TASKS")]
    render: Option<String>,

    /// How many documents to render.
    #[arg(long, short = 'L', default_value_t = 1, requires = "render")]
    limit: usize,

    /// Model (folder, GGUF file or hub name) whose tokenizer and chat template are used.
    #[arg(long, short = 'M', value_name = "MODEL", requires = "render")]
    model: Option<String>,

    #[command(flatten)]
    prompt: PromptArgs,

    /// Folders with more task files; they take the place of shipped tasks of the same name.
    #[arg(long = "include_path", value_name = "DIR", value_delimiter = ',')]
    include_path: Vec<PathBuf>,

    /// Data folder (SET/SPLIT.jsonl) or file.
    #[arg(long, alias = "data_dir", value_name = "PATH", env = "MICOTA_DATA")]
    data_dir: Option<PathBuf>,

    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let registry = Registry::load(&args.include_path).map_err(usage)?;
    let text = match &args.render {
        Some(patterns) => render(args, &registry, patterns)?,
        None => list(args, &registry)?,
    };
    // A closed pipe (`| head`) is how listings end.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

fn list(args: &Args, registry: &Registry) -> anyhow::Result<String> {
    let rows = if args.patterns.is_empty() {
        let entries = registry.entries();
        entries
            .iter()
            .map(|entry| Row::of_entry(registry, entry))
            .collect()
    } else {
        let selection = registry.resolve(&args.patterns).map_err(usage)?;
        selection.tasks.iter().map(Row::of_task).collect::<Vec<_>>()
    };
    if args.json {
        let rows: Vec<&Value> = rows.iter().map(|row| &row.0).collect();
        return Ok(serde_json::to_string_pretty(&rows)? + "\n");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "task",
        "version",
        "shots",
        "data",
        "graded by",
        "tags",
        "file",
    ]);
    for Row(row) in &rows {
        let text = |key: &str| match &row[key] {
            Value::Null => String::new(),
            Value::Array(items) => items
                .iter()
                .map(task::python::text)
                .collect::<Vec<_>>()
                .join(" "),
            other => task::python::text(other),
        };
        let mut name = text("task");
        for alias in row["aliases"].as_array().into_iter().flatten() {
            name.push_str(&format!(" (or {})", task::python::text(alias)));
        }
        if let Some(error) = row["error"].as_str() {
            table.add_row([Cell::new(name), Cell::new(format!("not usable: {error}"))]);
            continue;
        }
        let cells = [
            "version",
            "num_fewshot",
            "data",
            "graded_by",
            "tags",
            "source",
        ];
        table.add_row([name].into_iter().chain(cells.map(text)));
    }
    Ok(table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect())
}

/// One line of the listing, as JSON has it.
struct Row(Value);

impl Row {
    fn of_entry(registry: &Registry, entry: &TaskEntry) -> Self {
        let selection = registry.resolve(std::slice::from_ref(&entry.name));
        let mut row = match (selection, entry.is_group) {
            (Err(error), _) => json!({"task": entry.name, "error": error.to_string()}),
            (Ok(selection), true) => {
                let group = selection
                    .groups
                    .iter()
                    .find(|group| group.name == entry.name);
                json!({
                    "task": entry.name,
                    "graded_by": "group",
                    "data": group.map(|group| group.members.clone()),
                })
            }
            (Ok(selection), false) => match selection.tasks.first() {
                Some(task) => Self::of_task(task).0,
                None => json!({"task": entry.name}),
            },
        };
        row["aliases"] = json!(entry.aliases);
        row["tags"] = json!(entry.tags);
        row["source"] = json!(&*entry.source);
        Self(row)
    }

    fn of_task(task: &TaskConfig) -> Self {
        let graded_by = match task.process_results {
            Some(results) => vec![results.name().to_owned()],
            None if task.filter_list.is_empty() => vec!["first response".to_owned()],
            None => task
                .filter_list
                .iter()
                .map(|filter| filter.name.clone())
                .collect(),
        };
        let dataset = &task.dataset;
        let data = match &dataset.name {
            Some(name) => format!("{}/{name}", dataset.path),
            None => dataset.path.clone(),
        };
        Self(json!({
            "task": task.name,
            "version": task.version(),
            "num_fewshot": task.num_fewshot,
            "data": data,
            "graded_by": graded_by,
            "tags": task.tags,
            "source": &*task.source,
            "notes": task.notes,
        }))
    }
}

/// The model's side of a prompt.
struct Model {
    tokenizer: Tokenizer,
    template: Option<task::ChatTemplate>,
}

fn open_model(name: &str, args: &PromptArgs) -> anyhow::Result<Model> {
    let source = ModelSource::find(name)?;
    let checkpoint = Checkpoint::open(source.path())?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let template = args.chat_template(&tokenizer)?;
    Ok(Model {
        tokenizer,
        template,
    })
}

fn render(args: &Args, registry: &Registry, patterns: &str) -> anyhow::Result<String> {
    let model = match &args.model {
        Some(name) => Some(open_model(name, &args.prompt)?),
        None if args.prompt.wants_template() => {
            return Err(usage(anyhow::anyhow!(
                "--apply_chat_template needs --model: the template is the model's"
            )));
        }
        None => None,
    };
    let template = model.as_ref().and_then(|model| model.template.as_ref());
    if let Some(model) = model.as_ref().filter(|_| template.is_none()) {
        prompting::say_unused_template(&model.tokenizer);
    }
    let options = args.prompt.options(template)?;
    let overrides = Overrides {
        num_fewshot: args.prompt.num_fewshot,
        ..Overrides::default()
    };
    let sources = DataSources::new(args.data_dir.clone(), Some(prompting::hub()));
    let mut shown = Vec::new();
    let selection = registry.resolve(&[patterns.to_owned()]).map_err(usage)?;
    for mut task in selection.tasks {
        task.apply(&overrides);
        let data = sources.load(&task)?;
        let doc_ids: Vec<usize> = (0..args.limit.min(data.documents.len())).collect();
        for prompt in task::prompts(&task, &data, &doc_ids, &options)? {
            let ids = match &model {
                Some(model) => Some(model.tokenizer.encode(&prompt.text, false)?),
                None => None,
            };
            let doc = &data.documents[prompt.doc_id];
            shown.push(json!({
                "task": task.name,
                "doc_id": prompt.doc_id,
                "origin": doc.origin.to_string(),
                "prompt": prompt.text,
                "target": prompt.target_text(),
                "generation_kwargs": task.generation_kwargs,
                "system_dropped": prompt.system_dropped,
                "prompt_token_ids": ids,
            }));
        }
    }
    if args.json {
        return Ok(serde_json::to_string_pretty(&shown)? + "\n");
    }
    shown.iter().map(rendered).collect()
}

/// One prompt for the eye: the text between rules, so that blanks at its ends show.
fn rendered(row: &Value) -> anyhow::Result<String> {
    let text = |key: &str| task::python::text(&row[key]);
    let prompt = row["prompt"].as_str().context("a prompt is text")?;
    let mut out = format!(
        "== {} doc {} ({})\n",
        text("task"),
        text("doc_id"),
        text("origin")
    );
    out.push_str(&format!(
        "-- prompt ({} characters)\n",
        prompt.chars().count()
    ));
    out.push_str(prompt);
    out.push_str("\n-- end of prompt\n");
    if let Some(ids) = row["prompt_token_ids"].as_array() {
        out.push_str(&format!(
            "-- token ids ({})\n{}\n",
            ids.len(),
            text("prompt_token_ids")
        ));
    }
    out.push_str(&format!("-- target\n{}\n", text("target")));
    out.push_str(&format!(
        "-- generation_kwargs\n{}\n\n",
        row["generation_kwargs"]
    ));
    Ok(out)
}
