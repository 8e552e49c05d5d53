//! Python regular expressions on Rust's engines.
//!
//! The linear-time `regex` crate runs whatever it can express; look-around and back-references go
//! to `fancy-regex`, whose backtracking is bounded. Before that the syntax is translated where the
//! two languages differ: `$` (Python's also matches before a final line feed), `\Z`, a literal `{`,
//! and `[` inside a class.

use super::GradeError;

/// Steps a backtracking match may take, so that one answer cannot stall a run.
const BACKTRACK_LIMIT: usize = 1_000_000;
/// Python's `$`: the end, or just before a line feed that ends the text.
const PYTHON_END: &str = r"(?=\n?\z)";

/// A compiled Python regular expression.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Linear(regex::Regex),
    Backtracking(fancy_regex::Regex),
}

/// Where a match starts and ends, and what `re.findall` reports of it.
type Found<'t> = (usize, usize, Vec<&'t str>);

/// The backtracking limit was exceeded.
pub(super) struct TooManySteps;

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, GradeError> {
        let translated = translate(pattern);
        if let Ok(regex) = regex::Regex::new(&translated) {
            return Ok(Self::Linear(regex));
        }
        fancy_regex::RegexBuilder::new(&translated)
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map(Self::Backtracking)
            .map_err(|error| GradeError::Pattern {
                pattern: pattern.to_owned(),
                reason: error.to_string(),
            })
    }

    /// All matches as `re.findall` orders them: per match the text of each group (the whole match
    /// where there is no group), an absent group being empty.
    pub(super) fn find_all<'t>(&self, text: &'t str) -> Result<Vec<Vec<&'t str>>, TooManySteps> {
        let mut found = Vec::new();
        self.each_match(text, |groups| found.push(groups))?;
        Ok(found)
    }

    /// `re.sub(pattern, "", text)`.
    pub(super) fn delete_all(&self, text: &str) -> Result<String, TooManySteps> {
        match self {
            Self::Linear(regex) => Ok(regex.replace_all(text, "").into_owned()),
            Self::Backtracking(regex) => regex
                .try_replacen(text, 0, "")
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| TooManySteps),
        }
    }

    fn each_match<'t>(
        &self,
        text: &'t str,
        mut each: impl FnMut(Vec<&'t str>),
    ) -> Result<(), TooManySteps> {
        let mut from = 0;
        let mut last_empty_at = None;
        while from <= text.len() {
            let Some((start, end, groups)) = self.groups_at(text, from)? else {
                break;
            };
            if start == end && last_empty_at == Some(end) {
                // Python moves on by one character after an empty match.
                from = end + text[end..].chars().next().map_or(1, char::len_utf8);
                last_empty_at = None;
                continue;
            }
            last_empty_at = (start == end).then_some(end);
            from = end;
            each(groups);
        }
        Ok(())
    }

    fn groups_at<'t>(&self, text: &'t str, from: usize) -> Result<Option<Found<'t>>, TooManySteps> {
        match self {
            Self::Linear(regex) => Ok(regex.captures_at(text, from).map(|captures| {
                let whole = captures.get_match();
                let groups = match captures.len() {
                    1 => vec![whole.as_str()],
                    _ => captures
                        .iter()
                        .skip(1)
                        .map(|g| g.map_or("", |g| g.as_str()))
                        .collect(),
                };
                (whole.start(), whole.end(), groups)
            })),
            Self::Backtracking(regex) => {
                let captures = regex
                    .captures_from_pos(text, from)
                    .map_err(|_| TooManySteps)?;
                Ok(captures.and_then(|captures| {
                    let whole = captures.get(0)?;
                    let groups = match captures.len() {
                        1 => vec![whole.as_str()],
                        n => (1..n)
                            .map(|i| captures.get(i).map_or("", |g| g.as_str()))
                            .collect(),
                    };
                    Some((whole.start(), whole.end(), groups))
                }))
            }
        }
    }
}

/// Rewrites Python's syntax into that of the Rust engines where they differ.
fn translate(pattern: &str) -> String {
    let multi_line = has_multi_line_flag(pattern);
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern.char_indices().peekable();
    let mut class_start = None; // byte index of the first member, inside a class
    while let Some((at, c)) = rest.next() {
        match (c, class_start) {
            ('\\', _) => match rest.next() {
                Some((_, 'Z')) if class_start.is_none() => out.push_str(r"\z"),
                Some((_, next)) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            ('[', None) => {
                out.push('[');
                if let Some((_, caret)) = rest.next_if(|&(_, next)| next == '^') {
                    out.push(caret);
                }
                class_start = Some(rest.peek().map_or(pattern.len(), |&(next, _)| next));
            }
            // A bracket that comes first is a member of the class.
            (']', Some(start)) if at == start => out.push_str(r"\]"),
            (']', Some(_)) => {
                out.push(']');
                class_start = None;
            }
            // Set operations and nested classes are Rust's alone.
            ('[' | '&' | '~', Some(_)) => out.extend(['\\', c]),
            ('$', None) if !multi_line => out.push_str(PYTHON_END),
            ('{', None) if !starts_repetition(&pattern[at..]) => out.push_str(r"\{"),
            ('{', None) if pattern[at..].starts_with("{,") => out.push_str("{0"),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Whether an inline flag group at the start, such as `(?ms)`, sets multi-line mode.
fn has_multi_line_flag(pattern: &str) -> bool {
    pattern
        .strip_prefix("(?")
        .and_then(|rest| rest.split_once(')'))
        .is_some_and(|(flags, _)| {
            flags.chars().all(|c| c.is_ascii_alphabetic()) && flags.contains('m')
        })
}

/// Whether `text`, which starts with `{`, is `{m}`, `{m,}`, `{,n}` or `{m,n}`.
fn starts_repetition(text: &str) -> bool {
    text[1..].split_once('}').is_some_and(|(inside, _)| {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        match inside.split_once(',') {
            Some((least, most)) => digits(least) && digits(most) && inside != ",",
            None => !inside.is_empty() && digits(inside),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str, text: &str) -> Vec<String> {
        let found = Pattern::new(pattern).unwrap().find_all(text);
        found
            .unwrap_or_default()
            .iter()
            .map(|groups| groups.join("|"))
            .collect()
    }

    #[test]
    fn the_dollar_also_matches_before_a_final_line_feed() {
        let pattern = Pattern::new(r"\.$").unwrap();
        let delete = |text| pattern.delete_all(text).unwrap_or_default();
        assert_eq!(delete("18.\n"), "18\n");
        assert_eq!(delete("18."), "18");
        assert_eq!(delete("18.\n\n"), "18.\n\n");
    }

    #[test]
    fn matches_are_found_as_python_finds_them() {
        assert_eq!(all("a*", "aab"), ["aa", "", ""]);
        assert_eq!(all("(x)|(y)", "xy"), ["x|", "|y"]);
        assert_eq!(all(r"(?<=\$)\d+", "$5 6 $7"), ["5", "7"]);
        assert_eq!(all(r"[$.]{2,}|{", "a$.{"), ["$.", "{"]);
        assert_eq!(all(r"[]a]+|[[&&]", "]a [&"), ["]a", "[", "&"]);
        assert_eq!(all(r"a{,2}b", "aaab"), ["aab"]);
    }
}
