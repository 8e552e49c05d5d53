//! The grading room alone, compiled from micota's sources: it imports nothing but `random`, so the
//! fuzzer instruments forty files and not the engine, the converters and their dependencies.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "only a part of the room is reached from here"
)]

#[path = "../../src/grade/mod.rs"]
pub mod grade;
#[path = "../../src/random/mod.rs"]
mod random;
