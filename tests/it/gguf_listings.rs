//! The listings of reference conversions in `golden/gguf`, as values of this crate.

use micota::formats::{GgufArray, GgufValue};
use serde_json::Value;

/// The metadata of a listing in `golden/gguf`, as values.
pub(crate) fn pairs(listing: &Value) -> Vec<(String, GgufValue)> {
    let pairs = listing["metadata"].as_array().unwrap();
    pairs
        .iter()
        .map(|pair| {
            let value = &pair["value"];
            let value = match pair["type"].as_str().unwrap() {
                "STRING" => GgufValue::String(value.as_str().unwrap().to_owned()),
                "UINT32" => GgufValue::U32(value.as_u64().unwrap() as u32),
                "INT32" => GgufValue::I32(value.as_i64().unwrap() as i32),
                "FLOAT32" => GgufValue::F32(value.as_f64().unwrap() as f32),
                "BOOL" => GgufValue::Bool(value.as_bool().unwrap()),
                "ARRAY" => GgufValue::Array(match pair["elem"].as_str().unwrap() {
                    "STRING" => GgufArray::String(serde_json::from_value(value.clone()).unwrap()),
                    "INT32" => GgufArray::I32(serde_json::from_value(value.clone()).unwrap()),
                    "FLOAT32" => GgufArray::F32(serde_json::from_value(value.clone()).unwrap()),
                    other => panic!("array of {other}"),
                }),
                other => panic!("value of {other}"),
            };
            (pair["key"].as_str().unwrap().to_owned(), value)
        })
        .collect()
}
