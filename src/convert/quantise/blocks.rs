//! What quantisers take and why they refuse, whether ggml is linked or not.

use crate::formats::DType;
use crate::kernels::quant::BlockType;

/// Whole rows of a matrix, to be quantised.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, row_len]`.
    pub(super) values: &'a [f32],
    pub(super) row_len: usize,
    /// `[row_len]`: the weight of an error in each column; all alike where absent.
    pub(super) importance: Option<&'a [f32]>,
}

/// Why rows cannot be quantised or read.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BlockFault {
    /// Nothing writes this type.
    #[error("is not a type that tensors are quantised to")]
    NotATarget,
    /// Nothing reads this type.
    #[error("is not a type that can be read")]
    Unreadable,
    /// Values, rows and bytes do not belong together.
    #[error("values and blocks differ in length")]
    Length,
    /// Rows are no whole number of blocks.
    #[error("rows of {row_len} are no multiple of the block of {block}")]
    RowLength {
        /// Elements of a row.
        row_len: usize,
        /// Elements of a block.
        block: usize,
    },
    /// A NaN or an infinity.
    #[error("holds a value that is not finite")]
    NotFinite,
    /// Beyond what block scales can express.
    #[error("holds {largest:e}; quantised weights must be below 1e6")]
    TooLarge {
        /// The largest magnitude.
        largest: f32,
    },
    /// A block's scale does not fit half precision.
    #[error("holds values whose scale does not fit half precision")]
    Overflow,
    /// The type cannot be chosen blindly.
    #[error("needs an importance matrix; make one with `micota imatrix` and pass it as --imatrix")]
    NeedsImportance,
    /// Importance with other columns, or values that are negative, not finite or huge.
    #[error(
        "the importance matrix has other columns, or values that are negative, not finite or huge"
    )]
    Importance,
    /// The program was built without ggml.
    #[error(
        "this micota was built without ggml, which quantises to this type; build it with the \
         default features (`cargo install micota`, or --features ggml)"
    )]
    NotCompiled,
}

/// The kernels' own format for a stored type; `None` if they have none.
pub(super) fn block_type(dtype: DType) -> Option<BlockType> {
    super::super::encode::block_type(dtype)
}

/// Whether tensors are quantised (or rounded) to this type: what `ggml_quantize_chunk` writes.
pub(super) fn is_target(dtype: DType) -> bool {
    use DType::{
        BF16, F16, F32, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS,
        MXFP4, Q1_0, Q2_0, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0,
        TQ2_0,
    };
    matches!(
        dtype,
        F32 | F16
            | BF16
            | Q1_0
            | Q2_0
            | Q4_0
            | Q4_1
            | Q5_0
            | Q5_1
            | Q8_0
            | Q2_K
            | Q3_K
            | Q4_K
            | Q5_K
            | Q6_K
            | IQ1_S
            | IQ1_M
            | IQ2_XXS
            | IQ2_XS
            | IQ2_S
            | IQ3_XXS
            | IQ3_S
            | IQ4_NL
            | IQ4_XS
            | TQ1_0
            | TQ2_0
            | MXFP4
    )
}
