//! Decoder families as data: each maps a checkpoint's configuration and tensor names to one
//! [`DecoderSpec`]; one decoder runs them all.

mod spec;

pub use spec::{Activation, DecoderSpec, RopeScaling, RopeSpec};
