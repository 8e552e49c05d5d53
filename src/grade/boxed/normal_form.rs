//! The textual normal form of the reference (`strip_string` of hendrycks_math), step by step.
//!
//! The order of the steps matters and is the reference's; so do its oddities, such as `\left`
//! being deleted inside `\leftarrow`.

use std::borrow::Cow;

use super::super::python;

/// The trimmed variant's first step: leading zeros go, and so does a fraction of zeros only.
pub(super) fn trim(text: &str) -> &str {
    let text = text.trim_start_matches('0');
    let mut pieces = text.split('.');
    match (pieces.next(), pieces.next()) {
        (Some(whole), Some(fraction)) if fraction.bytes().all(|b| b == b'0') => whole,
        _ => text,
    }
}

/// The normal form, or `None` where the reference raises an exception.
pub(super) fn normal_form(text: &str) -> Option<Cow<'_, str>> {
    if text
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b'-' || b == b',')
    {
        return Some(Cow::Borrowed(text)); // no step below touches these
    }
    let mut text = Cow::Borrowed(text);
    replace(&mut text, "\n", "");
    replace(&mut text, r"\!", "");
    replace(&mut text, r"\\", r"\");
    replace(&mut text, "tfrac", "frac");
    replace(&mut text, "dfrac", "frac");
    replace(&mut text, r"\left", "");
    replace(&mut text, r"\right", "");
    replace(&mut text, r"^{\circ}", "");
    replace(&mut text, r"^\circ", "");
    replace(&mut text, r"\$", "");
    drop_unit(&mut text)?;
    replace(&mut text, r"\%", "");
    replace(&mut text, " .", " 0.");
    replace(&mut text, "{.", "{0.");
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.to_mut().insert(0, '0');
    }
    drop_left_hand_side(&mut text);
    brace_roots(&mut text)?;
    replace(&mut text, " ", "");
    brace_fractions(&mut text)?;
    if text == "0.5" {
        text = Cow::Borrowed(r"\frac{1}{2}");
    }
    slash_to_fraction(&mut text)?;
    Some(text)
}

fn replace(text: &mut Cow<'_, str>, from: &str, to: &str) {
    if text.contains(from) {
        *text = Cow::Owned(text.replace(from, to));
    }
}

/// `5\text{ cm}` -> `5`. Two units raise in the reference.
fn drop_unit(text: &mut Cow<'_, str>) -> Option<()> {
    let mut pieces = text.split(r"\text{ ");
    let (first, second, third) = (pieces.next(), pieces.next(), pieces.next());
    if third.is_some() {
        return None;
    }
    if let (Some(value), Some(_)) = (first, second) {
        let end = value.len();
        truncate(text, end);
    }
    Some(())
}

fn truncate(text: &mut Cow<'_, str>, end: usize) {
    match text {
        Cow::Borrowed(text) => *text = &text[..end],
        Cow::Owned(text) => text.truncate(end),
    }
}

/// `x = 5` -> ` 5`, when at most two characters precede the only equals sign.
fn drop_left_hand_side(text: &mut Cow<'_, str>) {
    let Some((left, right)) = text.split_once('=') else {
        return;
    };
    if !right.contains('=') && left.chars().nth(2).is_none() {
        let start = left.len() + 1;
        match text {
            Cow::Borrowed(text) => *text = &text[start..],
            Cow::Owned(text) => drop(text.drain(..start)),
        }
    }
}

/// `\sqrt3` -> `\sqrt{3}`: whatever single character follows is wrapped.
fn brace_roots(text: &mut Cow<'_, str>) -> Option<()> {
    let mut pieces = text.split(r"\sqrt");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    if out.len() == text.len() {
        return Some(());
    }
    for piece in pieces {
        let first = piece.chars().next()?;
        out.push_str(r"\sqrt");
        if first == '{' {
            out.push_str(piece);
        } else {
            out.extend(['{', first, '}']);
            out.push_str(&piece[first.len_utf8()..]);
        }
    }
    *text = Cow::Owned(out);
    Some(())
}

/// `\frac12` -> `\frac{1}{2}`. A lone character after `\frac` leaves the whole text as it was.
fn brace_fractions(text: &mut Cow<'_, str>) -> Option<()> {
    let mut pieces = text.split(r"\frac");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    if out.len() == text.len() {
        return Some(());
    }
    for piece in pieces {
        let mut chars = piece.chars();
        let first = chars.next()?;
        out.push_str(r"\frac");
        if first == '{' {
            out.push_str(piece);
            continue;
        }
        let Some(second) = chars.next() else {
            return Some(());
        };
        out.extend(['{', first, '}']);
        match second {
            '{' => out.push('{'),
            second => out.extend(['{', second, '}']),
        }
        out.push_str(chars.as_str());
    }
    *text = Cow::Owned(out);
    Some(())
}

/// `1/2` -> `\frac{1}{2}`. With one slash, both sides must read as integers, or Python raises.
fn slash_to_fraction(text: &mut Cow<'_, str>) -> Option<()> {
    let Some((above, below)) = text.split_once('/') else {
        return Some(());
    };
    if below.contains('/') {
        return Some(());
    }
    if !(python::reads_as_int(above) && python::reads_as_int(below)) {
        return None;
    }
    if python::is_canonical_int(above) && python::is_canonical_int(below) {
        *text = Cow::Owned(format!(r"\frac{{{above}}}{{{below}}}"));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Option<String> {
        normal_form(text).map(Cow::into_owned)
    }

    #[test]
    fn every_row_of_the_rule() {
        for half in [r"\dfrac12", r"\tfrac{1}{2}", "1/2", ".5", "0.5"] {
            assert_eq!(form(half).as_deref(), Some(r"\frac{1}{2}"), "{half}");
        }
        let unchanged = [
            "0.50",
            "+1/2",
            "01/2",
            "1_0/2",
            r"\frac{1}2",
            r"\frac{72}1",
            "10,000",
            r"10{,}000",
            r"1\,000",
            "abc=5",
            "k=5=5",
            "f(x)=5",
            "\u{a0}5",
            r"5\,\text{cm}",
        ];
        for text in unchanged {
            assert_eq!(form(text).as_deref(), Some(text), "{text}");
        }
        let aborts = [
            "x/2",
            "1/",
            "1.0/2",
            r"\frac{1}{2}/n",
            r"\frac",
            r"a\frac",
            r"\sqrt",
            r"\sqrt\sqrt3",
            r"a\text{ b}c\text{ d}",
        ];
        for text in aborts {
            assert_eq!(form(text), None, "{text}");
        }
        let changed = [
            (r"\frac-12", r"\frac{-}{1}2"),
            (r"\sqrt 3", r"\sqrt{}3"),
            (r"\sqrt12", r"\sqrt{1}2"),
            (r"5\text{ cm}", "5"),
            (r"5 \text{cm}", r"5\text{cm}"),
            (r"50\%", "50"),
            (r"\$5", "5"),
            (r"90^\circ", "90"),
            ("k = 5", "5"),
            ("xy=5", "5"),
            ("-x=5", "5"),
            (r"1,\!000", "1,000"),
            ("1 000", "1000"),
            (
                r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
                r"\begin{pmatrix}1\2\end{pmatrix}",
            ),
            ("", ""),
        ];
        for (text, expected) in changed {
            assert_eq!(form(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_fraction_of_zeros_is_trimmed_however_the_text_goes_on() {
        assert_eq!(trim("204.0.7"), "204");
        assert_eq!(trim("00204."), "204");
        assert_eq!(trim("204.5"), "204.5");
        assert_eq!(trim("0"), "");
    }
}
