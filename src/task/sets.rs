//! The data sets that shipped tasks read, by one name wherever the rows come from.
//!
//! A set has a folder under `--data-dir` and a source on the Hugging Face hub; rows from either
//! have the same fields. The same table lets a task that names a hub id read the local folder, in
//! the shape that the hub's rows have.

use serde_json::{Map, Number, Value};

use super::document::{Origin, Row, field_names};
use super::python;

/// A data set with a name of its own.
pub(super) struct DataSet {
    /// The name: `dataset_path` of shipped tasks, and the folder under `--data-dir`.
    pub(super) name: &'static str,
    /// Where the hub has it.
    pub(super) hub: HubSource,
}

/// A hub data set and how its rows become ours.
pub(super) struct HubSource {
    /// Its id.
    pub(super) id: &'static str,
    /// Its configurations; the rows of several are put one after the other.
    pub(super) configs: &'static [&'static str],
    /// The splits that hold our `test`, in order; other splits have the same name there.
    pub(super) test_splits: &'static [&'static str],
    /// Our fields in our order.
    fields: &'static [Field],
    keep: Keep,
}

/// One of our fields and where its value comes from.
struct Field {
    name: &'static str,
    from: From,
}

enum From {
    /// A field of the hub's row.
    Hub(&'static str),
    /// The same, a number there or text that spells one: a float here.
    Float(&'static str),
    /// The row's index.
    Index,
    /// The same as text, a degree sign removed (one answer of 2025 carries it).
    Text(&'static str),
    /// Exam and number of an AIME 2025 problem, 15 to an exam.
    Aime2025,
}

/// Which of the hub's rows belong to the set.
enum Keep {
    All,
    /// Those whose field `id` lies in the range.
    Ids(std::ops::RangeInclusive<i64>),
    /// Those whose field holds the text.
    Containing(&'static str, &'static str),
}

const fn hub(name: &'static str) -> Field {
    Field {
        name,
        from: From::Hub(name),
    }
}

const fn field(name: &'static str, from: From) -> Field {
    Field { name, from }
}

pub(super) const SETS: [DataSet; 7] = [
    DataSet {
        name: "aime24",
        hub: HubSource {
            id: "AI-MO/aimo-validation-aime",
            configs: &["default"],
            test_splits: &["train"],
            fields: &[
                hub("id"),
                hub("problem"),
                hub("solution"),
                hub("answer"),
                hub("url"),
                field("question", From::Hub("problem")),
            ],
            keep: Keep::Ids(60..=89),
        },
    },
    DataSet {
        name: "aime25",
        hub: HubSource {
            id: "opencompass/AIME2025",
            configs: &["AIME2025-I", "AIME2025-II"],
            test_splits: &["test"],
            fields: &[
                field("id", From::Index),
                field("problem", From::Hub("question")),
                field("answer", From::Text("answer")),
                field("source", From::Aime2025),
            ],
            keep: Keep::All,
        },
    },
    DataSet {
        name: "amc23",
        hub: HubSource {
            id: "AI-MO/aimo-validation-amc",
            configs: &["default"],
            test_splits: &["train"],
            fields: &[
                hub("id"),
                hub("problem"),
                field("answer", From::Float("answer")),
                hub("url"),
                field("question", From::Hub("problem")),
            ],
            keep: Keep::Containing("url", "2023_AMC"),
        },
    },
    DataSet {
        name: "gsm8k",
        hub: HubSource {
            id: "openai/gsm8k",
            configs: &["main"],
            test_splits: &["test"],
            fields: &[hub("question"), hub("answer")],
            keep: Keep::All,
        },
    },
    DataSet {
        name: "math500",
        hub: HubSource {
            id: "HuggingFaceH4/MATH-500",
            configs: &["default"],
            test_splits: &["test"],
            fields: &[
                hub("problem"),
                hub("solution"),
                hub("answer"),
                hub("subject"),
                hub("level"),
                hub("unique_id"),
            ],
            keep: Keep::All,
        },
    },
    DataSet {
        name: "olympiadbench",
        hub: HubSource {
            id: "Hothan/OlympiadBench",
            configs: &["OE_TO_maths_en_COMP"],
            test_splits: &["train"],
            fields: &[
                hub("id"),
                hub("subfield"),
                hub("context"),
                hub("question"),
                hub("solution"),
                hub("final_answer"),
                hub("is_multiple_answer"),
                hub("unit"),
                hub("answer_type"),
                hub("error"),
            ],
            keep: Keep::All,
        },
    },
    DataSet {
        name: "svamp",
        hub: HubSource {
            id: "ChilleD/SVAMP",
            configs: &["default"],
            test_splits: &["train", "test"],
            fields: &[
                field("Answer", From::Float("Answer")),
                hub("Question"),
                hub("Equation"),
                hub("Body"),
                hub("Type"),
                hub("ID"),
                field("idx", From::Index),
            ],
            keep: Keep::All,
        },
    },
];

/// A hub id under which a set is known, and the shape of its rows there.
pub(super) struct HubId {
    pub(super) id: &'static str,
    /// The set's name.
    pub(super) set: &'static str,
    /// Its only split there, if that has another name than our `test`.
    pub(super) test_split: &'static str,
    /// Hub field and our field, where they differ.
    renames: &'static [(&'static str, &'static str)],
    /// Fields that are integers there and text here.
    integers: &'static [&'static str],
}

const fn known(id: &'static str, set: &'static str, test_split: &'static str) -> HubId {
    HubId {
        id,
        set,
        test_split,
        renames: &[],
        integers: &[],
    }
}

pub(super) const HUB_IDS: [HubId; 12] = [
    known("openai/gsm8k", "gsm8k", "test"),
    known("AI-MO/aimo-validation-aime", "aime24", "train"),
    HubId {
        id: "Maxwell-Jia/AIME_2024",
        set: "aime24",
        test_split: "train",
        renames: &[
            ("Problem", "problem"),
            ("Solution", "solution"),
            ("Answer", "answer"),
        ],
        integers: &["Answer"],
    },
    known("math-ai/aime24", "aime24", "test"),
    known("AI-MO/aimo-validation-amc", "amc23", "train"),
    known("math-ai/amc23", "amc23", "test"),
    known("Hothan/OlympiadBench", "olympiadbench", "train"),
    known("HuggingFaceH4/MATH-500", "math500", "test"),
    HubId {
        id: "opencompass/AIME2025",
        set: "aime25",
        test_split: "test",
        renames: &[("question", "problem")],
        integers: &[],
    },
    known("math-ai/aime25", "aime25", "test"),
    known("ChilleD/SVAMP", "svamp", "test"),
    known("arkilpatel/SVAMP", "svamp", "test"),
];

/// The set of a name.
pub(super) fn by_name(name: &str) -> Option<&'static DataSet> {
    SETS.iter().find(|set| set.name == name)
}

/// The set behind a hub id, in any case.
pub(super) fn by_hub_id(id: &str) -> Option<&'static HubId> {
    HUB_IDS
        .iter()
        .find(|known| known.id.eq_ignore_ascii_case(id))
}

/// A row without a field: its place, the field, and the fields that it has.
pub(super) type MissingField = (Origin, &'static str, String);

impl HubSource {
    /// Turns the hub's rows (of all configurations and splits, in order) into ours.
    ///
    /// # Errors
    /// A row that lacks a field.
    pub(super) fn rows(
        &self,
        rows: impl IntoIterator<Item = Row>,
    ) -> Result<Vec<Row>, MissingField> {
        let mut ours = Vec::new();
        for (origin, row) in rows {
            if !self.keep.keeps(&row) {
                continue;
            }
            match self.mapped(&row, ours.len()) {
                Ok(mapped) => ours.push((origin, mapped)),
                Err(field) => return Err((origin, field, field_names(&row))),
            }
        }
        Ok(ours)
    }

    fn mapped(
        &self,
        row: &Map<String, Value>,
        index: usize,
    ) -> Result<Map<String, Value>, &'static str> {
        let mut mapped = Map::new();
        for Field { name, from } in self.fields {
            let value = match from {
                From::Index => Some(Value::from(index)),
                From::Aime2025 => {
                    let exam = if index < 15 { "I" } else { "II" };
                    Some(format!("AIME 2025 {exam} Problem {}", index % 15 + 1).into())
                }
                From::Hub(field) => row.get(*field).cloned(),
                From::Text(field) => {
                    let value = row.get(*field).map(python::text);
                    value.map(|text| text.replace("^\\circ", "").into())
                }
                From::Float(field) => row.get(*field).and_then(float),
            };
            let missing = match from {
                From::Hub(field) | From::Text(field) | From::Float(field) => field,
                From::Index | From::Aime2025 => name,
            };
            mapped.insert((*name).to_owned(), value.ok_or(*missing)?);
        }
        Ok(mapped)
    }
}

impl Keep {
    fn keeps(&self, row: &Map<String, Value>) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => row
                .get("id")
                .and_then(Value::as_i64)
                .is_some_and(|id| ids.contains(&id)),
            Self::Containing(field, text) => row
                .get(*field)
                .and_then(Value::as_str)
                .is_some_and(|value| value.contains(text)),
        }
    }
}

fn float(value: &Value) -> Option<Value> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Number::from_f64(number).map(Value::Number)
}

impl HubId {
    /// Gives a row of our set the shape that it has under this id.
    pub(super) fn hub_shape(&self, row: Map<String, Value>) -> Map<String, Value> {
        let rename = |name: String| match self.renames.iter().find(|(_, ours)| *ours == name) {
            Some((theirs, _)) => (*theirs).to_owned(),
            None => name,
        };
        // Our copy under the hub's own name would hide the renamed field.
        let taken = |name: &str| self.renames.iter().any(|(theirs, _)| *theirs == name);
        let kept = row.into_iter().filter(|(name, _)| !taken(name));
        kept.map(|(name, value)| {
            let name = rename(name);
            let integer = self.integers.contains(&name.as_str());
            match value.as_str().and_then(|text| text.parse::<i64>().ok()) {
                Some(number) if integer => (name, Value::from(number)),
                _ => (name, value),
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(line: usize) -> Origin {
        let file = std::path::Path::new("train.jsonl").into();
        Origin { file, line }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn hub_rows_take_our_shape() {
        let aime = &by_name("aime24").unwrap().hub;
        let row = |id: i64| {
            object(
                json!({"id": id, "problem": "p", "solution": "s", "answer": "025", "url": "u", "extra": 1}),
            )
        };
        let rows = aime
            .rows([(line(1), row(59)), (line(2), row(60)), (line(3), row(90))])
            .unwrap();
        assert_eq!(rows[0].0.line, 2);
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        assert_eq!(
            serde_json::to_string(&rows).unwrap(),
            r#"[{"id":60,"problem":"p","solution":"s","answer":"025","url":"u","question":"p"}]"#
        );
        let svamp = &by_name("svamp").unwrap().hub;
        let row = object(
            json!({"ID": "chal-1", "Body": "b", "Question": "q", "Equation": "e",
                                "Answer": "145", "Type": "t"}),
        );
        let rows = svamp
            .rows([(line(1), row.clone()), (line(2), row)])
            .unwrap();
        assert_eq!(rows[1].1["idx"], json!(1));
        assert_eq!(rows[0].1["Answer"].to_string(), "145.0");
        let error = svamp.rows([(line(7), Map::new())]).unwrap_err();
        assert_eq!((error.0.line, error.1), (7, "Answer"));
    }

    #[test]
    fn local_rows_take_the_hub_s_shape() {
        let id = by_hub_id("maxwell-jia/aime_2024").unwrap();
        let row = object(json!({"id": 1, "problem": "p", "answer": "025", "question": "p"}));
        let shape = Value::from(id.hub_shape(row));
        assert_eq!(
            shape.to_string(),
            r#"{"id":1,"Problem":"p","Answer":25,"question":"p"}"#
        );
        let id = by_hub_id("opencompass/AIME2025").unwrap();
        let row = object(json!({"id": 1, "problem": "p", "answer": "70"}));
        let shape = Value::from(id.hub_shape(row));
        assert_eq!(
            shape.to_string(),
            r#"{"id":1,"question":"p","answer":"70"}"#
        );
    }

    #[test]
    fn every_hub_id_belongs_to_a_set() {
        for known in HUB_IDS {
            assert!(by_name(known.set).is_some(), "{}", known.id);
        }
    }
}
