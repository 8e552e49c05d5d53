//! Element types of tensors, plain and block-quantised, under the names that their formats use.

/// How a tensor's elements are stored. All are little endian.
///
/// A block type packs [`DType::block_size`] consecutive elements of a row into
/// [`DType::block_bytes`] bytes; for plain types the block is one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "ggml's own names")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    Q1_0,
    Q2_0,
}

/// One row per type: itself, its name, elements and bytes per block, and its number in GGUF.
/// Types without a number exist in safetensors only.
type Row = (DType, &'static str, usize, usize, Option<u32>);

const TABLE: &[Row] = &[
    (DType::F64, "F64", 1, 8, Some(28)),
    (DType::F32, "F32", 1, 4, Some(0)),
    (DType::F16, "F16", 1, 2, Some(1)),
    (DType::BF16, "BF16", 1, 2, Some(30)),
    (DType::I64, "I64", 1, 8, Some(27)),
    (DType::I32, "I32", 1, 4, Some(26)),
    (DType::I16, "I16", 1, 2, Some(25)),
    (DType::I8, "I8", 1, 1, Some(24)),
    (DType::U64, "U64", 1, 8, None),
    (DType::U32, "U32", 1, 4, None),
    (DType::U16, "U16", 1, 2, None),
    (DType::U8, "U8", 1, 1, None),
    (DType::Bool, "BOOL", 1, 1, None),
    (DType::Q4_0, "Q4_0", 32, 18, Some(2)),
    (DType::Q4_1, "Q4_1", 32, 20, Some(3)),
    (DType::Q5_0, "Q5_0", 32, 22, Some(6)),
    (DType::Q5_1, "Q5_1", 32, 24, Some(7)),
    (DType::Q8_0, "Q8_0", 32, 34, Some(8)),
    (DType::Q8_1, "Q8_1", 32, 36, Some(9)),
    (DType::Q2_K, "Q2_K", 256, 84, Some(10)),
    (DType::Q3_K, "Q3_K", 256, 110, Some(11)),
    (DType::Q4_K, "Q4_K", 256, 144, Some(12)),
    (DType::Q5_K, "Q5_K", 256, 176, Some(13)),
    (DType::Q6_K, "Q6_K", 256, 210, Some(14)),
    (DType::Q8_K, "Q8_K", 256, 292, Some(15)),
    (DType::IQ1_S, "IQ1_S", 256, 50, Some(19)),
    (DType::IQ1_M, "IQ1_M", 256, 56, Some(29)),
    (DType::IQ2_XXS, "IQ2_XXS", 256, 66, Some(16)),
    (DType::IQ2_XS, "IQ2_XS", 256, 74, Some(17)),
    (DType::IQ2_S, "IQ2_S", 256, 82, Some(22)),
    (DType::IQ3_XXS, "IQ3_XXS", 256, 98, Some(18)),
    (DType::IQ3_S, "IQ3_S", 256, 110, Some(21)),
    (DType::IQ4_NL, "IQ4_NL", 32, 18, Some(20)),
    (DType::IQ4_XS, "IQ4_XS", 256, 136, Some(23)),
    (DType::TQ1_0, "TQ1_0", 256, 54, Some(34)),
    (DType::TQ2_0, "TQ2_0", 256, 66, Some(35)),
    (DType::MXFP4, "MXFP4", 32, 17, Some(39)),
    (DType::Q1_0, "Q1_0", 128, 18, Some(41)),
    (DType::Q2_0, "Q2_0", 64, 18, Some(42)),
];

impl DType {
    fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("every variant has a row: a test counts them")
    }

    /// The name as safetensors and ggml write it, e.g. `BF16` or `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements per block: 1 for plain types.
    pub fn block_size(self) -> usize {
        self.row().2
    }

    /// Bytes per block: the element's size for plain types.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// The type's number in GGUF files, where it has one.
    pub fn gguf_id(self) -> Option<u32> {
        self.row().4
    }

    /// The type that GGUF numbers `id`.
    pub fn from_gguf_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.4 == Some(id)).map(|row| row.0)
    }

    /// The type that a safetensors header calls `name`. Block types do not occur there.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| row.1 == name && row.2 == 1)
            .map(|row| row.0)
    }

    /// The type that ggml calls `name`, in any case.
    pub fn from_ggml_name(name: &str) -> Option<Self> {
        let named = |row: &&Row| row.4.is_some() && row.1.eq_ignore_ascii_case(name);
        TABLE.iter().find(named).map(|row| row.0)
    }

    /// Whether elements are packed in blocks with a shared scale.
    pub fn is_quantized(self) -> bool {
        self.block_size() > 1
    }

    /// Bytes of a tensor of this type and `shape` (outermost dimension first).
    ///
    /// `None` if a row is not a whole number of blocks or the size does not fit the address space.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if row % self.block_size() != 0 {
            return None;
        }
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
        (elements / self.block_size()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_one_row() {
        // Q2_0 is the last variant, so its discriminant counts them.
        assert_eq!(TABLE.len(), DType::Q2_0 as usize + 1);
        for row in TABLE {
            assert_eq!(row.0.name(), row.1);
            if let Some(id) = row.4 {
                assert_eq!(DType::from_gguf_id(id), Some(row.0));
            }
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(DType::BF16.tensor_bytes(&[3, 5]), Some(30));
        assert_eq!(DType::F32.tensor_bytes(&[]), Some(4));
        assert_eq!(DType::Q8_0.tensor_bytes(&[2, 64]), Some(136));
        assert_eq!(DType::Q8_0.tensor_bytes(&[64, 2]), None);
        assert_eq!(DType::F32.tensor_bytes(&[usize::MAX, 2]), None);
        assert_eq!(DType::from_safetensors_name("Q8_0"), None);
    }
}
