//! Decoder families as data: each maps a checkpoint's configuration and tensor names to one
//! [`DecoderSpec`]; one decoder runs them all.
//!
//! [`Model`] is a checkpoint whose every weight was found and verified; executors read it by role.
//! [`reference_forward`] is the decoder in plain `f32`, the oracle that they are checked against.

mod config;
mod error;
mod families;
mod loader;
mod names;
mod planned;
mod reference;
mod rope;
mod spec;
mod weight;

pub use error::ModelError;
pub use families::spec_from_config;
pub use loader::Model;
pub use planned::planned_tensors;
pub use reference::{ReferenceOutput, reference_forward};
pub use rope::Rope;
pub use spec::{Activation, DecoderSpec, RopeScaling, RopeSpec};
pub use weight::{LayerWeight, Weight, WeightId};
