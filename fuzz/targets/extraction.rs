//! Any response has candidates that lie inside it, and a verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use micota_fuzz::grade::symbolic::{AnswerStyle, candidates, grade};

fuzz_target!(|response: &str| {
    for style in [AnswerStyle::Boxed, AnswerStyle::Number] {
        let found = candidates(response, style);
        for candidate in &found {
            assert!(!candidate.parts.is_empty());
            for part in &candidate.parts {
                // Slicing panics where a range is outside or inside of a character.
                assert!(!response[part.clone()].is_empty());
            }
        }
        let verdict = grade(response, "7", style);
        assert_eq!(verdict.extracted.is_some(), !found.is_empty());
    }
});
