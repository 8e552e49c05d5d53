//! `micota compare`: two runs over the same documents, paired.

use std::io::Write;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::exit::{Exit, usage};
use super::notice::notice;
use crate::eval::compare::{CONFIDENCE, Comparison, Outcome, RESAMPLES, Scores, compare};
use crate::eval::log_reader::sample_logs;

/// Compare two runs document by document: is the second better than the first, beyond chance?
///
/// Both need samples files (`micota eval --log_samples`, or lm_eval's). Ends with code 3 when the
/// second run is worse in any row of the table.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The first run: its results folder, or a samples file
    first: PathBuf,
    /// The second run, which is judged against the first
    second: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let first = read(&args.first).map_err(usage)?;
    let second = read(&args.second).map_err(usage)?;
    let found = compare(&first, &second).map_err(usage)?;
    let text = if args.json {
        let value = json!({
            "layout": 1,
            "first": args.first,
            "second": args.second,
            "confidence": CONFIDENCE,
            "bootstrap_resamples": RESAMPLES,
            "comparisons": found,
        });
        serde_json::to_string_pretty(&value)? + "\n"
    } else {
        table(args, &found)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    for one in &found {
        let alone = one.only_in_first + one.only_in_second;
        if alone > 0 {
            notice(&format!(
                "{} {},{}: {alone} documents are in one run only and left out",
                one.task, one.metric, one.filter
            ));
        }
    }
    match found.iter().any(|one| one.outcome == Outcome::Worse) {
        true => Ok(Exit::GateFailed),
        false => Ok(Exit::Done),
    }
}

/// The scores of a run. A folder with the runs of several models does not say which is meant.
fn read(path: &Path) -> anyhow::Result<Scores> {
    let logs = match path.is_dir() {
        true => sample_logs(path, false)?,
        false => vec![path.to_owned()],
    };
    let mut folders: Vec<&Path> = logs.iter().filter_map(|log| log.parent()).collect();
    folders.dedup();
    anyhow::ensure!(
        folders.len() == 1,
        "{}: several runs; name one: {}",
        path.display(),
        folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(Scores::read(logs.iter().map(PathBuf::as_path))?)
}

fn table(args: &Args, found: &[Comparison]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "Task",
        "Metric",
        "Docs",
        "A",
        "B",
        "B - A",
        "95% interval",
        "only A",
        "only B",
        "p",
        "B is",
    ]);
    for one in found {
        let p = match one.mcnemar_p {
            None => "-".to_owned(),
            Some(p) if p < 0.0001 => "<0.0001".to_owned(),
            Some(p) => format!("{p:.4}"),
        };
        table.add_row([
            one.task.clone(),
            format!("{},{}", one.metric, one.filter),
            one.documents.to_string(),
            format!("{:.4}", one.first),
            format!("{:.4}", one.second),
            format!("{:+.4}", one.difference),
            format!("{:+.4} to {:+.4}", one.interval[0], one.interval[1]),
            one.first_higher.to_string(),
            one.second_higher.to_string(),
            p,
            one.outcome.word().to_owned(),
        ]);
    }
    for column in [2, 3, 4, 5, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "A: {}\nB: {}\n{table}\n\
         only A, only B: documents on which only that run scores higher. p: exact McNemar test.\n\
         95% interval: paired bootstrap of the difference, {RESAMPLES} draws.\n",
        args.first.display(),
        args.second.display(),
    )
}
