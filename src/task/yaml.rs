//! YAML as a tree whose every node knows its line and column.
//!
//! The parser's events are read directly, because a task file needs what a deserializer hides:
//! custom tags (`!function`), keys that occur twice (the last one wins, as in the reference), and
//! the place of each key for the error message. Plain scalars are resolved by PyYAML's rules,
//! which are YAML 1.1's: `yes` is a boolean, `1e-3` is text (a float needs its dot).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Number, Value};

use super::error::TaskError;

/// Nested collections in one file. Real task files nest five deep.
const MAX_DEPTH: usize = 48;
/// Nodes in one file, each alias counted as everything it repeats: stops "billion laughs" files.
const MAX_NODES: usize = 200_000;

/// Where something stands in a file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the user knows it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One YAML node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    /// A custom tag as written, such as `!function`; tags of YAML's own schema are applied.
    pub(super) tag: Option<String>,
    pub(super) data: Data,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl Node {
    /// What the node is, in the words of an error message.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::Text(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// The node as JSON, keys in file order. A tagged scalar is its text, tag included.
    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Text(text) => match &self.tag {
                Some(tag) => Value::String(format!("{tag} {text}")),
                None => Value::String(text.clone()),
            },
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(entries) => Value::Object(entries_to_json(entries)),
        }
    }
}

fn entries_to_json(entries: &[Entry]) -> Map<String, Value> {
    let pairs = entries.iter();
    pairs.map(|e| (e.key.clone(), e.value.to_json())).collect()
}

/// Reads the one document of `text`. `file` names it in errors.
///
/// # Errors
/// Syntax errors, more than one document, a key that is not a scalar, and files beyond the limits
/// of depth and size, each with line and column.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, TaskError> {
    let options = granit_parser::options! {
        block_scalar_eof_without_line_feed: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut reader = Reader {
        file: Arc::from(file),
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        num_nodes: 0,
    };
    reader.document()
}

struct Reader<'a> {
    file: Arc<str>,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Finished anchored nodes and how many nodes each holds.
    anchors: HashMap<usize, (Node, usize)>,
    num_nodes: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, TaskError> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(self.syntax(&span, "one document expected, found a second one"));
                }
                event => root = Some(self.node(event, &span, 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            place: self.at(1, 1),
            tag: None,
            data: Data::Null,
        }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), TaskError> {
        loop {
            return match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(found)) => Ok(found),
                Some(Err(error)) => Err(self.scan_error(&error)),
                None => Ok((Event::StreamEnd, Span::default())),
            };
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, TaskError> {
        if depth > MAX_DEPTH {
            return Err(self.syntax(span, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, span)?;
        let before = self.num_nodes;
        let place = self.place(span);
        let (anchor, tag, data) = match event {
            Event::Alias(id) => {
                // An alias inside its own anchor has no finished node: a cycle.
                let Some((node, num_nodes)) = self.anchors.get(&id).cloned() else {
                    return Err(self.syntax(span, "an alias that refers to itself"));
                };
                self.count(num_nodes, span)?;
                return Ok(Node { place, ..node });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let (tag, data) = scalar(&text, style, tag.as_deref())
                    .map_err(|message| self.syntax(span, &message))?;
                (anchor, tag, data)
            }
            Event::SequenceStart(_, anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, &span, depth + 1)?);
                }
                (anchor, custom(tag.as_deref()), Data::List(items))
            }
            Event::MappingStart(_, anchor, tag) => {
                (anchor, custom(tag.as_deref()), self.mapping(depth)?)
            }
            other => return Err(self.syntax(span, &format!("unexpected {other:?}"))),
        };
        let node = Node { place, tag, data };
        if anchor != 0 {
            let size = self.num_nodes - before + 1;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Data, TaskError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        let mut index_of: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let place = self.place(&span);
            let key_node = self.node(event, &span, depth + 1)?;
            let Some(key) = key_text(&key_node) else {
                return Err(self.syntax(&span, &format!("a key that is {}", key_node.kind())));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            if key == "<<" {
                merge_into(&mut merged, value).map_err(|m| self.syntax(&span, m))?;
                continue;
            }
            let entry = Entry { key, place, value };
            match index_of.get(&entry.key) {
                // As a Python dictionary: the first place, the last value.
                Some(&index) => entries[index] = entry,
                None => {
                    index_of.insert(entry.key.clone(), entries.len());
                    entries.push(entry);
                }
            }
        }
        for entry in merged {
            if let std::collections::hash_map::Entry::Vacant(slot) =
                index_of.entry(entry.key.clone())
            {
                slot.insert(entries.len());
                entries.push(entry);
            }
        }
        Ok(Data::Map(entries))
    }

    fn count(&mut self, more: usize, span: &Span) -> Result<(), TaskError> {
        self.num_nodes += more;
        if self.num_nodes > MAX_NODES {
            return Err(self.syntax(span, &format!("more than {MAX_NODES} nodes")));
        }
        Ok(())
    }

    fn at(&self, line: usize, column: usize) -> Place {
        let file = self.file.clone();
        Place { file, line, column }
    }

    fn place(&self, span: &Span) -> Place {
        self.at(span.start.line().max(1), span.start.col() + 1)
    }

    fn syntax(&self, span: &Span, message: &str) -> TaskError {
        TaskError::Syntax {
            place: self.place(span),
            message: message.to_owned(),
        }
    }

    fn scan_error(&self, error: &ScanError) -> TaskError {
        TaskError::Syntax {
            place: self.at(error.marker().line().max(1), error.marker().col() + 1),
            message: error.info(),
        }
    }
}

/// The text of a scalar key; PyYAML would make `1: x` an integer key, which no task file has.
fn key_text(node: &Node) -> Option<String> {
    match &node.data {
        Data::Text(text) => Some(text.clone()),
        Data::Null => Some("null".to_owned()),
        Data::Bool(value) => Some(value.to_string()),
        Data::Number(number) => Some(number.to_string()),
        Data::List(_) | Data::Map(_) => None,
    }
}

/// Collects what `<<: *base` brings; earlier mappings win over later ones.
fn merge_into(merged: &mut Vec<Entry>, value: Node) -> Result<(), &'static str> {
    match value.data {
        Data::Map(entries) => {
            merged.extend(entries);
            Ok(())
        }
        Data::List(items) => items
            .into_iter()
            .try_for_each(|item| merge_into(merged, item)),
        _ => Err("`<<` expects a mapping or a list of mappings"),
    }
}

/// A tag that is not of YAML's own schema, as written.
fn custom(tag: Option<&Tag>) -> Option<String> {
    tag.filter(|tag| !tag.is_yaml_core_schema() && tag.handle() != "tag:yaml.org,2002:")
        .map(Tag::original)
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<(Option<String>, Data), String> {
    if let Some(name) = custom(tag) {
        return Ok((Some(name), Data::Text(text.to_string())));
    }
    let data = match tag.and_then(Tag::core_suffix) {
        Some("str") => Data::Text(text.to_string()),
        Some(wanted) => {
            let data = plain(text)?;
            let fits = match &data {
                Data::Null => wanted == "null",
                Data::Bool(_) => wanted == "bool",
                Data::Number(number) => wanted == "float" || wanted == "int" && !number.is_f64(),
                _ => false,
            };
            match data {
                Data::Number(number) if wanted == "float" => float(number.as_f64(), text)?,
                data if fits => data,
                _ => return Err(format!("`{text}` is not a !!{wanted}")),
            }
        }
        None if style == ScalarStyle::Plain => plain(text)?,
        None => Data::Text(text.to_string()),
    };
    Ok((None, data))
}

/// PyYAML's reading of an unquoted scalar.
fn plain(text: &str) -> Result<Data, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Data::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Data::Bool(false)
        }
        _ if looks_like_int(text) => int(text)?,
        _ if looks_like_float(text) => float(text.replace('_', "").parse().ok(), text)?,
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("`{text}`: a number here must be finite"));
        }
        _ => Data::Text(text.to_owned()),
    })
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn looks_like_int(text: &str) -> bool {
    let digits = unsigned(text);
    let all = |digits: &str, of: fn(u8) -> bool| {
        !digits.is_empty() && digits.bytes().all(|b| b == b'_' || of(b))
    };
    if let Some(hex) = digits.strip_prefix("0x") {
        return all(hex, |b| b.is_ascii_hexdigit());
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return all(binary, |b| b == b'0' || b == b'1');
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return all(&digits[1..], |b| (b'0'..=b'7').contains(&b));
    }
    digits.starts_with(|c: char| c.is_ascii_digit()) && all(digits, |b| b.is_ascii_digit())
}

fn int(text: &str) -> Result<Data, String> {
    let digits = unsigned(text).replace('_', "");
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (&digits[..], 10),
    };
    let value = i64::from_str_radix(digits, radix)
        .map_err(|_| format!("`{text}` does not fit a 64-bit integer"))?;
    let value = if text.starts_with('-') { -value } else { value };
    Ok(Data::Number(value.into()))
}

fn looks_like_float(text: &str) -> bool {
    let (mantissa, exponent) = match unsigned(text).split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned(text), None),
    };
    let digits = |part: &str| part.bytes().all(|b| b == b'_' || b.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['-', '+'])
            .is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    });
    let Some((whole, fraction)) = mantissa.split_once('.') else {
        return false;
    };
    let first = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    exponent_fits
        && digits(whole)
        && digits(fraction)
        && (first(whole) || whole.is_empty() && first(fraction))
}

fn float(value: Option<f64>, text: &str) -> Result<Data, String> {
    value
        .and_then(Number::from_f64)
        .map(Data::Number)
        .ok_or_else(|| format!("`{text}` is not a finite number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_of(text: &str) -> Value {
        parse("t.yaml", text).unwrap().to_json()
    }

    fn error_of(text: &str) -> String {
        parse("t.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn scalars_read_as_pyyaml_reads_them() {
        assert_eq!(
            json_of(
                "[1, 0.0, 1.0, 1e-3, 1.5e-3, 1.0e5, yes, off, ~, '1', \"a\\nb\", 0x1F, 017, 1_000, \
                 -5, .5, +.5, 027.5, 08]"
            ),
            json!([
                1, 0.0, 1.0, "1e-3", 0.0015, "1.0e5", true, false, null, "1", "a\nb", 31, 15, 1000,
                -5, 0.5, 0.5, 27.5, "08"
            ])
        );
        assert_eq!(
            json_of("a: !!str 1\nb: !!float 2\nc: |\n  x\n   y\nd: !function utils.f"),
            json!({"a": "1", "b": 2.0, "c": "x\n y\n", "d": "!function utils.f"})
        );
    }

    #[test]
    fn a_key_that_occurs_twice_takes_its_last_value() {
        assert_eq!(json_of("a: 1\nb: 2\na: 3").to_string(), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn anchors_aliases_and_merge_keys_expand() {
        assert_eq!(
            json_of("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nagain: *b"),
            json!({"base": {"x": 1, "y": 2}, "mine": {"y": 3, "x": 1}, "again": {"x": 1, "y": 2}})
        );
    }

    #[test]
    fn errors_name_line_and_column() {
        assert!(error_of("a: 1\nb: [1, 2").starts_with("t.yaml:"));
        assert!(error_of("a: 1\n  b: 2").starts_with("t.yaml:2:"));
        assert!(error_of("a: 1\n? [x]\n: 2").starts_with("t.yaml:2:3"));
        assert!(error_of("a: .nan").contains("finite"));
        assert!(error_of("a: 1\n---\nb: 2").contains("second"));
    }

    #[test]
    fn an_anchor_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let previous = format!("*a{}", i - 1);
            let list = vec![previous; 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(error_of(&text).contains("nodes"));
    }

    #[test]
    fn comments_are_skipped_wherever_they_stand() {
        let text = "# first\na: # after a key\n  # above\n  - 1 # after a value\n  # last\nb: 2\n";
        let plain = parse("t", "a:\n  - 1\nb: 2\n").unwrap();
        assert_eq!(parse("t", text).unwrap().to_json(), plain.to_json());
    }

    #[test]
    fn deep_nesting_and_cycles_are_refused() {
        assert!(parse("t", &"[".repeat(100_000)).is_err());
        assert!(parse("t", &"{a: ".repeat(5_000)).is_err());
        let block: String = (0..5_000).map(|i| " ".repeat(i) + "a:\n").collect();
        assert!(parse("t", &block).is_err());
        assert!(parse("t", &"- ".repeat(50_000)).is_err());
        assert!(error_of("a: &x [1, *x]").contains("itself"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\-a-c:{}\\[\\]&*!|>'\"\\n #?,<0-9.~%@]{0,60}") {
            let _ = parse("t", &text);
        }
    }
}
