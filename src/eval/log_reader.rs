//! Reading logs of answers row by row, whatever wrote them: JSON lines, a JSON list, CSV, Parquet.
//!
//! Rows come in batches of bounded size, so that a log of many gigabytes is never in memory. JSON
//! text is handed on unparsed: parsing it is the larger part of the work and runs in parallel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::{Map, Value};

use super::EvalError;
use super::naming::task_of_samples_file;
use crate::rows::parquet_row;

/// Bytes of one row. A sample of 64 answers of 16,000 tokens has about 4 MB.
const MAX_ROW_BYTES: u64 = 256 << 20;
/// Rows and bytes of one batch: enough to keep all cores busy, little enough to forget.
const BATCH_ROWS: usize = 4_096;
const BATCH_BYTES: usize = 32 << 20;

/// One row as it was read.
#[derive(Debug)]
pub enum RawRow {
    /// A JSON object's text, perhaps malformed.
    Text(Vec<u8>),
    /// The fields of a row of CSV or Parquet.
    Fields(Map<String, Value>),
}

impl RawRow {
    /// The row's fields.
    ///
    /// # Errors
    /// The text is not a JSON object; the message says where.
    pub fn into_fields(self) -> Result<Map<String, Value>, String> {
        match self {
            Self::Fields(fields) => Ok(fields),
            Self::Text(text) => match serde_json::from_slice(&text) {
                Ok(Value::Object(fields)) => Ok(fields),
                Ok(_) => Err("not a JSON object".to_owned()),
                Err(error) => Err(format!("not JSON: {error}")),
            },
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            // Rows of tables are small; the count of rows bounds these batches.
            Self::Fields(_) => 0,
        }
    }
}

/// An open log.
pub struct LogReader {
    path: PathBuf,
    source: Source,
}

enum Source {
    Lines(BufReader<File>),
    /// The reader, until the list's closing bracket has been met.
    List(Option<BufReader<File>>),
    Csv(Box<csv::Reader<File>>),
    Parquet(Box<RowIter<'static>>),
}

impl LogReader {
    /// Opens a log by its extension: `.csv`, `.parquet`, else JSON lines or a JSON list, whichever
    /// its first character says.
    ///
    /// # Errors
    /// The file cannot be opened, or is not what its extension says.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let source = match Source::open(path) {
            Ok(source) => source,
            Err(problem) => return Err(unreadable(path, problem)),
        };
        Ok(Self {
            path: path.to_owned(),
            source,
        })
    }

    /// The next rows, in order; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read on: a failing disk, a damaged table, a row over the limit.
    pub fn next_batch(&mut self) -> Result<Vec<RawRow>, EvalError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            match self.source.next_row() {
                Ok(Some(row)) => {
                    bytes += row.size();
                    batch.push(row);
                }
                Ok(None) => break,
                Err(problem) => return Err(unreadable(&self.path, problem)),
            }
        }
        Ok(batch)
    }
}

/// The samples files under a folder, by path: of each task the newest run, or every run. A folder
/// that has none itself may hold one folder per model, as `--output_path` does.
///
/// # Errors
/// The folder cannot be read, or there is no samples file in it.
pub fn sample_logs(folder: &Path, all_runs: bool) -> Result<Vec<PathBuf>, EvalError> {
    let mut logs = logs_in(folder, all_runs)?;
    if logs.is_empty() {
        for path in entries(folder)? {
            if path.is_dir() {
                logs.extend(logs_in(&path, all_runs)?);
            }
        }
    }
    if logs.is_empty() {
        let problem = "no samples_*.jsonl here or one folder down; `micota eval --log_samples` \
                       writes them"
            .to_owned();
        return Err(unreadable(folder, problem));
    }
    Ok(logs)
}

fn logs_in(folder: &Path, all_runs: bool) -> Result<Vec<PathBuf>, EvalError> {
    let mut logs: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(task) = task_of_samples_file(&name) else {
            continue;
        };
        let key = if all_runs { &name } else { task };
        // Dates sort as text, and the entries are sorted: the last one is the newest.
        logs.insert(key.to_owned(), path.clone());
    }
    Ok(logs.into_values().collect())
}

/// The paths in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().map_err(|error| unreadable(folder, error.to_string()))?;
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, problem: String) -> EvalError {
    EvalError::Log {
        path: path.to_owned(),
        problem,
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if extension == "csv" {
            return Ok(Self::Csv(Box::new(csv::Reader::from_reader(file))));
        }
        if extension == "parquet" {
            // The Parquet reader asserts on some damaged files: a panic is the file's fault.
            let open = || SerializedFileReader::new(file).map(IntoIterator::into_iter);
            return match catch_unwind(AssertUnwindSafe(open)) {
                Ok(Ok(rows)) => Ok(Self::Parquet(Box::new(rows))),
                Ok(Err(error)) => Err(format!("not readable as Parquet: {error}")),
                Err(_) => Err("damaged Parquet file".to_owned()),
            };
        }
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let start = reader.fill_buf().map_err(|error| error.to_string())?;
        let mark = if start.starts_with("\u{feff}".as_bytes()) {
            3
        } else {
            0
        };
        let first = start[mark..]
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .copied();
        reader.consume(mark);
        if first != Some(b'[') {
            return Ok(Self::Lines(reader));
        }
        skip_to(&mut reader, b'[').map_err(|error| error.to_string())?;
        Ok(Self::List(Some(reader)))
    }

    fn next_row(&mut self) -> Result<Option<RawRow>, String> {
        match self {
            Self::Lines(reader) => next_line(reader),
            Self::List(open) => {
                let Some(reader) = open else {
                    return Ok(None);
                };
                let (element, is_last) = next_element(reader)?;
                if is_last {
                    *open = None;
                }
                Ok(element.map(RawRow::Text))
            }
            Self::Csv(reader) => {
                let headers = reader.headers().map_err(|error| error.to_string())?.clone();
                let mut record = csv::StringRecord::new();
                if !reader
                    .read_record(&mut record)
                    .map_err(|error| error.to_string())?
                {
                    return Ok(None);
                }
                let fields = headers.iter().zip(&record);
                let fields = fields.map(|(name, text)| (name.to_owned(), Value::from(text)));
                Ok(Some(RawRow::Fields(fields.collect())))
            }
            Self::Parquet(rows) => match catch_unwind(AssertUnwindSafe(|| rows.next())) {
                Err(_) => Err("damaged Parquet file".to_owned()),
                Ok(None) => Ok(None),
                Ok(Some(Err(error))) => Err(format!("not readable as Parquet: {error}")),
                Ok(Some(Ok(row))) => parquet_row(&row).map(|fields| Some(RawRow::Fields(fields))),
            },
        }
    }
}

fn next_line(reader: &mut BufReader<File>) -> Result<Option<RawRow>, String> {
    loop {
        let mut line = Vec::new();
        let mut limited = reader.by_ref().take(MAX_ROW_BYTES);
        let read = limited
            .read_until(b'\n', &mut line)
            .map_err(|error| error.to_string())?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 == MAX_ROW_BYTES {
            return Err(format!("a line of more than {MAX_ROW_BYTES} bytes"));
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(RawRow::Text(line)));
        }
    }
}

/// The text of the next element of a JSON list, found by its brackets and quotes alone, and whether
/// the list ends with it. An empty list has no element.
fn next_element(reader: &mut BufReader<File>) -> Result<(Option<Vec<u8>>, bool), String> {
    let mut element = Vec::new();
    let mut scan = ElementScan::default();
    loop {
        let buffer = reader.fill_buf().map_err(|error| error.to_string())?;
        if buffer.is_empty() {
            return Err("the JSON list is not closed".to_owned());
        }
        let length = buffer.len();
        let end = buffer.iter().position(|&byte| scan.ends_before(byte));
        let is_last = end.is_some_and(|end| buffer[end] == b']');
        element.extend_from_slice(&buffer[..end.unwrap_or(length)]);
        reader.consume(end.map_or(length, |end| end + 1));
        if element.len() as u64 > MAX_ROW_BYTES {
            return Err(format!("an element of more than {MAX_ROW_BYTES} bytes"));
        }
        if end.is_some() {
            let is_blank = element.iter().all(u8::is_ascii_whitespace);
            return Ok(((!is_blank).then_some(element), is_last));
        }
    }
}

/// Where a JSON list's element ends: at a comma or bracket outside of strings and inner brackets.
#[derive(Default)]
struct ElementScan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ElementScan {
    fn ends_before(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b',' | b']' if self.depth == 0 => return true,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

fn skip_to(reader: &mut BufReader<File>, wanted: u8) -> io::Result<()> {
    let mut skipped = Vec::new();
    reader.read_until(wanted, &mut skipped).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, contents: &str) -> Result<Vec<Map<String, Value>>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        let mut reader = LogReader::open(&path)?;
        let batch = reader.next_batch()?;
        assert!(reader.next_batch()?.is_empty());
        Ok(batch
            .into_iter()
            .map(|row| row.into_fields().unwrap())
            .collect())
    }

    #[test]
    fn the_same_rows_in_every_format() {
        let expected = r#"[{"a":"x, ]\"}","b":"1"},{"a":"y","b":"2"}]"#;
        let csv = "a,b\n\"x, ]\"\"}\",1\ny,2\n";
        let lines = "{\"a\":\"x, ]\\\"}\",\"b\":\"1\"}\n\n{\"a\":\"y\",\"b\":\"2\"}\n";
        for (name, contents) in [("r.json", expected), ("r.csv", csv), ("r.jsonl", lines)] {
            let read = serde_json::to_string(&rows(name, contents).unwrap()).unwrap();
            assert_eq!(read, expected, "{name}");
        }
        assert!(rows("empty.json", " [ ] ").unwrap().is_empty());
    }

    #[test]
    fn a_list_that_is_cut_off_is_an_error_that_names_the_file() {
        let error = rows("cut.json", r#"[{"a": 1}, {"a""#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cut.json") && error.contains("not closed"),
            "{error}"
        );
    }
}
