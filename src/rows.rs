//! Reading rows from a file: JSON lines, a JSON list, CSV, or Parquet.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

/// Bytes of one row as JSON. The longest benchmark row has 90 KB.
const MAX_ROW_BYTES: usize = 64 << 20;
/// Rows of one file. The largest training set anyone draws examples from has 8 million.
const MAX_ROWS: usize = 20_000_000;
/// Bytes of a file that must be read whole (a JSON list).
const MAX_JSON_BYTES: u64 = 4 << 30;
/// Lists in lists in a Parquet row.
const MAX_DEPTH: usize = 32;

/// A row with its line (or index) in the file, from 1.
pub type NumberedRow = (usize, Map<String, Value>);

/// A file that cannot be read as rows.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// A file that does not hold rows.
    #[error("{}{}: {problem}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where the file has lines.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Reads all rows of a file, by its extension: `.parquet`, `.csv` (a line of names, then texts), else
/// JSON lines or a JSON list, whichever its first character says.
///
/// # Errors
/// The file cannot be read, or a line is not a JSON object; the line is named.
pub fn read(path: &Path) -> Result<Vec<NumberedRow>, RowsError> {
    let extension = path.extension().unwrap_or_default();
    if extension.eq_ignore_ascii_case("parquet") {
        return read_parquet(path);
    }
    if extension.eq_ignore_ascii_case("csv") {
        return read_csv(path);
    }
    let io = |source| RowsError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    skip_mark(&mut reader).map_err(io)?;
    // Blank lines before the first row belong to JSON lines: they count as lines below.
    let buffer = reader.fill_buf().map_err(io)?;
    let first = buffer
        .iter()
        .find(|byte| !byte.is_ascii_whitespace())
        .copied();
    match first {
        Some(b'[') if bytes > MAX_JSON_BYTES => {
            let problem = format!("{bytes} bytes; a JSON list is read up to {MAX_JSON_BYTES}");
            Err(data(path, None, problem))
        }
        Some(b'[') => read_list(path, reader),
        _ => read_lines(path, reader),
    }
}

/// Skips a byte-order mark.
fn skip_mark(reader: &mut impl BufRead) -> std::io::Result<()> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(())
}

fn data(path: &Path, line: Option<usize>, problem: String) -> RowsError {
    RowsError::Data {
        path: path.to_owned(),
        line,
        problem,
    }
}

fn read_list(path: &Path, reader: impl Read) -> Result<Vec<NumberedRow>, RowsError> {
    let items: Vec<Value> = serde_json::from_reader(reader)
        .map_err(|error| data(path, Some(error.line()), format!("not JSON: {error}")))?;
    let items = items.into_iter().enumerate();
    items
        .map(|(index, item)| match item {
            Value::Object(row) => Ok((index + 1, row)),
            _ => {
                let problem = format!("item {} of the list is not an object", index + 1);
                Err(data(path, None, problem))
            }
        })
        .collect()
}

fn read_lines(path: &Path, mut reader: impl BufRead) -> Result<Vec<NumberedRow>, RowsError> {
    let mut rows = Vec::new();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let limited = &mut (&mut reader).take(MAX_ROW_BYTES as u64 + 1);
        let length = limited
            .read_until(b'\n', &mut line)
            .map_err(|source| RowsError::Io {
                path: path.to_owned(),
                source,
            })?;
        if length == 0 {
            return Ok(rows);
        }
        if length > MAX_ROW_BYTES || rows.len() == MAX_ROWS {
            let problem = format!("more than {MAX_ROW_BYTES} bytes in a row or {MAX_ROWS} rows");
            return Err(data(path, Some(number), problem));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(row)) => rows.push((number, row)),
            Ok(_) => {
                let problem = "expected a JSON object".to_owned();
                return Err(data(path, Some(number), problem));
            }
            Err(error) => {
                let problem = format!("column {}: not JSON: {error}", error.column());
                return Err(data(path, Some(number), problem));
            }
        }
    }
}

/// A field is a text, whatever it looks like, as nobody can say what else it was meant to be.
fn read_csv(path: &Path) -> Result<Vec<NumberedRow>, RowsError> {
    let damaged = |error: csv::Error| {
        let line = error.position().map(|place| place.line() as usize);
        data(path, line, format!("not readable as CSV: {error}"))
    };
    let mut reader = csv::Reader::from_path(path).map_err(damaged)?;
    let names = reader.headers().map_err(damaged)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(damaged)?;
        if rows.len() == MAX_ROWS {
            return Err(data(path, None, format!("more than {MAX_ROWS} rows")));
        }
        let line = record.position().map_or(0, |place| place.line() as usize);
        let fields = names.iter().zip(&record);
        let fields = fields.map(|(name, text)| (name.to_owned(), Value::from(text)));
        rows.push((line, fields.collect()));
    }
    Ok(rows)
}

fn read_parquet(path: &Path) -> Result<Vec<NumberedRow>, RowsError> {
    // The Parquet reader asserts on some damaged files: a panic there is the file's fault.
    match catch_unwind(AssertUnwindSafe(|| parquet_rows(path))) {
        Ok(rows) => rows,
        Err(_) => Err(data(path, None, "damaged Parquet file".to_owned())),
    }
}

fn parquet_rows(path: &Path) -> Result<Vec<NumberedRow>, RowsError> {
    let io = |source| RowsError::Io {
        path: path.to_owned(),
        source,
    };
    let damaged = |error: parquet::errors::ParquetError| {
        data(path, None, format!("not readable as Parquet: {error}"))
    };
    let file = File::open(path).map_err(io)?;
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(damaged)? {
        if rows.len() == MAX_ROWS {
            return Err(data(path, None, format!("more than {MAX_ROWS} rows")));
        }
        let row = object(&row.map_err(damaged)?, 0)
            .map_err(|problem| data(path, Some(rows.len() + 1), problem))?;
        rows.push((rows.len() + 1, row));
    }
    Ok(rows)
}

/// The fields of a Parquet row.
///
/// # Errors
/// A value that JSON cannot hold, or nesting beyond the limit.
pub fn parquet_row(row: &Row) -> Result<Map<String, Value>, String> {
    object(row, 0)
}

fn object(row: &Row, depth: usize) -> Result<Map<String, Value>, String> {
    let columns = row.get_column_iter();
    columns
        .map(|(name, field)| Ok((name.clone(), value(field, depth + 1)?)))
        .collect()
}

fn value(field: &Field, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let float = |number: f64| match Number::from_f64(number) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(format!("{number} is no JSON number")),
    };
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) => Value::from(*number),
        Field::Long(number) => Value::from(*number),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        Field::Float16(number) => float(f64::from(number.to_f32()))?,
        Field::Float(number) => float(f64::from(*number))?,
        Field::Double(number) => float(*number)?,
        Field::Str(text) => Value::from(text.as_str()),
        Field::Group(row) => Value::Object(object(row, depth)?),
        Field::ListInternal(list) => {
            let items = list.elements().iter();
            items
                .map(|item| value(item, depth + 1))
                .collect::<Result<_, _>>()?
        }
        other => {
            return Err(format!("a column of a type that is not read: {other}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &[u8]) -> Result<Vec<NumberedRow>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_and_lists_read_alike_and_keep_numbers() {
        let lines = read_text(
            "a.jsonl",
            b"\xef\xbb\xbf{\"a\": 27.0, \"b\": 1}\n\n{\"a\": 2}",
        )
        .unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].1["a"].to_string(), "27.0");
        assert_eq!(lines[1].0, 3);
        let list = read_text("a.json", b" [{\"a\": 27.0, \"b\": 1}, {\"a\": 2}]").unwrap();
        assert_eq!(list[0].1, lines[0].1);
        assert_eq!(read_text("a.jsonl", b"").unwrap().len(), 0);
        assert_eq!(read_text("a.jsonl", b"\n\n \n{\"a\":1}\n").unwrap()[0].0, 4);
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        for (text, part) in [
            (&b"{\"a\": 1}\n{\"a\": }"[..], ":2: column"),
            (b"{\"a\": 1}\n[1]", ":2: expected a JSON object"),
            (b"[{}, 1]", "item 2"),
            (b"[{}", "not JSON"),
            (b"{\"a\": \"\xff\"}", "not JSON"),
        ] {
            let message = read_text("a.jsonl", text).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        assert!(read_text("a.jsonl", &b"[".repeat(200_000)).is_err());
    }

    #[test]
    fn csv_fields_are_texts_by_name() {
        let rows = read_text("a.csv", b"q,a\n\"1, 2\nand 3\",6\nx,\n").unwrap();
        assert_eq!(rows[0].1["q"], "1, 2\nand 3");
        assert_eq!(
            (&rows[0].1["a"], &rows[1].1["a"]),
            (&"6".into(), &"".into())
        );
        assert_eq!(rows[1].0, 4);
        let message = read_text("a.csv", b"q,a\n1\n").unwrap_err();
        assert!(message.contains("a.csv:2"), "{message}");
    }

    #[test]
    fn parquet_columns_become_fields_in_order() {
        use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        use parquet::schema::parser::parse_message_type;

        let schema = "message rows {
            required binary problem (UTF8);
            optional int64 level;
            required double answer;
            optional group solution (LIST) { repeated group list { optional binary element (UTF8); } }
        }";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut writer = SerializedFileWriter::new(
            File::create(&path).unwrap(),
            parse_message_type(schema).unwrap().into(),
            WriterProperties::default().into(),
        )
        .unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |texts: [&str; 2]| texts.map(ByteArray::from);
        let mut column = group.next_column().unwrap().unwrap();
        let problems = column.typed::<ByteArrayType>();
        problems
            .write_batch(&texts(["p", "é"]), None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[5], Some(&[1, 0]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<DoubleType>()
            .write_batch(&[27.0, 0.5], None, None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let solutions = column.typed::<ByteArrayType>();
        solutions
            .write_batch(&texts(["s", "t"]), Some(&[3, 3, 0]), Some(&[0, 1, 0]))
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();

        let rows: Vec<String> = read(&path)
            .unwrap()
            .into_iter()
            .map(|(number, row)| format!("{number} {}", Value::from(row)))
            .collect();
        assert_eq!(
            rows,
            [
                r#"1 {"problem":"p","level":5,"answer":27.0,"solution":["s","t"]}"#,
                r#"2 {"problem":"é","level":null,"answer":0.5,"solution":null}"#,
            ]
        );
    }

    #[test]
    fn damaged_parquet_is_an_error() {
        for bytes in [
            &b""[..],
            b"PAR1",
            b"PAR1\0\0\0\0PAR1",
            &[0xff; 4096],
            b"PAR1aaaa\xff\xff\xff\xffPAR1",
        ] {
            assert!(read_text("a.parquet", bytes).is_err());
        }
    }
}
