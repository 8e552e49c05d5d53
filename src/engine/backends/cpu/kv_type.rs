//! What keys and values are held in.

use std::fmt;
use std::str::FromStr;

use crate::kernels::cpu::KvFormat;

use super::ComputeType;

/// What the KV cache holds keys and values in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// In the type that is computed in.
    #[default]
    Auto,
    /// bfloat16, when that is computed in.
    Bf16,
    /// 8-bit integers: a scale for each 32 elements of a key and one for a value, so that twice as
    /// many tokens fit and half as many bytes are read.
    Int8,
}

impl KvType {
    const ALL: [Self; 3] = [Self::Auto, Self::Bf16, Self::Int8];

    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// What that is when computing in `compute_type`: `f32`, `bf16` or `int8`.
    pub fn held(self, compute_type: ComputeType) -> &'static str {
        match self {
            Self::Auto => compute_type.name(),
            Self::Bf16 | Self::Int8 => self.name(),
        }
    }

    /// Refuses what cannot be held beside `compute_type`.
    ///
    /// # Errors
    /// bf16 beside f32, with what to do.
    pub fn check(self, compute_type: ComputeType) -> Result<(), String> {
        if self == Self::Bf16 && compute_type == ComputeType::F32 {
            return Err(
                "keys and values are held in bf16 only when computing in bf16; f32 keeps them in \
                 f32 (auto) or int8"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// How the cache lays it out.
    pub(super) fn format(self) -> KvFormat {
        match self {
            Self::Auto | Self::Bf16 => KvFormat::Floats,
            Self::Int8 => KvFormat::Int8,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| {
            format!(
                "unknown type `{name}` of keys and values; known: {}",
                known.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_resolved() {
        for choice in KvType::ALL {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert_eq!(
            "f16".parse::<KvType>().unwrap_err(),
            "unknown type `f16` of keys and values; known: auto, bf16, int8"
        );
        assert_eq!(KvType::Auto.held(ComputeType::F32), "f32");
        assert_eq!(KvType::Int8.held(ComputeType::F32), "int8");
        assert!(KvType::Bf16.check(ComputeType::F32).is_err());
        assert!(KvType::Int8.check(ComputeType::F32).is_ok());
    }
}
