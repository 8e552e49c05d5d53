//! Any pair has the same verdict twice, and adding one to a side that is a number changes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use micota_fuzz::grade::symbolic::{Equality, Gold, Outcome, equal};

fuzz_target!(|text: &str| {
    let (answer, gold) = text.split_once('\n').unwrap_or((text, "x^2+1"));
    let read = Gold::new(gold);
    let verdict = equal(answer, &read);
    assert_eq!(verdict, equal(answer, &read));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if verdict == Outcome::Equal(Equality::Rational) && plain(gold) {
        let next = equal(&format!("({answer})+1"), &read);
        assert!(!next.is_correct(), "{answer:?} and one more are both {gold:?}: {next}");
    }
});
