//! Finding a file in the cache, or bringing it there.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

use super::error::HubError;
use super::patience::{Pulse, patiently};
use super::settings::HubSettings;
use crate::durable::free_bytes;

/// Attempts after a transfer breaks off; each goes on where the last one stopped.
const MAX_RETRIES: usize = 5;
/// Bytes left free on the disk after a download.
const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// Files listed for one repository.
const MAX_FILES: usize = 200_000;
/// Folders inside folders of a cached snapshot.
const MAX_DEPTH: usize = 32;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// How far a download has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The file's name in its repository.
    pub file: String,
    /// Bytes here.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The files of a repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// File names, `/` between folders, in byte order.
    pub files: Vec<String>,
}

type OnProgress = Arc<dyn Fn(&Transfer) + Send + Sync>;

/// The hub and its cache.
#[derive(Clone)]
pub struct Hub {
    settings: HubSettings,
    on_progress: Option<OnProgress>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hub").field(&self.settings).finish()
    }
}

impl Hub {
    /// The hub as `settings` say.
    pub fn new(settings: HubSettings) -> Self {
        Self {
            settings,
            on_progress: None,
        }
    }

    /// The hub as the environment variables say.
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// Calls `on_progress` while files are downloaded.
    #[must_use]
    pub fn with_progress(
        mut self,
        on_progress: impl Fn(&Transfer) + Send + Sync + 'static,
    ) -> Self {
        self.on_progress = Some(Arc::new(on_progress));
        self
    }

    /// How the hub is reached.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Lists a repository's files; where the hub cannot be asked, those in the cache.
    ///
    /// `revision` is a branch, tag or commit; `None` means `main`.
    ///
    /// # Errors
    /// A malformed id, no answer and nothing in the cache.
    pub fn list(
        &self,
        kind: RepoKind,
        id: &str,
        revision: Option<&str>,
    ) -> Result<Listing, HubError> {
        let place = Location::new(self, kind, id, revision)?;
        if self.settings.offline {
            return place
                .cached_listing()
                .ok_or_else(|| self.offline(id, "the list of files"));
        }
        let answer = place.remote(self).map_err(Failed::Api).and_then(|repo| {
            let patience = self.settings.answer_timeout;
            wait(patience, move |_| repo.info().map_err(Box::new))
        });
        match answer {
            Ok(info) => {
                let mut files: Vec<String> = info
                    .siblings
                    .into_iter()
                    .map(|file| file.rfilename)
                    .collect();
                if let Some(name) = files.iter().find(|name| !is_plain_path(name)) {
                    return Err(unsafe_name(id, "a file", name));
                }
                if !is_plain_name(&info.sha) {
                    return Err(unsafe_name(id, "a commit", &info.sha));
                }
                files.sort();
                files.truncate(MAX_FILES);
                let commit = info.sha;
                Ok(Listing { commit, files })
            }
            Err(error) => match place.cached_listing() {
                Some(listing) => {
                    tracing::warn!("{id}: the hub does not answer, going on with the cached files");
                    Ok(listing)
                }
                None => Err(self.request(id, "the list of files", &error)),
            },
        }
    }

    /// The path of one file, downloaded if the cache lacks it.
    ///
    /// # Errors
    /// No such file or repository, no network, no room on the disk, damaged bytes.
    pub fn file(
        &self,
        kind: RepoKind,
        id: &str,
        revision: Option<&str>,
        file: &str,
    ) -> Result<PathBuf, HubError> {
        if !is_plain_path(file) {
            return Err(unsafe_name(id, "a file", file));
        }
        let place = Location::new(self, kind, id, revision)?;
        if let Some(path) = place.cached(file) {
            return Ok(path);
        }
        if self.settings.offline {
            return Err(self.offline(id, file));
        }
        self.download(&place, file)
    }

    fn download(&self, place: &Location, file: &str) -> Result<PathBuf, HubError> {
        let id = &place.id;
        let request = |failed: Failed| self.request(id, file, &failed);
        let api = place.api(self).map_err(Failed::Api).map_err(request)?;
        let repo = api.repo(place.repo.clone());
        let url = repo.url(file);
        let metadata = wait(self.settings.answer_timeout, move |_| {
            api.metadata(&url).map_err(Box::new)
        });
        let metadata = metadata.map_err(request)?;
        let (etag, size) = (metadata.etag().to_owned(), metadata.size() as u64);
        // Both become path components of the cache.
        if !is_plain_name(&etag) {
            return Err(unsafe_name(id, "an etag", &etag));
        }
        if !is_plain_name(metadata.commit_hash()) {
            return Err(unsafe_name(id, "a commit", metadata.commit_hash()));
        }
        let blob = place.folder.join("blobs").join(&etag);
        let part = blob.with_extension("part");
        self.check_room(place, file, size, &part)?;
        let transfer = Transfer {
            file: file.to_owned(),
            done_bytes: 0,
            total_bytes: size,
        };
        if std::fs::metadata(&part).is_ok_and(|part| part.len() >= size) {
            // Killed between the last byte and the rename: the server has no range left to send.
            let io = |source| HubError::Io {
                path: part.clone(),
                source,
            };
            std::fs::remove_file(&part).map_err(io)?;
        }
        let (on_progress, name) = (self.on_progress.clone(), file.to_owned());
        let path = wait(self.settings.stall_timeout, move |pulse| {
            let relay = Relay {
                on_progress,
                transfer,
                pulse,
            };
            let path = repo.download_with_progress(&name, relay);
            path.map_err(Box::new)
        });
        let path = path.map_err(request)?;
        verify(id, file, &path, &blob, &etag)?;
        Ok(path)
    }

    fn check_room(
        &self,
        place: &Location,
        file: &str,
        size: u64,
        part: &Path,
    ) -> Result<(), HubError> {
        let here = std::fs::metadata(part).map_or(0, |part| part.len());
        let needed = size.saturating_sub(here);
        match free_bytes(&self.settings.cache) {
            Ok(free) if free < needed.saturating_add(DISK_RESERVE_BYTES) => {
                Err(HubError::DiskFull {
                    id: place.id.clone(),
                    file: file.to_owned(),
                    needed,
                    free,
                    cache: self.settings.cache.clone(),
                })
            }
            // A file system that does not tell is found out by writing.
            _ => Ok(()),
        }
    }

    fn offline(&self, id: &str, what: &str) -> HubError {
        HubError::Offline {
            id: id.to_owned(),
            what: what.to_owned(),
            cache: self.settings.cache.clone(),
        }
    }

    fn request(&self, id: &str, what: &str, failed: &Failed) -> HubError {
        let problem = match failed {
            Failed::Silent(patience) => format!(
                "nothing was heard for {} s; check the network, set HF_HUB_OFFLINE=1 to use the \
                 cache, or wait longer with HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT",
                patience.as_secs_f64()
            ),
            Failed::Api(error) => self::problem(error),
        };
        HubError::Request {
            id: id.to_owned(),
            what: what.to_owned(),
            endpoint: self.settings.endpoint.clone(),
            problem,
        }
    }
}

/// Why the hub was asked in vain.
enum Failed {
    Api(Box<ApiError>),
    /// It said nothing for this long.
    Silent(Duration),
}

/// See [`patiently`].
fn wait<T: Send + 'static>(
    patience: Duration,
    call: impl FnOnce(Pulse<Result<T, Box<ApiError>>>) -> Result<T, Box<ApiError>> + Send + 'static,
) -> Result<T, Failed> {
    let answer = patiently(patience, call).ok_or(Failed::Silent(patience))?;
    answer.map_err(Failed::Api)
}

/// What an error of hf-hub means, and what may help.
fn problem(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(401 | 403) => {
                "access refused: set HF_TOKEN to a token that may read it (or the id does not \
                     exist)"
                    .to_owned()
            }
            ureq::Error::StatusCode(404) => "not there: check the id and file name".to_owned(),
            _ => {
                format!("{error}; check the network, or set HF_HUB_OFFLINE=1 to use the cache")
            }
        },
        other => other.to_string(),
    }
}

/// One revision of one repository in the cache.
struct Location {
    id: String,
    repo: Repo,
    /// The repository's folder in the cache.
    folder: PathBuf,
    revision: String,
}

impl Location {
    fn new(hub: &Hub, kind: RepoKind, id: &str, revision: Option<&str>) -> Result<Self, HubError> {
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_plain_name(part)) {
            return Err(HubError::BadId { id: id.to_owned() });
        }
        let revision = revision.unwrap_or("main").to_owned();
        if !is_plain_path(&revision) {
            return Err(unsafe_name(id, "a revision", &revision));
        }
        let kind = match kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        let repo = Repo::with_revision(id.to_owned(), kind, revision.clone());
        Ok(Self {
            id: id.to_owned(),
            folder: hub.settings.cache.join(repo.folder_name()),
            repo,
            revision,
        })
    }

    fn api(&self, hub: &Hub) -> Result<Api, Box<ApiError>> {
        ApiBuilder::from_cache(Cache::new(hub.settings.cache.clone()))
            .with_endpoint(hub.settings.endpoint.clone())
            .with_token(hub.settings.token.clone())
            .with_retries(MAX_RETRIES)
            .with_progress(false)
            .with_user_agent("micota", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(Box::new)
    }

    fn remote(&self, hub: &Hub) -> Result<ApiRepo, Box<ApiError>> {
        Ok(self.api(hub)?.repo(self.repo.clone()))
    }

    /// The snapshot that the cache has for the revision: named by a ref, or by the commit itself.
    fn snapshot(&self) -> Option<(String, PathBuf)> {
        let named = std::fs::read_to_string(self.folder.join("refs").join(&self.revision));
        let commit = named.map_or_else(|_| self.revision.clone(), |text| text.trim().to_owned());
        let path = self.folder.join("snapshots").join(&commit);
        (is_plain_name(&commit) && path.is_dir()).then_some((commit, path))
    }

    fn cached(&self, file: &str) -> Option<PathBuf> {
        let path = self.snapshot()?.1.join(file);
        path.is_file().then_some(path)
    }

    fn cached_listing(&self) -> Option<Listing> {
        let (commit, path) = self.snapshot()?;
        let mut files = Vec::new();
        walk(&path, "", 0, &mut files);
        files.sort();
        (!files.is_empty()).then_some(Listing { commit, files })
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = format!("{prefix}{name}");
        let path = entry.path();
        // Files are links into the blobs; folders are folders.
        if path.is_file() && files.len() < MAX_FILES {
            files.push(name);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < MAX_DEPTH {
            walk(&path, &format!("{name}/"), depth + 1, files);
        }
    }
}

/// Letters, digits and `. _ -`, not only dots: safe as one component of a path.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.bytes().all(|byte| byte == b'.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A relative path that stays below where it starts.
fn is_plain_path(path: &str) -> bool {
    let parts = Path::new(path).components();
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && parts
            .into_iter()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn unsafe_name(id: &str, what: &'static str, name: &str) -> HubError {
    HubError::UnsafeName {
        id: id.to_owned(),
        what,
        name: name.chars().take(80).collect(),
    }
}

/// Large files are named by their SHA-256; a copy that does not have it is deleted. (Small ones
/// are named by a git hash, and are text that its reader checks.)
fn verify(id: &str, file: &str, path: &Path, blob: &Path, etag: &str) -> Result<(), HubError> {
    if etag.len() != 64 || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let found = sha256(path).map_err(|source| HubError::Io {
        path: path.to_owned(),
        source,
    })?;
    if found.eq_ignore_ascii_case(etag) {
        return Ok(());
    }
    for damaged in [path, blob] {
        // What cannot be deleted is named by the error all the same.
        let _ = std::fs::remove_file(damaged);
    }
    Err(HubError::Checksum {
        id: id.to_owned(),
        file: file.to_owned(),
        expected: etag.to_owned(),
        found,
    })
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Passes hf-hub's progress on to the caller's function, and to whoever waits for it.
struct Relay<T> {
    on_progress: Option<OnProgress>,
    transfer: Transfer,
    pulse: Pulse<T>,
}

impl<T> Relay<T> {
    fn tell(&self) {
        self.pulse.beat();
        if let Some(on_progress) = &self.on_progress {
            on_progress(&self.transfer);
        }
    }
}

impl<T> Progress for Relay<T> {
    fn init(&mut self, size: usize, _: &str) {
        // Called again for each attempt, which then reports what is already here.
        self.transfer.done_bytes = 0;
        self.transfer.total_bytes = size as u64;
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.transfer.done_bytes += size as u64;
        self.tell();
    }

    fn finish(&mut self) {
        self.transfer.done_bytes = self.transfer.total_bytes;
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        for id in [
            "", "..", "a/../b", "a/b/c", "/etc", "a b", "a/", "-/..", "é/x",
        ] {
            let hub = Hub::new(offline(Path::new("/nonexistent")));
            let error = hub.list(RepoKind::Model, id, None).unwrap_err();
            assert!(matches!(error, HubError::BadId { .. }), "{id}: {error}");
        }
        for path in ["", "/etc/passwd", "a/../../b", "..", "a\\b", "./.."] {
            assert!(!is_plain_path(path), "{path}");
        }
        assert!(is_plain_path("data/train-00000-of-00001.parquet"));
    }

    fn offline(cache: &Path) -> HubSettings {
        HubSettings {
            cache: cache.to_owned(),
            endpoint: "http://127.0.0.1:9".to_owned(),
            offline: true,
            ..HubSettings::from_env()
        }
    }

    #[test]
    fn a_cache_that_python_filled_is_read_offline() {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("datasets--o--n");
        let commit = "c".repeat(40);
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots").join(&commit).join("main")).unwrap();
        std::fs::write(repo.join("refs/main"), &commit).unwrap();
        let file = repo
            .join("snapshots")
            .join(&commit)
            .join("main/test.parquet");
        std::fs::write(&file, "x").unwrap();
        let hub = Hub::new(offline(folder.path()));
        let listing = hub.list(RepoKind::Dataset, "o/n", None).unwrap();
        assert_eq!(listing.files, ["main/test.parquet"]);
        assert_eq!(listing.commit, commit);
        let found = hub
            .file(RepoKind::Dataset, "o/n", None, "main/test.parquet")
            .unwrap();
        assert_eq!(found, file);
        let by_commit = hub.file(RepoKind::Dataset, "o/n", Some(&commit), "main/test.parquet");
        assert_eq!(by_commit.unwrap(), file);
        let error = hub
            .file(RepoKind::Dataset, "o/n", None, "other")
            .unwrap_err();
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
}
