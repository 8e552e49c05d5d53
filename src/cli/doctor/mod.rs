//! `micota doctor`: what this machine offers, and what a model would take of it.

mod devices;
mod machine;
mod needs;

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;

use super::Exit;
use super::engine_args::EngineArgs;
use super::model_source::ModelSource;
use crate::formats::Checkpoint;
use crate::model::Model;
use devices::Devices;
use machine::{Machine, Measured, Places};
use needs::ModelNeeds;

/// Show what this machine offers and what a model would take of it.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A model folder, GGUF file or hub name to look at; MODEL+ADAPTER folds an adapter in
    model: Option<String>,
    /// The same, as a flag
    #[arg(
        long = "model",
        short = 'M',
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    model_flag: Option<String>,
    /// Measure the peak of kernels and memory, which takes some seconds of all cores
    #[arg(long)]
    measure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Everything that is printed; the keys of `--json`.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    devices: Devices,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    places: Places,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelNeeds>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let options = args.engine.options();
    let model = match args.model.as_ref().or(args.model_flag.as_ref()) {
        Some(name) => {
            let source = ModelSource::find(name)?;
            let path = source.path();
            let checkpoint = Arc::new(Checkpoint::open(path)?);
            let model =
                Model::from_checkpoint(checkpoint).with_context(|| path.display().to_string())?;
            Some(ModelNeeds::of(path, &model, &options))
        }
        None => None,
    };
    let measured = args.measure.then(|| Measured::now(&options)).transpose()?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::detect(&options),
        devices: Devices::detect(),
        measured,
        places: Places::detect(),
        model,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![("micota", self.version.to_owned())];
        lines.extend(self.machine.lines());
        lines.extend(self.devices.lines());
        lines.extend(self.measured.iter().flat_map(Measured::lines));
        lines.extend(self.places.lines());
        let mut text = aligned(&lines);
        if let Some(model) = &self.model {
            text.push('\n');
            text.push_str(&aligned(&model.lines()));
        }
        text
    }
}

/// Labels in one column, values in the next.
fn aligned(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.len()).max();
    let width = width.unwrap_or(0) + 2;
    let line = |(label, value): &(&str, String)| format!("{label:width$}{value}\n");
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_a_column() {
        let lines = [("a", "1".to_owned()), ("long", "2".to_owned())];
        assert_eq!(aligned(&lines), "a     1\nlong  2\n");
    }
}
