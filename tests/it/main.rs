//! One integration binary, a module per subject.
//!
//! - `tidy`: the rules of style that a machine can check.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap in a test is a failed test"
)]
#![allow(missing_docs, reason = "tests are read by name")]

mod tidy;
