//! The YAML of a recipe, with the questions that are asked of a value.
//!
//! The recipe is read twice: the parser gives this tree, and `parse` gives it meaning, so that an
//! error about meaning points at its place as well as one about syntax does.

use crate::merge::error::{MergeError, Place};
use crate::yaml::{self, Data, Repeated};

/// A recipe is a page of text; a larger file is some other file.
const MAX_RECIPE_BYTES: usize = 4 << 20;

/// A YAML value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// Parses one YAML document.
    pub(super) fn parse(text: &str) -> Result<Self, MergeError> {
        if text.len() > MAX_RECIPE_BYTES {
            return Err(MergeError::recipe(
                Place::default(),
                format!(
                    "{} bytes are no recipe; at most {MAX_RECIPE_BYTES} are read",
                    text.len()
                ),
            ));
        }
        let tree = yaml::parse("recipe", text, Repeated::Refused);
        let tree = tree.map_err(|error| MergeError::Yaml {
            place: place_of(&error.place),
            detail: error.message,
        })?;
        Self::of(tree)
    }

    fn of(node: yaml::Node) -> Result<Self, MergeError> {
        let place = place_of(&node.place);
        if let Some(tag) = node.tag {
            let problem = format!("the tag {tag} has no meaning in a recipe");
            return Err(MergeError::recipe(place, problem));
        }
        let value = match node.data {
            Data::Null => Value::Null,
            Data::Bool(flag) => Value::Bool(flag),
            Data::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
            Data::Text(text) => Value::Text(text),
            Data::List(items) => {
                let items = items.into_iter().map(Self::of);
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Data::Map(entries) => {
                let entries = entries.into_iter().map(|entry| {
                    Ok(Entry {
                        place: place_of(&entry.place),
                        key: entry.key,
                        node: Self::of(entry.value)?,
                    })
                });
                Value::Map(entries.collect::<Result<_, MergeError>>()?)
            }
        };
        Ok(Self { place, value })
    }

    /// What kind of value this is, in a reader's words.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// An error that this value is not what its key needs.
    pub(super) fn expected(&self, what: &str, wanted: &str) -> MergeError {
        MergeError::recipe(
            self.place,
            format!("{what}: expected {wanted}, found {}", self.kind()),
        )
    }

    pub(super) fn map(&self, what: &str) -> Result<&[Entry], MergeError> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.expected(what, "a mapping")),
        }
    }

    pub(super) fn list(&self, what: &str) -> Result<&[Self], MergeError> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.expected(what, "a list")),
        }
    }

    /// Text; a number or boolean is taken as it would print, since paths may look like numbers.
    pub(super) fn text(&self, what: &str) -> Result<String, MergeError> {
        match &self.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            _ => Err(self.expected(what, "text")),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// A non-negative whole number.
    pub(super) fn count(&self, what: &str) -> Result<usize, MergeError> {
        match self.value {
            Value::Number(number) if number >= 0.0 && number.fract() == 0.0 && number < 1e9 => {
                Ok(number as usize)
            }
            _ => Err(self.expected(what, "a whole number")),
        }
    }

    pub(super) fn flag(&self, what: &str) -> Result<bool, MergeError> {
        match self.value {
            Value::Bool(flag) => Ok(flag),
            Value::Number(number) => Ok(number != 0.0),
            _ => Err(self.expected(what, "true or false")),
        }
    }
}

fn place_of(place: &yaml::Place) -> Place {
    Place {
        line: u32::try_from(place.line).unwrap_or(0),
        column: u32::try_from(place.column).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place() {
        let node = Node::parse("a: 1\nb:\n  - x\n  - {c: true, d: }\n").unwrap();
        let top = node.map("top").unwrap();
        assert_eq!((top[0].place.line, top[0].place.column), (1, 1));
        assert_eq!((top[0].node.place.line, top[0].node.place.column), (1, 4));
        let list = top[1].node.list("b").unwrap();
        assert_eq!((list[0].place.line, list[0].place.column), (3, 5));
        let inner = list[1].map("item").unwrap();
        assert_eq!(
            (inner[0].node.place.line, inner[0].node.place.column),
            (4, 9)
        );
        assert!(inner[1].node.is_null());
    }

    #[test]
    fn bad_yaml_is_an_error_with_a_place() {
        for text in [
            "a: [1, 2",
            "a: 'x",
            "a: 1\na: 2\n",
            "\t- x: [",
            "&a [*a, *b]",
        ] {
            let error = Node::parse(text).unwrap_err();
            assert!(
                matches!(error, MergeError::Yaml { .. }),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let previous = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        assert!(Node::parse(&text).is_err());
    }
}
