//! A judge behind an OpenAI-compatible chat endpoint.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Judge, JudgePrompt, MAX_JUDGE_TOKENS};
use crate::eval::EvalError;
use crate::eval::client::Client;

/// How often a request to a server is tried again.
const RETRIES: u32 = 3;
/// How long a server may take over one answer.
const TIMEOUT: Duration = Duration::from_secs(300);

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
    fn ask(
        &mut self,
        prompts: &[JudgePrompt],
        settle: &mut (dyn FnMut(usize, String) -> Result<(), EvalError> + Send),
    ) -> Result<(), EvalError> {
        let this = &*self;
        let settle = Mutex::new(settle);
        prompts
            .par_iter()
            .enumerate()
            .try_for_each(|(index, prompt)| {
                let reply = this.reply(prompt)?;
                let mut settle = settle.lock().unwrap_or_else(PoisonError::into_inner);
                settle(index, reply)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

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
        let mut replies = Vec::new();
        let mut settle = |index, reply| {
            replies.push((index, reply));
            Ok(())
        };
        judge.ask(&[prompt], &mut settle).unwrap();
        assert_eq!(replies, [(0, "True".to_owned())]);
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
