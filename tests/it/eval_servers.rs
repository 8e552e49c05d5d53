//! `micota eval` against OpenAI-compatible servers on this machine: what is sent, what becomes of
//! the answers, and that a run goes on where it was broken off.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::eval_runs::{micota_eval, stderr};

/// A request that a server got.
#[derive(Clone)]
pub(crate) struct Asked {
    path: String,
    authorization: Option<String>,
    body: Value,
}

/// Decides the status and body of the answer to the n-th request, from 0.
type Script = dyn Fn(usize, &Asked) -> (u16, Value) + Send + Sync;

pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(
        script: impl Fn(usize, &Asked) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (seen, script): (_, Arc<Script>) = (asked.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (seen.clone(), script.clone());
                // A client that goes away is the test's business, not the server's.
                std::thread::spawn(move || drop(answer(stream, &seen, &*script)));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, seen: &Mutex<Vec<Asked>>, script: &Script) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut start = String::new();
    reader.read_line(&mut start)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body)?;
    let asked = Asked {
        path: start.split(' ').nth(1).unwrap().to_owned(),
        authorization: headers.get("authorization").cloned(),
        body: serde_json::from_slice(&body).unwrap(),
    };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.clone());
        seen.len() - 1
    };
    let (status, reply) = script(number, &asked);
    let (reply, mut stream) = (reply.to_string(), stream);
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{reply}",
        reply.len()
    )
}

/// The last message or the prompt as text.
fn question(body: &Value) -> &str {
    let last = body["messages"]
        .as_array()
        .and_then(|messages| messages.last());
    last.map_or(&body["prompt"], |message| &message["content"])
        .as_str()
        .unwrap()
}

/// A right answer to a question of the demo task, by its data.
fn solve(question: &str) -> String {
    let rows = include_str!("../../tasks/demo-arith/test.jsonl");
    let mut rows = rows
        .lines()
        .map(|row| serde_json::from_str::<Value>(row).unwrap());
    let row = rows.find(|row| question.contains(row["question"].as_str().unwrap()));
    format!("\\boxed{{{}}}", row.unwrap()["answer"].as_str().unwrap())
}

fn eval(backend: &str, model_args: &str, folder: &Path) -> Command {
    let mut command = micota_eval(&["--model", backend, "--model_args", model_args]);
    command.args(["--tasks", "demo-arith", "--limit", "12", "--log_samples"]);
    command.arg("--output_path").arg(folder).arg("--json");
    command.env_remove("OPENAI_API_KEY");
    command
}

fn score(output: &Output) -> f64 {
    assert!(output.status.success(), "{}", stderr(output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    results["results"]["demo-arith"]["exact_match,none"]
        .as_f64()
        .unwrap()
}

/// The lines of the one samples file below a folder, by document.
fn samples(folder: &Path) -> Vec<Value> {
    let logs = micota::eval::log_reader::sample_logs(folder, true).unwrap();
    assert_eq!(logs.len(), 1);
    let text = std::fs::read_to_string(&logs[0]).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_chat_server_is_sent_messages_and_its_answers_are_graded() {
    let server = Server::start(|number, asked| {
        let mut text = solve(question(&asked.body));
        if number == 0 {
            text = "Problem: again".to_owned();
        }
        let reply = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 6}});
        (200, reply)
    });
    let folder = tempfile::tempdir().unwrap();
    let model_args = format!("model=tiny,base_url={}", server.url);
    let mut command = eval("local-chat-completions", &model_args, folder.path());
    command.args([
        "--apply_chat_template",
        "--system_instruction",
        "Be \"brief\".",
    ]);
    command.env("OPENAI_API_KEY", "secret");
    let output = command.output().unwrap();
    assert!((score(&output) - 11.0 / 12.0).abs() < 1e-9);
    let asked = server.asked();
    assert_eq!(asked.len(), 12);
    assert_eq!(asked[0].path, "/v1/chat/completions");
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer secret"));
    let body = &asked[0].body;
    assert_eq!(body["messages"][0]["role"], "system");
    assert_eq!(body["messages"][0]["content"], "Be \"brief\".");
    assert_eq!(body["messages"][1]["role"], "user");
    assert_eq!(body["model"], "tiny");
    assert_eq!(
        (&body["max_tokens"], &body["temperature"]),
        (&json!(128), &json!(0.0))
    );
    assert_eq!(body["stop"], json!(["Problem:"]));
    let rows = samples(folder.path());
    let cut = rows
        .iter()
        .find(|row| row["stop_hit"] == json!(["Problem:"]));
    assert_eq!(cut.unwrap()["resps"], json!([[""]]));
    assert_eq!(
        (&rows[1]["prompt_tokens"], &rows[1]["gen_tokens"]),
        (&json!(40), &json!([6]))
    );
    assert!(!stderr(&output).contains("secret"));
    let files = std::fs::read_dir(folder.path().join("tiny")).unwrap();
    for file in files {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("secret"));
    }
}

#[test]
fn a_chat_server_needs_messages() {
    let folder = tempfile::tempdir().unwrap();
    let model_args = "model=tiny,base_url=http://127.0.0.1:9/v1";
    let output = eval("local-chat-completions", model_args, folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--apply_chat_template"));
}

#[test]
fn text_goes_to_a_completions_server_and_token_ids_where_the_tokenizer_is_here() {
    let server = Server::start(|_, asked| {
        let text = match asked.body["prompt"].is_array() {
            true => "no idea".to_owned(),
            false => solve(question(&asked.body)),
        };
        (
            200,
            json!({"choices": [{"text": text, "finish_reason": "length"}]}),
        )
    });
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{}/completions", server.url);
    let text_args = format!("model=tiny,base_url={url},num_concurrent=4");
    let output = eval("local-completions", &text_args, &folder.path().join("text"))
        .output()
        .unwrap();
    assert!((score(&output) - 1.0).abs() < 1e-9);
    assert!(!stderr(&output).contains("change nothing"));
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.path == "/v1/completions"));
    assert!(asked[0].authorization.is_none());
    assert!(question(&asked[0].body).starts_with("Solve the following math problem."));
    let rows = samples(&folder.path().join("text"));
    assert_eq!(rows[0]["prompt_token_ids_hash"], Value::Null);
    assert_eq!(rows[0]["truncated"], json!([true]));

    let token_args = format!("{text_args},tokenizer=demo/model,api_key_env=MY_KEY");
    let mut command = eval("local-completions", &token_args, &folder.path().join("ids"));
    command.args([
        "--apply_chat_template",
        "--gen_kwargs",
        "do_sample=true,temperature=0.6,top_p=0.9",
    ]);
    command.args(["--dtype", "f32"]);
    let output = command.env("MY_KEY", "k").output().unwrap();
    assert!(score(&output).abs() < 1e-9);
    assert!(stderr(&output).contains("the engine's flags and --batch_size change nothing"));
    let asked = server.asked().split_off(12);
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer k"));
    let body = &asked[0].body;
    let rows = samples(&folder.path().join("ids"));
    let ids = body["prompt"].as_array().unwrap().len();
    assert!(rows.iter().any(|row| row["prompt_tokens"] == ids));
    assert_eq!(body["stop"], json!(["Problem:", "<|im_end|>"]));
    assert_eq!(
        (&body["temperature"], &body["top_p"]),
        (&json!(0.6), &json!(0.9))
    );
}

#[test]
fn failures_that_pass_are_tried_again_and_others_are_not() {
    let server = Server::start(|number, asked| match number {
        0 => (503, json!({"error": "busy"})),
        _ => (
            200,
            json!({"choices": [{"text": solve(question(&asked.body))}]}),
        ),
    });
    let folder = tempfile::tempdir().unwrap();
    let model_args = format!("model=tiny,base_url={}", server.url);
    let output = eval("local-completions", &model_args, folder.path())
        .output()
        .unwrap();
    assert!((score(&output) - 1.0).abs() < 1e-9);
    assert_eq!(server.asked().len(), 13);

    let server = Server::start(|_, _| (401, json!({"error": "who are you?"})));
    let model_args = format!("model=tiny,base_url={}", server.url);
    let output = eval("local-completions", &model_args, &folder.path().join("b"))
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("status 401") && message.contains("who are you?"),
        "{message}"
    );
    assert!(message.contains(&server.url), "{message}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_run_that_the_server_broke_off_goes_on_where_it_was() {
    // The first life answers five requests, the second the rest.
    let server = Server::start(|number, asked| match number {
        5 => (400, json!({"error": "out of order"})),
        _ => (
            200,
            json!({"choices": [{"text": solve(question(&asked.body))}]}),
        ),
    });
    let folder = tempfile::tempdir().unwrap();
    let model_args = format!("model=tiny,base_url={}", server.url);
    let run = || {
        let mut command = eval("local-completions", &model_args, folder.path());
        command.output().unwrap()
    };
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let output = run();
    assert!((score(&output) - 1.0).abs() < 1e-9);
    assert!(stderr(&output).contains("5 answers are there from an earlier run"));
    assert_eq!(server.asked().len(), 13);
    let ids: Vec<u64> = samples(folder.path())
        .iter()
        .map(|row| row["doc_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, (0..12).collect::<Vec<_>>());
}

#[test]
fn answers_under_way_when_another_request_fails_are_kept() {
    let together = Barrier::new(4);
    let server = Server::start(move |number, asked| {
        if number < 4 {
            together.wait();
        }
        match number {
            1 => (400, json!({"error": "out of order"})),
            _ => {
                std::thread::sleep(Duration::from_millis(200));
                let text = solve(question(&asked.body));
                (200, json!({"choices": [{"text": text}]}))
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let model_args = format!("model=tiny,base_url={},num_concurrent=4", server.url);
    let run = || {
        let mut command = eval("local-completions", &model_args, folder.path());
        command.output().unwrap()
    };
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("out of order"));
    let output = run();
    assert!((score(&output) - 1.0).abs() < 1e-9);
    assert!(stderr(&output).contains("3 answers are there from an earlier run"));
    assert_eq!(server.asked().len(), 13);
}

#[test]
fn a_server_can_be_a_teacher() {
    let server = Server::start(|_, asked| {
        let text = solve(question(&asked.body));
        let reply = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 6}});
        (200, reply)
    });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("data.json");
    let make = |limit: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
        command.args(["data", "make", "--problems", "tasks/demo-arith/test.jsonl"]);
        command.args(["--limit", limit, "--system", "Think.", "--out"]);
        command.arg(&out).arg("--model");
        command.arg(format!("{}#big", server.url));
        command.env_remove("OPENAI_API_KEY");
        command.output().unwrap()
    };
    let output = make("5");
    assert!(output.status.success(), "{}", stderr(&output));
    let records: Vec<Value> = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(records.len(), 5);
    assert_eq!(records[0]["model"], "big");
    assert_eq!(records[0]["answer"], records[0]["resp_answer"]);
    let asked = server.asked();
    assert_eq!(
        (asked.len(), asked[0].path.as_str()),
        (5, "/v1/chat/completions")
    );
    assert_eq!(asked[0].body["messages"][0]["content"], "Think.");
    // Everything is in the journal: nobody is asked again.
    assert!(make("5").status.success());
    assert_eq!(server.asked().len(), 5);
}
