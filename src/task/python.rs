//! The few pieces of Python that a prompt depends on: `str`, `repr`, and literals read back.

use serde_json::Value;

/// Lists inside lists in a literal. Targets nest one deep.
const MAX_LITERAL_DEPTH: usize = 32;

/// Python's `str(value)`.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// Python's `repr(value)`.
pub fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => float_repr(float),
            _ => number.to_string(),
        },
        Value::String(text) => string_repr(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pairs = map.iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{}: {}", string_repr(key), repr(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Python's `repr` of a float: the shortest digits that read back, a fraction always shown,
/// exponents from 1e16 up and below 1e-4.
pub fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value < 0.0 { "-" } else { "" };
        return if value.is_nan() {
            "nan".to_owned()
        } else {
            format!("{sign}inf")
        };
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let shown = format!("{value:e}");
        let (digits, exponent) = shown.split_once('e').expect("{:e} writes an e");
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let shown = value.to_string();
    if shown.contains('.') {
        shown
    } else {
        format!("{shown}.0")
    }
}

fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push(quote);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\\' => shown.push_str("\\\\"),
            c if c == quote => {
                shown.push('\\');
                shown.push(c);
            }
            c if c.is_ascii_control() || ('\u{80}'..'\u{a1}').contains(&c) || c == '\u{ad}' => {
                shown.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

/// Reads a Python literal list (`ast.literal_eval` of text that starts with `[`): strings, numbers,
/// `True`, `False`, `None`, and lists of these. `None` if it is anything else.
pub(super) fn literal_list(text: &str) -> Option<Value> {
    let mut reader = Literal {
        rest: text.trim_end_matches([' ', '\t']),
    };
    let value = reader.list(0)?;
    reader.rest.is_empty().then_some(value)
}

struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    fn blanks(&mut self) {
        self.rest = self
            .rest
            .trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_LITERAL_DEPTH || !self.eat("[") {
            return None;
        }
        let mut items = Vec::new();
        loop {
            self.blanks();
            if self.eat("]") {
                return Some(Value::Array(items));
            }
            items.push(self.value(depth)?);
            self.blanks();
            if !self.eat(",") && !self.rest.starts_with(']') {
                return None;
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        match self.rest.chars().next()? {
            '[' => self.list(depth + 1),
            '\'' | '"' => self.strings(),
            _ => self.word(),
        }
    }

    /// One string, or several side by side, which Python joins.
    fn strings(&mut self) -> Option<Value> {
        let mut joined = String::new();
        while let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            self.string(quote, &mut joined)?;
            self.blanks();
        }
        Some(Value::String(joined))
    }

    fn string(&mut self, quote: char, into: &mut String) -> Option<()> {
        let tripled = [quote; 3].iter().collect::<String>();
        if self.rest.starts_with(&tripled) {
            return None;
        }
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => return None,
                '\\' => match chars.next()?.1 {
                    'n' => into.push('\n'),
                    't' => into.push('\t'),
                    'r' => into.push('\r'),
                    '\n' => {}
                    c @ ('\\' | '\'' | '"') => into.push(c),
                    // Escapes by number are not seen in targets; unknown ones keep the backslash.
                    'x' | 'u' | 'U' | 'N' | '0'..='7' | 'a' | 'b' | 'f' | 'v' => return None,
                    c => {
                        into.push('\\');
                        into.push(c);
                    }
                },
                c if c == quote => {
                    self.rest = &self.rest[1 + at + c.len_utf8()..];
                    return Some(());
                }
                c => into.push(c),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find([',', ']', ' ', '\t', '\n', '\r'])
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => return Some(Value::Bool(true)),
            "False" => return Some(Value::Bool(false)),
            "None" => return Some(Value::Null),
            _ => {}
        }
        let unsigned = word.trim_start_matches(['-', '+']);
        let digits = unsigned.bytes().all(|b| b.is_ascii_digit());
        if digits && !unsigned.is_empty() {
            // `025` is a syntax error in Python; `0` and `000` are zero.
            let zeros = unsigned.bytes().all(|b| b == b'0');
            if unsigned.starts_with('0') && !zeros {
                return None;
            }
            return word.parse::<i64>().ok().map(Value::from);
        }
        let float = unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'));
        let value = float.then(|| word.parse::<f64>().ok()).flatten()?;
        serde_json::Number::from_f64(value).map(Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_python_prints_them() {
        assert_eq!(
            repr(&json!([null, true, 27.0, 1, "it's", "a\"b'", "x\n\\y", {"k": -0.5}])),
            r#"[None, True, 27.0, 1, "it's", 'a"b\'', 'x\n\\y', {'k': -0.5}]"#
        );
        for (value, shown) in [
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float_repr(value), shown);
        }
    }

    #[test]
    fn literal_lists_read_as_python_reads_them() {
        assert_eq!(
            literal_list(r#"['a', "b'", 'c\n', 1, -2.5, None, [True,], ]"#),
            Some(json!(["a", "b'", "c\n", 1, -2.5, null, [true]]))
        );
        assert_eq!(literal_list("['a' 'b']"), Some(json!(["ab"])));
        for bad in [
            "[x]", "[1", "[1] 2", "[025]", "['a", "[1 2]", "[,]", "['\n']", "[0, 1)",
        ] {
            assert_eq!(literal_list(bad), None, "{bad}");
        }
        assert_eq!(literal_list(&"[".repeat(10_000)), None);
    }

    proptest! {
        #[test]
        fn lists_of_text_survive_the_round_trip(items in prop::collection::vec("[ -~\n]{0,8}", 0..5)) {
            let value = json!(items);
            prop_assert_eq!(literal_list(&repr(&value)), Some(value));
        }
    }
}
