//! A generator behind an OpenAI-compatible server: lm_eval's `local-completions` and
//! `local-chat-completions`.
//!
//! Requests carry token ids; what a server is sent instead, where it tokenises itself, is the
//! prompt's text or its messages, which this generator gets by request when it is made. Up to
//! `num_concurrent` requests are under way at once, each on a thread of its own; an answer goes to
//! the journal like any other, so a run against a server resumes like any other.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::engine::{Request, RequestError, SamplingParams, cut_at_stop_strings};

use super::client::Client;
use super::generator::Answer;
use super::record::Finish;
use super::{EvalError, Generator, Load};

/// How long one step waits for an answer, so that an interruption is noticed.
const STEP: Duration = Duration::from_millis(100);
/// Stop strings of a chat request: OpenAI's limit. The others are found when the answer is here.
const MAX_CHAT_STOPS: usize = 4;

/// What a prompt travels as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Messages to `/chat/completions`; the server applies its chat template.
    Chat,
    /// Text to `/completions`; the server tokenises it.
    Text,
    /// Token ids to `/completions`.
    Tokens,
}

impl Wire {
    /// The word in a manifest: `chat`, `text` or `tokens`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Text => "text",
            Self::Tokens => "tokens",
        }
    }

    fn route(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Text | Self::Tokens => "/completions",
        }
    }

    /// The URL that is asked: `base_url`, with the route behind it unless it is there already.
    pub fn url(self, base_url: &str) -> String {
        let base_url = base_url.trim_end_matches('/');
        if base_url.ends_with("/completions") {
            return base_url.to_owned();
        }
        format!("{base_url}{}", self.route())
    }
}

/// Where and how to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL, see [`Wire::url`].
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// What prompts travel as.
    pub wire: Wire,
    /// Requests under way at once.
    pub num_concurrent: usize,
}

/// A server that continues prompts.
pub struct EndpointGenerator {
    endpoint: Endpoint,
    /// The prompts' texts by request; for [`Wire::Chat`] the messages as JSON.
    prompts: HashMap<u64, String>,
    queue: Arc<Queue>,
    answers: Receiver<Result<Answer, EvalError>>,
    /// Ends the run when the requests that were under way have been answered.
    failure: Option<EvalError>,
    /// Samples that have not come back.
    open: usize,
    generated_tokens: u64,
    prompt_tokens: u64,
}

/// What the threads share.
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the threads end after the requests they are at.
    fn close(&self) {
        self.jobs().closed = true;
        self.changed.notify_all();
    }
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Nothing is asked any more: a request has failed, or nobody waits for answers.
    closed: bool,
}

/// One sample of one request.
struct Job {
    request_id: u64,
    sample_index: usize,
    body: Value,
    stops: Vec<String>,
    max_gen_toks: usize,
}

impl EndpointGenerator {
    /// Starts the threads; nothing is asked before the first [`Generator::submit`].
    pub fn new(client: &Client, endpoint: Endpoint, prompts: HashMap<u64, String>) -> Self {
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            changed: Condvar::new(),
        });
        let (sender, answers) = channel();
        for _ in 0..endpoint.num_concurrent.max(1) {
            let (client, url) = (client.clone(), endpoint.url.clone());
            let (queue, sender) = (queue.clone(), sender.clone());
            std::thread::spawn(move || work(&client, &url, &queue, &sender));
        }
        Self {
            endpoint,
            prompts,
            queue,
            answers,
            failure: None,
            open: 0,
            generated_tokens: 0,
            prompt_tokens: 0,
        }
    }

    fn body(&self, request: &Request, sample_index: usize) -> Result<Value, EvalError> {
        let prompt = match self.endpoint.wire {
            Wire::Tokens => json!(request.prompt_token_ids),
            Wire::Text => json!(self.prompt(request)?),
            Wire::Chat => {
                serde_json::from_str(self.prompt(request)?).map_err(|error| EvalError::Server {
                    url: self.endpoint.url.clone(),
                    problem: format!("a chat server takes messages, the prompt has none: {error}"),
                })?
            }
        };
        let (key, max_stops) = match self.endpoint.wire {
            Wire::Chat => ("messages", MAX_CHAT_STOPS),
            Wire::Text | Wire::Tokens => ("prompt", usize::MAX),
        };
        let mut body = Map::new();
        body.insert("model".to_owned(), self.endpoint.model.as_str().into());
        body.insert(key.to_owned(), prompt);
        body.extend(sampling(&request.params, sample_index, max_stops));
        Ok(Value::Object(body))
    }

    fn prompt(&self, request: &Request) -> Result<&str, EvalError> {
        let prompt = self.prompts.get(&request.id);
        prompt
            .map(String::as_str)
            .ok_or(EvalError::UnknownCompletion {
                request_id: request.id,
                sample_index: 0,
            })
    }

    fn take(&mut self, answer: Answer) -> Answer {
        self.open -= 1;
        self.generated_tokens += answer.gen_tokens as u64;
        self.prompt_tokens += answer.prompt_tokens as u64;
        answer
    }
}

/// The sampling settings as a server reads them; what is at its neutral value is left out, because
/// not every server knows it.
fn sampling(params: &SamplingParams, sample_index: usize, max_stops: usize) -> Map<String, Value> {
    let mut settings = Map::new();
    let mut put = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    let stops = params.stop.iter().filter(|stop| !stop.is_empty());
    let stops: Vec<&String> = stops.take(max_stops).collect();
    put("max_tokens", params.max_gen_toks.into());
    put("temperature", rounded(params.temperature));
    if !stops.is_empty() {
        put("stop", json!(stops));
    }
    // Samples of one prompt differ by their seed, as they do by their index in our own engine.
    put("seed", params.seed.wrapping_add(sample_index as u64).into());
    if params.top_p < 1.0 {
        put("top_p", rounded(params.top_p));
    }
    if params.top_k > 0 {
        put("top_k", params.top_k.into());
    }
    if params.min_p > 0.0 {
        put("min_p", rounded(params.min_p));
    }
    if (params.repetition_penalty - 1.0).abs() > f32::EPSILON {
        put("repetition_penalty", rounded(params.repetition_penalty));
    }
    settings
}

/// The shortest number that reads as this one: 0.6, not 0.6000000238418579.
fn rounded(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().unwrap_or(f64::from(value));
    json!(shortest)
}

/// A thread: takes jobs until nobody waits for answers, or until one has failed for good.
fn work(client: &Client, url: &str, queue: &Queue, answers: &Sender<Result<Answer, EvalError>>) {
    loop {
        let job = {
            let mut jobs = queue.jobs();
            loop {
                if jobs.closed {
                    return;
                }
                if let Some(job) = jobs.waiting.pop_front() {
                    break job;
                }
                let woken = queue.changed.wait(jobs);
                jobs = woken.unwrap_or_else(PoisonError::into_inner);
            }
        };
        let begin = Instant::now();
        let answer = client
            .post(url, &job.body)
            .and_then(|reply| read(&reply, &job, begin.elapsed(), url));
        if answer.is_err() {
            queue.close();
        }
        if answers.send(answer).is_err() {
            return;
        }
    }
}

/// An answer from a server's reply.
fn read(reply: &Value, job: &Job, took: Duration, url: &str) -> Result<Answer, EvalError> {
    let choice = reply.pointer("/choices/0");
    let text = choice.and_then(|choice| {
        let text = choice
            .get("text")
            .or_else(|| choice.pointer("/message/content"))?;
        // A model that ends at once has the text null on some servers.
        text.is_null().then_some("").or_else(|| text.as_str())
    });
    let Some((choice, text)) = choice.zip(text) else {
        return Err(EvalError::Server {
            url: url.to_owned(),
            problem: "a reply without a text in choices[0]".to_owned(),
        });
    };
    let cut = cut_at_stop_strings(text, &job.stops);
    let rest = &text[cut.len()..];
    let found = job
        .stops
        .iter()
        .find(|stop| !stop.is_empty() && rest.starts_with(*stop));
    let named = choice.get("stop_reason").and_then(Value::as_str);
    let finish = match (found, named, choice["finish_reason"].as_str()) {
        (Some(stop), _, _) => Finish::Stop(stop.clone()),
        (None, _, Some("length")) => Finish::Length,
        (None, Some(stop), _) => Finish::Stop(stop.to_owned()),
        (None, None, _) => Finish::Eos,
    };
    let count = |key: &str| reply["usage"][key].as_u64().unwrap_or(0) as usize;
    Ok(Answer {
        request_id: job.request_id,
        sample_index: job.sample_index,
        text: cut.to_owned(),
        finish,
        prompt_tokens: count("prompt_tokens"),
        gen_tokens: count("completion_tokens"),
        max_gen_toks: job.max_gen_toks,
        cumulative_logprob: None,
        prefill_time: Duration::ZERO,
        decode_time: took,
    })
}

impl Generator for EndpointGenerator {
    /// The server knows its context, we do not: the budget is what was asked for.
    fn check(&self, request: &Request) -> Result<usize, RequestError> {
        Ok(request.params.max_gen_toks)
    }

    fn submit(&mut self, request: Request) -> Result<(), EvalError> {
        for sample_index in 0..request.params.n {
            let job = Job {
                request_id: request.id,
                sample_index,
                body: self.body(&request, sample_index)?,
                stops: request.params.stop.clone(),
                max_gen_toks: request.params.max_gen_toks,
            };
            self.queue.jobs().waiting.push_back(job);
            self.open += 1;
            self.queue.changed.notify_one();
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Answer>, EvalError> {
        let mut finished = Vec::new();
        let mut next = self.answers.recv_timeout(STEP);
        loop {
            match next {
                Ok(Ok(answer)) => finished.push(self.take(answer)),
                Ok(Err(error)) => {
                    self.failure.get_or_insert(error);
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) if finished.is_empty() => {
                    let failure = self.failure.take();
                    return Err(failure.expect("threads end after a failure, which they send"));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            next = self.answers.recv_timeout(Duration::ZERO);
        }
        Ok(finished)
    }

    fn is_idle(&self) -> bool {
        self.open == 0
    }

    fn load(&self) -> Load {
        let running = self.open.min(self.endpoint.num_concurrent.max(1));
        Load {
            running,
            waiting: self.open - running,
            generated_tokens: self.generated_tokens,
            prefill_tokens: self.prompt_tokens,
            kv_usage: None,
        }
    }
}

impl Drop for EndpointGenerator {
    /// Nobody waits for the threads.
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(stops: &[&str]) -> Job {
        Job {
            request_id: 7,
            sample_index: 0,
            body: Value::Null,
            stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            max_gen_toks: 16,
        }
    }

    fn answer(reply: &Value, stops: &[&str]) -> Result<Answer, EvalError> {
        read(
            reply,
            &job(stops),
            Duration::ZERO,
            "http://x/v1/completions",
        )
    }

    #[test]
    fn replies_of_both_routes_are_read() {
        let text = json!({"choices": [{"text": "4 Problem: next", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5}});
        let found = answer(&text, &["Q:", "Problem:"]).unwrap();
        assert_eq!(found.text, "4 ");
        assert_eq!(found.finish, Finish::Stop("Problem:".to_owned()));
        assert_eq!((found.prompt_tokens, found.gen_tokens), (9, 5));
        let chat = |finish: Value| json!({"choices": [{"message": {"content": "4"}, "finish_reason": finish}]});
        assert_eq!(
            answer(&chat("length".into()), &[]).unwrap().finish,
            Finish::Length
        );
        assert_eq!(
            answer(&chat("stop".into()), &[]).unwrap().finish,
            Finish::Eos
        );
        let named =
            json!({"choices": [{"text": "4", "finish_reason": "stop", "stop_reason": "Q:"}]});
        assert_eq!(
            answer(&named, &["Q:"]).unwrap().finish,
            Finish::Stop("Q:".to_owned())
        );
        let null = json!({"choices": [{"message": {"content": null}}]});
        assert_eq!(answer(&null, &[]).unwrap().text, "");
        for reply in [
            json!({}),
            json!({"choices": []}),
            json!({"choices": [{"text": 3}]}),
            json!([]),
        ] {
            assert!(answer(&reply, &[]).is_err(), "{reply}");
        }
    }

    #[test]
    fn a_url_is_taken_whole_or_completed() {
        for (base, wire, url) in [
            ("http://h/v1/", Wire::Text, "http://h/v1/completions"),
            ("http://h/v1", Wire::Chat, "http://h/v1/chat/completions"),
            (
                "http://h/v1/completions",
                Wire::Tokens,
                "http://h/v1/completions",
            ),
            (
                "http://h/v1/chat/completions/",
                Wire::Chat,
                "http://h/v1/chat/completions",
            ),
        ] {
            assert_eq!(wire.url(base), url);
        }
    }

    #[test]
    fn only_settings_that_do_something_are_sent() {
        let params = SamplingParams {
            temperature: 0.6,
            seed: 5,
            stop: vec!["a".to_owned(), String::new(), "b".to_owned()],
            max_gen_toks: 32,
            ..SamplingParams::default()
        };
        let sent = Value::Object(sampling(&params, 2, 1));
        let expected = json!({"max_tokens": 32, "temperature": 0.6, "stop": ["a"], "seed": 7});
        assert_eq!(sent, expected);
    }
}
