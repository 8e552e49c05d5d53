//! The results table, as lm-evaluation-harness prints it.
//!
//! Pinned by `golden/components/tables.jsonl` and `golden/lmeval/stdout.txt`.

use serde_json::{Map, Value};

/// Values are rounded to this many decimals before a column decides how many it shows.
const DECIMALS: usize = 4;
/// Markdown asks for at least three dashes.
const MIN_WIDTH: usize = 3;
/// What the reference prints for an unknown error or version; the blanks belong to the text.
const UNKNOWN: &str = "   N/A";

/// Which block of a results file is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// `results`, under the heading `Tasks`.
    Tasks,
    /// `groups`, under the heading `Groups`.
    Groups,
}

/// Renders the block of a results file (its parsed JSON); every line ends with a line feed.
/// A block that is absent or empty gives the heading alone.
pub fn render(results: &Map<String, Value>, block: Block) -> String {
    let (heading, key) = match block {
        Block::Tasks => ("Tasks", "results"),
        Block::Groups => ("Groups", "groups"),
    };
    let headings = [
        heading, "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr",
    ];
    let empty = Map::new();
    let entries = results
        .get(key)
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (task, scores) in entries {
        let Some(scores) = scores.as_object() else {
            continue;
        };
        rows.extend(task_rows(results, task, scores));
    }
    layout(&headings, &rows)
}

fn task_rows(
    results: &Map<String, Value>,
    task: &str,
    scores: &Map<String, Value>,
) -> Vec<Vec<Cell>> {
    let of_task = |key: &str| results.get(key).and_then(|block| block.get(task));
    let mut name = scores.get("alias").and_then(Value::as_str).unwrap_or(task);
    let mut version = match of_task("versions") {
        Some(version) => Cell::of(version),
        None => Cell::Text(UNKNOWN.to_owned()),
    };
    let mut pairs: Vec<(&String, &Value)> = scores.iter().collect();
    pairs.sort_by_key(|(key, _)| *key);
    let mut rows = Vec::new();
    for (key, value) in pairs {
        let Some((metric, filter)) = key.split_once(',') else {
            continue;
        };
        if metric.ends_with("_stderr") {
            continue;
        }
        let arrow = match of_task("higher_is_better").and_then(|metrics| metrics.get(metric)) {
            Some(Value::Bool(true)) => "↑",
            Some(Value::Bool(false)) => "↓",
            _ => "",
        };
        let (sign, stderr) = match scores.get(&format!("{metric}_stderr,{filter}")) {
            Some(Value::String(text)) if text == "N/A" => ("±", Cell::Text(UNKNOWN.to_owned())),
            Some(stderr) => ("±", Cell::of(stderr)),
            None => ("", Cell::Blank),
        };
        rows.push(vec![
            Cell::text(name),
            std::mem::replace(&mut version, Cell::Blank),
            Cell::text(filter),
            of_task("n-shot").map_or(Cell::Blank, Cell::of),
            Cell::text(metric),
            Cell::text(arrow),
            Cell::of(value),
            Cell::text(sign),
            stderr,
        ]);
        name = "";
    }
    rows
}

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Blank,
    Text(String),
    /// Digits with exactly [`DECIMALS`] decimals.
    Number(String),
}

impl Cell {
    fn text(text: &str) -> Self {
        if text.trim().is_empty() {
            Self::Blank
        } else {
            Self::Text(text.to_owned())
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::text(text),
            Value::Number(number) => match number.as_f64() {
                Some(number) => Self::Number(format!("{number:.DECIMALS$}")),
                None => Self::Text(number.to_string()),
            },
            Value::Null => Self::Blank,
            other => Self::Text(other.to_string()),
        }
    }

    /// Decimals up to the last one that is not zero.
    fn decimals(&self) -> usize {
        match self {
            Self::Number(digits) => {
                let fraction = digits.split_once('.').map_or("", |(_, fraction)| fraction);
                fraction.trim_end_matches('0').len()
            }
            _ => 0,
        }
    }

    fn shown(&self, decimals: usize) -> String {
        match self {
            Self::Blank => String::new(),
            Self::Text(text) => text.clone(),
            Self::Number(digits) if decimals == 0 => digits
                .split_once('.')
                .map_or(digits.as_str(), |(whole, _)| whole)
                .to_owned(),
            Self::Number(digits) => digits[..digits.len() - (DECIMALS - decimals)].to_owned(),
        }
    }
}

fn layout(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut lines = vec![String::from("|"); rows.len() + 2];
    for (column, heading) in headings.iter().enumerate() {
        let cells: Vec<&Cell> = rows.iter().map(|row| &row[column]).collect();
        let has_text = cells.iter().any(|cell| matches!(cell, Cell::Text(_)));
        let is_numeric = !has_text && cells.iter().any(|cell| matches!(cell, Cell::Number(_)));
        let decimals = if has_text {
            DECIMALS
        } else {
            cells.iter().map(|cell| cell.decimals()).max().unwrap_or(0)
        };
        let shown: Vec<String> = cells.iter().map(|cell| cell.shown(decimals)).collect();
        let lengths = shown.iter().map(|text| text.chars().count());
        let width = lengths
            .chain([heading.len(), MIN_WIDTH])
            .max()
            .unwrap_or(MIN_WIDTH);
        lines[0].push_str(&format!("{heading:^width$}|"));
        let rule = "-".repeat(width - usize::from(is_numeric));
        lines[1].push_str(&rule);
        lines[1].push_str(if is_numeric { ":|" } else { "|" });
        for (line, text) in lines[2..].iter_mut().zip(shown) {
            if is_numeric {
                line.push_str(&format!("{text:>width$}|"));
            } else {
                line.push_str(&format!("{text:<width$}|"));
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_group_without_shots_or_version_keeps_its_columns() {
        let results = json!({
            "groups": {"math": {"alias": "math", "exact_match,none": 0.25}},
            "versions": {},
            "n-shot": {},
            "higher_is_better": {"math": {"exact_match": false}},
        });
        let table = render(results.as_object().unwrap(), Block::Groups);
        assert_eq!(
            table,
            "|Groups|Version|Filter|n-shot|  Metric   |   |Value|   |Stderr|\n\
             |------|-------|------|------|-----------|---|----:|---|------|\n\
             |math  |   N/A |none  |      |exact_match|↓  | 0.25|   |      |\n"
        );
    }
}
