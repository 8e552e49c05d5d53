//! Unicode that stands for ASCII or LaTeX: digits of other scripts, minus signs, blanks, symbols.

use std::borrow::Cow;

/// Rewrites what a reader would not distinguish: full-width forms, minus signs, blanks, symbols.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // The sign covers the whole number after it.
            '√' if chars.peek().is_some_and(char::is_ascii_digit) => {
                out.push_str(r"\sqrt{");
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    out.push(digit);
                }
                out.push('}');
            }
            '\u{ff01}'..='\u{ff5e}' => {
                // Full-width forms are ASCII shifted by a constant.
                out.extend(char::from_u32(c as u32 - 0xfee0));
            }
            '\u{660}'..='\u{669}' => out.extend(char::from_digit(c as u32 - 0x660, 10)),
            '\u{1d7ce}'..='\u{1d7ff}' => {
                out.extend(char::from_digit((c as u32 - 0x1d7ce) % 10, 10));
            }
            '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{2060}'..='\u{2064}' | '\u{ad}' => {}
            '−' | '–' | '—' | '‐' | '‑' | '‒' | '﹣' => out.push('-'),
            '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' => {
                out.push('^');
                out.push(superscript_digit(c));
            }
            c if c.is_whitespace() => out.push(' '),
            c => match symbol(c) {
                Some(latex) => out.push_str(latex),
                None => out.push(c),
            },
        }
    }
    Cow::Owned(out)
}

fn superscript_digit(c: char) -> char {
    match c {
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁰' => '0',
        c => char::from_digit(c as u32 - 0x2070, 10).unwrap_or('?'),
    }
}

/// The LaTeX for a symbol that has one.
fn symbol(c: char) -> Option<&'static str> {
    Some(match c {
        '×' | '✕' => r"\times ",
        '·' | '⋅' | '∙' | '•' => r"\cdot ",
        '÷' => r"\div ",
        '∗' => "*",
        '⁄' | '∕' => "/",
        '±' => r"\pm ",
        '∓' => r"\mp ",
        '√' => r"\sqrt ",
        '∛' => r"\sqrt[3]",
        '∞' => r"\infty ",
        '≤' | '⩽' => r"\le ",
        '≥' | '⩾' => r"\ge ",
        '≠' => r"\ne ",
        '≈' => r"\approx ",
        '≡' => r"\equiv ",
        '∈' => r"\in ",
        '∪' => r"\cup ",
        '∩' => r"\cap ",
        '∖' => r"\setminus ",
        '∅' => r"\emptyset ",
        'ℝ' => r"\mathbb{R}",
        'ℤ' => r"\mathbb{Z}",
        'π' | '𝜋' => r"\pi ",
        'α' => r"\alpha ",
        'β' => r"\beta ",
        'γ' => r"\gamma ",
        'θ' => r"\theta ",
        'λ' => r"\lambda ",
        'φ' | 'ϕ' => r"\phi ",
        'ω' => r"\omega ",
        '°' | 'º' | '˚' => r"\degree ",
        '⌊' => r"\lfloor ",
        '⌋' => r"\rfloor ",
        '⌈' => r"\lceil ",
        '⌉' => r"\rceil ",
        '½' => r"\frac{1}{2}",
        '⅓' => r"\frac{1}{3}",
        '⅔' => r"\frac{2}{3}",
        '¼' => r"\frac{1}{4}",
        '¾' => r"\frac{3}{4}",
        '。' | '．' => ".",
        '，' | '、' => ",",
        '；' => ";",
        '：' => ":",
        '’' | '‘' | '′' => "'",
        '“' | '”' => "\"",
        '€' | '£' | '¥' | '₹' | '¢' => r"\$",
        '％' => "%",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_alikes_become_ascii() {
        assert_eq!(fold("１２７\u{200b}"), "127");
        assert_eq!(fold("−５\u{a0}cm²"), "-5 cm^2");
        assert_eq!(fold("2√3·π"), r"2\sqrt{3}\cdot \pi ");
    }
}
