//! Token rows before they are cut and masked: every turn of every row, in memory, or mapped from
//! the file that an earlier run kept. Cutting, masking and packing come after, so changing them
//! tokenises nothing again.
//!
//! A file holds, after `MAGIC`, the key of what it was made from, a SHA-256 of all that follows,
//! the number of rows, the place where each row ends, and the rows as 32-bit words, little-endian:
//! number of turns, lengths of each turn's source and answer, tokens. A row that cannot be trained
//! on has no words.

use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::TrainError;
use super::corpus::{Encoder, Turn};
use super::dataset::Row;
use crate::durable::AtomicFile;
use crate::formats::MappedFile;

/// Begins a file; another number means another form.
const MAGIC: &[u8; 16] = b"micota tokens 1\n";
const DIGEST_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 2 * DIGEST_BYTES;
const COUNT_BYTES: usize = 8;
const WORD_BYTES: usize = 4;
/// Rows that are tokenised together; their texts' tokens exist twice for a moment.
const ROWS_AT_ONCE: usize = 1000;
/// Hexadecimal digits of the key in a file's name.
const KEY_DIGITS: usize = 16;

/// What token rows depend on: texts, tokenizer and layout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u8; DIGEST_BYTES]);

/// Where token rows are kept from one run to the next.
#[derive(Clone, Debug)]
pub struct TokenCache {
    /// The folder of the files.
    pub folder: PathBuf,
    /// Rows are made anew, whatever is there.
    pub overwrite: bool,
}

impl TokenCache {
    fn file(&self, key: Key) -> PathBuf {
        let digits: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder
            .join(format!("{}.tokens", &digits[..KEY_DIGITS]))
    }
}

/// Rows of turns.
pub(super) struct TokenRows {
    bytes: Bytes,
    num_rows: usize,
}

enum Bytes {
    /// What would follow a file's header.
    Made(Vec<u8>),
    Mapped(MappedFile),
}

/// Token rows with what is to be said and done about their file.
pub(super) struct Found {
    pub(super) rows: TokenRows,
    /// The file that they come from, or that they are to be kept in.
    pub(super) file: PathBuf,
    pub(super) key: Key,
    /// What was wrong with the file that was there.
    pub(super) damage: Option<String>,
}

impl TokenRows {
    /// Tokenises rows on all threads.
    ///
    /// # Errors
    /// The tokenizer fails, or the layout cannot write a row.
    pub(super) fn encode(rows: &[Row], encoder: &Encoder<'_>) -> Result<Self, TrainError> {
        let (mut ends, mut words) = (Vec::with_capacity(rows.len()), Vec::new());
        for (group, rows) in rows.chunks(ROWS_AT_ONCE).enumerate() {
            let turns: Vec<Result<Option<Vec<Turn>>, TrainError>> = rows
                .par_iter()
                .enumerate()
                .map(|(index, row)| {
                    let Some(row) = row else { return Ok(None) };
                    let turns = encoder.turns(row);
                    turns.map(Some).map_err(|error| match error {
                        TrainError::Setting(reason) => TrainError::Setting(format!(
                            "{reason} (row {})",
                            group * ROWS_AT_ONCE + index
                        )),
                        other => other,
                    })
                })
                .collect();
            // In their order, so that the first row that fails is the one that is named.
            for turns in turns {
                if let Some(turns) = turns? {
                    add_row(&turns, &mut words);
                }
                ends.push(words.len() as u64);
            }
        }
        let mut bytes =
            Vec::with_capacity(COUNT_BYTES * (1 + ends.len()) + WORD_BYTES * words.len());
        bytes.extend((ends.len() as u64).to_le_bytes());
        bytes.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        Ok(Self {
            num_rows: ends.len(),
            bytes: Bytes::Made(bytes),
        })
    }

    /// Takes rows from the cache where it has them whole, and makes them where not.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(super) fn find(
        rows: &[Row],
        encoder: &Encoder<'_>,
        cache: &TokenCache,
    ) -> Result<Found, TrainError> {
        let key = encoder.key(rows)?;
        let file = cache.file(key);
        let kept = if cache.overwrite || !file.exists() {
            None
        } else {
            Some(Self::open(&file, key))
        };
        let (rows, damage) = match kept {
            Some(Ok(rows)) => (rows, None),
            Some(Err(damage)) => (Self::encode(rows, encoder)?, Some(damage)),
            None => (Self::encode(rows, encoder)?, None),
        };
        Ok(Found {
            rows,
            file,
            key,
            damage,
        })
    }

    /// Maps a file, and checks all of it.
    fn open(path: &Path, key: Key) -> Result<Self, String> {
        let map = MappedFile::open(path).map_err(|error| error.to_string())?;
        let (header, body) = map
            .bytes()
            .split_at_checked(HEADER_BYTES)
            .ok_or("it is too short")?;
        let (magic, header) = header.split_at(MAGIC.len());
        let (own_key, digest) = header.split_at(DIGEST_BYTES);
        if magic != MAGIC {
            return Err("it does not begin as such a file does".to_owned());
        }
        if own_key != key.0 {
            return Err("it was made from something else".to_owned());
        }
        if digest != Sha256::digest(body).as_slice() {
            return Err("its checksum is wrong".to_owned());
        }
        let num_rows = read_u64(body, 0).and_then(|count| usize::try_from(count).ok());
        let rows = Self {
            num_rows: num_rows.ok_or("it has no number of rows")?,
            bytes: Bytes::Mapped(map),
        };
        if !rows.is_consistent() {
            return Err("its lengths do not fit together".to_owned());
        }
        Ok(rows)
    }

    /// Whether every row lies within the words and has the length that it states.
    fn is_consistent(&self) -> bool {
        let Some(at) = self.first_word() else {
            return false;
        };
        let words = self.body().len().checked_sub(at);
        let Some(words) = words.filter(|bytes| bytes % WORD_BYTES == 0) else {
            return false;
        };
        let (mut start, words) = (0, (words / WORD_BYTES) as u64);
        for row in 0..self.num_rows {
            let Some(end) = self.end(row).filter(|end| (start..=words).contains(end)) else {
                return false;
            };
            let mut row = self.words(row);
            if let Some(num_turns) = row.next() {
                let lengths = row.by_ref().take(2 * num_turns as usize);
                let tokens: u64 = lengths.map(u64::from).sum();
                let stated = 1 + 2 * u64::from(num_turns) + tokens;
                if stated != end - start {
                    return false;
                }
            }
            start = end;
        }
        start == words
    }

    /// Writes a file that [`Self::find`] will find, and reads from there from now on. Nothing
    /// happens to rows that come from a file.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn keep(&mut self, path: &Path, key: Key) -> Result<(), TrainError> {
        let Bytes::Made(body) = &self.bytes else {
            return Ok(());
        };
        let io = |error| TrainError::Io {
            path: path.to_owned(),
            error,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = AtomicFile::create(path).map_err(io)?;
        file.write_all(MAGIC)
            .and_then(|()| file.write_all(&key.0))
            .and_then(|()| file.write_all(&Sha256::digest(body)))
            .and_then(|()| file.write_all(body))
            .map_err(io)?;
        file.commit().map_err(io)?;
        self.bytes = Bytes::Mapped(MappedFile::open(path)?);
        Ok(())
    }

    /// Whether they come from a file.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Rows, usable or not.
    pub(super) fn len(&self) -> usize {
        self.num_rows
    }

    /// A row's turns; `None` where it cannot be trained on.
    pub(super) fn turns(&self, row: usize) -> Option<Vec<Turn>> {
        let mut words = self.words(row);
        let num_turns = words.next()? as usize;
        let lengths: Vec<u32> = words.by_ref().take(2 * num_turns).collect();
        let mut take = |count: u32| words.by_ref().take(count as usize).collect::<Vec<u32>>();
        let turns = lengths.chunks(2);
        Some(turns.map(|pair| (take(pair[0]), take(pair[1]))).collect())
    }

    fn body(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Made(body) => body,
            Bytes::Mapped(map) => map.bytes().get(HEADER_BYTES..).unwrap_or(&[]),
        }
    }

    /// Where the words begin.
    fn first_word(&self) -> Option<usize> {
        self.num_rows.checked_add(1)?.checked_mul(COUNT_BYTES)
    }

    /// The word behind a row's last.
    fn end(&self, row: usize) -> Option<u64> {
        read_u64(self.body(), (row + 1) * COUNT_BYTES)
    }

    fn words(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        let start = match row {
            0 => Some(0),
            row => self.end(row - 1),
        };
        let at = |word: Option<u64>| {
            let bytes = usize::try_from(word?).ok()?.checked_mul(WORD_BYTES)?;
            self.first_word()?.checked_add(bytes)
        };
        let range = at(start).zip(at(self.end(row)));
        let bytes = range.and_then(|(start, end)| self.body().get(start..end));
        let words = bytes.unwrap_or(&[]).chunks_exact(WORD_BYTES);
        words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    }
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

fn add_row(turns: &[Turn], words: &mut Vec<u32>) {
    words.push(turns.len() as u32);
    words.extend(
        turns
            .iter()
            .flat_map(|(s, a)| [s.len() as u32, a.len() as u32]),
    );
    for (source, answer) in turns {
        words.extend_from_slice(source);
        words.extend_from_slice(answer);
    }
}
