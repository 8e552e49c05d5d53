//! Problems with their answers, from JSON or JSONL.

use std::path::Path;

use serde_json::Value;

use super::super::EvalError;

/// What the problem's column is called where nobody says, in this order.
const PROBLEM_COLUMNS: &[&str] = &["problem", "question", "instruction"];

/// A problem as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its row in the file, from 0.
    pub index: usize,
    /// The problem's text with the instruction behind it.
    pub instruction: String,
    /// The answer to compare with.
    pub answer: String,
}

/// Reads problems: the text of `problem_column` (by default the first of `problem`, `question`
/// and `instruction` that there is) with `suffix` on a line of its own, and `answer_column`.
///
/// # Errors
/// The file cannot be read, holds no problems, or a row lacks a column.
pub fn read_problems(
    path: &Path,
    problem_column: Option<&str>,
    answer_column: &str,
    suffix: &str,
    limit: Option<usize>,
) -> Result<Vec<Problem>, EvalError> {
    let bad = |problem: String| EvalError::Log {
        path: path.to_owned(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let rows: Vec<Value> = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
    } else {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        let parse = |(number, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| bad(format!("line {}: {error}", number + 1)))
        };
        lines.map(parse).collect::<Result<_, _>>()?
    };
    let mut problems = Vec::new();
    for (index, row) in rows.iter().take(limit.unwrap_or(usize::MAX)).enumerate() {
        let known = problem_column.map_or(PROBLEM_COLUMNS, |_| &[]);
        let names = problem_column.into_iter().chain(known.iter().copied());
        let names: Vec<&str> = names.collect();
        let found = names.iter().find_map(|name| row[*name].as_str());
        let problem = found.ok_or_else(|| {
            bad(format!(
                "row {index}: no text in column {}",
                names.join(" or ")
            ))
        })?;
        let answer = match &row[answer_column] {
            Value::String(answer) => answer.clone(),
            Value::Number(answer) => answer.to_string(),
            _ => {
                return Err(bad(format!(
                    "row {index}: no answer in column {answer_column}"
                )));
            }
        };
        let instruction = if suffix.is_empty() {
            problem.to_owned()
        } else {
            format!("{problem}\n{suffix}")
        };
        problems.push(Problem {
            index,
            instruction,
            answer,
        });
    }
    if problems.is_empty() {
        return Err(bad("no problems".to_owned()));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_a_bad_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.json");
        let read = |text: &str, column: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            read_problems(&path, column, "answer", "Think.", None)
        };
        let lines =
            "{\"problem\": \"a\", \"answer\": \"1\"}\n\n{\"question\": \"b\", \"answer\": 2}\n";
        let problems = read(lines, None).unwrap();
        assert_eq!(problems[0].instruction, "a\nThink.");
        assert_eq!((problems[1].index, problems[1].answer.as_str()), (1, "2"));
        let array = "[{\"q\": \"a\", \"answer\": \"1\"}]";
        assert_eq!(read(array, Some("q")).unwrap().len(), 1);
        let error = read(array, None).unwrap_err().to_string();
        assert!(
            error.contains("row 0: no text in column problem"),
            "{error}"
        );
        assert!(
            read("[]", None)
                .unwrap_err()
                .to_string()
                .contains("no problems")
        );
        assert!(read("{\"problem\": \"a\"}", None).is_err());
    }
}
