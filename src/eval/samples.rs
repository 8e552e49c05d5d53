//! The samples file: one line per document and filter, in lm-evaluation-harness's keys and order,
//! then ours.
//!
//! Ours that belong to a response (`finish_reason`, `gen_tokens`, ...) are lists that run parallel
//! to `resps[0]`.

use serde_json::{Map, Value, json};

use crate::grade::symbolic;
use crate::task::python;

use super::grading::EXACT_MATCH;
use super::hashes::{TaskHasher, doc_hash, text_hash, token_ids_hash};
use super::plan::{GradedDoc, GradedTask};
use super::python_json;
use super::record::SampleRecord;

/// A task's samples file and its entry of `task_hashes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplesFile {
    /// The lines, each with its line feed.
    pub text: String,
    /// Over the hashes of all lines.
    pub task_hash: String,
}

/// Writes all documents of the first filter, then all of the second, as the reference does.
pub fn write(graded: &GradedTask<'_>) -> SamplesFile {
    let mut hasher = TaskHasher::default();
    let mut text = String::new();
    let hashes: Vec<[String; 3]> = graded.docs.iter().map(|doc| hashes_of(doc)).collect();
    for (index, filter) in graded.task.grading.filters.iter().enumerate() {
        for (doc, hashes) in graded.docs.iter().zip(&hashes) {
            let [doc_hash, prompt_hash, target_hash] = hashes;
            hasher.add(doc_hash, prompt_hash, target_hash);
            let row = row(graded, doc, index, &filter.name, hashes);
            text.push_str(&python_json::to_line(&Value::Object(row)));
            text.push('\n');
        }
    }
    SamplesFile {
        text,
        task_hash: hasher.finish(),
    }
}

fn hashes_of(doc: &GradedDoc<'_>) -> [String; 3] {
    [
        doc_hash(&doc.doc.doc),
        text_hash(&doc.doc.prompt),
        text_hash(&python::text(&doc.doc.target)),
    ]
}

fn row(
    graded: &GradedTask<'_>,
    doc: &GradedDoc<'_>,
    filter_index: usize,
    filter: &str,
    [doc_hash, prompt_hash, target_hash]: &[String; 3],
) -> Map<String, Value> {
    let planned = doc.doc;
    let grade = &doc.grades[filter_index];
    let texts: Vec<&str> = doc
        .records
        .iter()
        .map(|record| record.text.as_str())
        .collect();
    let arguments = json!({
        "gen_args_0": {"arg_0": planned.prompt, "arg_1": graded.task.generation_kwargs},
    });
    let names: Vec<&str> = grade
        .metrics
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("doc_id", planned.doc_id.into());
    put("doc", Value::Object(planned.doc.clone()));
    put("target", planned.target.clone());
    put("arguments", arguments);
    put("resps", json!([texts]));
    put("filtered_resps", json!([grade.filtered]));
    put("filter", filter.into());
    put("metrics", json!(names));
    put("doc_hash", doc_hash.as_str().into());
    put("prompt_hash", prompt_hash.as_str().into());
    put("target_hash", target_hash.as_str().into());
    for (name, value) in &grade.metrics {
        put(name, value.clone());
    }
    ours(graded, doc, filter_index, &mut row);
    row
}

fn ours(
    graded: &GradedTask<'_>,
    doc: &GradedDoc<'_>,
    filter_index: usize,
    row: &mut Map<String, Value>,
) {
    let each =
        |of: &dyn Fn(&SampleRecord) -> Value| -> Value { doc.records.iter().map(of).collect() };
    let seconds = |record: &SampleRecord| record.prefill_seconds + record.decode_seconds;
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put(
        "sample_index",
        each(&|record| record.id.sample_index.into()),
    );
    put(
        "finish_reason",
        each(&|record| record.finish.reason().into()),
    );
    put("stop_hit", each(&|record| record.finish.stop().into()));
    put(
        "truncated",
        each(&|record| record.finish.is_truncated().into()),
    );
    put("gen_tokens", each(&|record| record.gen_tokens.into()));
    put("max_gen_toks", each(&|record| record.max_gen_toks.into()));
    put(
        "cumulative_logprob",
        each(&|record| record.cumulative_logprob.into()),
    );
    put("prompt_tokens", doc.prompt_tokens().into());
    let token_ids = Some(&doc.doc.prompt_token_ids).filter(|ids| !ids.is_empty());
    let hash = token_ids.map(|ids| token_ids_hash(ids));
    put("prompt_token_ids_hash", hash.into());
    put("bos_count", doc.doc.bos_count.into());
    put("seed", graded.task.params.seed.into());
    let mut grades = Map::new();
    let legacy = graded.task.grading.metric_names().first().copied();
    let legacy = legacy.unwrap_or(EXACT_MATCH);
    if !doc.symbolic.is_empty() {
        grades.insert(symbolic::METRIC.to_owned(), json!(doc.symbolic));
    }
    let verdicts = json!(doc.grades[filter_index].responses);
    grades.insert(legacy.to_owned(), verdicts);
    put("grades", Value::Object(grades));
    // Last, so that two runs are compared by cutting the line here.
    put("seconds", each(&|record| seconds(record).into()));
}
