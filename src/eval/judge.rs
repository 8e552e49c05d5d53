//! The second stage: a model judges the answers that the rule calls wrong.
//!
//! It stands exactly where the seed has it (`math_metric_llm_eval_general.py`): the plain boxed
//! rule decides first, only answers that were found and did not match are sent, and a response
//! without an answer is never judged. Its verdict is a column of its own and never the headline.
//! The seed's three files can be written; `golden/judge` pins them.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::EvalError;
use super::client::Client;
use crate::grade::boxed::{self, Variant};
use crate::task::python;

/// The seed's prompt: what the user says to the judge.
pub const DEFAULT_TEMPLATE: &str = "Given a math problem, its correct answer, and the model's generated answer, determine if the model's generated answer is correct. Respond with 'True' if the answer is correct and 'False' if it is incorrect. Directly provide your judgement 'True' or 'False' without any other description.\nProblem: {problem}\nCorrect Answer: {gold}\nModel's Generated Answer: {extracted}\nYour judgement:";

/// The seed wraps its prompt by hand in the template of the Qwen models.
const CHATML: [&str; 2] = [
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
];

/// New tokens that a judge may spend, as in the seed.
pub const MAX_JUDGE_TOKENS: usize = 20;
/// How often a request to a server is tried again.
const RETRIES: u32 = 3;
/// How long a server may take over one answer.
const TIMEOUT: Duration = Duration::from_secs(300);

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
    /// Replies to the prompts, in order.
    ///
    /// # Errors
    /// The judge cannot be reached or fails; what was graded before is not lost.
    fn replies(&mut self, prompts: &[JudgePrompt]) -> Result<Vec<String>, EvalError>;
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

/// The strict reading, which our own column uses: the reply must name exactly one of the two.
pub fn strict_verdict(reply: &str) -> Option<u8> {
    match (reply.contains("True"), reply.contains("False")) {
        (true, false) => Some(1),
        (false, true) => Some(0),
        _ => None,
    }
}

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

/// A judge behind an OpenAI-compatible chat endpoint.
pub struct EndpointJudge {
    client: Client,
    url: String,
    model: String,
}

impl EndpointJudge {
    /// A judge at `base_url` (such as `http://localhost:8000/v1`), with an API key if it wants one.
    pub fn new(base_url: &str, model: &str, key: Option<String>) -> Self {
        Self {
            client: Client::new(key, TIMEOUT, RETRIES),
            url: format!("{}/chat/completions", base_url.trim_end_matches('/')),
            model: model.to_owned(),
        }
    }

    fn reply(&self, prompt: &JudgePrompt) -> Result<String, EvalError> {
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt.user}],
            "temperature": 0,
            "max_tokens": MAX_JUDGE_TOKENS,
        });
        let reply = self.client.post(&self.url, &body)?;
        let text = reply.pointer("/choices/0/message/content");
        let text = text.and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| EvalError::Server {
            url: self.url.clone(),
            problem: "a reply without a message".to_owned(),
        })
    }
}

impl Judge for EndpointJudge {
    fn replies(&mut self, prompts: &[JudgePrompt]) -> Result<Vec<String>, EvalError> {
        use rayon::prelude::*;
        let this = &*self;
        prompts
            .par_iter()
            .map(|prompt| this.reply(prompt))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

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
        assert_eq!(strict_verdict("maybe"), None);
    }

    #[test]
    fn a_server_is_asked_in_its_own_language() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("max_tokens") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            let body = r#"{"choices":[{"message":{"content":"True"}}]}"#;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            String::from_utf8(request).unwrap()
        });
        let mut judge = EndpointJudge::new(&format!("http://{address}/v1/"), "m", Some("k".into()));
        let prompt = JudgePrompt {
            user: "right?".to_owned(),
        };
        assert_eq!(judge.replies(&[prompt]).unwrap(), ["True"]);
        let request = server.join().unwrap();
        assert!(
            request.starts_with("POST /v1/chat/completions"),
            "{request}"
        );
        assert!(
            request.to_lowercase().contains("authorization: bearer k"),
            "{request}"
        );
    }
}
