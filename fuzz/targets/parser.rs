//! Any answer is read or refused, the same way each time, and is the same as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use micota_fuzz::grade::symbolic::{Gold, Outcome, equal, vote_key};

fuzz_target!(|answer: &str| {
    assert_eq!(vote_key(answer), vote_key(answer));
    let itself = equal(answer, &Gold::new(answer));
    let different = matches!(itself, Outcome::Different(_));
    assert!(!different, "{answer:?} differs from itself: {itself}");
});
