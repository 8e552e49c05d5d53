//! The reference's rule gives a verdict on anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use micota_fuzz::grade::boxed::{Variant, grade};

fuzz_target!(|text: &str| {
    let (response, gold) = text.split_once('\n').unwrap_or((text, "7"));
    for variant in [Variant::Plain, Variant::Trimmed] {
        let verdict = grade(response, gold, variant);
        assert!(!verdict.correct || verdict.extracted.is_some());
    }
});
