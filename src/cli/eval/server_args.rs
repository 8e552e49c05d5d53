//! `--model local-completions` and its kin: the arguments of lm_eval's clients of servers.

use std::time::Duration;

use serde_json::{Map, Value};

use super::model_args::{count, flag};
use crate::cli::exit::usage;
use crate::eval::client::Client;
use crate::eval::endpoint::{Endpoint, Wire};
use crate::task::python;

/// lm_eval's names: whether the server is asked by `/chat/completions`, and its usual place.
const SERVERS: [(&str, bool, Option<&str>); 4] = [
    ("local-completions", false, None),
    ("local-chat-completions", true, None),
    (
        "openai-completions",
        false,
        Some("https://api.openai.com/v1"),
    ),
    (
        "openai-chat-completions",
        true,
        Some("https://api.openai.com/v1"),
    ),
];
/// Keys that are read.
pub(super) const KEYS: [&str; 25] = [
    "model",
    "pretrained",
    "base_url",
    "api_key_env",
    "num_concurrent",
    "max_retries",
    "timeout",
    "tokenizer",
    "tokenizer_backend",
    "tokenized_requests",
    "eos_string",
    "add_bos_token",
    "max_gen_toks",
    "max_length",
    "seed",
    "batch_size",
    "enable_thinking",
    "think_end_token",
    "chat_template_args",
    "truncate",
    "header",
    "auth_token",
    "verify_certificate",
    "revision",
    "trust_remote_code",
];
/// lm_eval's defaults.
const DEFAULT_RETRIES: usize = 3;
const DEFAULT_TIMEOUT_S: usize = 300;
/// Where the key of the server is, unless `api_key_env` names another variable.
const DEFAULT_KEY_VARIABLE: &str = "OPENAI_API_KEY";
/// Requests under way at once, at most: each has a thread.
const MAX_CONCURRENT: usize = 1024;

/// Whether `--model` names a client of servers.
pub(super) fn is_server(model: &str) -> bool {
    SERVERS.iter().any(|(name, ..)| *name == model)
}

/// A server, resolved from `--model` and `--model_args`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerArgs {
    /// The model's name there.
    pub(super) model: String,
    /// What is asked.
    pub(super) url: String,
    /// What prompts travel as.
    pub(super) wire: Wire,
    /// A folder or GGUF file with the model's tokenizer, on this machine.
    pub(super) tokenizer: Option<String>,
    /// The text that ends a turn.
    pub(super) eos_string: Option<String>,
    num_concurrent: usize,
    retries: u32,
    timeout: Duration,
    key_variable: String,
}

impl ServerArgs {
    pub(super) fn new(
        backend: &str,
        parsed: &Map<String, Value>,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let text = |key: &str| parsed.get(key).filter(|v| !v.is_null()).map(python::text);
        let known = SERVERS.iter().find(|(name, ..)| *name == backend);
        let (chat, place) = known.map_or((false, None), |(_, chat, place)| (*chat, *place));
        let missing = |key: &str, what: &str| {
            usage(anyhow::anyhow!(
                "--model {backend}: {what}; add --model_args {key}=..."
            ))
        };
        let base_url = text("base_url").or_else(|| place.map(str::to_owned));
        let base_url = base_url.ok_or_else(|| {
            missing(
                "base_url",
                "where is the server, such as http://localhost:8000/v1/completions?",
            )
        })?;
        let named = text("model").or_else(|| text("pretrained"));
        let model = named.ok_or_else(|| missing("model", "which of the server's models?"))?;
        refuse(parsed, &text)?;
        let tokenizer = match text("tokenizer") {
            Some(tokenizer) if chat => {
                notes.push(format!(
                    "tokenizer={tokenizer}: not used, a chat server applies its own template"
                ));
                None
            }
            tokenizer => tokenizer.filter(|_| text("tokenizer_backend").as_deref() != Some("None")),
        };
        let tokenized = flag(parsed, "tokenized_requests")?;
        let wire = match (chat, &tokenizer, tokenized) {
            (true, ..) => Wire::Chat,
            (false, Some(_), None | Some(true)) => Wire::Tokens,
            (false, None, Some(true)) => {
                return Err(missing(
                    "tokenizer",
                    "tokenized_requests=True needs the model's tokenizer on this machine",
                ));
            }
            (false, ..) => Wire::Text,
        };
        let without_effect = [
            ("max_length", "prompts are never cut here"),
            (
                "batch_size",
                "num_concurrent says how many requests run at once",
            ),
        ];
        for (key, why) in without_effect {
            if let Some(value) = text(key) {
                notes.push(format!("{key}={value}: {why}"));
            }
        }
        let num_concurrent = count(parsed, "num_concurrent")?.unwrap_or(1);
        if num_concurrent == 0 || num_concurrent > MAX_CONCURRENT {
            return Err(usage(anyhow::anyhow!(
                "--model_args num_concurrent={num_concurrent}: expected 1 to {MAX_CONCURRENT}"
            )));
        }
        let retries = count(parsed, "max_retries")?.unwrap_or(DEFAULT_RETRIES);
        let timeout = count(parsed, "timeout")?.unwrap_or(DEFAULT_TIMEOUT_S);
        Ok(Self {
            url: wire.url(&base_url),
            model,
            wire,
            tokenizer,
            eos_string: text("eos_string"),
            num_concurrent,
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
            timeout: Duration::from_secs(timeout.max(1) as u64),
            key_variable: text("api_key_env").unwrap_or_else(|| DEFAULT_KEY_VARIABLE.to_owned()),
        })
    }

    /// What the generator is told.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            model: self.model.clone(),
            wire: self.wire,
            num_concurrent: self.num_concurrent,
        }
    }

    /// A client with the key from the environment, if there is one.
    pub(super) fn client(&self) -> Client {
        let key = std::env::var(&self.key_variable).ok();
        let key = key.filter(|key| !key.trim().is_empty());
        Client::new(key, self.timeout, self.retries)
    }
}

/// What would change the answers, or carry a secret where it shows, and is not done.
fn refuse(
    parsed: &Map<String, Value>,
    text: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<()> {
    for key in ["header", "auth_token"] {
        if parsed.contains_key(key) {
            return Err(usage(anyhow::anyhow!(
                "--model_args {key}: a key on the command line shows in the list of processes; put \
                 it into an environment variable and give its name, api_key_env=NAME"
            )));
        }
    }
    if flag(parsed, "verify_certificate")? == Some(false) {
        return Err(usage(anyhow::anyhow!(
            "--model_args verify_certificate=False: certificates are always checked; use http:// \
             to a server on this machine"
        )));
    }
    if flag(parsed, "truncate")? == Some(true) {
        return Err(usage(anyhow::anyhow!(
            "--model_args truncate=True: prompts are never cut here"
        )));
    }
    if flag(parsed, "add_bos_token")? == Some(true) && text("tokenizer").is_none() {
        return Err(usage(anyhow::anyhow!(
            "--model_args add_bos_token=True: needs tokenizer=FOLDER; without it the server \
             tokenises and decides"
        )));
    }
    match text("tokenizer_backend").as_deref() {
        None | Some("huggingface" | "None" | "none") => Ok(()),
        Some(other) => Err(usage(anyhow::anyhow!(
            "--model_args tokenizer_backend={other}: expected huggingface (with tokenizer=FOLDER) \
             or None"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::parse_kwargs;

    fn read(backend: &str, text: &str) -> Result<(ServerArgs, Vec<String>), String> {
        let mut notes = Vec::new();
        let parsed = parse_kwargs(text).unwrap();
        match ServerArgs::new(backend, &parsed, &mut notes) {
            Ok(args) => Ok((args, notes)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn lm_eval_s_arguments_are_understood() {
        let text =
            "model=m,base_url=http://h:1/v1/completions,num_concurrent=8,max_retries=0,timeout=9";
        let (args, notes) = read("local-completions", text).unwrap();
        assert_eq!(args.url, "http://h:1/v1/completions");
        assert_eq!(
            (args.wire, args.num_concurrent, args.retries),
            (Wire::Text, 8, 0)
        );
        assert_eq!(args.timeout, Duration::from_secs(9));
        assert!(notes.is_empty());
        let text = "model=m,base_url=http://h/v1,tokenizer=t,max_length=2048";
        let (args, notes) = read("local-completions", text).unwrap();
        assert_eq!(
            (args.wire, args.tokenizer.as_deref()),
            (Wire::Tokens, Some("t"))
        );
        assert_eq!(notes.len(), 1);
        let (args, notes) = read("local-chat-completions", text).unwrap();
        assert_eq!((args.wire, args.tokenizer), (Wire::Chat, None));
        assert_eq!(
            (args.url.as_str(), notes.len()),
            ("http://h/v1/chat/completions", 2)
        );
        let (args, _) = read("openai-chat-completions", "model=m").unwrap();
        assert_eq!(args.url, "https://api.openai.com/v1/chat/completions");
    }

    #[test]
    fn what_is_missing_or_unsafe_is_named() {
        for (text, part) in [
            ("model=m", "base_url"),
            ("base_url=http://h", "which of the server's models"),
            ("model=m,base_url=u,tokenized_requests=True", "tokenizer"),
            ("model=m,base_url=u,header=x", "api_key_env"),
            (
                "model=m,base_url=u,verify_certificate=False",
                "certificates",
            ),
            ("model=m,base_url=u,num_concurrent=0", "1 to 1024"),
            (
                "model=m,base_url=u,tokenizer_backend=tiktoken",
                "huggingface",
            ),
            ("model=m,base_url=u,add_bos_token=True", "tokenizer=FOLDER"),
        ] {
            let message = read("local-completions", text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
