//! Python's reading of text, where it differs from Rust's: blanks and integers.

use std::sync::LazyLock;

use regex::Regex;

/// Digits that Python's `int()` accepts before it raises (`sys.int_info.default_max_str_digits`).
const MAX_INT_DIGITS: usize = 4300;

static DECIMAL_DIGITS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\A\p{Nd}\z").expect("a constant pattern"));

/// What `str.strip` removes: Unicode white space and the four ASCII separators.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Whether `int(text)` succeeds.
pub(super) fn reads_as_int(text: &str) -> bool {
    // `int` strips the blanks of C's `isspace`, and Unicode's beyond ASCII; not U+001C to U+001F.
    let blank = |c: char| match c {
        '\u{1c}'..='\u{1f}' => false,
        c => c.is_whitespace(),
    };
    let text = text.trim_matches(blank);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut count = 0;
    let mut after_digit = false;
    for c in digits.chars() {
        if c == '_' && after_digit {
            after_digit = false;
        } else if is_decimal_digit(c) {
            after_digit = true;
            count += 1;
        } else {
            return false;
        }
    }
    after_digit && count <= MAX_INT_DIGITS
}

/// Whether `text` is what `str(int(text))` gives: no plus, no leading zero, no `-0`.
pub(super) fn is_canonical_int(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn is_decimal_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && DECIMAL_DIGITS.is_match(c.encode_utf8(&mut [0; 4])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_python_reads_them() {
        for good in ["5", " 5\t", "+5", "-05", "1_0", "٣", "\u{a0}7\u{2003}"] {
            assert!(reads_as_int(good), "{good:?}");
        }
        for bad in [
            "", "-", "1__0", "_1", "1_", "1.0", "½", "+-1", "\u{1f}5", "- 5",
        ] {
            assert!(!reads_as_int(bad), "{bad:?}");
        }
        assert!(reads_as_int(&"0".repeat(4300)));
        assert!(!reads_as_int(&"1".repeat(4301)));
    }

    #[test]
    fn canonical_integers() {
        assert!(["0", "7", "-7", "120"].iter().all(|t| is_canonical_int(t)));
        assert!(
            ["", "-0", "00", "+1", "01", "1_0", "٣"]
                .iter()
                .all(|t| !is_canonical_int(t))
        );
    }
}
