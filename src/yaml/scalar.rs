//! Scalars as PyYAML reads them: YAML 1.1's rules, without sexagesimals and dates.

use granit_parser::{ScalarStyle, Tag};
use serde_json::Number;

use super::Data;

/// A tag that is not of YAML's own schema, as written.
pub(super) fn custom(tag: Option<&Tag>) -> Option<String> {
    tag.filter(|tag| !tag.is_yaml_core_schema() && tag.handle() != "tag:yaml.org,2002:")
        .map(Tag::original)
}

/// The custom tag and the value of a scalar.
pub(super) fn scalar(
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
