//! The recipe: what a merge file says, checked as far as that is possible without the models.
//!
//! The language is that of `mergekit-yaml` (version 0.1.5), so that its files run unchanged. Two
//! things differ: a key or parameter that looks mistyped is an error (a foreign one is a warning),
//! and every error names its line and column.

mod nearest;
mod node;
mod parse;
mod setting;

pub use setting::{FilterItem, Parameters, Scalar, Setting};

use std::path::Path;

use super::dtype::FloatType;
use super::error::Place;
use super::methods::MergeMethod;

/// A merge, as its file describes it.
pub struct Recipe {
    /// The file's text, stored verbatim beside the result.
    pub text: String,
    pub(crate) method: &'static dyn MergeMethod,
    pub(crate) method_place: Place,
    pub(crate) base_model: Option<ModelRef>,
    pub(crate) modules: Vec<ModuleRecipe>,
    pub(crate) parameters: Parameters,
    pub(crate) dtype: Option<FloatType>,
    pub(crate) out_dtype: Option<FloatType>,
    pub(crate) tokenizer: Option<TokenizerRecipe>,
    pub(crate) chat_template: Option<String>,
    /// What was noticed but not refused.
    pub warnings: Vec<String>,
}

/// One module of a model; a text model has one, named `default`.
pub(crate) struct ModuleRecipe {
    pub(crate) place: Place,
    pub(crate) content: ModuleContent,
    pub(crate) parameters: Parameters,
}

/// Whole models, or a stack of layer ranges.
pub(crate) enum ModuleContent {
    Models(Vec<InputRecipe>),
    Slices(Vec<SliceRecipe>),
}

/// A layer range of the output and what it is made of.
pub(crate) struct SliceRecipe {
    pub(crate) place: Place,
    pub(crate) sources: Vec<InputRecipe>,
    pub(crate) base_model: Option<ModelRef>,
    pub(crate) parameters: Parameters,
}

/// One input of a slice.
#[derive(Clone)]
pub(crate) struct InputRecipe {
    pub(crate) model: ModelRef,
    /// Half open; all layers where absent.
    pub(crate) layer_range: Option<(usize, usize)>,
    pub(crate) parameters: Parameters,
}

/// A model as the recipe names it.
#[derive(Clone, Debug)]
pub struct ModelRef {
    /// The name, verbatim.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// The parts of a [`ModelRef`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelParts {
    pub(crate) model: Location,
    pub(crate) adapter: Option<Location>,
}

/// A folder or a hub repository, the latter possibly at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) path: String,
    pub(crate) revision: Option<String>,
}

impl ModelRef {
    /// Splits `path@revision+adapter_path`. A folder whose name holds those signs is taken whole.
    pub(crate) fn parts(&self) -> ModelParts {
        if Path::new(&self.text).is_dir() {
            return ModelParts {
                model: Location::whole(&self.text),
                adapter: None,
            };
        }
        let (model, adapter) = match self.text.split_once('+') {
            Some((model, adapter)) => (model, Some(adapter)),
            None => (self.text.as_str(), None),
        };
        ModelParts {
            model: Location::parse(model),
            adapter: adapter.map(Location::parse),
        }
    }
}

impl Location {
    fn whole(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            revision: None,
        }
    }

    fn parse(text: &str) -> Self {
        match text.rsplit_once('@') {
            Some((path, revision)) if !Path::new(text).is_dir() => Self {
                path: path.to_owned(),
                revision: Some(revision.to_owned()),
            },
            _ => Self::whole(text),
        }
    }
}

/// Where the output's vocabulary comes from.
#[derive(Clone, Debug)]
pub(crate) struct TokenizerRecipe {
    pub(crate) source: VocabularySource,
    /// Per token, in the recipe's order.
    pub(crate) tokens: Vec<TokenRecipe>,
    pub(crate) pad_to_multiple_of: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum VocabularySource {
    Base,
    Union,
    Model(ModelRef),
}

/// Where one token's embedding comes from.
#[derive(Clone, Debug)]
pub(crate) struct TokenRecipe {
    pub(crate) token: String,
    pub(crate) source: Option<TokenSource>,
    pub(crate) force: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    /// The row of the token itself in a model.
    Model(ModelRef),
    /// The row of some token of a model.
    ModelToken {
        model: ModelRef,
        token: TokenKey,
    },
    Zero,
}

#[derive(Clone, Debug)]
pub(crate) enum TokenKey {
    Text(String),
    Id(usize),
}
