//! Between the types that are merged and those that files store.

use crate::formats::DType;
pub use crate::kernels::elementwise::FloatType;

/// The floating-point type that a file stores as `dtype`, if it is one.
pub(crate) fn float_type(dtype: DType) -> Option<FloatType> {
    match dtype {
        DType::BF16 => Some(FloatType::Bf16),
        DType::F16 => Some(FloatType::F16),
        DType::F32 => Some(FloatType::F32),
        DType::F64 => Some(FloatType::F64),
        _ => None,
    }
}

/// How a file stores the type.
pub(crate) fn stored_type(dtype: FloatType) -> DType {
    match dtype {
        FloatType::Bf16 => DType::BF16,
        FloatType::F16 => DType::F16,
        FloatType::F32 => DType::F32,
        FloatType::F64 => DType::F64,
    }
}
