//! What can go wrong while merging, each with the place, model or tensor that it is about.

use std::fmt;
use std::path::PathBuf;

/// A position in a recipe, both counted from 1. Line 0 means that the position is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line of the recipe.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str("recipe")
        } else {
            write!(f, "recipe line {}, column {}", self.line, self.column)
        }
    }
}

/// Why a merge was refused or stopped. No output folder exists after any of these.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The recipe is not YAML.
    #[error("{place}: not valid YAML: {detail}")]
    Yaml {
        /// Where the parser stopped.
        place: Place,
        /// The parser's message.
        detail: String,
    },
    /// The recipe is YAML, but something in it is wrong.
    #[error("{place}: {problem}")]
    Recipe {
        /// The offending key or value.
        place: Place,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A required parameter stands in no scope.
    #[error(
        "{place}: {method} needs `{parameter}` for model {model} (tensor {tensor}); give it under that model's `parameters` or under the global ones"
    )]
    MissingParameter {
        /// The model's entry in the recipe.
        place: Place,
        /// The merge method.
        method: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// The model as the recipe names it.
        model: String,
        /// The first tensor without a value.
        tensor: String,
    },
    /// A parameter has a value that its method cannot use.
    #[error("{parameter} = {value} for {tensor}: {problem}")]
    BadParameter {
        /// The parameter's name.
        parameter: &'static str,
        /// The value found.
        value: String,
        /// The tensor for which it was resolved.
        tensor: String,
        /// What is expected instead.
        problem: String,
    },
    /// A model's files cannot be used.
    #[error("model {model}: {problem}")]
    Model {
        /// The model as the recipe names it.
        model: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A tensor that the architecture requires is in none of a model's files.
    #[error("model {model} has no tensor {tensor}, which {architecture} requires")]
    MissingTensor {
        /// The model as the recipe names it.
        model: String,
        /// The tensor's name.
        tensor: String,
        /// The architecture whose table asks for it.
        architecture: &'static str,
    },
    /// Inputs of one tensor differ in shape.
    #[error(transparent)]
    Shape(Box<ShapeMismatch>),
    /// A tensor cannot be merged by the method (its data do not allow it).
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The output tensor's name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer settings cannot be carried out.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The output folder cannot be used.
    #[error("output {}: {problem}", path.display())]
    Output {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Two inputs of one tensor and their shapes.
#[derive(Debug, thiserror::Error)]
#[error("tensor {tensor}: {first_model} has shape {first:?} but {model} has {found:?}{hint}")]
pub struct ShapeMismatch {
    /// The output tensor's name.
    pub tensor: String,
    /// The first input's model.
    pub first_model: String,
    /// The first input's shape.
    pub first: Vec<usize>,
    /// The differing input's model.
    pub model: String,
    /// The differing input's shape.
    pub found: Vec<usize>,
    /// What to do, starting with a separator.
    pub hint: &'static str,
}

impl MergeError {
    /// A recipe error at a place.
    pub(crate) fn recipe(place: Place, problem: impl Into<String>) -> Self {
        Self::Recipe {
            place,
            problem: problem.into(),
        }
    }

    /// An error about a model, by the name that the recipe gives it.
    pub(crate) fn model(model: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Model {
            model: model.into(),
            problem: problem.into(),
        }
    }

    /// An error of the file system about `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    /// Whether the recipe or the flags are at fault, not the models or the disk.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Yaml { .. }
                | Self::Recipe { .. }
                | Self::MissingParameter { .. }
                | Self::BadParameter { .. }
        )
    }
}
