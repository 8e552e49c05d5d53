//! Grading logs again: the reference's own samples files give its scores, and the second stage's
//! files come out of the recorded replies.

use std::collections::BTreeMap;
use std::path::Path;

use micota::eval::EvalError;
use micota::eval::judge::{
    CheckedSample, DEFAULT_TEMPLATE, Judge, JudgePrompt, SeedFiles, gsm8k_summary,
};
use micota::eval::log_reader::LogReader;
use micota::eval::regrade::{FieldNames, LoggedSample, Regrader, Rule, Tally};
use serde_json::Value;

use crate::shared::shared;

const RUN: &str = "golden/lmeval/saves__model";
const DATE: &str = "2025-07-01T12-00-00.000000";

fn samples(folder: &Path, task: &str) -> Vec<LoggedSample> {
    let path = folder.join(format!("samples_{task}_{DATE}.jsonl"));
    let batch = LogReader::open(&path).unwrap().next_batch().unwrap();
    let rows = batch.into_iter().map(|row| row.into_fields().unwrap());
    rows.map(|row| LoggedSample::from_row(&row, &FieldNames::default(), task).unwrap())
        .collect()
}

#[test]
fn the_references_samples_give_its_scores() {
    let Some(shared) = shared() else { return };
    let folder = shared.join(RUN);
    let results = std::fs::read_to_string(folder.join(format!("results_{DATE}.json"))).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    let regrader = Regrader::new().unwrap();
    for task in [
        "AIME",
        "AMC",
        "Olympiad",
        "hendrycks_math_500",
        "gsm8k_cot_zeroshot",
    ] {
        let rule = Rule::of_task(task).unwrap();
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for sample in samples(&folder, task) {
            let row = regrader.grade(&sample, task, rule);
            let filter = sample.filter.clone().unwrap();
            tallies.entry(filter).or_default().add(&row, None);
        }
        for (filter, tally) in tallies {
            let expected = results["results"][task][format!("exact_match,{filter}")].as_f64();
            let legacy = tally.legacy as f64 / tally.responses as f64;
            assert_eq!(Some(legacy), expected, "{task} {filter}");
            assert_eq!(tally.logged_differently, 0, "{task} {filter}");
        }
    }
}

/// Answers from a recording, and checks that it is asked what the reference asked.
struct Recorded(Vec<(String, String)>);

impl Judge for Recorded {
    fn ask(
        &mut self,
        prompts: &[JudgePrompt],
        settle: &mut (dyn FnMut(usize, String) -> Result<(), EvalError> + Send),
    ) -> Result<(), EvalError> {
        assert_eq!(prompts.len(), self.0.len());
        for (index, (prompt, (recorded, reply))) in prompts.iter().zip(&self.0).enumerate() {
            assert_eq!(prompt.chatml(), *recorded);
            settle(index, reply.clone())?;
        }
        Ok(())
    }
}

#[test]
fn the_second_stage_writes_the_references_files() {
    let Some(shared) = shared() else { return };
    let golden = shared.join("golden/judge");
    for task in ["AIME", "AMC", "Olympiad", "hendrycks_math_500"] {
        let replies =
            std::fs::read_to_string(golden.join(format!("replies_{task}.jsonl"))).unwrap();
        let replies = replies.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("prompt"), text("reply"))
        });
        let mut judge = Recorded(replies.collect());
        let mut checked: Vec<CheckedSample> = samples(&shared.join(RUN), task)
            .iter()
            .enumerate()
            .map(|(index, sample)| {
                let problem = sample.problem.as_deref().unwrap();
                CheckedSample::new(index, problem, &sample.gold, &sample.responses[0])
            })
            .collect();
        let prompts: Vec<JudgePrompt> = checked
            .iter()
            .filter_map(|sample| sample.prompt(DEFAULT_TEMPLATE))
            .collect();
        let mut replies = Vec::new();
        let mut keep = |_, reply| {
            replies.push(reply);
            Ok(())
        };
        judge.ask(&prompts, &mut keep).unwrap();
        let mut replies = replies.into_iter();
        for sample in &mut checked {
            if sample.prompt(DEFAULT_TEMPLATE).is_some() {
                sample.settle(&replies.next().unwrap());
            }
        }
        for (name, text) in SeedFiles::new(&checked).texts(task) {
            let expected = std::fs::read_to_string(golden.join(&name)).unwrap();
            assert_eq!(text, expected, "{name}");
        }
    }
    let name = format!("results_{DATE}.json");
    let results = std::fs::read_to_string(shared.join(RUN).join(&name)).unwrap();
    let results = serde_json::from_str(&results).unwrap();
    let (summary, text) = gsm8k_summary(&[(name, results)]).unwrap();
    let expected = std::fs::read_to_string(golden.join(&summary)).unwrap();
    assert_eq!(text, expected, "{summary}");
}
