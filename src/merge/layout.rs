//! The output's layers: which layer of which model goes where, after the recipe's shorthand forms
//! have been written out.

use super::error::{MergeError, Place};
use super::methods::{BaseUse, InputCount, MergeMethod};
use super::model::{Models, OpenOptions};
use super::recipe::{InputRecipe, ModelRef, ModuleContent, Parameters, Recipe};

/// All slices of the output, in order.
pub(crate) struct Layout<'r> {
    pub(crate) slices: Vec<Slice<'r>>,
    pub(crate) num_layers: usize,
    /// The recipe's base, else its first model: lends configuration and tokenizer.
    pub(crate) donor: usize,
    /// Every merged model, in the order in which they first occur.
    pub(crate) inputs: Vec<usize>,
}

/// A run of output layers.
pub(crate) struct Slice<'r> {
    pub(crate) place: Place,
    pub(crate) first_layer: usize,
    pub(crate) len: usize,
    pub(crate) sources: Vec<SliceSource>,
    /// The base's index in `sources`, where the method uses one.
    pub(crate) base: Option<usize>,
    /// Shared scopes, innermost first: slice, module, global.
    pub(crate) scopes: Vec<&'r Parameters>,
}

/// One input of a slice.
pub(crate) struct SliceSource {
    pub(crate) place: Place,
    pub(crate) model: usize,
    pub(crate) first_layer: usize,
    pub(crate) parameters: Parameters,
}

struct Expanded<'r> {
    place: Place,
    sources: Vec<InputRecipe>,
    base: Option<&'r ModelRef>,
    scopes: Vec<&'r Parameters>,
}

impl<'r> Layout<'r> {
    /// Opens the models of a recipe and lays out its slices.
    pub(crate) fn new(
        recipe: &'r Recipe,
        models: &mut Models,
        options: &OpenOptions<'_>,
    ) -> Result<Self, MergeError> {
        if recipe.method.base() == BaseUse::Required && recipe.base_model.is_none() {
            let sliced = |content: &ModuleContent| match content {
                ModuleContent::Models(_) => false,
                ModuleContent::Slices(slices) => slices.iter().all(|s| s.base_model.is_some()),
            };
            if !recipe.modules.iter().all(|module| sliced(&module.content)) {
                return Err(MergeError::recipe(
                    recipe.method_place,
                    format!("{} needs a `base_model`", recipe.method.name()),
                ));
            }
        }
        let mut layout = Self {
            slices: Vec::new(),
            num_layers: 0,
            donor: 0,
            inputs: Vec::new(),
        };
        for expanded in expand(recipe) {
            let slice = layout.slice(recipe.method, expanded, models, options)?;
            layout.num_layers += slice.len;
            layout.slices.push(slice);
        }
        layout.donor = match &recipe.base_model {
            Some(base) => models.open(base, options)?,
            None => layout.slices[0].sources[0].model,
        };
        Ok(layout)
    }

    fn slice(
        &mut self,
        method: &dyn MergeMethod,
        expanded: Expanded<'r>,
        models: &mut Models,
        options: &OpenOptions<'_>,
    ) -> Result<Slice<'r>, MergeError> {
        let Expanded {
            place,
            sources: recipes,
            base,
            scopes,
        } = expanded;
        let mut sources: Vec<SliceSource> = Vec::new();
        let mut len = None;
        for input in &recipes {
            let model = models.open(&input.model, options)?;
            if !self.inputs.contains(&model) {
                self.inputs.push(model);
            }
            let available = models.get(model).num_layers;
            let (start, end) = input.layer_range.unwrap_or((0, available));
            let place = input.model.place;
            if end > available {
                return Err(MergeError::recipe(
                    place,
                    format!(
                        "layer_range [{start}, {end}] exceeds the {available} layers of {}",
                        input.model.text
                    ),
                ));
            }
            let twice = |source: &SliceSource| source.model == model && source.first_layer == start;
            if sources.iter().any(twice) {
                return Err(MergeError::recipe(
                    place,
                    format!("{} is listed twice in one slice", input.model.text),
                ));
            }
            let expected = *len.get_or_insert(end - start);
            if end - start != expected {
                return Err(MergeError::recipe(
                    place,
                    format!(
                        "{} gives {} layers, the first input of the slice {expected}; all inputs \
                         of a slice must give the same number",
                        input.model.text,
                        end - start
                    ),
                ));
            }
            sources.push(SliceSource {
                place,
                model,
                first_layer: start,
                parameters: input.parameters.clone(),
            });
        }
        let listed = base.and_then(|base| recipes.iter().position(|r| r.model.text == base.text));
        let base = match method.base() {
            BaseUse::Ordinary => None,
            BaseUse::Optional | BaseUse::Required => listed,
        };
        if method.base() == BaseUse::Required && base.is_none() {
            return Err(MergeError::recipe(
                place,
                format!(
                    "{} needs the base model among the slice's sources",
                    method.name()
                ),
            ));
        }
        check_count(method, place, sources.len(), base.is_some())?;
        Ok(Slice {
            place,
            first_layer: self.num_layers,
            len: len.unwrap_or(0),
            sources,
            base,
            scopes,
        })
    }
}

fn expand(recipe: &Recipe) -> Vec<Expanded<'_>> {
    let mut slices = Vec::new();
    for module in &recipe.modules {
        let outer = [&module.parameters, &recipe.parameters];
        match &module.content {
            ModuleContent::Models(models) => {
                let mut sources = models.clone();
                if let Some(base) = &recipe.base_model
                    && !sources.iter().any(|source| source.model.text == base.text)
                {
                    sources.push(InputRecipe {
                        model: base.clone(),
                        layer_range: None,
                        parameters: Parameters::default(),
                    });
                }
                slices.push(Expanded {
                    place: module.place,
                    sources,
                    base: recipe.base_model.as_ref(),
                    scopes: outer.to_vec(),
                });
            }
            ModuleContent::Slices(list) => slices.extend(list.iter().map(|slice| Expanded {
                place: slice.place,
                sources: slice.sources.clone(),
                base: slice.base_model.as_ref().or(recipe.base_model.as_ref()),
                scopes: [&[&slice.parameters][..], &outer].concat(),
            })),
        }
    }
    slices
}

fn check_count(
    method: &dyn MergeMethod,
    place: Place,
    found: usize,
    has_base: bool,
) -> Result<(), MergeError> {
    let (fits, wanted) = match method.inputs() {
        InputCount::AtLeast(n) => (found >= n, format!("at least {n}")),
        InputCount::Exactly(n) => (found == n, format!("exactly {n}")),
        InputCount::ExactlyBesidesBase(n) => (
            found - usize::from(has_base) == n,
            format!("exactly {n} besides the base"),
        ),
    };
    if fits {
        return Ok(());
    }
    Err(MergeError::recipe(
        place,
        format!(
            "{} takes {wanted} inputs, found {found}{}",
            method.name(),
            if has_base { " (the base counted)" } else { "" }
        ),
    ))
}
