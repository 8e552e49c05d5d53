//! Where the cache is and how the hub is reached, from the environment variables of Python's
//! `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub, unless `HF_ENDPOINT` names another server.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longer than Python waits (10 s): a first connection through a slow proxy takes as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Covers a retry of a transfer that broke off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How the hub is reached.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache's folder (`.../huggingface/hub`).
    pub cache: PathBuf,
    /// The server, without a slash at its end.
    pub endpoint: String,
    /// An access token; never shown.
    pub token: Option<String>,
    /// Whether the network may not be used.
    pub offline: bool,
    /// How long an answer about a repository or a file is waited for.
    pub answer_timeout: Duration,
    /// How long a download may go without a byte.
    pub stall_timeout: Duration,
}

impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .field("answer_timeout", &self.answer_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .finish()
    }
}

impl HubSettings {
    /// Reads `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT` and
    /// their older names.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| set(name));
        let user = || set("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let home = set("HF_HOME").map_or_else(
            || {
                let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
                caches
                    .unwrap_or_else(|| user().join(".cache"))
                    .join("huggingface")
            },
            |path| expand(&path, &user()),
        );
        let cache = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let token_file = set("HF_TOKEN_PATH").map(|path| expand(&path, &user()));
        let stored = std::fs::read_to_string(token_file.unwrap_or_else(|| home.join("token")));
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or(stored.ok());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            cache: cache.map_or_else(|| home.join("hub"), |path| expand(&path, &user())),
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
                .is_some_and(|value| is_true(&value)),
            answer_timeout: seconds(set("HF_HUB_ETAG_TIMEOUT"), ANSWER_TIMEOUT),
            stall_timeout: seconds(set("HF_HUB_DOWNLOAD_TIMEOUT"), STALL_TIMEOUT),
        }
    }
}

/// A number of seconds, of at least one; what is none counts as not set, as for Python's.
fn seconds(value: Option<String>, default: Duration) -> Duration {
    let whole = value.and_then(|value| value.trim().parse::<u32>().ok());
    whole.map_or(default, |seconds| {
        Duration::from_secs(u64::from(seconds.max(1)))
    })
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str())
}

/// Replaces a leading `~`, as Python does for these variables.
fn expand(path: &str, user: &Path) -> PathBuf {
    match path.strip_prefix('~') {
        Some("") => user.to_owned(),
        Some(rest) if rest.starts_with('/') => user.join(&rest[1..]),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_lies_where_python_puts_it() {
        for (variables, cache) in [
            (&[("HOME", "/u")][..], "/u/.cache/huggingface/hub"),
            (
                &[("HOME", "/u"), ("XDG_CACHE_HOME", "/c")],
                "/c/huggingface/hub",
            ),
            (&[("HOME", "/u"), ("HF_HOME", "~/hf")], "/u/hf/hub"),
            (
                &[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/elsewhere")],
                "/elsewhere",
            ),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", " ")], "/hf/hub"),
        ] {
            assert_eq!(settings(variables).cache, Path::new(cache));
        }
    }

    #[test]
    fn token_endpoint_and_offline() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "stored\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let found = settings(&[("HF_HOME", home), ("HF_ENDPOINT", "http://mirror/ ")]);
        assert_eq!(found.token.as_deref(), Some("stored"));
        assert_eq!(found.endpoint, "http://mirror");
        assert!(!found.offline);
        let found = settings(&[
            ("HF_HOME", home),
            ("HF_TOKEN", "mine"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(found.token.as_deref(), Some("mine"));
        assert!(found.offline);
        assert!(!format!("{found:?}").contains("mine"));
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);
        let found = settings(&[
            ("HF_HUB_ETAG_TIMEOUT", "0"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "x"),
        ]);
        assert_eq!(found.answer_timeout, Duration::from_secs(1));
        assert_eq!(found.stall_timeout, STALL_TIMEOUT);
    }
}
