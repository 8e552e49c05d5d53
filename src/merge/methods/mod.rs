//! The merge methods, one file each.
//!
//! A method says what it needs (base, number of inputs, parameters) as data, which the plan checks
//! before any work, and computes one tensor from blocks. To add one: a file here, a line in
//! [`METHODS`], a golden case.
//!
//! Notation: `b` is the base, `x_i` the other inputs in listed order, `w_i` their weights, `R` the
//! rounding to the working type after each operation (see `numeric`).

mod arcee_fusion;
mod breadcrumbs;
mod breadcrumbs_ties;
mod dare_linear;
mod dare_ties;
mod della;
mod della_linear;
mod karcher;
mod linear;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod passthrough;
mod ram;
mod sce;
mod slerp;
mod sphere;
mod task_arithmetic;
mod task_vectors;
mod ties;
mod towards;

pub(crate) use task_vectors::MAX_KEPT_BYTES;

use super::dtype::FloatType;
use super::error::MergeError;
use super::recipe::Scalar;
use super::tensor::{AnyTensor, Values};

/// Every method, the most used first.
const METHODS: &[&dyn MergeMethod] = &[
    &dare_ties::DARE_TIES,
    &dare_linear::DARE_LINEAR,
    &ties::TIES,
    &task_arithmetic::TASK_ARITHMETIC,
    &linear::Linear,
    &towards::Towards(slerp::Slerp),
    &passthrough::Passthrough,
    &nuslerp::NuSlerp,
    &model_stock::ModelStock,
    &sce::Sce,
    &breadcrumbs::BREADCRUMBS,
    &breadcrumbs_ties::BREADCRUMBS_TIES,
    &della::DELLA,
    &della_linear::DELLA_LINEAR,
    &multislerp::MultiSlerp,
    &karcher::Karcher,
    &arcee_fusion::ArceeFusion,
    &towards::Towards(nearswap::NearSwap),
    &ram::RAM,
    &ram::RAM_PLUS,
];

/// A way to merge tensors.
pub(crate) trait MergeMethod: Sync {
    /// The name in recipes.
    fn name(&self) -> &'static str;
    /// The name in prose.
    fn title(&self) -> &'static str;
    /// Where it is described.
    fn reference(&self) -> Option<&'static str> {
        None
    }
    /// What it does with the base model.
    fn base(&self) -> BaseUse;
    /// How many inputs it takes, the base counted if it is used.
    fn inputs(&self) -> InputCount {
        InputCount::AtLeast(1)
    }
    /// Its parameters.
    fn parameters(&self) -> &'static [Parameter];
    /// Checks the resolved values of one input of one tensor (`None`: the shared ones).
    fn check(&self, _tensor: &str, _values: &Values) -> Result<(), MergeError> {
        Ok(())
    }
    /// Checks the resolved values of all inputs of one tensor, base included where listed.
    fn check_all(
        &self,
        _tensor: &str,
        _shared: &Values,
        _inputs: &[&Values],
    ) -> Result<(), MergeError> {
        Ok(())
    }
    /// Whether an input with these values takes random numbers, one per element.
    fn draws(&self, _values: &Values) -> bool {
        false
    }
    /// The type of the results where the recipe has no `out_dtype`.
    fn result_dtype(&self, working: FloatType) -> FloatType {
        working
    }
    /// Computes a tensor.
    fn merge(&self, tensor: &AnyTensor<'_>) -> Result<(), MergeError>;
}

/// What a method does with the base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BaseUse {
    /// It is an input like any other, if it is listed.
    Ordinary,
    /// Used apart where the recipe names one.
    Optional,
    /// The recipe must name one.
    Required,
}

/// How many inputs a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputCount {
    AtLeast(usize),
    Exactly(usize),
    /// This many besides the base.
    ExactlyBesidesBase(usize),
}

/// A parameter of a method.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    /// The value where the recipe has none; `None` if the recipe must have one.
    pub(crate) default: Presence,
}

/// Whether each input has its own value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Input,
    Shared,
}

/// What holds where the recipe gives no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Presence {
    Required,
    Optional,
    Default(Scalar),
}

impl Parameter {
    pub(crate) const fn required(name: &'static str, scope: Scope) -> Self {
        Self {
            name,
            scope,
            default: Presence::Required,
        }
    }

    pub(crate) const fn optional(name: &'static str, scope: Scope) -> Self {
        Self {
            name,
            scope,
            default: Presence::Optional,
        }
    }

    pub(crate) const fn number(name: &'static str, scope: Scope, default: f64) -> Self {
        Self {
            name,
            scope,
            default: Presence::Default(Scalar::Number(default)),
        }
    }

    pub(crate) const fn flag(name: &'static str, default: bool) -> Self {
        Self {
            name,
            scope: Scope::Shared,
            default: Presence::Default(Scalar::Flag(default)),
        }
    }
}

/// All methods.
pub(crate) fn all() -> impl Iterator<Item = &'static dyn MergeMethod> + Clone {
    METHODS.iter().copied()
}

/// The method called `name`.
pub(crate) fn by_name(name: &str) -> Option<&'static dyn MergeMethod> {
    all().find(|method| method.name() == name)
}

/// Implements [`MergeMethod::merge`] by a generic `run` of the same type.
macro_rules! merge_in_either_arithmetic {
    () => {
        fn merge(
            &self,
            tensor: &crate::merge::tensor::AnyTensor<'_>,
        ) -> Result<(), crate::merge::error::MergeError> {
            match tensor {
                crate::merge::tensor::AnyTensor::Single(tensor) => self.run(tensor),
                crate::merge::tensor::AnyTensor::Double(tensor) => self.run(tensor),
            }
        }
    };
}
pub(crate) use merge_in_either_arithmetic;

/// Refuses weights that add up to zero where `flag` has results divided by their sum.
pub(crate) fn check_weight_sum(
    flag: &'static str,
    tensor: &str,
    shared: &Values,
    inputs: &[&Values],
) -> Result<(), MergeError> {
    let weights = inputs.iter().filter_map(|values| values.optional("weight"));
    if shared.flag(flag) && weights.map(|weight| weight as f32).sum::<f32>() == 0.0 {
        let problem = format!("the weights add up to zero, and `{flag}` divides by their sum");
        return Err(bad_parameter("weight", 0.0, tensor, problem));
    }
    Ok(())
}

/// A value outside what a method can use.
pub(crate) fn bad_parameter(
    parameter: &'static str,
    value: f64,
    tensor: &str,
    problem: impl Into<String>,
) -> MergeError {
    MergeError::BadParameter {
        parameter,
        value: value.to_string(),
        tensor: tensor.to_owned(),
        problem: problem.into(),
    }
}
