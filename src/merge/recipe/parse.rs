//! From the YAML tree to a [`Recipe`]: names, shapes and values are checked here.

use super::nearest::nearest;
use super::node::{Entry, Node, Value};
use super::setting::{Parameters, Setting};
use super::{
    InputRecipe, ModelRef, ModuleContent, ModuleRecipe, Recipe, SliceRecipe, TokenKey, TokenRecipe,
    TokenSource, TokenizerRecipe, VocabularySource,
};
use crate::merge::dtype::FloatType;
use crate::merge::error::{MergeError, Place};
use crate::merge::methods;

impl Recipe {
    /// Reads a recipe. With `lenient`, keys and parameters that look mistyped are warnings, as in
    /// the reference (which says nothing at all).
    ///
    /// # Errors
    /// Not YAML, a key that looks mistyped, a value of the wrong kind, an unknown method or dtype,
    /// two of `models`, `slices`, `modules`, or both tokenizer forms.
    pub fn parse(text: &str, lenient: bool) -> Result<Self, MergeError> {
        let node = Node::parse(text)?;
        let mut reader = Reader {
            lenient,
            warnings: Vec::new(),
        };
        let mut recipe = reader.recipe(&node)?;
        recipe.text = text.to_owned();
        reader.check_parameters(&recipe)?;
        recipe.warnings = reader.warnings;
        Ok(recipe)
    }
}

struct Reader {
    lenient: bool,
    warnings: Vec<String>,
}

const TOP_KEYS: &[&str] = &[
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
];

impl Reader {
    fn recipe(&mut self, node: &Node) -> Result<Recipe, MergeError> {
        let entries = node.map("a recipe")?;
        self.check_keys(entries, TOP_KEYS, "a recipe")?;
        let method = find(entries, "merge_method")
            .ok_or_else(|| MergeError::recipe(node.place, "the recipe has no `merge_method`"))?;
        let name = method.node.text("merge_method")?;
        let method_place = method.node.place;
        let Some(method) = methods::by_name(&name) else {
            let names = methods::all().map(|m| m.name());
            let hint = match nearest(&name, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "known: {}",
                    methods::all()
                        .map(|m| m.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            };
            return Err(MergeError::recipe(
                method_place,
                format!("unknown merge method `{name}`; {hint}"),
            ));
        };
        let tokenizer = self.tokenizer(entries)?;
        Ok(Recipe {
            text: String::new(),
            method,
            method_place,
            base_model: self.model_of(entries, "base_model")?,
            modules: self.modules(node.place, entries)?,
            parameters: self.parameters(entries)?,
            dtype: dtype(entries, "dtype")?,
            out_dtype: dtype(entries, "out_dtype")?,
            tokenizer,
            chat_template: match find(entries, "chat_template") {
                Some(entry) => Some(entry.node.text("chat_template")?),
                None => None,
            },
            warnings: Vec::new(),
        })
    }

    fn modules(
        &mut self,
        place: Place,
        entries: &[Entry],
    ) -> Result<Vec<ModuleRecipe>, MergeError> {
        let present: Vec<&Entry> = ["models", "slices", "modules"]
            .iter()
            .filter_map(|key| find(entries, key))
            .collect();
        let [content] = present[..] else {
            let place = present.last().map_or(place, |entry| entry.place);
            return Err(MergeError::recipe(
                place,
                "exactly one of `models`, `slices` and `modules` must be given",
            ));
        };
        if content.key != "modules" {
            return Ok(vec![ModuleRecipe {
                place: content.place,
                content: self.content(content)?,
                parameters: Parameters::default(),
            }]);
        }
        let modules = content.node.map("modules")?;
        let mut recipes = Vec::new();
        for module in modules {
            if module.key != "default" {
                return Err(MergeError::recipe(
                    module.place,
                    format!(
                        "unknown module `{}`: a text model has one module, `default`",
                        module.key
                    ),
                ));
            }
            let inner = module.node.map("a module")?;
            self.check_keys(inner, &["models", "slices", "parameters"], "a module")?;
            let content = match (find(inner, "models"), find(inner, "slices")) {
                (Some(content), None) | (None, Some(content)) => content,
                _ => {
                    return Err(MergeError::recipe(
                        module.place,
                        "a module needs exactly one of `models` and `slices`",
                    ));
                }
            };
            recipes.push(ModuleRecipe {
                place: module.place,
                content: self.content(content)?,
                parameters: self.parameters(inner)?,
            });
        }
        if recipes.is_empty() {
            return Err(MergeError::recipe(content.place, "`modules` is empty"));
        }
        Ok(recipes)
    }

    fn content(&mut self, entry: &Entry) -> Result<ModuleContent, MergeError> {
        let items = entry.node.list(&entry.key)?;
        if items.is_empty() {
            return Err(MergeError::recipe(
                entry.place,
                format!("`{}` is empty", entry.key),
            ));
        }
        if entry.key == "models" {
            let models = items.iter().map(|item| self.input(item, false));
            return models.collect::<Result<_, _>>().map(ModuleContent::Models);
        }
        let slices = items.iter().map(|item| self.slice(item));
        slices.collect::<Result<_, _>>().map(ModuleContent::Slices)
    }

    fn slice(&mut self, node: &Node) -> Result<SliceRecipe, MergeError> {
        let entries = node.map("a slice")?;
        self.check_keys(entries, &["sources", "base_model", "parameters"], "a slice")?;
        let sources = find(entries, "sources")
            .ok_or_else(|| MergeError::recipe(node.place, "the slice has no `sources`"))?;
        let items = sources.node.list("sources")?;
        if items.is_empty() {
            return Err(MergeError::recipe(sources.place, "`sources` is empty"));
        }
        Ok(SliceRecipe {
            place: node.place,
            sources: items
                .iter()
                .map(|item| self.input(item, true))
                .collect::<Result<_, _>>()?,
            base_model: self.model_of(entries, "base_model")?,
            parameters: self.parameters(entries)?,
        })
    }

    fn input(&mut self, node: &Node, in_slice: bool) -> Result<InputRecipe, MergeError> {
        let entries = node.map("an input")?;
        let keys: &[&str] = if in_slice {
            &["model", "layer_range", "parameters"]
        } else {
            &["model", "parameters"]
        };
        self.check_keys(entries, keys, "an input")?;
        let model = self
            .model_of(entries, "model")?
            .ok_or_else(|| MergeError::recipe(node.place, "the input has no `model`"))?;
        let layer_range = match find(entries, "layer_range") {
            Some(entry) => Some(layer_range(&entry.node)?),
            None => None,
        };
        Ok(InputRecipe {
            model,
            layer_range,
            parameters: self.parameters(entries)?,
        })
    }

    fn model_of(&mut self, entries: &[Entry], key: &str) -> Result<Option<ModelRef>, MergeError> {
        let Some(entry) = find(entries, key) else {
            return Ok(None);
        };
        model_ref(&entry.node, key).map(Some)
    }

    fn parameters(&mut self, entries: &[Entry]) -> Result<Parameters, MergeError> {
        let mut parameters = Parameters::default();
        if let Some(entry) = find(entries, "parameters") {
            for item in entry.node.map("parameters")? {
                if !item.node.is_null() {
                    let setting = Setting::parse(&item.key, &item.node)?;
                    parameters.push(item.key.clone(), item.place, setting);
                }
            }
        }
        Ok(parameters)
    }

    fn tokenizer(&mut self, entries: &[Entry]) -> Result<Option<TokenizerRecipe>, MergeError> {
        match (
            find(entries, "tokenizer_source"),
            find(entries, "tokenizer"),
        ) {
            (Some(_), Some(block)) => Err(MergeError::recipe(
                block.place,
                "`tokenizer` and `tokenizer_source` are two forms of one setting; keep one",
            )),
            (Some(source), None) => Ok(Some(TokenizerRecipe {
                source: vocabulary_source(&source.node)?,
                tokens: Vec::new(),
                pad_to_multiple_of: None,
            })),
            (None, Some(block)) => self.tokenizer_block(block).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn tokenizer_block(&mut self, block: &Entry) -> Result<TokenizerRecipe, MergeError> {
        let entries = block.node.map("tokenizer")?;
        let keys = ["source", "tokens", "pad_to_multiple_of"];
        self.check_keys(entries, &keys, "`tokenizer`")?;
        let source = match find(entries, "source") {
            Some(entry) => vocabulary_source(&entry.node)?,
            None => VocabularySource::Union,
        };
        let mut tokens = Vec::new();
        if let Some(entry) = find(entries, "tokens") {
            for token in entry.node.map("tokens")? {
                tokens.push(self.token(token)?);
            }
        }
        let pad_to_multiple_of = match find(entries, "pad_to_multiple_of") {
            Some(entry) => match entry.node.count("pad_to_multiple_of")? {
                0 => {
                    return Err(MergeError::recipe(
                        entry.place,
                        "pad_to_multiple_of must be at least 1",
                    ));
                }
                multiple => Some(multiple),
            },
            None => None,
        };
        Ok(TokenizerRecipe {
            source,
            tokens,
            pad_to_multiple_of,
        })
    }

    fn token(&mut self, entry: &Entry) -> Result<TokenRecipe, MergeError> {
        let fields = entry.node.map("a token")?;
        self.check_keys(fields, &["source", "force"], "a token")?;
        let source = match find(fields, "source") {
            Some(source) => Some(self.token_source(&source.node)?),
            None => None,
        };
        let force = match find(fields, "force") {
            Some(force) => force.node.flag("force")?,
            None => false,
        };
        if force && source.is_none() {
            return Err(MergeError::recipe(
                entry.place,
                format!("token `{}`: `force` needs a `source`", entry.key),
            ));
        }
        Ok(TokenRecipe {
            token: entry.key.clone(),
            source,
            force,
        })
    }

    fn token_source(&mut self, node: &Node) -> Result<TokenSource, MergeError> {
        let Value::Map(fields) = &node.value else {
            return model_ref(node, "source").map(TokenSource::Model);
        };
        self.check_keys(
            fields,
            &["kind", "model", "token", "token_id"],
            "a token source",
        )?;
        let kind = match find(fields, "kind") {
            Some(kind) => kind.node.text("kind")?,
            None => "model_token".to_owned(),
        };
        match kind.as_str() {
            "zero" => Ok(TokenSource::Zero),
            "model_token" => {
                let model = self.model_of(fields, "model")?.ok_or_else(|| {
                    MergeError::recipe(node.place, "a model_token source needs `model`")
                })?;
                let token = match (find(fields, "token"), find(fields, "token_id")) {
                    (Some(token), None) => TokenKey::Text(token.node.text("token")?),
                    (None, Some(id)) => TokenKey::Id(id.node.count("token_id")?),
                    _ => {
                        return Err(MergeError::recipe(
                            node.place,
                            "a model_token source needs exactly one of `token` and `token_id`",
                        ));
                    }
                };
                Ok(TokenSource::ModelToken { model, token })
            }
            other => Err(MergeError::recipe(
                node.place,
                format!("unknown kind `{other}`: expected `zero` or `model_token`"),
            )),
        }
    }

    /// A key one or two letters from a known one is taken for a typing error; any other unknown
    /// key is foreign and ignored aloud.
    fn check_keys(
        &mut self,
        entries: &[Entry],
        known: &[&str],
        what: &str,
    ) -> Result<(), MergeError> {
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let problem = format!("`{}` is no key of {what}", entry.key);
                self.unknown(
                    entry.place,
                    problem,
                    nearest(&entry.key, known.iter().copied()),
                )?;
            }
        }
        Ok(())
    }

    fn unknown(
        &mut self,
        place: Place,
        problem: String,
        near: Option<&str>,
    ) -> Result<(), MergeError> {
        match near {
            Some(near) if !self.lenient => Err(MergeError::recipe(
                place,
                format!("{problem}; did you mean `{near}`? (--lenient ignores it)"),
            )),
            _ => {
                self.warnings.push(format!("{place}: {problem}; ignored"));
                Ok(())
            }
        }
    }

    /// Warns of parameters that the method does not use and refuses those that no method knows.
    fn check_parameters(&mut self, recipe: &Recipe) -> Result<(), MergeError> {
        let mut scopes = vec![&recipe.parameters];
        for module in &recipe.modules {
            scopes.push(&module.parameters);
            match &module.content {
                ModuleContent::Models(models) => {
                    scopes.extend(models.iter().map(|m| &m.parameters))
                }
                ModuleContent::Slices(slices) => {
                    for slice in slices {
                        scopes.push(&slice.parameters);
                        scopes.extend(slice.sources.iter().map(|m| &m.parameters));
                    }
                }
            }
        }
        let own: Vec<&str> = recipe.method.parameters().iter().map(|p| p.name).collect();
        for (name, place) in scopes.iter().flat_map(|scope| scope.names()) {
            if own.contains(&name) {
                continue;
            }
            let method = recipe.method.name();
            if methods::all().any(|m| m.parameters().iter().any(|p| p.name == name)) {
                self.warnings
                    .push(format!("{place}: {method} does not use `{name}`; ignored"));
                continue;
            }
            let problem = format!("no merge method has a parameter `{name}`");
            let known = own
                .iter()
                .copied()
                .chain(methods::all().flat_map(|m| m.parameters().iter().map(|p| p.name)));
            self.unknown(place, problem, nearest(name, known))?;
        }
        Ok(())
    }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries
        .iter()
        .find(|entry| entry.key == key && !entry.node.is_null())
}

fn model_ref(node: &Node, what: &str) -> Result<ModelRef, MergeError> {
    let text = node.text(what)?;
    if text.trim().is_empty() {
        return Err(MergeError::recipe(node.place, format!("{what} is empty")));
    }
    Ok(ModelRef {
        text,
        place: node.place,
    })
}

fn vocabulary_source(node: &Node) -> Result<VocabularySource, MergeError> {
    let model = model_ref(node, "tokenizer source")?;
    Ok(match model.text.as_str() {
        "base" => VocabularySource::Base,
        "union" => VocabularySource::Union,
        _ => VocabularySource::Model(model),
    })
}

fn layer_range(node: &Node) -> Result<(usize, usize), MergeError> {
    let items = node.list("layer_range")?;
    let [start, end] = items else {
        return Err(node.expected("layer_range", "two numbers"));
    };
    let (start, end) = (start.count("layer_range")?, end.count("layer_range")?);
    if start >= end {
        return Err(MergeError::recipe(
            node.place,
            format!("layer_range [{start}, {end}] is empty; it is half open"),
        ));
    }
    Ok((start, end))
}

fn dtype(entries: &[Entry], key: &str) -> Result<Option<FloatType>, MergeError> {
    let Some(entry) = find(entries, key) else {
        return Ok(None);
    };
    let name = entry.node.text(key)?;
    FloatType::from_name(&name).map(Some).ok_or_else(|| {
        MergeError::recipe(
            entry.node.place,
            format!("{key}: `{name}` is none of bfloat16, float16, float32, float64"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match Recipe::parse(text, false) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let cases = [
            ("models: []", "no `merge_method`"),
            (
                "merge_method: tise\nmodels: [{model: a}]",
                "line 1, column 15: unknown merge method `tise`; did you mean `ties`?",
            ),
            (
                "merge_method: ties\nmodels: [{model: a}]\nslices: []",
                "exactly one of",
            ),
            ("merge_method: ties", "exactly one of"),
            (
                "merge_method: ties\nmodels: [{model: a, parameters: {densitiy: 1}}]",
                "line 2, column 34: no merge method has a parameter `densitiy`; did you mean `density`?",
            ),
            (
                "merge_method: ties\nmodles: [{model: a}]",
                "line 2, column 1: `modles` is no key of a recipe; did you mean `models`?",
            ),
            (
                "merge_method: ties\nmodels: [{model: a}]\ndtype: bf16x",
                "line 3, column 8: dtype: `bf16x` is none of",
            ),
            (
                "merge_method: ties\nmodels: [{model: a}]\ntokenizer_source: base\ntokenizer: {source: base}",
                "two forms of one setting",
            ),
            (
                "merge_method: ties\nslices: [{sources: [{model: a, layer_range: [3, 3]}]}]",
                "half open",
            ),
            (
                "merge_method: ties\nmodels: {model: a}",
                "expected a list, found a mapping",
            ),
            (
                "merge_method: ties\nmodels: [{model: a, parameters: {weight: half}}]",
                "expected a number, found `half`",
            ),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(error.contains(expected), "{text}\n-> {error}");
        }
    }

    #[test]
    fn lenience_turns_a_typing_error_into_a_warning() {
        let text = "merge_method: ties\nmodels: [{model: a, parameters: {densitiy: 1, weight: 1}}]";
        let recipe = Recipe::parse(text, true).unwrap();
        assert_eq!(recipe.warnings.len(), 1);
        assert!(recipe.warnings[0].contains("densitiy"));
    }

    #[test]
    fn foreign_keys_and_unused_parameters_are_noted() {
        let text = "merge_method: linear\nname: my-model\nmodels: [{model: a, parameters: {weight: 1, density: 0.5}}]";
        let recipe = Recipe::parse(text, false).unwrap();
        assert_eq!(recipe.warnings.len(), 2, "{:?}", recipe.warnings);
    }
}
