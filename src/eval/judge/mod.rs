//! The second stage: a model judges the answers that the rule calls wrong.
//!
//! It stands exactly where the seed has it (`math_metric_llm_eval_general.py`): the plain boxed
//! rule decides first, only answers that were found and did not match are sent, and a response
//! without an answer is never judged. Its verdict is a column of its own and never the headline.
//! Whoever answers stands behind [`Judge`]: a server ([`EndpointJudge`]), or any generator such as
//! our own engine ([`GeneratorJudge`]). [`JudgeJournal`] keeps replies from getting lost. The seed's
//! files can be written ([`SeedFiles`]).

mod endpoint;
mod generator;
mod journal;
mod seed_files;

use serde_json::Value;

use super::EvalError;
use crate::task::python;

pub use endpoint::EndpointJudge;
pub use generator::GeneratorJudge;
pub use journal::JudgeJournal;
pub use seed_files::{CheckedSample, SeedFiles, gsm8k_summary};

/// The seed's prompt: what the user says to the judge.
pub const DEFAULT_TEMPLATE: &str = "Given a math problem, its correct answer, and the model's generated answer, determine if the model's generated answer is correct. Respond with 'True' if the answer is correct and 'False' if it is incorrect. Directly provide your judgement 'True' or 'False' without any other description.\nProblem: {problem}\nCorrect Answer: {gold}\nModel's Generated Answer: {extracted}\nYour judgement:";

/// The seed wraps its prompt by hand in the template of the Qwen models.
const CHATML: [&str; 2] = [
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
];

/// New tokens that a judge may spend, as in the seed.
pub const MAX_JUDGE_TOKENS: usize = 20;
/// A question to the judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgePrompt {
    /// What the user says.
    pub user: String,
}

impl JudgePrompt {
    /// Fills `{problem}`, `{gold}` and `{extracted}` of a template. Braces in the values are text.
    pub fn new(template: &str, problem: &str, gold: &Value, extracted: &str) -> Self {
        let gold = python::text(gold);
        let values = [
            ("{problem}", problem),
            ("{gold}", gold.as_str()),
            ("{extracted}", extracted),
        ];
        let mut user = String::with_capacity(template.len() + problem.len());
        let mut rest = template;
        while let Some(brace) = rest.find('{') {
            user.push_str(&rest[..brace]);
            rest = &rest[brace..];
            match values.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    user.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    user.push('{');
                    rest = &rest[1..];
                }
            }
        }
        user.push_str(rest);
        Self { user }
    }

    /// The whole text for a model without a server that applies its template: the seed's ChatML.
    pub fn chatml(&self) -> String {
        format!("{}{}{}", CHATML[0], self.user, CHATML[1])
    }
}

/// Whoever answers the questions.
pub trait Judge {
    /// Replies to the prompts, in any order: `settle` gets each prompt's index with its reply.
    ///
    /// # Errors
    /// The judge cannot be reached or fails, or `settle` does. What was settled before stays so.
    fn ask(
        &mut self,
        prompts: &[JudgePrompt],
        settle: &mut (dyn FnMut(usize, String) -> Result<(), EvalError> + Send),
    ) -> Result<(), EvalError>;
}

/// The seed's reading of a reply: `True` anywhere is 1, else `False` anywhere is 0, else nothing.
pub fn seed_verdict(reply: &str) -> Option<u8> {
    if reply.contains("True") {
        Some(1)
    } else if reply.contains("False") {
        Some(0)
    } else {
        None
    }
}

/// The strict reading, which our own column uses: the first word that says something is the verdict,
/// and the reply does not name the other one as well. `Not True` says neither.
pub fn strict_verdict(reply: &str) -> Option<u8> {
    const INTRODUCTIONS: [&str; 8] = [
        "my",
        "your",
        "the",
        "final",
        "judgement",
        "judgment",
        "answer",
        "is",
    ];
    let words = reply
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase);
    let mut words = words.skip_while(|word| INTRODUCTIONS.contains(&word.as_str()));
    let (verdict, other) = match words.next()?.as_str() {
        "true" => (1, "false"),
        "false" => (0, "true"),
        _ => return None,
    };
    words.all(|word| word != other).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn braces_in_a_problem_are_text() {
        let prompt = JudgePrompt::new(
            "{problem}|{gold}|{extracted}|{x}",
            "{gold}",
            &json!(27.0),
            "2",
        );
        assert_eq!(prompt.user, "{gold}|27.0|2|{x}");
    }

    #[test]
    fn the_two_readings_of_a_reply() {
        assert_eq!(seed_verdict("Not False but True"), Some(1));
        assert_eq!(strict_verdict("Not False but True"), None);
        assert_eq!(strict_verdict("The answer is False"), Some(0));
        assert_eq!(strict_verdict("**True**."), Some(1));
        assert_eq!(strict_verdict("true, as 1/2 is 0.5"), Some(1));
        for reply in ["", "maybe", "Not True", "True or False?", "Truely"] {
            assert_eq!(strict_verdict(reply), None, "{reply}");
        }
    }
}
