//! Grading: extraction, normalisation, equality, filters, metrics. Values in, verdicts out; no I/O.
//!
//! Two graders stand side by side. The *legacy* one ([`boxed`], [`filters`], [`exact_match`])
//! repeats the reference programs' verdicts, mistakes included. The *symbolic* one decides
//! mathematical equality ([`symbolic`]). [`stats`] turns verdicts into numbers with errors.
//!
//! A bad answer is data: every grader returns a verdict for any input. What would end the
//! reference program with an exception is a value that its caller counts ([`AnswerError`]).

pub mod boxed;
pub mod exact_match;
pub mod filters;
pub mod stats;
pub mod symbolic;

mod error;
mod pattern;
mod python;

pub use error::{AnswerError, GradeError};
