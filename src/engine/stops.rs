//! Stop strings, found in text that arrives token by token.
//!
//! A token may end in the middle of a character or of a stop string, so the matcher works on bytes
//! and looks again only at as many old bytes as the longest stop string can reach back. Once one is
//! found the whole text is cut as lm-evaluation-harness cuts it: for each stop string in list order,
//! what precedes its first occurrence is kept.

/// The text of one generation so far, and the strings that end it.
#[derive(Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    /// Length of the longest stop string.
    longest: usize,
    bytes: Vec<u8>,
}

impl StopMatcher {
    /// No text yet. Empty stop strings match nothing.
    pub(super) fn new(stops: &[String]) -> Self {
        let stops: Vec<String> = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self {
            longest: stops.iter().map(String::len).max().unwrap_or(0),
            stops,
            bytes: Vec::new(),
        }
    }

    /// Appends what `write` appends; returns whether a stop string is now in the text.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let old_len = self.bytes.len();
        write(&mut self.bytes);
        let window = &self.bytes[old_len.saturating_sub(self.longest.saturating_sub(1))..];
        self.stops
            .iter()
            .any(|stop| find(window, stop.as_bytes()).is_some())
    }

    /// The text, cut before the stop strings in it, and the one that cut last. Bytes that are not
    /// UTF-8 become U+FFFD, one per maximal invalid part, as tokenizers decode them.
    pub(super) fn finish(mut self) -> (String, Option<String>) {
        let (len, stop) = cut_length(&self.bytes, &self.stops);
        self.bytes.truncate(len);
        let text = match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        (text, stop.cloned())
    }
}

/// What precedes the stop strings in `text`: each in list order cuts what the ones before it left.
/// Empty stop strings cut nothing.
pub fn cut_at_stop_strings<'a>(text: &'a str, stops: &[String]) -> &'a str {
    &text[..cut_length(text.as_bytes(), stops).0]
}

fn cut_length<'a>(bytes: &[u8], stops: &'a [String]) -> (usize, Option<&'a String>) {
    let mut len = bytes.len();
    let mut last = None;
    for stop in stops.iter().filter(|stop| !stop.is_empty()) {
        if let Some(found) = find(&bytes[..len], stop.as_bytes()) {
            len = found;
            last = Some(stop);
        }
    }
    (len, last)
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len())
        .position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `text` in pieces of the given lengths and stops as an engine does.
    fn generate(text: &[u8], pieces: &[usize], stops: &[String]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops);
        let (mut rest, mut lengths) = (text, pieces.iter().cycle());
        while !rest.is_empty() {
            let len = (*lengths.next().unwrap()).clamp(1, rest.len());
            let (piece, tail) = rest.split_at(len);
            rest = tail;
            if matcher.push(|bytes| bytes.extend_from_slice(piece)) {
                break;
            }
        }
        matcher.finish()
    }

    fn stops(list: &[&str]) -> Vec<String> {
        list.iter().map(|&stop| stop.to_owned()).collect()
    }

    #[test]
    fn a_stop_string_is_found_across_tokens() {
        let result = generate(b"abc Problem: def", &[1], &stops(&["Problem:"]));
        assert_eq!(result, ("abc ".to_owned(), Some("Problem:".to_owned())));
    }

    #[test]
    fn text_generated_after_a_stop_string_in_the_same_token_is_cut_too() {
        let result = generate(b"aXbYc", &[5], &stops(&["Y", "X"]));
        assert_eq!(result, ("a".to_owned(), Some("X".to_owned())));
    }

    #[test]
    fn list_order_decides_between_overlapping_stop_strings() {
        assert_eq!(cut_at_stop_strings("abc", &stops(&["b", "ab"])), "a");
        assert_eq!(cut_at_stop_strings("abc", &stops(&["ab", "b"])), "");
    }

    #[test]
    fn half_a_character_waits_for_its_rest_and_is_marked_at_the_end() {
        let text = "é…".as_bytes();
        assert_eq!(generate(text, &[1], &[]).0, "é…");
        assert_eq!(generate(&text[..3], &[2], &[]).0, "é\u{fffd}");
        let result = generate("x§§".as_bytes(), &[1], &stops(&["§§"]));
        assert_eq!(result, ("x".to_owned(), Some("§§".to_owned())));
    }

    #[test]
    fn an_empty_stop_string_is_ignored() {
        assert_eq!(
            generate(b"abc", &[1], &stops(&[""])),
            ("abc".to_owned(), None)
        );
    }

    proptest! {
        #[test]
        fn one_stop_string_cuts_the_same_wherever_tokens_end(
            text in "[abé]{0,24}",
            stop in "[abé]{1,3}",
            pieces in prop::collection::vec(1usize..5, 1..6),
        ) {
            let stops = vec![stop];
            let whole = cut_at_stop_strings(&text, &stops);
            prop_assert_eq!(generate(text.as_bytes(), &pieces, &stops).0, whole);
        }
    }
}
