//! Making training and evaluation data.
//!
//! [`vocabulary`] learns a small tokenizer. [`synth`] invents arithmetic word problems with worked solutions: data that anyone may ship,
//! for the demo model and for tests.

pub mod synth;
pub mod vocabulary;
