//! The tensors to compute: names, shapes, types, inputs and resolved parameters. Everything that
//! can be refused is refused here, before any output exists.

use std::collections::HashMap;

use super::architecture::{Architecture, EMBEDDING, FINAL_NORM, HEAD, Part, layer_tensor};
use super::dtype::FloatType;
use super::error::{MergeError, ShapeMismatch};
use super::layout::{Layout, Slice};
use super::methods::{BaseUse, MergeMethod, Presence, Scope};
use super::model::Models;
use super::recipe::{Parameters, Recipe, Scalar};
use super::tensor::Values;
use super::vocabulary::Alignment;

/// The tensors of the output, in the order in which they are computed, drawn for and stored.
pub(crate) struct TensorPlan {
    /// The output tensor's name.
    pub(crate) name: String,
    pub(crate) part: Part,
    pub(crate) shape: Vec<usize>,
    /// The type of the arithmetic.
    pub(crate) dtype: FloatType,
    pub(crate) out_dtype: FloatType,
    pub(crate) inputs: Vec<InputPlan>,
    pub(crate) base: Option<usize>,
    pub(crate) shared: Values,
}

/// One input of a tensor.
pub(crate) struct InputPlan {
    pub(crate) model: usize,
    /// The tensor's name in that model.
    pub(crate) tensor: String,
    pub(crate) values: Values,
    /// Whether it takes random numbers.
    pub(crate) draws: bool,
}

impl TensorPlan {
    pub(crate) fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the output.
    pub(crate) fn bytes(&self) -> u64 {
        (self.num_elements() * self.out_dtype.bytes()) as u64
    }

    /// Tensors are ordered by the largest of their inputs' names.
    fn order(&self) -> (&str, &str) {
        let largest = self.inputs.iter().map(|input| input.tensor.as_str()).max();
        (largest.unwrap_or(""), &self.name)
    }
}

/// What decides shapes besides the files.
pub(crate) struct Shapes<'a> {
    pub(crate) alignment: Option<&'a Alignment>,
    /// Cut embeddings to the smallest number of rows.
    pub(crate) truncate: bool,
}

/// Plans all tensors.
pub(crate) fn plan(
    recipe: &Recipe,
    layout: &Layout<'_>,
    models: &Models,
    shapes: &Shapes<'_>,
) -> Result<Vec<TensorPlan>, MergeError> {
    let planner = Planner {
        recipe,
        models,
        shapes,
    };
    let architecture = models.get(layout.donor).architecture;
    let mut tensors = planner.outside_layers(layout, architecture)?;
    for slice in &layout.slices {
        for layer in 0..slice.len {
            let t = match slice.len {
                1 => 1.0,
                len => layer as f64 / (len - 1) as f64,
            };
            for suffix in architecture.layer {
                let name = layer_tensor(slice.first_layer + layer, suffix);
                let inputs = slice
                    .sources
                    .iter()
                    .map(|source| layer_tensor(source.first_layer + layer, suffix));
                tensors.push(planner.tensor(name, Part::Layer, slice, inputs.collect(), t)?);
            }
        }
    }
    tensors.sort_by(|a, b| a.order().cmp(&b.order()));
    Ok(tensors)
}

struct Planner<'a> {
    recipe: &'a Recipe,
    models: &'a Models,
    shapes: &'a Shapes<'a>,
}

impl Planner<'_> {
    /// The embedding comes from the first slice, final norm and head from the last. All use t = 0.
    fn outside_layers(
        &self,
        layout: &Layout<'_>,
        _architecture: &Architecture,
    ) -> Result<Vec<TensorPlan>, MergeError> {
        let (Some(first), Some(last)) = (layout.slices.first(), layout.slices.last()) else {
            return Ok(Vec::new());
        };
        let same = |name: &str, slice: &Slice<'_>| vec![name.to_owned(); slice.sources.len()];
        let mut tensors = vec![
            self.tensor(
                EMBEDDING.into(),
                Part::Embedding,
                first,
                same(EMBEDDING, first),
                0.0,
            )?,
            self.tensor(
                FINAL_NORM.into(),
                Part::FinalNorm,
                last,
                same(FINAL_NORM, last),
                0.0,
            )?,
        ];
        // A head that some input has is merged with the embeddings of those that share theirs.
        let has = |model: usize| self.models.get(model).has(HEAD);
        if last.sources.iter().any(|source| has(source.model)) {
            let head = |source: &super::layout::SliceSource| match has(source.model) {
                true => HEAD.to_owned(),
                false => EMBEDDING.to_owned(),
            };
            let inputs = last.sources.iter().map(head).collect();
            tensors.push(self.tensor(HEAD.into(), Part::Head, last, inputs, 0.0)?);
        }
        Ok(tensors)
    }

    fn tensor(
        &self,
        name: String,
        part: Part,
        slice: &Slice<'_>,
        names: Vec<String>,
        t: f64,
    ) -> Result<TensorPlan, MergeError> {
        let method = self.recipe.method;
        let shared = self.shared(method, slice, &name, t)?;
        method.check(&name, &shared)?;
        let mut inputs = Vec::new();
        for (index, (source, tensor)) in slice.sources.iter().zip(names).enumerate() {
            let is_base = method.base() != BaseUse::Ordinary && slice.base == Some(index);
            let values = if is_base {
                Values::default()
            } else {
                self.per_input(method, slice, index, &tensor, t)?
            };
            method.check(&name, &values)?;
            inputs.push(InputPlan {
                model: source.model,
                tensor,
                draws: !is_base && method.draws(&values),
                values,
            });
        }
        let all: Vec<&Values> = inputs.iter().map(|input| &input.values).collect();
        method.check_all(&name, &shared, &all)?;
        let shape = self.shape(&name, part, &inputs)?;
        let dtype = match self.recipe.dtype {
            Some(dtype) => dtype,
            None => self.promoted(&inputs)?,
        };
        Ok(TensorPlan {
            name,
            part,
            shape,
            dtype,
            out_dtype: match self.recipe.out_dtype {
                Some(dtype) => dtype,
                None => method.result_dtype(dtype),
            },
            inputs,
            base: slice.base,
            shared,
        })
    }

    fn shared(
        &self,
        method: &dyn MergeMethod,
        slice: &Slice<'_>,
        tensor: &str,
        t: f64,
    ) -> Result<Values, MergeError> {
        let scopes = slice.scopes.clone();
        resolve(method, Scope::Shared, &scopes, tensor, t).map_err(|parameter| {
            MergeError::MissingParameter {
                place: slice.place,
                method: method.name(),
                parameter,
                model: "(all)".to_owned(),
                tensor: tensor.to_owned(),
            }
        })
    }

    fn per_input(
        &self,
        method: &dyn MergeMethod,
        slice: &Slice<'_>,
        index: usize,
        tensor: &str,
        t: f64,
    ) -> Result<Values, MergeError> {
        let source = &slice.sources[index];
        let mut scopes = vec![&source.parameters];
        scopes.extend(&slice.scopes);
        resolve(method, Scope::Input, &scopes, tensor, t).map_err(|parameter| {
            MergeError::MissingParameter {
                place: source.place,
                method: method.name(),
                parameter,
                model: self.models.get(source.model).name.clone(),
                tensor: tensor.to_owned(),
            }
        })
    }

    /// The common shape of the inputs, after embeddings have been aligned or cut.
    fn shape(
        &self,
        name: &str,
        part: Part,
        inputs: &[InputPlan],
    ) -> Result<Vec<usize>, MergeError> {
        let vocabulary = matches!(part, Part::Embedding | Part::Head);
        let mut shapes = Vec::new();
        for input in inputs {
            let model = self.models.get(input.model);
            let mut shape = model.stored(&input.tensor)?.0.to_vec();
            if vocabulary && shape.len() != 2 {
                let problem = format!(
                    "tensor {} has shape {shape:?}, expected rows of tokens",
                    input.tensor
                );
                return Err(MergeError::model(&model.name, problem));
            }
            if let (true, Some(alignment)) = (vocabulary, self.shapes.alignment) {
                shape[0] = alignment.padded_rows;
            }
            shapes.push((input.model, shape));
        }
        if vocabulary && self.shapes.truncate {
            let rows = shapes.iter().map(|(_, shape)| shape[0]).min().unwrap_or(0);
            shapes.iter_mut().for_each(|(_, shape)| shape[0] = rows);
        }
        let (first_model, first) = shapes[0].clone();
        for (model, shape) in &shapes {
            if *shape != first {
                return Err(MergeError::Shape(Box::new(ShapeMismatch {
                    tensor: name.to_owned(),
                    first_model: self.models.get(first_model).name.clone(),
                    first,
                    model: self.models.get(*model).name.clone(),
                    found: shape.clone(),
                    hint: if vocabulary {
                        "; align the vocabularies with `tokenizer_source: base` (or `union`), or \
                         cut them with --unsafe-truncate-embeddings"
                    } else {
                        "; only models of one size can be merged"
                    },
                })));
            }
        }
        Ok(first)
    }

    fn promoted(&self, inputs: &[InputPlan]) -> Result<FloatType, MergeError> {
        let mut dtype = None;
        for input in inputs {
            let stored = self.models.get(input.model).stored(&input.tensor)?.1;
            let own = stored.effective_dtype();
            dtype = Some(dtype.map_or(own, |dtype: FloatType| dtype.promoted(own)));
        }
        Ok(dtype.unwrap_or(FloatType::F32))
    }
}

/// Resolves a method's parameters of one scope; the error is the name of one without a value.
fn resolve(
    method: &dyn MergeMethod,
    scope: Scope,
    scopes: &[&Parameters],
    tensor: &str,
    t: f64,
) -> Result<Values, &'static str> {
    let mut values = Vec::new();
    for parameter in method.parameters().iter().filter(|p| p.scope == scope) {
        let found: Option<Scalar> = scopes
            .iter()
            .find_map(|scope| scope.resolve(parameter.name, tensor, t));
        match (found, parameter.default) {
            (Some(value), _) | (None, Presence::Default(value)) => {
                values.push((parameter.name, value));
            }
            (None, Presence::Optional) => {}
            (None, Presence::Required) => return Err(parameter.name),
        }
    }
    Ok(Values(values))
}

/// Tensors in the models' files that no table knows and that would be lost, by model.
pub(crate) fn unknown_tensors(models: &Models) -> HashMap<usize, Vec<String>> {
    let mut unknown = HashMap::new();
    for (index, model) in models.iter().enumerate() {
        let names = model
            .checkpoint
            .tensor_names()
            .filter(|name| !model.architecture.knows(name, model.num_layers) && !is_derived(name))
            .map(str::to_owned);
        let names: Vec<String> = names.collect();
        if !names.is_empty() {
            unknown.insert(index, names);
        }
    }
    unknown
}

/// Buffers that old files hold but that are computed from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with(".masked_bias")
}
