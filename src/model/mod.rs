//! Decoder families as data: each maps a checkpoint's configuration and tensor names to one
//! [`DecoderSpec`]; one decoder runs them all.

pub mod rope;
mod spec;
mod weight;

pub use spec::{Activation, DecoderSpec, RopeScaling, RopeSpec};
pub use weight::{LayerWeight, Weight, WeightId};
