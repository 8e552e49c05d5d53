//! The stop strings of a generation. Finding and cutting is the engine's business
//! ([`crate::engine::cut_at_stop_strings`]). Pinned by `golden/components/stops.jsonl`.

/// The task's `until`, then the text of the tokenizer's EOS token if it is not among them.
pub fn stop_strings(until: &[String], eos: Option<&str>) -> Vec<String> {
    let mut stops = until.to_vec();
    if let Some(eos) = eos.filter(|eos| !until.iter().any(|stop| stop == eos)) {
        stops.push(eos.to_owned());
    }
    stops
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
}
