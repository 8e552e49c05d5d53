//! An append-only journal: what a run has finished, on the disk before it is counted.
//!
//! JSON Lines. The first line is the header: layout version, time of creation and the settings of
//! the run. Every further line is `{"sum": .., "record": ..}`, where `sum` is the start of the
//! record's SHA-256. A kill at any instant can tear only the last line; reopening drops it and
//! goes on. A damaged line anywhere else is an error, never skipped.
//!
//! **When a record is safe.** [`Journal::append`] hands the whole line to the kernel in one write:
//! from then on it survives the death of the process. It survives a power cut after the next
//! `fdatasync`, which happens at most [`SYNC_INTERVAL`] later while records keep coming, and in
//! [`Journal::sync`]. [`Journal::num_durable`] counts only synced records; a run counts by it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::error::JournalError;
use super::free_bytes;

/// Layout of the file; another one is refused.
const VERSION: u64 = 1;
/// Records wait at most this long for their `fdatasync`: long enough that a burst of finished
/// sequences shares one, short enough that a power cut costs a fraction of a second of work.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(200);
/// A settings value is shown up to this many characters where it differs.
const MAX_SHOWN_CHARS: usize = 120;
/// Hex digits kept of a record's SHA-256: 64 bits tell a torn or altered line from a whole one.
const SUM_DIGITS: usize = 16;

/// An open journal, locked against other processes until it is dropped.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    created: SystemTime,
    /// Bytes of whole lines; everything behind is torn.
    length: u64,
    num_records: usize,
    num_durable: usize,
    last_sync: Instant,
}

impl Journal {
    /// Opens the journal at `path`, or starts it with `settings` (and makes its folder).
    ///
    /// Returns it with the records that are in it already, in the order they were written. A last
    /// line torn by a crash is cut off.
    ///
    /// # Errors
    /// The file cannot be opened or is locked by another run; it is no journal, or one of another
    /// layout; its settings differ (each difference named by key); a line but the last is damaged.
    pub fn open<R: DeserializeOwned>(
        path: &Path,
        settings: &Map<String, Value>,
    ) -> Result<(Self, Vec<R>), JournalError> {
        let failed = |source| JournalError::Open {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let mut journal = Self {
            file,
            path: path.to_owned(),
            created: UNIX_EPOCH,
            length: 0,
            num_records: 0,
            num_durable: 0,
            last_sync: Instant::now(),
        };
        let Some((header, rest)) = split_line(&bytes) else {
            if !is_torn_header(&bytes) {
                return Err(JournalError::NotAJournal {
                    path: path.to_owned(),
                });
            }
            journal.start(settings).map_err(failed)?;
            return Ok((journal, Vec::new()));
        };
        journal.read_header(header, settings)?;
        journal.length = (bytes.len() - rest.len()) as u64;
        let records = journal.read_records(rest)?;
        // The torn tail goes now, so that the next record starts a line of its own.
        journal.file.set_len(journal.length).map_err(failed)?;
        journal.file.seek(SeekFrom::End(0)).map_err(failed)?;
        journal.file.sync_data().map_err(failed)?;
        journal.num_records = records.len();
        journal.num_durable = records.len();
        Ok((journal, records))
    }

    /// Deletes the journal at `path` so that its run starts over; no file is fine.
    ///
    /// # Errors
    /// Another process is writing it, or the file is no journal: neither is deleted.
    pub fn discard(path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut start = Vec::new();
        let length = HEADER_START.len() as u64;
        { &mut file }
            .take(length)
            .read_to_end(&mut start)
            .map_err(failed)?;
        if !is_torn_header(&start) {
            return Err(JournalError::NotAJournal {
                path: path.to_owned(),
            });
        }
        std::fs::remove_file(path).map_err(failed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was started, to the microsecond; a resumed run has the time of its first start.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// Records in the file.
    pub fn num_records(&self) -> usize {
        self.num_records
    }

    /// Records that survive a power cut.
    pub fn num_durable(&self) -> usize {
        self.num_durable
    }

    /// Appends a record, and syncs when [`SYNC_INTERVAL`] has passed since the last time.
    ///
    /// # Errors
    /// The record cannot be written or synced (disk full, quota). A half-written line is cut off
    /// again, so the records before it stay readable.
    pub fn append<R: Serialize>(&mut self, record: &R) -> Result<(), JournalError> {
        let written = serde_json::to_string(record)
            .map_err(io::Error::other)
            .and_then(|record| {
                let sum = sum_of(&record);
                let line = format!("{{\"sum\":\"{sum}\",\"record\":{record}}}\n");
                self.file.write_all(line.as_bytes())?;
                Ok(line.len() as u64)
            });
        match written {
            Ok(bytes) => {
                self.length += bytes;
                self.num_records += 1;
            }
            Err(source) => {
                // If even this fails, reopening drops the torn line.
                let _ = self.file.set_len(self.length);
                let _ = self.file.seek(SeekFrom::End(0));
                return Err(self.failed(source));
            }
        }
        self.sync_if_due()
    }

    /// Syncs when records are waiting and [`SYNC_INTERVAL`] has passed since the last time. For
    /// loops in which no record may come for a while.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn sync_if_due(&mut self) -> Result<(), JournalError> {
        if self.last_sync.elapsed() < SYNC_INTERVAL {
            return Ok(());
        }
        self.sync()
    }

    /// Makes every record survive a power cut.
    ///
    /// # Errors
    /// The disk refuses (full, failing); records counted by [`Journal::num_durable`] are safe.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.num_durable < self.num_records {
            self.file
                .sync_data()
                .map_err(|source| self.failed(source))?;
            self.num_durable = self.num_records;
        }
        self.last_sync = Instant::now();
        Ok(())
    }

    /// Ends the journal of a finished run: it moves to `path`, in the same folder.
    ///
    /// # Errors
    /// The file cannot be synced or renamed; it is then still where it was.
    pub fn finish_as(mut self, path: &Path) -> Result<(), JournalError> {
        self.sync()?;
        std::fs::rename(&self.path, path).map_err(|source| self.failed(source))?;
        sync_folder(path).map_err(|source| self.failed(source))
    }

    /// Ends the journal of a finished run by deleting it.
    ///
    /// # Errors
    /// The file cannot be deleted.
    pub fn remove(self) -> Result<(), JournalError> {
        std::fs::remove_file(&self.path).map_err(|source| self.failed(source))
    }

    fn start(&mut self, settings: &Map<String, Value>) -> io::Result<()> {
        let created_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_micros() as u64);
        let settings = serde_json::to_string(settings).map_err(io::Error::other)?;
        let header = format!(
            "{HEADER_START}{VERSION},\"created_us\":{created_us},\"settings\":{settings}}}\n"
        );
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(header.as_bytes())?;
        self.file.sync_all()?;
        sync_folder(&self.path)?;
        self.created = UNIX_EPOCH + Duration::from_micros(created_us);
        self.length = header.len() as u64;
        Ok(())
    }

    fn read_header(
        &mut self,
        line: &[u8],
        settings: &Map<String, Value>,
    ) -> Result<(), JournalError> {
        let not_a_journal = || JournalError::NotAJournal {
            path: self.path.clone(),
        };
        if !line.starts_with(HEADER_START.as_bytes()) {
            return Err(not_a_journal());
        }
        let header: Value = serde_json::from_slice(line).map_err(|_| not_a_journal())?;
        let found = header[VERSION_KEY].as_u64().ok_or_else(not_a_journal)?;
        if found != VERSION {
            return Err(JournalError::Version {
                path: self.path.clone(),
                found,
                expected: VERSION,
            });
        }
        let (Some(there), Some(created_us)) = (
            header["settings"].as_object(),
            header["created_us"].as_u64(),
        ) else {
            return Err(not_a_journal());
        };
        let mut differences = Vec::new();
        differing_keys("", there, settings, &mut differences);
        if !differences.is_empty() {
            return Err(JournalError::Settings {
                path: self.path.clone(),
                differences,
            });
        }
        self.created = UNIX_EPOCH + Duration::from_micros(created_us);
        Ok(())
    }

    fn read_records<R: DeserializeOwned>(
        &mut self,
        mut rest: &[u8],
    ) -> Result<Vec<R>, JournalError> {
        let mut records = Vec::new();
        while let Some((line, after)) = split_line(rest) {
            match read_record(line) {
                Ok(record) => records.push(record),
                // A power cut can leave a last line of the right length with the wrong bytes.
                Err(_) if after.is_empty() => break,
                Err(reason) => {
                    return Err(JournalError::Damaged {
                        path: self.path.clone(),
                        line: records.len() + 2,
                        reason,
                    });
                }
            }
            self.length += (rest.len() - after.len()) as u64;
            rest = after;
        }
        Ok(records)
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::Append {
            path: self.path.clone(),
            finished: self.num_durable,
            free_bytes: free_bytes(&self.path).ok(),
            source,
        }
    }
}

const VERSION_KEY: &str = "micota_journal";
/// Every header begins with these bytes; nothing else that a user keeps does.
const HEADER_START: &str = "{\"micota_journal\":";

/// An empty file, or the beginning of a header: what a kill during the very first write leaves.
fn is_torn_header(bytes: &[u8]) -> bool {
    let common = bytes.len().min(HEADER_START.len());
    bytes[..common] == HEADER_START.as_bytes()[..common]
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn sum_of(record: &str) -> String {
    let mut digits = String::with_capacity(SUM_DIGITS);
    for byte in &Sha256::digest(record.as_bytes())[..SUM_DIGITS / 2] {
        digits.push_str(&format!("{byte:02x}"));
    }
    digits
}

fn read_record<R: DeserializeOwned>(line: &[u8]) -> Result<R, String> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        sum: String,
        #[serde(borrow)]
        record: &'a serde_json::value::RawValue,
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if sum_of(line.record.get()) != line.sum {
        return Err("its checksum does not fit".to_owned());
    }
    serde_json::from_str(line.record.get()).map_err(|error| error.to_string())
}

/// Names every key, dotted through nested objects, whose value differs.
fn differing_keys(
    prefix: &str,
    there: &Map<String, Value>,
    here: &Map<String, Value>,
    differences: &mut Vec<String>,
) {
    let added = here.keys().filter(|key| !there.contains_key(*key));
    for key in there.keys().chain(added) {
        let name = format!("{prefix}{key}");
        match (there.get(key), here.get(key)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                differing_keys(&format!("{name}."), old, new, differences);
            }
            (old, new) => {
                let (old, new) = (shown(old), shown(new));
                differences.push(format!("  {name}: {old} in the journal, {new} now"));
            }
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "absent".to_owned();
    };
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Makes a new or renamed directory entry survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn records(count: u64) -> Vec<Value> {
        (0..count)
            .map(|id| json!({"id": id, "text": format!("line\n{id} \u{211d}")}))
            .collect()
    }

    fn written(path: &Path, count: u64) -> Vec<u8> {
        let (mut journal, _) = Journal::open::<Value>(path, &settings(json!({"a": 1}))).unwrap();
        for record in records(count) {
            journal.append(&record).unwrap();
        }
        journal.sync().unwrap();
        assert_eq!(journal.num_durable(), count as usize);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn cut_at_every_byte_it_reopens_with_a_prefix_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let whole = written(&folder.path().join("whole.jsonl"), 4);
        let expected = records(4);
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..=whole.len() {
            let path = folder.path().join("cut.jsonl");
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, found) =
                Journal::open::<Value>(&path, &settings(json!({"a": 1}))).unwrap();
            assert_eq!(found, expected[..found.len()], "cut at {length}");
            seen.insert(found.len());
            for record in &expected[found.len()..] {
                journal.append(record).unwrap();
            }
            drop(journal);
            let (_, again) = Journal::open::<Value>(&path, &settings(json!({"a": 1}))).unwrap();
            assert_eq!(again, expected, "cut at {length}");
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_resumed_journal_keeps_its_time_of_creation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/j.jsonl");
        let (journal, _) = Journal::open::<Value>(&path, &Map::new()).unwrap();
        let created = journal.created();
        drop(journal);
        let (journal, _) = Journal::open::<Value>(&path, &Map::new()).unwrap();
        assert_eq!(journal.created(), created);
    }

    #[test]
    fn other_settings_are_refused_key_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        let old = json!({"model": {"sha": "aa", "name": "m"}, "limit": 10, "gone": true});
        drop(Journal::open::<Value>(&path, &settings(old)).unwrap());
        let before = std::fs::read(&path).unwrap();
        let new = json!({"model": {"sha": "bb", "name": "m"}, "limit": null, "fresh": "x"});
        let error = Journal::open::<Value>(&path, &settings(new)).unwrap_err();
        let text = error.to_string();
        for line in [
            "model.sha: \"aa\" in the journal, \"bb\" now",
            "limit: 10 in the journal, null now",
            "gone: true in the journal, absent now",
            "fresh: absent in the journal, \"x\" now",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("model.name"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn two_runs_cannot_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        let first = Journal::open::<Value>(&path, &Map::new()).unwrap();
        let error = Journal::open::<Value>(&path, &Map::new()).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        drop(first);
        Journal::open::<Value>(&path, &Map::new()).unwrap();
    }

    #[test]
    fn damage_before_the_last_line_is_named_and_at_the_end_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        let whole = written(&path, 3);
        let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
        for (line, ok) in [(1, false), (2, false), (3, true)] {
            let mut bytes = Vec::new();
            for (index, part) in lines.iter().enumerate() {
                let mut part = part.to_vec();
                if index == line {
                    let middle = part.len() - 6;
                    part[middle] ^= 1;
                }
                bytes.extend(part);
            }
            std::fs::write(&path, &bytes).unwrap();
            match Journal::open::<Value>(&path, &settings(json!({"a": 1}))) {
                Ok((_, found)) => assert!(ok && found == records(2)),
                Err(JournalError::Damaged { line: named, .. }) => {
                    assert!(!ok && named == line + 1);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        for text in ["{\"prompt\": 1}\n", "notes", "{\"micota_journal\":\"x\"}\n"] {
            std::fs::write(&path, text).unwrap();
            let error = Journal::open::<Value>(&path, &Map::new()).unwrap_err();
            assert!(matches!(error, JournalError::NotAJournal { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "{\"micota_journal\":99,\"settings\":{}}\n").unwrap();
        let error = Journal::open::<Value>(&path, &Map::new()).unwrap_err();
        assert!(
            matches!(error, JournalError::Version { found: 99, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Journal::open::<Value>(&file.join("j.jsonl"), &Map::new()).unwrap_err();
        assert!(
            error.to_string().contains("file/j.jsonl: cannot open"),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_keeps_the_finished_records() {
        // A device that is always full stands in for the disk.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        written(&path, 2);
        let (mut journal, _) = Journal::open::<Value>(&path, &settings(json!({"a": 1}))).unwrap();
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
            return;
        };
        let file = std::mem::replace(&mut journal.file, full);
        let error = journal.append(&json!({"id": 2})).unwrap_err().to_string();
        assert!(
            error.contains("cannot write record 3")
                && error.contains("2 finished records are safe")
                && error.contains("bytes free"),
            "{error}"
        );
        drop((journal, file));
        let (_, found) = Journal::open::<Value>(&path, &settings(json!({"a": 1}))).unwrap();
        assert_eq!(found, records(2));
    }

    #[test]
    fn only_a_journal_that_nobody_writes_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        Journal::discard(&path).unwrap();
        let open = Journal::open::<Value>(&path, &Map::new()).unwrap();
        let error = Journal::discard(&path).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        drop(open);
        Journal::discard(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "notes").unwrap();
        let error = Journal::discard(&path).unwrap_err();
        assert!(matches!(error, JournalError::NotAJournal { .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_finished_journal_moves_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j.jsonl");
        let done = folder.path().join("done.jsonl");
        written(&path, 1);
        let (journal, _) = Journal::open::<Value>(&path, &settings(json!({"a": 1}))).unwrap();
        journal.finish_as(&done).unwrap();
        assert!(!path.exists() && done.exists());
        let (journal, _) = Journal::open::<Value>(&done, &settings(json!({"a": 1}))).unwrap();
        journal.remove().unwrap();
        assert!(!done.exists());
    }
}
