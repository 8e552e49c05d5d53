//! YAML as a tree whose every node knows its line and column.
//!
//! The parser's events are read directly, because task files and recipes need what a deserializer
//! hides: custom tags (`!function`), keys that occur twice, and the place of each key for the error
//! message. Plain scalars are resolved by PyYAML's rules,
//! which are YAML 1.1's: `yes` is a boolean, `1e-3` is text (a float needs its dot).

mod scalar;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScanError, Span};
use serde_json::{Map, Number, Value};

use scalar::{custom, scalar};

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

/// Text that is no YAML, or not YAML that is taken here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct YamlError {
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

/// What a key means that a mapping has had already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// The last value counts, in the place of the first, as in a Python dictionary.
    Replaces,
    /// A mistake.
    Refused,
}

/// One YAML node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    /// A custom tag as written, such as `!function`; tags of YAML's own schema are applied.
    pub(crate) tag: Option<String>,
    pub(crate) data: Data,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// What the node is, in the words of an error message.
    pub(crate) fn kind(&self) -> &'static str {
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
    pub(crate) fn to_json(&self) -> Value {
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
pub(crate) fn parse(file: &str, text: &str, repeated: Repeated) -> Result<Node, YamlError> {
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
        repeated,
    };
    reader.document()
}

struct Reader<'a> {
    file: Arc<str>,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Finished anchored nodes and how many nodes each holds.
    anchors: HashMap<usize, (Node, usize)>,
    num_nodes: usize,
    repeated: Repeated,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, YamlError> {
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

    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        loop {
            return match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(found)) => Ok(found),
                Some(Err(error)) => Err(self.scan_error(&error)),
                None => Ok((Event::StreamEnd, Span::default())),
            };
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, YamlError> {
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

    fn mapping(&mut self, depth: usize) -> Result<Data, YamlError> {
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
                Some(_) if self.repeated == Repeated::Refused => {
                    let message = format!("`{}` occurs twice", entry.key);
                    let Place { line, column, .. } = entry.place;
                    return Err(YamlError {
                        place: self.at(line, column),
                        message,
                    });
                }
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

    fn count(&mut self, more: usize, span: &Span) -> Result<(), YamlError> {
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

    fn syntax(&self, span: &Span, message: &str) -> YamlError {
        YamlError {
            place: self.place(span),
            message: message.to_owned(),
        }
    }

    fn scan_error(&self, error: &ScanError) -> YamlError {
        YamlError {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Node, YamlError> {
        parse("t.yaml", text, Repeated::Replaces)
    }

    fn json_of(text: &str) -> Value {
        read(text).unwrap().to_json()
    }

    fn error_of(text: &str) -> String {
        read(text).unwrap_err().to_string()
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
    fn a_key_that_occurs_twice_takes_its_last_value_or_is_refused() {
        let text = "a: 1\nb: 2\na: 3";
        assert_eq!(json_of(text).to_string(), r#"{"a":3,"b":2}"#);
        let error = parse("t.yaml", text, Repeated::Refused).unwrap_err();
        assert_eq!(error.to_string(), "t.yaml:3:1: `a` occurs twice");
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
        let plain = read("a:\n  - 1\nb: 2\n").unwrap();
        assert_eq!(read(text).unwrap().to_json(), plain.to_json());
    }

    #[test]
    fn deep_nesting_and_cycles_are_refused() {
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"{a: ".repeat(5_000)).is_err());
        let block: String = (0..5_000).map(|i| " ".repeat(i) + "a:\n").collect();
        assert!(read(&block).is_err());
        assert!(read(&"- ".repeat(50_000)).is_err());
        assert!(error_of("a: &x [1, *x]").contains("itself"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\-a-c:{}\\[\\]&*!|>'\"\\n #?,<0-9.~%@]{0,60}") {
            let _ = read(&text);
        }
    }
}
