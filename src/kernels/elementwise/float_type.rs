//! The four floating-point types that checkpoints are stored and merged in.

/// A floating-point type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// 8 significant bits.
    Bf16,
    /// 11 significant bits.
    F16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
}

impl FloatType {
    /// The type that recipes and `config.json` call `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "bfloat16" => Some(Self::Bf16),
            "float16" | "half" => Some(Self::F16),
            "float32" | "float" => Some(Self::F32),
            "float64" | "double" => Some(Self::F64),
            _ => None,
        }
    }

    /// The name in recipes and `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The narrowest type that holds the values of both.
    pub fn promoted(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::F64, _) | (_, Self::F64) => Self::F64,
            _ => Self::F32,
        }
    }
}
