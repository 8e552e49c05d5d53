//! The symbolic grader against a careful marker's verdicts (`expected` of `golden/grading`), with
//! math-verify's numbers as the bar. What remains is listed in `tasks/GRADING.md`.

use micota::grade::symbolic::{self, AnswerStyle};
use serde::Deserialize;

use crate::shared::shared;

#[derive(Deserialize)]
struct Row {
    id: String,
    kind: String,
    gold: String,
    response: String,
    expected: Option<u8>,
}

/// Least agreement with the marker on every task.
const BAR: f64 = 0.98;

#[test]
fn agrees_with_a_careful_marker() {
    let Some(shared) = shared() else { return };
    let mut offences = Vec::new();
    for (task, style, false_ones_allowed) in [
        ("AIME", AnswerStyle::Boxed, 0),
        ("AMC", AnswerStyle::Boxed, 0),
        ("Olympiad", AnswerStyle::Boxed, 0),
        ("hendrycks_math_500", AnswerStyle::Boxed, 1),
        ("rejection_filter", AnswerStyle::Boxed, 0),
        ("gsm8k_cot_zeroshot", AnswerStyle::Number, 8),
    ] {
        let path = shared.join(format!("golden/grading/{task}.jsonl"));
        let text = std::fs::read_to_string(path).unwrap();
        let (mut rows, mut agreeing, mut false_ones) = (0, 0, 0);
        for line in text.lines() {
            let row: Row = serde_json::from_str(line).unwrap();
            let verdict = symbolic::grade(&row.response, &row.gold, style);
            let correct = verdict.outcome.is_correct();
            let Some(expected) = row.expected else {
                continue;
            };
            rows += 1;
            if correct == (expected == 1) {
                agreeing += 1;
                continue;
            }
            false_ones += usize::from(correct);
            eprintln!(
                "{} {} expected {expected}: gold {:?}, extracted {:?}: {}",
                row.id, row.kind, row.gold, verdict.extracted, verdict.outcome
            );
        }
        let agreement = f64::from(agreeing) / f64::from(rows);
        eprintln!("{task}: {agreeing} of {rows} = {agreement:.4}, {false_ones} false ones");
        if agreement < BAR || false_ones > false_ones_allowed {
            offences.push(format!("{task}: {agreement:.4}, {false_ones} false ones"));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
