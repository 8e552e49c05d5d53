//! A merge from recipe to plan: everything that can be refused is, before any output exists.

use super::config::{OutputConfig, output_config};
use super::dtype::FloatType;
use super::error::MergeError;
use super::layout::Layout;
use super::model::{Fetch, Models, OpenOptions};
use super::plan::{Shapes, TensorPlan, plan, unknown_tensors};
use super::randomness::Randomness;
use super::recipe::Recipe;
use super::vocabulary::{self, OutputTokenizer, build_tokenizer};
use crate::formats::SafetensorsFile;

/// How a merge is carried out, apart from the recipe.
pub struct MergeOptions {
    /// Where random masks come from.
    pub randomness: Randomness,
    /// Data bytes of a shard.
    pub shard_bytes: u64,
    /// Copy the donor's tokenizer files where none is built.
    pub copy_tokenizer: bool,
    /// Write `README.md`. The recipe itself is always stored.
    pub write_card: bool,
    /// Mix architectures, by the donor's tensor table.
    pub allow_crimes: bool,
    /// Cut embeddings to the smallest number of rows.
    pub truncate_embeddings: bool,
    /// Do what the reference does where that harms: drop tensors that no table knows, leave
    /// `tie_word_embeddings` beside a head of its own.
    pub lenient: bool,
    /// The type that adapters are folded in; the model's own where absent.
    pub lora_dtype: Option<FloatType>,
    /// Threads; all cores where absent.
    pub threads: Option<usize>,
    /// Gives the local folder of a hub repository (and revision).
    pub fetch: Box<Fetch>,
}

/// A merge that has been checked and can be written.
pub struct Merge<'r> {
    pub(super) recipe: &'r Recipe,
    pub(super) options: MergeOptions,
    pub(super) models: Models,
    pub(super) layout: Layout<'r>,
    pub(super) tensors: Vec<TensorPlan>,
    pub(super) config: OutputConfig,
    pub(super) tokenizer: Option<OutputTokenizer>,
    pub(super) chat_template: Option<String>,
    pub(super) masks: Option<SafetensorsFile>,
    /// What was noticed but not refused.
    pub warnings: Vec<String>,
}

/// How far a merge has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes written.
    pub done_bytes: u64,
    /// Bytes to write.
    pub total_bytes: u64,
}

impl<'r> Merge<'r> {
    /// Opens the models and checks everything that can be checked without computing.
    ///
    /// # Errors
    /// Anything wrong with the recipe, the models or the options; see [`MergeError`].
    pub fn prepare(recipe: &'r Recipe, options: MergeOptions) -> Result<Self, MergeError> {
        let mut models = Models::default();
        let open = OpenOptions {
            fetch: &*options.fetch,
            lora_dtype: options.lora_dtype,
        };
        let layout = Layout::new(recipe, &mut models, &open)?;
        let mut warnings = recipe.warnings.clone();
        check_architectures(&layout, &models, &options)?;
        check_unknown_tensors(&models, options.lenient, &mut warnings)?;
        let tokenizer = match &recipe.tokenizer {
            Some(tokenizer) => {
                let built = build_tokenizer(tokenizer, &layout, &mut models, &open)?;
                warnings.extend(built.alignment.warnings.iter().cloned());
                Some(built)
            }
            None => None,
        };
        let chat_template = match &recipe.chat_template {
            Some(setting) => {
                let inputs = layout.inputs.iter().map(|index| models.get(*index));
                vocabulary::chat_template(setting, inputs)?
            }
            None => None,
        };
        let shapes = Shapes {
            alignment: tokenizer.as_ref().map(|t| &t.alignment),
            truncate: options.truncate_embeddings,
        };
        let tensors = plan(recipe, &layout, &models, &shapes)?;
        let config = output_config(recipe, &layout, &models, &tensors, options.lenient);
        warnings.extend(config.notes.iter().cloned());
        let masks = match &options.randomness {
            Randomness::Masks(path) => {
                let file = SafetensorsFile::open(path);
                Some(file.map_err(|e| MergeError::model("masks", e.to_string()))?)
            }
            _ => None,
        };
        let this = Self {
            recipe,
            options,
            models,
            layout,
            tensors,
            config,
            tokenizer,
            chat_template,
            masks,
            warnings,
        };
        this.check_inputs()?;
        Ok(this)
    }

    /// Bytes of the output's tensors.
    pub fn output_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::bytes).sum()
    }

    /// Whether any tensor takes random numbers.
    pub fn is_random(&self) -> bool {
        let mut inputs = self.tensors.iter().flat_map(|t| &t.inputs);
        inputs.any(|input| input.draws)
    }

    /// Adapters and masks that would only be found unusable halfway.
    fn check_inputs(&self) -> Result<(), MergeError> {
        for tensor in &self.tensors {
            for (slot, input) in tensor.inputs.iter().enumerate() {
                self.source(tensor, slot)?;
                if let (Some(masks), true) = (&self.masks, input.draws) {
                    self.mask(masks, tensor, input)?;
                }
            }
        }
        Ok(())
    }
}

fn check_architectures(
    layout: &Layout<'_>,
    models: &Models,
    options: &MergeOptions,
) -> Result<(), MergeError> {
    let donor = models.get(layout.donor);
    for input in &layout.inputs {
        let model = models.get(*input);
        if model.architecture.name != donor.architecture.name && !options.allow_crimes {
            return Err(MergeError::model(
                &model.name,
                format!(
                    "is a {}, but {} is a {}; --allow-crimes mixes them all the same",
                    model.architecture.name, donor.name, donor.architecture.name
                ),
            ));
        }
    }
    Ok(())
}

fn check_unknown_tensors(
    models: &Models,
    lenient: bool,
    warnings: &mut Vec<String>,
) -> Result<(), MergeError> {
    let unknown = unknown_tensors(models);
    for (index, model) in models.iter().enumerate() {
        let Some(names) = unknown.get(&index) else {
            continue;
        };
        let problem = format!(
            "has {} tensors that {} does not have ({}, …); the output would lack them",
            names.len(),
            model.architecture.name,
            names[0]
        );
        if !lenient {
            let problem = format!("{problem}; --lenient drops them, as the reference does");
            return Err(MergeError::model(&model.name, problem));
        }
        warnings.push(format!("model {} {problem}", model.name));
    }
    Ok(())
}
