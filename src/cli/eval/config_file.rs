//! `--config FILE`: a YAML file whose keys are the flags' names. It is turned into flags that stand
//! before those of the command line, so that the latter win.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::cli::exit::usage;
use crate::eval::python_json;

/// Bytes of a configuration file; a real one has a few hundred.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Puts the flags of every `--config FILE` (or `-C FILE`) behind the subcommand.
pub(crate) fn expand(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let is_eval = args.get(1).is_some_and(|word| word == "eval");
    let Some(path) = config_path(&args).filter(|_| is_eval) else {
        return Ok(args);
    };
    let flags = read(Path::new(&path)).map_err(usage)?;
    let behind = 2 + usize::from(args.get(2).is_some_and(|word| word == "run"));
    let mut expanded = args;
    expanded.splice(behind..behind, flags);
    Ok(expanded)
}

fn config_path(args: &[OsString]) -> Option<OsString> {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--config" || word == "-C" {
            return words.next().cloned();
        }
        if let Some(path) = word
            .to_str()
            .and_then(|word| word.strip_prefix("--config="))
        {
            return Some(path.into());
        }
    }
    None
}

fn read(path: &Path) -> anyhow::Result<Vec<OsString>> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .with_context(|| format!("--config {shown}"))?
        .len();
    anyhow::ensure!(
        size <= MAX_CONFIG_BYTES,
        "--config {shown}: {size} bytes, at most {MAX_CONFIG_BYTES} are read"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {shown}"))?;
    let config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("--config {shown}"))?;
    let Value::Object(config) = config else {
        anyhow::bail!("--config {shown}: expected keys and values");
    };
    let mut flags = Vec::new();
    for (key, value) in &config {
        let flag = format!("--{key}");
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => flags.push(flag.into()),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(plain).collect();
                flags.push(format!("{flag}={}", items.join(",")).into());
            }
            other => flags.push(format!("{flag}={}", plain(other)).into()),
        }
    }
    Ok(flags)
}

/// A value as it would be typed: text as it is, a dictionary as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python_json::to_line(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn keys_become_flags_before_those_of_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        let text = "tasks: [AIME, AMC]\nlimit: 5\nlog_samples: true\nwrite_out: false\n\
                    gen_kwargs: {temperature: 0}\nmodel: m\n";
        std::fs::write(&path, text).unwrap();
        let args = words(&format!(
            "micota eval run --config {} --limit 7",
            path.display()
        ));
        let expanded = expand(args).unwrap();
        let expanded: Vec<String> = expanded
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        assert_eq!(
            expanded[3..8],
            [
                "--tasks=AIME,AMC",
                "--limit=5",
                "--log_samples",
                "--gen_kwargs={\"temperature\": 0}",
                "--model=m"
            ]
        );
        assert_eq!(expanded.last().unwrap(), "7");
    }

    #[test]
    fn other_commands_are_left_alone_and_errors_name_the_file() {
        let args = words("micota merge --config x.yml");
        assert_eq!(expand(args.clone()).unwrap(), args);
        let error = expand(words("micota eval -C /nonexistent.yaml")).unwrap_err();
        assert!(
            format!("{error:#}").contains("/nonexistent.yaml"),
            "{error:#}"
        );
    }
}
