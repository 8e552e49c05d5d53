//! The seed's files of the second stage: its three per boxed task, and its summary of gsm8k.
//!
//! Written by `math_metric_llm_eval_general.py` and `math_metric_gsm8k.py`; `golden/judge` pins them.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{JudgePrompt, seed_verdict};
use crate::grade::boxed::{self, Variant};

/// The task whose results the seed's gsm8k script gathers, and the score that it takes.
const GSM8K: &str = "gsm8k_cot_zeroshot";
const GSM8K_SCORE: &str = "exact_match,flexible-extract";

/// One sample of the second stage, as the seed's `llm_answer_check_result_*` lists it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckedSample {
    /// The sample's number in its log.
    pub index: usize,
    /// The problem's text.
    pub problem: String,
    /// The gold answer, in its own type.
    pub answer: Value,
    /// The extracted answer.
    pub resp_answer: Option<String>,
    /// The plain rule's verdict.
    pub exact_match: u8,
    /// The judge's, or the rule's where nobody was asked; null where the reply says nothing.
    pub llm_check_result: Option<u8>,
    /// `No need to check`, or the reply.
    pub llm_check_result_reason: String,
}

impl CheckedSample {
    /// The rule's part of the second stage. A gold that is not a text never matches, as in the seed.
    pub fn new(index: usize, problem: &str, gold: &Value, response: &str) -> Self {
        let extracted = boxed::extract(response).ok().flatten();
        let matches = match (extracted, gold) {
            (Some(extracted), Value::String(gold)) => {
                boxed::is_equiv(extracted, gold, Variant::Plain)
            }
            _ => false,
        };
        Self {
            index,
            problem: problem.to_owned(),
            answer: gold.clone(),
            resp_answer: extracted.map(str::to_owned),
            exact_match: u8::from(matches),
            llm_check_result: Some(u8::from(matches)),
            llm_check_result_reason: "No need to check".to_owned(),
        }
    }

    /// The question, where there is one: an answer that was found and does not match.
    pub fn prompt(&self, template: &str) -> Option<JudgePrompt> {
        let extracted = self
            .resp_answer
            .as_deref()
            .filter(|_| self.exact_match == 0)?;
        Some(JudgePrompt::new(
            template,
            &self.problem,
            &self.answer,
            extracted,
        ))
    }

    /// Takes in the judge's reply, without the blanks around it.
    pub fn settle(&mut self, reply: &str) {
        let reply = reply.trim();
        self.llm_check_result = seed_verdict(reply);
        self.llm_check_result_reason = format!("LLM check result: {reply}");
    }

    fn was_judged(&self) -> bool {
        self.llm_check_result_reason != "No need to check"
    }
}

/// The seed's files of one task, as values in the seed's order of keys.
#[derive(Clone, Debug, PartialEq)]
pub struct SeedFiles {
    /// `llm_answer_check_result_{task}.json`
    pub checked: Value,
    /// `problematic_instances_{task}.json`
    pub problematic: Value,
    /// `summary_results_{task}.json`
    pub summary: Value,
}

impl SeedFiles {
    /// Counts and lists the samples of a task, in the order of its log.
    pub fn new(samples: &[CheckedSample]) -> Self {
        let share = |count: usize| match samples.len() {
            0 => 0.0,
            n => count as f64 / n as f64,
        };
        let count = |is: &dyn Fn(&&CheckedSample) -> bool| samples.iter().filter(is).count();
        let problematic: Vec<Value> = samples
            .iter()
            .filter(|sample| sample.was_judged())
            .map(|sample| {
                json!({
                    "index": sample.index,
                    "problem": sample.problem,
                    "resp_answer": sample.resp_answer,
                    "answer": sample.answer,
                    "exact_match": sample.exact_match,
                    "llm_check_result": sample.llm_check_result,
                    "llm_check_result_reason": sample.llm_check_result_reason,
                })
            })
            .collect();
        Self {
            checked: json!(samples),
            problematic: Value::Array(problematic),
            summary: json!({
                "none_resp_answer_count": count(&|s| s.resp_answer.is_none()),
                "exact_match_accuracy": share(count(&|s| s.exact_match == 1)),
                "llm_check_result_accuracy": share(count(&|s| s.llm_check_result == Some(1))),
                "none_llm_check_result_count": count(&|s| s.llm_check_result.is_none()),
            }),
        }
    }

    /// The three files' names and texts: indented by 4, non-ASCII kept.
    pub fn texts(&self, task: &str) -> [(String, String); 3] {
        let file = |stem: &str, value| (format!("{stem}_{task}.json"), indented(value));
        [
            file("llm_answer_check_result", &self.checked),
            file("problematic_instances", &self.problematic),
            file("summary_results", &self.summary),
        ]
    }
}

/// The seed's summary of gsm8k, from the results files of a folder by name: the score of each that
/// has one. `None` where none has.
pub fn gsm8k_summary(results: &[(String, Value)]) -> Option<(String, String)> {
    let mut found = Map::new();
    for (name, results) in results {
        if let Some(score) = results["results"][GSM8K].get(GSM8K_SCORE) {
            found.insert(name.clone(), json!({ GSM8K: score }));
        }
    }
    let text = indented(&json!({ "results": found }));
    (!found.is_empty()).then(|| ("summary_results_gsm8k.json".to_owned(), text))
}

/// Python's `json.dump(value, file, indent=4, ensure_ascii=False)`.
fn indented(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => unreachable!("a JSON value is written into memory"),
    }
}
