//! JSON exactly as Python's `json.dumps(ensure_ascii=False)` writes it: hashes and sample files
//! depend on every byte.
//!
//! Differences to `serde_json`'s writer: blanks after `,` and `:` in the one-line form, floats in
//! the spelling of Python's `repr` (`27.0`, `1e-05`, `1e+16`), DEL unescaped.

use serde_json::{Map, Number, Value};

/// One line, `", "` and `": "` between the parts: Python's default.
pub fn to_line(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, None);
    out
}

/// Indented by two, `","` before each line break: `json.dumps(indent=2)`.
pub fn to_indented(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Some(0));
    out
}

/// A document's keys in their own order, as [`to_indented`].
pub fn object_to_indented(object: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_object(&mut out, object, Some(0));
    out
}

/// `indent` is the depth of the enclosing line, or `None` for one line.
fn write_value(out: &mut String, value: &Value, indent: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => write_array(out, items, indent),
        Value::Object(object) => write_object(out, object, indent),
    }
}

fn write_array(out: &mut String, items: &[Value], indent: Option<usize>) {
    let inner = indent.map(|depth| depth + 1);
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        separate(out, index, inner);
        write_value(out, item, inner);
    }
    if !items.is_empty() {
        break_line(out, indent);
    }
    out.push(']');
}

fn write_object(out: &mut String, object: &Map<String, Value>, indent: Option<usize>) {
    let inner = indent.map(|depth| depth + 1);
    out.push('{');
    for (index, (key, value)) in object.iter().enumerate() {
        separate(out, index, inner);
        write_string(out, key);
        out.push_str(": ");
        write_value(out, value, inner);
    }
    if !object.is_empty() {
        break_line(out, indent);
    }
    out.push('}');
}

fn separate(out: &mut String, index: usize, indent: Option<usize>) {
    if index > 0 {
        out.push_str(if indent.is_some() { "," } else { ", " });
    }
    break_line(out, indent);
}

fn break_line(out: &mut String, indent: Option<usize>) {
    if let Some(depth) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(float) if number.is_f64() => out.push_str(&float_repr(float)),
        _ => out.push_str(&number.to_string()),
    }
}

/// Python's `repr` of a float: the shortest digits that read back the same, positional between
/// 1e-4 and 1e16, always with a fraction or an exponent.
pub fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        // What Python's `json` writes; JSON text cannot hold it, so it never comes from a file.
        let name = if value.is_nan() { "NaN" } else { "Infinity" };
        return format!("{}{name}", if value < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a whole exponent");
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let positional = value.to_string();
    if positional.contains('.') {
        positional
    } else {
        positional + ".0"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_spelled_as_python_spells_them() {
        // Each pair printed by CPython 3.12.
        for (value, text) in [
            (27.0, "27.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (0.16329931618554522, "0.16329931618554522"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }

    #[test]
    fn layouts_match_python() {
        let value =
            json!({"a": [], "b": {}, "c": [1, 2.0, null], "d": "\u{7f}\u{1}\n\u{211d}\"\\/"});
        let text = "\u{7f}\\u0001\\n\u{211d}\\\"\\\\/";
        assert_eq!(
            to_line(&value),
            format!("{{\"a\": [], \"b\": {{}}, \"c\": [1, 2.0, null], \"d\": \"{text}\"}}")
        );
        assert_eq!(
            to_indented(&value),
            format!(
                "{{\n  \"a\": [],\n  \"b\": {{}},\n  \"c\": [\n    1,\n    2.0,\n    null\n  ],\n  \"d\": \"{text}\"\n}}"
            )
        );
    }
}
