//! Which tensor gets which type: the mixtures of llama.cpp's `llama-quant.cpp`, for dense models.
//!
//! A mixture starts from one type and gives more bits to what suffers most: attention's values,
//! the MLP's way down, the head, and the first and last layers.

use std::cmp::Ordering;

use regex::Regex;

use super::QuantisedType as Q;
use crate::formats::DType;

/// What a tensor does, as far as mixtures distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Embedding,
    Query,
    Key,
    Value,
    /// Query, key and value in one, which is treated as a value.
    Fused,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Head,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        let whole = [
            ("output.weight", Self::Head),
            ("token_embd.weight", Self::Embedding),
        ];
        let parts = [
            ("attn_qkv.weight", Self::Fused),
            ("attn_v.weight", Self::Value),
            ("attn_k.weight", Self::Key),
            ("attn_q.weight", Self::Query),
            ("attn_output.weight", Self::AttentionOutput),
            ("ffn_up", Self::Up),
            ("ffn_gate", Self::Gate),
            ("ffn_down", Self::Down),
        ];
        let exact = whole.iter().find(|(own, _)| *own == name);
        let partly = || parts.iter().find(|(own, _)| name.contains(own));
        exact.or_else(partly).map_or(Self::Other, |found| found.1)
    }

    fn is_value(self) -> bool {
        matches!(self, Self::Value | Self::Fused)
    }
}

/// What the user says about types, beside the mixture.
#[derive(Clone, Debug, Default)]
pub struct TypeChoices {
    /// No mixture: every matrix in the file's type.
    pub pure: bool,
    /// Leave `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// The type of `output.weight` (of the embedding, where the two are one).
    pub output_tensor_type: Option<DType>,
    /// The type of `token_embd.weight`.
    pub token_embedding_type: Option<DType>,
    /// Types by regular expression over names; the first that matches counts.
    pub tensor_types: Vec<(Regex, DType)>,
}

/// What mixtures ask about a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelFacts {
    pub(super) num_layers: usize,
    /// Query heads per head of keys and values.
    pub(super) heads_per_group: usize,
    /// llama.cpp's class "70B": eight query heads share a value, which gets more bits.
    pub(super) is_70b: bool,
    pub(super) has_importance: bool,
}

/// A tensor as the mixture sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    /// Outermost first.
    pub(super) shape: &'a [usize],
}

/// The type that a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) dtype: DType,
    /// The type that its rows do not fit, where they do not.
    pub(super) instead_of: Option<DType>,
}

/// llama.cpp's order of tensors: what belongs to no layer first, then by layer; by name within.
pub(super) fn file_order(a: &str, b: &str) -> Ordering {
    let layer = |name: &str| {
        let number = name.strip_prefix("blk.")?.split('.').next()?;
        number.parse::<u64>().ok()
    };
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

/// Chooses a type for each tensor; they must come in [`file_order`], for positions count.
pub(super) fn choose(
    file_type: Q,
    choices: &TypeChoices,
    facts: ModelFacts,
    tensors: &[Candidate<'_>],
) -> Vec<Choice> {
    let roles = || tensors.iter().map(|tensor| Role::of(tensor.name));
    let mut mixture = Mixture {
        file_type,
        choices,
        facts,
        num_values: roles().filter(|role| role.is_value()).count(),
        tied: !roles().any(|role| role == Role::Head),
        value: 0,
        down: 0,
        gate: 0,
        up: 0,
    };
    tensors.iter().map(|tensor| mixture.next(tensor)).collect()
}

/// Whether a tensor is a matrix that mixtures touch.
fn is_quantisable(tensor: &Candidate<'_>) -> bool {
    // ggml does not count leading dimensions of one.
    let rank = tensor.shape.iter().skip_while(|dim| **dim == 1).count();
    rank >= 2 && tensor.name.ends_with("weight") && !tensor.name.contains("_norm.weight")
}

/// Counters run over the tensors of a role as they come, as llama.cpp's do.
struct Mixture<'a> {
    file_type: Q,
    choices: &'a TypeChoices,
    facts: ModelFacts,
    num_values: usize,
    tied: bool,
    value: usize,
    down: usize,
    gate: usize,
    up: usize,
}

impl Mixture<'_> {
    fn next(&mut self, tensor: &Candidate<'_>) -> Choice {
        let plain = |dtype| Choice {
            dtype,
            instead_of: None,
        };
        let role = Role::of(tensor.name);
        let left_alone = role == Role::Head && self.choices.leave_output_tensor;
        let default = match self.file_type.default_dtype() {
            Some(default) if is_quantisable(tensor) && !left_alone => default,
            _ => return plain(tensor.dtype),
        };
        if let (Role::Embedding, Some(chosen)) = (role, self.choices.token_embedding_type) {
            return plain(chosen);
        }
        if let (Role::Head, Some(chosen)) = (role, self.choices.output_tensor_type) {
            return plain(chosen);
        }
        if !default.is_quantized() {
            return plain(default);
        }
        let named = &self.choices.tensor_types;
        let named = named.iter().find(|(name, _)| name.is_match(tensor.name));
        let wanted = match named {
            Some((_, chosen)) => *chosen,
            None if self.choices.pure => default,
            None => self.of_role(role, tensor, default),
        };
        let row_len = tensor.shape.last().copied().unwrap_or(1);
        let dtype = fitting(wanted, row_len);
        Choice {
            dtype,
            instead_of: (dtype != wanted).then_some(wanted),
        }
    }

    fn of_role(&mut self, role: Role, tensor: &Candidate<'_>, default: DType) -> DType {
        if role == Role::Head || (self.tied && role == Role::Embedding) {
            let row_len = tensor.shape.last().copied().unwrap_or(1);
            return self.head(row_len, default);
        }
        let chosen = match role {
            Role::Embedding => self.embedding(),
            Role::Value | Role::Fused => self.value(default),
            Role::Query | Role::Key => self.query_or_key(),
            Role::AttentionOutput => self.attention_output(),
            Role::Down => self.down(),
            Role::Gate => {
                self.gate += 1;
                self.gate_or_up(self.gate - 1)
            }
            Role::Up => {
                self.up += 1;
                self.gate_or_up(self.up - 1)
            }
            Role::Head | Role::Other => None,
        };
        chosen.unwrap_or(default)
    }

    fn head(&self, row_len: usize, default: DType) -> DType {
        if let Some(chosen) = self.choices.output_tensor_type {
            return chosen;
        }
        if !row_len.is_multiple_of(default.block_size()) {
            return DType::Q8_0;
        }
        match self.file_type {
            Q::IQ1_S | Q::IQ1_M | Q::IQ2_XXS | Q::IQ2_XS | Q::IQ2_S | Q::IQ2_M | Q::IQ3_XXS => {
                DType::Q5_K
            }
            _ if default == DType::Q8_0 => DType::Q8_0,
            _ => DType::Q6_K,
        }
    }

    fn embedding(&self) -> Option<DType> {
        match self.file_type {
            Q::IQ2_XXS | Q::IQ2_XS | Q::IQ1_S | Q::IQ1_M => Some(DType::Q2_K),
            Q::IQ2_S | Q::IQ2_M | Q::IQ3_XXS => Some(DType::IQ3_S),
            Q::TQ1_0 | Q::TQ2_0 | Q::Q2_0 => Some(DType::Q4_K),
            _ => None,
        }
    }

    /// The file types below three bits, which have rules of their own.
    fn is_low(&self) -> bool {
        matches!(
            self.file_type,
            Q::IQ1_S | Q::IQ1_M | Q::IQ2_XXS | Q::IQ2_XS | Q::IQ2_S | Q::IQ2_M
        )
    }

    fn is_low_s_or_m(&self) -> bool {
        matches!(self.file_type, Q::IQ2_S | Q::IQ2_M)
    }

    fn value(&mut self, default: DType) -> Option<DType> {
        let index = self.value;
        self.value += 1;
        let shared = self.facts.heads_per_group >= 4;
        if self.is_low() {
            return Some(match (shared, self.is_low_s_or_m()) {
                (true, _) => DType::Q4_K,
                (false, true) => DType::IQ3_S,
                (false, false) => DType::Q2_K,
            });
        }
        let chosen = match self.file_type {
            Q::Q2_K if shared => Some(DType::Q4_K),
            Q::Q2_K => Some(DType::Q3_K),
            Q::Q2_K_S if shared => Some(DType::Q4_K),
            Q::IQ3_XXS if shared => Some(DType::Q4_K),
            Q::IQ3_XXS if self.facts.has_importance => Some(DType::IQ3_XXS),
            Q::IQ3_XXS => Some(DType::IQ3_S),
            Q::IQ3_XS | Q::IQ3_S if shared => Some(DType::Q4_K),
            Q::IQ3_M => Some(DType::Q4_K),
            Q::Q3_K_M if index < 2 => Some(DType::Q5_K),
            Q::Q3_K_M => Some(DType::Q4_K),
            Q::Q3_K_L => Some(DType::Q5_K),
            Q::IQ4_NL | Q::IQ4_XS if shared => Some(DType::Q5_K),
            Q::Q4_K_M | Q::Q5_K_M if more_bits(index, self.num_values) => Some(DType::Q6_K),
            Q::Q4_K_S if index < 4 => Some(DType::Q5_K),
            _ => None,
        };
        let small = matches!(chosen.unwrap_or(default), DType::Q3_K | DType::Q4_K);
        if self.facts.is_70b && small {
            return Some(DType::Q5_K);
        }
        chosen
    }

    fn query_or_key(&self) -> Option<DType> {
        match self.file_type {
            Q::IQ3_XS => Some(DType::IQ3_XXS),
            Q::IQ3_XXS => Some(DType::IQ2_S),
            _ => None,
        }
    }

    fn down(&mut self) -> Option<DType> {
        let index = self.down;
        self.down += 1;
        let layers = self.facts.num_layers;
        let first = index < layers / 8;
        if self.is_low() {
            let chosen = if self.is_low_s_or_m() {
                DType::IQ3_S
            } else {
                DType::Q2_K
            };
            return first.then_some(chosen);
        }
        match self.file_type {
            Q::Q2_K => Some(DType::Q3_K),
            Q::Q2_K_S if first => Some(DType::Q4_K),
            Q::IQ3_XXS if !self.facts.has_importance && first => Some(DType::Q4_K),
            Q::IQ3_XXS if !self.facts.has_importance => Some(DType::Q3_K),
            Q::Q3_K_M if index < layers / 16 => Some(DType::Q5_K),
            Q::Q3_K_M => Some(DType::Q4_K),
            Q::IQ3_M if first => Some(DType::Q4_K),
            Q::Q3_K_L => Some(DType::Q5_K),
            Q::Q4_K_M | Q::Q5_K_M if more_bits(index, layers) => Some(DType::Q6_K),
            Q::IQ4_NL | Q::IQ4_XS if first && !self.facts.has_importance => Some(DType::Q5_K),
            Q::Q4_K_S if first => Some(DType::Q5_K),
            Q::Q4_0 if first && self.facts.has_importance => Some(DType::Q4_1),
            Q::Q5_0 if first && self.facts.has_importance => Some(DType::Q5_1),
            _ => None,
        }
    }

    fn attention_output(&self) -> Option<DType> {
        match self.file_type {
            Q::IQ1_S | Q::IQ1_M => Some(DType::IQ2_XXS),
            Q::IQ2_S | Q::IQ2_M | Q::IQ3_XXS => Some(DType::IQ3_S),
            Q::Q2_K => Some(DType::Q3_K),
            Q::Q3_K_M | Q::IQ3_M => Some(DType::Q4_K),
            Q::Q3_K_L => Some(DType::Q5_K),
            _ => None,
        }
    }

    fn gate_or_up(&self, index: usize) -> Option<DType> {
        let layers = self.facts.num_layers;
        let middle = index >= layers / 8 && index < 7 * layers / 8;
        (self.file_type == Q::IQ3_XS && middle).then_some(DType::IQ3_XXS)
    }
}

/// The first and last eighth of the layers, and every third between.
fn more_bits(index: usize, count: usize) -> bool {
    let eighth = count / 8;
    index < eighth || index >= 7 * count / 8 || (index - eighth) % 3 == 2
}

/// `wanted`, or what takes its place where rows are no whole number of its blocks: a type with
/// blocks of 32 if there is one, else F16.
fn fitting(wanted: DType, row_len: usize) -> DType {
    let fits = |dtype: DType| row_len.is_multiple_of(dtype.block_size());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        DType::Q2_0 | DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

/// Whether a tensor of this type can only be quantised with an importance matrix.
///
/// llama.cpp demands one for all types below three bits and for Q2_K inside a Q2_K_S file, except
/// for the embedding and the head, which an importance matrix does not cover.
pub(super) fn needs_importance(name: &str, dtype: DType, file_type: Q) -> bool {
    if matches!(Role::of(name), Role::Embedding | Role::Head) {
        return false;
    }
    match dtype {
        DType::IQ3_XXS
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ1_M
        | DType::IQ1_S => true,
        DType::Q2_K => file_type == Q::Q2_K_S,
        _ => false,
    }
}
