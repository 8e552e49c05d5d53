//! What a run prints: tables or JSON on stdout, the audit and notes on stderr.

use std::io::Write;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use super::prepare::Prepared;
use super::{CompatibilityArgs, Listing};
use crate::cli::exit::{Exit, usage};
use crate::cli::notice::{asked_for, notice};
use crate::durable::write_atomic;
use crate::eval::output::Written;
use crate::eval::plan::PlannedTask;
use crate::eval::results::{RunInfo, headline};
use crate::eval::{python_json, table};
use crate::task::Registry;

/// Writes to stdout. A closed pipe is how readers say that they have seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The results: lm_eval's line and tables, then ours; or the results file's JSON.
pub(super) fn results(written: &Written, info: &RunInfo, json: bool) -> anyhow::Result<()> {
    if json {
        let text = python_json::to_indented(&Value::Object(written.results.clone()));
        return print(&(text + "\n"));
    }
    let mut text = headline(info) + "\n";
    text += &table::render(&written.results, table::Block::Tasks);
    text += "\n";
    if written.results.contains_key("groups") {
        text += &table::render(&written.results, table::Block::Groups);
        text += "\n";
    }
    text += &verdicts(&written.results);
    print(&text)?;
    for file in &written.files {
        notice(&format!("wrote {}", file.display()));
    }
    Ok(())
}

/// Both verdicts side by side, with their intervals and, where there are any, repeated samples.
fn verdicts(results: &Map<String, Value>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["Task", "Verdict", "Value", "95% interval"]);
    let tasks = &results["micota"]["tasks"];
    for (task, block) in tasks.as_object().into_iter().flatten() {
        for (key, score) in block["scores"].as_object().into_iter().flatten() {
            let value = score
                .get("value")
                .or_else(|| results["results"][task].get(key));
            let value = value.and_then(Value::as_f64);
            let ends = |index: usize| score["wilson_95"][index].as_f64();
            let interval = ends(0)
                .zip(ends(1))
                .map_or_else(String::new, |(low, high)| format!("{low:.4} to {high:.4}"));
            let shown = value.map_or_else(|| "N/A".to_owned(), |value| format!("{value:.4}"));
            table.add_row([task.as_str(), key, &shown, &interval]);
            for (name, estimate) in score.as_object().into_iter().flatten() {
                if name.contains('@') {
                    let value = estimate["value"].as_f64().unwrap_or_default();
                    let stderr = estimate["stderr"].as_f64();
                    let stderr = stderr.map_or_else(String::new, |se| format!("stderr {se:.4}"));
                    table.add_row([
                        "",
                        &format!("{name}, {key}"),
                        &format!("{value:.4}"),
                        &stderr,
                    ]);
                }
            }
        }
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "exact_match is the reference's own rule; math_equal decides by mathematics.\n{table}\n"
    )
}

/// What the scores do not show, on stderr.
pub(super) fn audit(written: &Written, budgets: &[(String, usize)]) {
    for (task, audit) in &written.audits {
        let budget = budgets.iter().find(|(name, _)| name == task);
        let budget = budget.map_or(0, |(_, budget)| *budget);
        for sentence in audit.sentences(task, budget) {
            notice(&sentence);
        }
        let tokens = audit.gen_tokens as f64 / audit.responses.max(1) as f64;
        notice(&format!(
            "{task}: {} answers, {tokens:.0} tokens each on average",
            audit.responses
        ));
    }
}

/// Whether the share of truncated answers passes.
pub(super) fn gate(written: &Written, max_truncated: Option<f64>) -> Exit {
    let Some(limit) = max_truncated else {
        return Exit::Done;
    };
    for (task, audit) in &written.audits {
        let share = audit.truncated as f64 / audit.responses.max(1) as f64;
        if share > limit {
            notice(&format!(
                "{task}: a share of {share:.3} was cut off, --max-truncated allows {limit}"
            ));
            return Exit::GateFailed;
        }
    }
    Exit::Done
}

/// Nothing is uploaded; what would be lies beside the results.
pub(super) fn uploads(args: &CompatibilityArgs, written: &Written) -> anyhow::Result<()> {
    let services = [
        ("wandb_args", &args.wandb_args),
        ("wandb_config_args", &args.wandb_config_args),
        ("trackio_args", &args.trackio_args),
        ("hf_hub_log_args", &args.hf_hub_log_args),
    ];
    for (service, values) in services {
        let Some(values) = values else { continue };
        let Some(results) = written.files.last() else {
            notice(&format!(
                "--{service}: not uploaded, this program works offline"
            ));
            continue;
        };
        let payload = json!({
            "service": service,
            "arguments": values,
            "results": written.results,
        });
        let path = results.with_file_name(format!("upload_{service}.json"));
        write_atomic(&path, python_json::to_indented(&payload).as_bytes())?;
        notice(&format!(
            "--{service}: not uploaded, this program works offline; the payload is {}",
            path.display()
        ));
    }
    Ok(())
}

/// `--write_out`: the first document of each task.
pub(super) fn write_out(tasks: &[PlannedTask]) {
    for task in tasks {
        if let Some(doc) = task.docs.first() {
            asked_for(&format!(
                "--- {} document {}, {} tokens, {} BOS\n{}\n--- target\n{}\n---",
                task.name,
                doc.doc_id,
                doc.prompt_token_ids.len(),
                doc.bos_count,
                doc.prompt,
                doc.targets.join("\n")
            ));
        }
    }
}

/// `--show_config`.
pub(super) fn show_config(prepared: &Prepared) {
    for (task, _) in &prepared.tasks {
        let config = python_json::object_to_indented(&task.effective);
        asked_for(&format!("{}: {config}", task.name));
    }
}

/// `micota eval ls`.
pub(super) fn list(what: Listing, include_path: &[PathBuf]) -> anyhow::Result<Exit> {
    let registry = Registry::load(include_path).map_err(usage)?;
    let mut text = String::new();
    if what == Listing::Tags {
        for (tag, count) in registry.tags() {
            text += &format!("{tag} ({count} tasks)\n");
        }
    } else {
        for entry in registry.entries() {
            let fits = match what {
                Listing::Groups => entry.is_group,
                Listing::Subtasks => !entry.is_group,
                Listing::Tasks | Listing::Tags => true,
            };
            if fits {
                let aliases = entry.aliases.join(", ");
                let aliases = if aliases.is_empty() {
                    aliases
                } else {
                    format!(" (also {aliases})")
                };
                text += &format!("{}{aliases}\n", entry.name);
            }
        }
    }
    print(&text)?;
    Ok(Exit::Done)
}
