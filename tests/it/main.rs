//! One integration binary, a module per subject.
//!
//! - `shared`: where golden data lies, if it does.
//! - `tidy`: the rules of style that a machine can check.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap in a test is a failed test"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(missing_docs, reason = "tests are read by name")]

#[allow(dead_code, reason = "until the first golden test uses it")]
mod shared;
mod tidy;
