//! What a row of a log says, whatever wrote it.

use serde_json::{Map, Value};

use super::Rule;
use crate::grade::boxed;
use crate::task::python;

/// What a row of a log says, whatever its format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoggedSample {
    /// Number or name of the document, where the log has one.
    pub doc_id: Option<Value>,
    /// The problem's text, where the log has one.
    pub problem: Option<String>,
    /// The gold answer as logged: the judge's prompt and the seed's files keep its type.
    pub gold: Value,
    /// The text that the legacy rule compares with.
    pub legacy_gold: String,
    /// The responses: one, or one per repeat.
    pub responses: Vec<String>,
    /// The filter that made this line of an lm-evaluation-harness log.
    pub filter: Option<String>,
    /// What that filter left of the first response.
    pub filtered: Option<String>,
    /// The verdict in the log.
    pub logged: Option<f64>,
}

/// Names of the fields of a log that is neither lm-evaluation-harness's nor the seed's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldNames {
    /// The field that holds the response.
    pub response: Option<String>,
    /// The field that holds the gold answer.
    pub gold: Option<String>,
    /// The field that holds the problem.
    pub problem: Option<String>,
    /// The field that tells documents apart.
    pub id: Option<String>,
}

impl LoggedSample {
    /// Reads a row: lm-evaluation-harness's (`resps`), the seed's training data (`instruction`,
    /// `output`), or the named fields.
    ///
    /// # Errors
    /// A field is missing; the message names it and the ones that are there.
    pub fn from_row(
        row: &Map<String, Value>,
        names: &FieldNames,
        task: &str,
    ) -> Result<Self, String> {
        let is_named = names.response.is_some() || names.gold.is_some();
        if !is_named && row.contains_key("resps") && row.contains_key("doc") {
            return Self::from_lm_eval(row, task);
        }
        if !is_named && row.contains_key("output") && row.contains_key("answer") {
            let gold = field(row, "answer")?;
            return Ok(Self {
                problem: row.get("instruction").map(python::text),
                legacy_gold: python::text(gold),
                gold: gold.clone(),
                responses: responses(field(row, "output")?),
                ..Self::default()
            });
        }
        let response = names.response.as_deref().unwrap_or("response");
        let gold = field(row, names.gold.as_deref().unwrap_or("gold"))?;
        Ok(Self {
            doc_id: match &names.id {
                Some(id) => Some(field(row, id)?.clone()),
                None => None,
            },
            problem: row
                .get(names.problem.as_deref().unwrap_or("problem"))
                .map(python::text),
            legacy_gold: python::text(gold),
            gold: gold.clone(),
            responses: responses(field(row, response)?),
            ..Self::default()
        })
    }

    fn from_lm_eval(row: &Map<String, Value>, task: &str) -> Result<Self, String> {
        let doc = field(row, "doc")?
            .as_object()
            .ok_or("`doc` is not an object")?;
        let target = row.get("target").map(python::text).unwrap_or_default();
        let resps = field(row, "resps")?
            .as_array()
            .ok_or("`resps` is not a list")?;
        let name = task.to_ascii_lowercase();
        let number = Rule::of_task(task) == Some(Rule::Number);
        // What the reference's own graders and judge take the gold from.
        let gold = if number {
            Value::from(target.as_str())
        } else if let Some(answer) = doc.get("final_answer").and_then(|list| list.get(0)) {
            answer.clone()
        } else if let Some(answer) = doc.get("answer") {
            answer.clone()
        } else {
            Value::from(boxed_part(&target).unwrap_or(&target))
        };
        let in_solution = name.contains("math") && !number;
        let boxed = doc
            .get("solution")
            .and_then(Value::as_str)
            .and_then(boxed_part);
        let legacy_gold = match boxed.filter(|_| in_solution) {
            Some(boxed) => boxed.to_owned(),
            None => python::text(&gold),
        };
        let filtered = row.get("filtered_resps").and_then(|list| list.get(0));
        Ok(Self {
            doc_id: row.get("doc_id").cloned(),
            problem: ["problem", "question"]
                .iter()
                .find_map(|key| doc.get(*key))
                .map(python::text),
            gold,
            legacy_gold,
            responses: resps.iter().flat_map(responses).collect(),
            filter: row.get("filter").and_then(Value::as_str).map(str::to_owned),
            filtered: filtered.and_then(Value::as_str).map(str::to_owned),
            logged: row.get("exact_match").and_then(Value::as_f64),
        })
    }
}

fn field<'r>(row: &'r Map<String, Value>, name: &str) -> Result<&'r Value, String> {
    row.get(name).ok_or_else(|| {
        let present: Vec<&str> = row.keys().map(String::as_str).collect();
        format!("no field `{name}`; there are {}", present.join(", "))
    })
}

/// One text, or a list of them.
fn responses(value: &Value) -> Vec<String> {
    match value {
        Value::Array(texts) => texts.iter().map(python::text).collect(),
        Value::Null => Vec::new(),
        text => vec![python::text(text)],
    }
}

fn boxed_part(solution: &str) -> Option<&str> {
    boxed::extract(solution).ok().flatten()
}
