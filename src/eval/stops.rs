//! Stop strings of a generation, and the cut that lm-evaluation-harness makes afterwards.
//!
//! The engine stops at the same strings; the cut is repeated here because a scripted response, a
//! replayed one or one from a server may still hold them. Pinned by `golden/components/stops.jsonl`.

/// The task's `until`, then the text of the tokenizer's EOS token if it is not among them.
pub fn stop_strings(until: &[String], eos: Option<&str>) -> Vec<String> {
    let mut stops = until.to_vec();
    if let Some(eos) = eos.filter(|eos| !until.iter().any(|stop| stop == eos)) {
        stops.push(eos.to_owned());
    }
    stops
}

/// Keeps what precedes the first occurrence of each stop string, in list order; no trimming.
///
/// An empty stop string is skipped: it would cut everything.
pub fn cut_at_stops<'t>(text: &'t str, stops: &[String]) -> &'t str {
    let mut kept = text;
    for stop in stops.iter().filter(|stop| !stop.is_empty()) {
        if let Some(start) = kept.find(stop.as_str()) {
            kept = &kept[..start];
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_eos_is_not_listed_twice() {
        let until = ["<|im_end|>".to_owned()];
        assert_eq!(stop_strings(&until, Some("<|im_end|>")), until);
        assert_eq!(stop_strings(&[], Some("</s>")), ["</s>"]);
        assert_eq!(stop_strings(&until, None), until);
    }

    #[test]
    fn the_earliest_of_several_stops_decides() {
        let stops = ["b".to_owned(), String::new(), "a".to_owned()];
        assert_eq!(cut_at_stops(" xab", &stops), " x");
        assert_eq!(cut_at_stops("", &stops), "");
    }
}
