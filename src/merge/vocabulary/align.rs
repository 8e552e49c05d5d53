//! For each input, the embedding row of every output token.

use std::collections::{BTreeMap, HashMap};

use super::{OutputVocabulary, Vocabulary};
use crate::merge::error::MergeError;
use crate::merge::model::Models;
use crate::merge::recipe::{TokenKey, TokenRecipe, TokenSource, TokenizerRecipe};
use crate::merge::tensor::RowOrigin;

/// The rows of the aligned embeddings, by model index.
pub(crate) struct Alignment {
    pub(crate) rows: BTreeMap<usize, Vec<RowOrigin>>,
    /// Rows of the output: one per token, and padding.
    pub(crate) padded_rows: usize,
    pub(crate) warnings: Vec<String>,
}

/// The models whose embeddings are aligned or lend rows.
pub(crate) struct Vocabularies<'a> {
    pub(crate) models: &'a Models,
    pub(crate) by_model: &'a HashMap<usize, Vocabulary>,
    /// The merged models, in the recipe's order.
    pub(crate) inputs: &'a [usize],
    /// The one whose row others take first.
    pub(crate) base: usize,
    /// The models named as sources of tokens.
    pub(crate) lenders: &'a HashMap<String, usize>,
}

/// Finds, for each merged model, the row of every output token.
pub(crate) fn align(
    vocabularies: &Vocabularies<'_>,
    output: &OutputVocabulary,
    recipe: &TokenizerRecipe,
) -> Result<Alignment, MergeError> {
    let inputs = vocabularies.inputs;
    let mut rows: BTreeMap<usize, Vec<RowOrigin>> =
        inputs.iter().map(|input| (*input, Vec::new())).collect();
    let named: HashMap<&str, &TokenRecipe> = recipe
        .tokens
        .iter()
        .map(|r| (r.token.as_str(), r))
        .collect();
    let mut nobody = Vec::new();
    for token in &output.tokens {
        let Some(token) = token else {
            rows.values_mut()
                .for_each(|rows| rows.push(RowOrigin::Zero));
            continue;
        };
        let recipe = named.get(token.as_str());
        let given = match recipe.and_then(|recipe| recipe.source.as_ref()) {
            Some(source) => Some(vocabularies.given_row(token, source)?),
            None => None,
        };
        let force = recipe.is_some_and(|recipe| recipe.force);
        let owners = vocabularies.owners(token);
        let default = given.unwrap_or_else(|| {
            let of_base = owners.iter().find(|(input, _)| *input == vocabularies.base);
            match (&owners[..], of_base) {
                ([], _) => {
                    nobody.push(token.clone());
                    RowOrigin::Zero
                }
                ([(input, row)], _) | (_, Some((input, row))) => RowOrigin::Row(*input, *row),
                _ => RowOrigin::Mean(owners.clone()),
            }
        });
        for (input, rows) in &mut rows {
            let own = owners.iter().find(|(owner, _)| owner == input);
            rows.push(match own {
                Some((input, row)) if !force => RowOrigin::Row(*input, *row),
                _ => default.clone(),
            });
        }
    }
    let tokens = output.tokens.len();
    let mut warnings = Vec::new();
    if !nobody.is_empty() {
        let shown = nobody.len().min(5);
        warnings.push(format!(
            "no input has {} of the output's tokens ({}{}); their embedding rows are zero",
            nobody.len(),
            nobody[..shown].join(", "),
            if shown < nobody.len() { ", …" } else { "" },
        ));
    }
    Ok(Alignment {
        rows,
        padded_rows: recipe
            .pad_to_multiple_of
            .map_or(tokens, |multiple| tokens.next_multiple_of(multiple)),
        warnings,
    })
}

impl Vocabularies<'_> {
    /// The merged models that have a token, with its row.
    fn owners(&self, token: &str) -> Vec<(usize, usize)> {
        let owners = self
            .inputs
            .iter()
            .filter_map(|input| Some((*input, self.by_model[input].id(token)?)));
        owners.collect()
    }

    /// The row that the recipe names for a token.
    fn given_row(&self, token: &str, source: &TokenSource) -> Result<RowOrigin, MergeError> {
        let row_of = |model: &str, wanted: &str| {
            let index = self.lenders[model];
            match self.by_model[&index].id(wanted) {
                Some(row) => Ok(RowOrigin::Row(index, row)),
                None => Err(MergeError::Tokenizer(format!(
                    "token `{token}`: model {model} has no token `{wanted}`"
                ))),
            }
        };
        match source {
            TokenSource::Zero => Ok(RowOrigin::Zero),
            TokenSource::Model(model) => row_of(&model.text, token),
            TokenSource::ModelToken {
                model,
                token: TokenKey::Text(wanted),
            } => row_of(&model.text, wanted),
            TokenSource::ModelToken {
                model,
                token: TokenKey::Id(id),
            } => {
                let index = self.lenders[&model.text];
                let rows = self
                    .models
                    .get(index)
                    .stored(crate::merge::architecture::EMBEDDING)?
                    .0[0];
                if *id < rows {
                    Ok(RowOrigin::Row(index, *id))
                } else {
                    Err(MergeError::Tokenizer(format!(
                        "token `{token}`: model {} has {rows} embedding rows, not one numbered {id}",
                        model.text
                    )))
                }
            }
        }
    }
}
