//! Names of quantised files: each stands for a type of most matrices and a mixture around it.

use crate::formats::DType;

/// A kind of quantised file, as `llama-quantize` names and `general.file_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "llama.cpp's own names")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum QuantisedType {
    F32,
    F16,
    BF16,
    Q1_0,
    Q2_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q2_K_S,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ2_M,
    IQ3_XXS,
    IQ3_XS,
    IQ3_S,
    IQ3_M,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    /// Every tensor as it is.
    Copy,
}

/// Itself, its name, its number in `general.file_type`, the type of most matrices.
type Row = (QuantisedType, &'static str, u32, DType);

const TABLE: [Row; 34] = {
    use QuantisedType as Q;
    [
        (Q::F32, "F32", 0, DType::F32),
        (Q::F16, "F16", 1, DType::F16),
        (Q::BF16, "BF16", 32, DType::BF16),
        (Q::Q1_0, "Q1_0", 40, DType::Q1_0),
        (Q::Q2_0, "Q2_0", 41, DType::Q2_0),
        (Q::Q4_0, "Q4_0", 2, DType::Q4_0),
        (Q::Q4_1, "Q4_1", 3, DType::Q4_1),
        (Q::Q5_0, "Q5_0", 8, DType::Q5_0),
        (Q::Q5_1, "Q5_1", 9, DType::Q5_1),
        (Q::Q8_0, "Q8_0", 7, DType::Q8_0),
        (Q::Q2_K, "Q2_K", 10, DType::Q2_K),
        (Q::Q2_K_S, "Q2_K_S", 21, DType::Q2_K),
        (Q::Q3_K_S, "Q3_K_S", 11, DType::Q3_K),
        (Q::Q3_K_M, "Q3_K_M", 12, DType::Q3_K),
        (Q::Q3_K_L, "Q3_K_L", 13, DType::Q3_K),
        (Q::Q4_K_S, "Q4_K_S", 14, DType::Q4_K),
        (Q::Q4_K_M, "Q4_K_M", 15, DType::Q4_K),
        (Q::Q5_K_S, "Q5_K_S", 16, DType::Q5_K),
        (Q::Q5_K_M, "Q5_K_M", 17, DType::Q5_K),
        (Q::Q6_K, "Q6_K", 18, DType::Q6_K),
        (Q::IQ1_S, "IQ1_S", 24, DType::IQ1_S),
        (Q::IQ1_M, "IQ1_M", 31, DType::IQ1_M),
        (Q::IQ2_XXS, "IQ2_XXS", 19, DType::IQ2_XXS),
        (Q::IQ2_XS, "IQ2_XS", 20, DType::IQ2_XS),
        (Q::IQ2_S, "IQ2_S", 28, DType::IQ2_XS),
        (Q::IQ2_M, "IQ2_M", 29, DType::IQ2_S),
        (Q::IQ3_XXS, "IQ3_XXS", 23, DType::IQ3_XXS),
        (Q::IQ3_XS, "IQ3_XS", 22, DType::IQ3_S),
        (Q::IQ3_S, "IQ3_S", 26, DType::IQ3_S),
        (Q::IQ3_M, "IQ3_M", 27, DType::IQ3_S),
        (Q::IQ4_NL, "IQ4_NL", 25, DType::IQ4_NL),
        (Q::IQ4_XS, "IQ4_XS", 30, DType::IQ4_XS),
        (Q::TQ1_0, "TQ1_0", 36, DType::TQ1_0),
        (Q::TQ2_0, "TQ2_0", 37, DType::TQ2_0),
    ]
};

/// Short names, as `llama-quantize` has them.
const ALIASES: [(&str, QuantisedType); 3] = [
    ("Q3_K", QuantisedType::Q3_K_M),
    ("Q4_K", QuantisedType::Q4_K_M),
    ("Q5_K", QuantisedType::Q5_K_M),
];

impl QuantisedType {
    /// Every type but [`QuantisedType::Copy`].
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.0 == self)
    }

    /// As `llama-quantize` prints it: `Q4_K_M`, `COPY`.
    pub fn name(self) -> &'static str {
        self.row().map_or("COPY", |row| row.1)
    }

    /// `general.file_type`; a copy keeps what is there.
    pub fn file_type(self) -> Option<u32> {
        Some(self.row()?.2)
    }

    /// The type of most matrices; a copy has none.
    pub fn default_dtype(self) -> Option<DType> {
        Some(self.row()?.3)
    }
}

impl std::fmt::Display for QuantisedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for QuantisedType {
    type Err = String;

    /// A name in any case, or llama.cpp's number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let same = |name: &str| name.eq_ignore_ascii_case(text);
        if same("COPY") {
            return Ok(Self::Copy);
        }
        let alias = ALIASES.iter().find(|(name, _)| same(name)).map(|a| a.1);
        let number = text.parse::<u32>().ok();
        let row = TABLE
            .iter()
            .find(|row| same(row.1) || number == Some(row.2))
            .map(|row| row.0);
        alias.or(row).ok_or_else(|| {
            let names: Vec<_> = TABLE.iter().map(|row| row.1).collect();
            format!(
                "unknown type {text:?}; expected one of {}, COPY",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_aliases_are_llama_cpps() {
        assert_eq!("q4_k_m".parse(), Ok(QuantisedType::Q4_K_M));
        assert_eq!("Q4_K".parse(), Ok(QuantisedType::Q4_K_M));
        assert_eq!("15".parse(), Ok(QuantisedType::Q4_K_M));
        assert_eq!("copy".parse(), Ok(QuantisedType::Copy));
        let error = "q9_0".parse::<QuantisedType>().unwrap_err();
        assert!(error.contains("Q4_K_M"), "{error}");
        for (own, name, number, _) in TABLE {
            assert_eq!(name.parse(), Ok(own));
            assert_eq!(number.to_string().parse(), Ok(own));
        }
    }
}
