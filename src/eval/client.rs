//! Asking an OpenAI-compatible server: one POST, tried again when the failure may pass.

use std::time::Duration;

use serde_json::Value;

use super::EvalError;

/// Wait before the second attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// No wait is longer, whatever the server asks for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one reply. 16,000 tokens have about 64 KB.
const MAX_REPLY_BYTES: u64 = 64 << 20;
/// Characters of a refusal that an error quotes.
const MAX_QUOTED_CHARS: usize = 200;

/// A client of one or more servers; clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    key: Option<String>,
    retries: u32,
}

impl Client {
    /// A client that gives up on a request after `timeout`, tries `retries` times again, and
    /// authorises itself with `key`, which no message ever shows.
    pub fn new(key: Option<String>, timeout: Duration, retries: u32) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            .build();
        Self {
            agent: config.into(),
            key,
            retries,
        }
    }

    /// Posts a JSON body and returns the JSON reply.
    ///
    /// Waits between attempts: half a second, doubled with each, or what `Retry-After` says.
    ///
    /// # Errors
    /// The server refuses the request, or no attempt got through; the message says what came of
    /// the last one.
    pub fn post(&self, url: &str, body: &Value) -> Result<Value, EvalError> {
        let mut wait = FIRST_WAIT;
        let mut attempt = 0;
        loop {
            match self.ask(url, body) {
                Ok(reply) => return Ok(reply),
                Err(failure) if attempt == self.retries || !failure.may_pass => {
                    let tried = match attempt {
                        0 => String::new(),
                        n => format!(" (tried {} times)", n + 1),
                    };
                    return Err(EvalError::Server {
                        url: url.to_owned(),
                        problem: failure.problem + &tried,
                    });
                }
                Err(failure) => std::thread::sleep(failure.wait.unwrap_or(wait).min(MAX_WAIT)),
            }
            attempt += 1;
            wait *= 2;
        }
    }

    fn ask(&self, url: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.agent.post(url);
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send_json(body).map_err(Failure::of_transport)?;
        let status = response.status().as_u16();
        let wait = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_REPLY_BYTES)
            .read_to_string()
            .map_err(Failure::of_transport)?;
        let quoted = || -> String { text.chars().take(MAX_QUOTED_CHARS).collect() };
        if status != 200 {
            return Err(Failure {
                may_pass: status == 408 || status == 429 || status >= 500,
                wait,
                problem: format!("status {status}: {}", quoted()),
            });
        }
        serde_json::from_str(&text).map_err(|error| Failure {
            may_pass: false,
            wait: None,
            problem: format!("the reply is not JSON ({error}): {}", quoted()),
        })
    }
}

/// Why an attempt failed, and whether another one may not.
struct Failure {
    may_pass: bool,
    /// What the server asks for.
    wait: Option<Duration>,
    problem: String,
}

impl Failure {
    fn of_transport(error: ureq::Error) -> Self {
        Self {
            may_pass: true,
            wait: None,
            problem: error.to_string(),
        }
    }
}
