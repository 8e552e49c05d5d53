//! The hub room against a server on this machine that answers as the Hugging Face hub does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micota::hub::{Hub, HubError, HubSettings, RepoKind};
use micota::task::{DataSources, PromptOptions, Registry, prompts};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository's files: name, bytes, and the etag to claim for them.
#[derive(Clone, Default)]
struct Files(HashMap<String, (Vec<u8>, String)>);

impl Files {
    fn with(mut self, name: &str, bytes: &[u8]) -> Self {
        self.0
            .insert(name.to_owned(), (bytes.to_vec(), sha256(bytes)));
        self
    }

    fn claiming(mut self, name: &str, bytes: &[u8], etag: &str) -> Self {
        self.0
            .insert(name.to_owned(), (bytes.to_vec(), etag.to_owned()));
        self
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Server {
    endpoint: String,
    num_requests: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
}

/// Serves `files` as every repository until the test ends.
fn serve(files: Files) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server {
        endpoint: format!("http://{}", listener.local_addr().unwrap()),
        num_requests: Arc::default(),
        ranges: Arc::default(),
    };
    let (num_requests, ranges) = (server.num_requests.clone(), server.ranges.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            num_requests.fetch_add(1, Ordering::Relaxed);
            // A client that goes away is the test's business, not the server's.
            let _ = answer(stream, &files, &ranges);
        }
    });
    server
}

fn answer(stream: TcpStream, files: &Files, ranges: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut range = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        let lower = header.to_lowercase();
        if let Some(value) = lower.strip_prefix("range: bytes=") {
            range = Some(value.trim().to_owned());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut stream = stream;
    if path.starts_with("/api/") {
        let siblings: Vec<_> = files
            .0
            .keys()
            .map(|name| serde_json::json!({"rfilename": name}))
            .collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        let length = body.len();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
    }
    let name = path.split("/resolve/main/").nth(1).unwrap_or_default();
    let Some((bytes, etag)) = files.0.get(name) else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    };
    let range = range.unwrap_or_else(|| "0-".to_owned());
    ranges.lock().unwrap().push(range.clone());
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end
        .parse()
        .map_or(bytes.len(), |end: usize| end + 1)
        .min(bytes.len());
    if start >= bytes.len() {
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    }
    let (length, last, total) = (end - start, end - 1, bytes.len());
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-length: {length}\r\n\
         content-range: bytes {start}-{last}/{total}\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n\r\n"
    )?;
    stream.write_all(&bytes[start..end])
}

fn hub(server: &Server, cache: &std::path::Path) -> Hub {
    Hub::new(HubSettings {
        cache: cache.to_owned(),
        endpoint: server.endpoint.clone(),
        token: None,
        offline: false,
        answer_timeout: Duration::from_secs(30),
        stall_timeout: Duration::from_secs(30),
    })
}

#[test]
fn a_file_is_downloaded_once_and_found_again_offline() {
    let bytes = b"hello".repeat(1000);
    let server = serve(Files::default().with("data/a.jsonl", &bytes));
    let cache = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let online = hub(&server, cache.path())
        .with_progress(move |transfer| seen.lock().unwrap().push(transfer.done_bytes));
    let path = online
        .file(RepoKind::Dataset, "o/n", None, "data/a.jsonl")
        .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(told.lock().unwrap().last(), Some(&5000));
    let num_requests = server.num_requests.load(Ordering::Relaxed);
    let again = online
        .file(RepoKind::Dataset, "o/n", None, "data/a.jsonl")
        .unwrap();
    assert_eq!(again, path);
    assert_eq!(server.num_requests.load(Ordering::Relaxed), num_requests);
    let offline = Hub::new(HubSettings {
        offline: true,
        ..online.settings().clone()
    });
    assert_eq!(
        offline
            .file(RepoKind::Dataset, "o/n", None, "data/a.jsonl")
            .unwrap(),
        path
    );
    assert_eq!(
        offline.list(RepoKind::Dataset, "o/n", None).unwrap().files,
        ["data/a.jsonl"]
    );
    assert!(matches!(
        offline.file(RepoKind::Dataset, "o/n", None, "b"),
        Err(HubError::Offline { .. })
    ));
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
    let server = serve(Files::default().with("a.bin", &bytes));
    for kept in [2000, bytes.len()] {
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--o--n/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let part = blobs.join(format!("{}.part", sha256(&bytes)));
        std::fs::write(&part, &bytes[..kept]).unwrap();
        let path = hub(&server, cache.path())
            .file(RepoKind::Model, "o/n", None, "a.bin")
            .unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes);
    }
    assert!(server.ranges.lock().unwrap().contains(&"2000-".to_owned()));
}

#[test]
fn damaged_bytes_are_deleted_and_named() {
    let server = serve(Files::default().claiming("a.bin", b"other", &sha256(b"right")));
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    let error = hub.file(RepoKind::Model, "o/n", None, "a.bin").unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    let blobs = cache.path().join("models--o--n/blobs");
    let left = std::fs::read_dir(blobs)
        .unwrap()
        .flatten()
        .map(|e| e.file_name());
    let left: Vec<_> = left
        .filter(|name| !name.to_string_lossy().ends_with(".lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let cache = tempfile::tempdir().unwrap();
    // The connection comes about, for the system accepts it; then nothing.
    let hub = Hub::new(HubSettings {
        cache: cache.path().to_owned(),
        endpoint,
        token: None,
        offline: false,
        answer_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_millis(100),
    });
    let list = hub.list(RepoKind::Dataset, "o/n", None).map(|_| ());
    let file = hub.file(RepoKind::Dataset, "o/n", None, "a").map(|_| ());
    for error in [list.unwrap_err(), file.unwrap_err()] {
        let message = error.to_string();
        for part in ["nothing was heard for 0.1 s", "HF_HUB_OFFLINE", "o/n"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn answers_that_would_leave_the_cache_are_refused() {
    let server = serve(Files::default().claiming("a.bin", b"x", "../../../evil"));
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    let error = hub.file(RepoKind::Model, "o/n", None, "a.bin").unwrap_err();
    assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
    let error = hub
        .file(RepoKind::Model, "o/n", None, "missing")
        .unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
    let server = serve(Files::default().with("../../evil", b"x"));
    let cache = tempfile::tempdir().unwrap();
    let error = self::hub(&server, cache.path())
        .list(RepoKind::Model, "o/n", None)
        .unwrap_err();
    assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
}

#[test]
fn a_model_is_brought_with_the_shards_that_its_index_names() {
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let files = Files::default()
        .with("config.json", b"{}")
        .with("tokenizer.json", b"{}x")
        .with("model.safetensors.index.json", index)
        .with("model-00001-of-00002.safetensors", b"one")
        .with("model-00002-of-00002.safetensors", b"two")
        .with("consolidated.safetensors", b"again")
        .with("pytorch_model.bin", b"old");
    let server = serve(files);
    let cache = tempfile::tempdir().unwrap();
    let folder = hub(&server, cache.path()).model("o/n", None).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ]
    );
    let server = serve(
        Files::default()
            .with("m-q4.gguf", b"a")
            .with("m-q8.gguf", b"b"),
    );
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&server, cache.path()).model("o/n", None).unwrap_err();
    assert!(error.to_string().contains("2 GGUF files"), "{error}");
}

#[test]
fn a_task_without_local_data_reads_the_hub_s_rows() {
    let row = |id: u32| {
        format!(
            "{{\"id\":{id},\"problem\":\"P{id}\",\"solution\":\"s\",\"answer\":\"025\",\"url\":\"u\"}}\n"
        )
    };
    let rows: String = (0..90).map(row).collect();
    let server = serve(
        Files::default()
            .with("README.md", b"x")
            .with("data/train.jsonl", rows.as_bytes()),
    );
    let cache = tempfile::tempdir().unwrap();
    let task = Registry::load(&[])
        .unwrap()
        .resolve(&["AIME".to_owned()])
        .unwrap()
        .tasks
        .remove(0);
    let sources = DataSources::new(None, Some(hub(&server, cache.path())));
    let data = sources.load(&task).unwrap();
    assert_eq!(data.documents.len(), 30);
    let keys: Vec<&String> = data.documents[0].fields.keys().collect();
    assert_eq!(
        keys,
        ["id", "problem", "solution", "answer", "url", "question"]
    );
    let first = prompts(&task, &data, &[0], &PromptOptions::default()).unwrap();
    assert!(first[0].text.contains("Problem: P60\n"));
}

#[test]
fn without_data_both_ways_to_provide_it_are_named() {
    let cache = tempfile::tempdir().unwrap();
    let offline = Hub::new(HubSettings {
        cache: cache.path().to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        offline: true,
        ..HubSettings::from_env()
    });
    let task = Registry::load(&[])
        .unwrap()
        .resolve(&["gsm8k_zero".to_owned()])
        .unwrap()
        .tasks
        .remove(0);
    let sources = DataSources::new(Some(cache.path().to_owned()), Some(offline));
    let message = sources.load(&task).unwrap_err().to_string();
    for part in [
        "gsm8k/test.jsonl",
        "--data-dir",
        "MICOTA_DATA",
        "openai/gsm8k",
        "HF_HUB_OFFLINE",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
