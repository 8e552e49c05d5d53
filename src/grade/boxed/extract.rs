//! The last box of a response and what is inside it.

use memchr::memmem;

use super::AnswerError;

const BOXED: &str = r"\boxed";
const FBOX: &str = r"\fbox";
const FBOX_BRACE: &str = r"\fbox{";
/// Characters that the reference drops from the front of a box, whatever they are.
const PREFIX_CHARS: usize = 7;

/// The text inside the last box, as the reference extracts it; `None` where it finds no box.
///
/// `\boxed` followed by a space anywhere takes precedence: the answer then runs from there to the
/// next `$`. A box that is never closed is no answer even when an earlier one is complete.
///
/// # Errors
/// The found text contains `\fbox{` but does not begin with it: the reference raises.
pub fn extract(response: &str) -> Result<Option<&str>, AnswerError> {
    let bytes = response.as_bytes();
    let mut last = None;
    let mut last_with_space = None;
    for at in memmem::find_iter(bytes, BOXED) {
        last = Some(at);
        if bytes.get(at + BOXED.len()) == Some(&b' ') {
            last_with_space = Some(at + BOXED.len() + 1);
        }
    }
    if let Some(start) = last_with_space {
        let rest = &response[start..];
        let inside = rest.split_once('$').map_or(rest, |(inside, _)| inside);
        return match inside.contains(FBOX_BRACE) {
            true => Err(AnswerError::FboxInside),
            false => Ok(Some(inside)),
        };
    }
    let Some(start) = last.or_else(|| memmem::rfind(bytes, FBOX.as_bytes())) else {
        return Ok(None);
    };
    match closing_brace(&bytes[start..]) {
        Some(end) => unwrap(&response[start..=start + end]).map(Some),
        None => Ok(None),
    }
}

/// Index of the first `}` that brings the count of open braces to zero. Escapes do not count.
fn closing_brace(text: &[u8]) -> Option<usize> {
    let mut open = 0_i64;
    for at in memchr::memchr2_iter(b'{', b'}', text) {
        if text[at] == b'{' {
            open += 1;
        } else {
            open -= 1;
            if open == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// What is inside a box that ends with its closing brace.
fn unwrap(found: &str) -> Result<&str, AnswerError> {
    if let Some(inside) = found.strip_prefix(FBOX_BRACE) {
        return Ok(&inside[..inside.len() - 1]);
    }
    if found.contains(FBOX_BRACE) {
        return Err(AnswerError::FboxInside);
    }
    let start = found
        .char_indices()
        .nth(PREFIX_CHARS)
        .map_or(found.len(), |(at, _)| at);
    Ok(found.get(start..found.len() - 1).unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quirk_of_the_reference() {
        let cases = [
            (r"\boxed{1} then \boxed{2}", Some("2")),
            (
                r"put it in \boxed form: \boxed{7}",
                Some(r"form: \boxed{7}"),
            ),
            (r"\boxed{7} and $\boxed 5$ x", Some("5")),
            (r"\boxed {5}", Some("{5}")),
            (r"\boxed 5 and more", Some("5 and more")),
            (r"\boxed{\boxed 5}", Some("5}")),
            (r"\boxed{a{b}", None),
            (r"so \boxed{7}. Again \boxed{", None),
            (r"\boxed{}", Some("")),
            (r"\boxed5 {x}", Some(" {x")),
            (r"\boxed\{5\}", Some(r"{5\")),
            ("\\boxed\n{5}", Some("{5")),
            (r"\fbox{5}", Some("5")),
            (r"\fbox {5}", Some("5")),
            (r"\framebox{5}", None),
            (r"\fbox 5", None),
            (r"\fbox{\boxed{5}}", Some("5")),
            ("\\boxedé{5}", Some("{5")),
            (r"\boxed}5{", None),
            ("", None),
        ];
        for (response, expected) in cases {
            assert_eq!(extract(response), Ok(expected), "{response}");
        }
        assert!(extract(r"\boxed{\fbox{5}}").is_err());
        assert!(extract(r"\boxed \fbox{5}").is_err());
    }
}
