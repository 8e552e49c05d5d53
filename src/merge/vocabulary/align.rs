//! For each input, the embedding row of every output token.

use std::collections::HashMap;

use super::{OutputVocabulary, Vocabulary};
use crate::merge::error::MergeError;
use crate::merge::model::Models;
use crate::merge::recipe::{TokenKey, TokenRecipe, TokenSource};
use crate::merge::tensor::RowOrigin;

/// The rows of the aligned embeddings, by model index.
pub(crate) struct Alignment {
    pub(crate) rows: HashMap<usize, Vec<RowOrigin>>,
    /// Rows of the output: one per token, and padding.
    pub(crate) padded_rows: usize,
    pub(crate) warnings: Vec<String>,
}

/// Finds the rows. `inputs` are the merged models' indices in the recipe's order, `base` the one
/// that lends rows to others; `index_of` gives the index of a model that the recipe names.
pub(crate) fn align(
    models: &Models,
    vocabularies: &HashMap<usize, Vocabulary>,
    output: &OutputVocabulary,
    recipes: &[TokenRecipe],
    inputs: &[usize],
    base: Option<usize>,
    index_of: impl Fn(&str) -> usize,
    pad_to_multiple_of: Option<usize>,
) -> Result<Alignment, MergeError> {
    let mut rows: HashMap<usize, Vec<RowOrigin>> =
        inputs.iter().map(|input| (*input, Vec::new())).collect();
    let recipes: HashMap<&str, &TokenRecipe> =
        recipes.iter().map(|r| (r.token.as_str(), r)).collect();
    let mut nobody = Vec::new();
    for token in &output.tokens {
        let Some(token) = token else {
            rows.values_mut()
                .for_each(|rows| rows.push(RowOrigin::Zero));
            continue;
        };
        let recipe = recipes.get(token.as_str());
        let given = match recipe.and_then(|recipe| recipe.source.as_ref()) {
            Some(source) => Some(given_row(models, vocabularies, token, source, &index_of)?),
            None => None,
        };
        let force = recipe.is_some_and(|recipe| recipe.force);
        let owners: Vec<(usize, usize)> = inputs
            .iter()
            .filter_map(|input| Some((*input, vocabularies[input].id(token)?)))
            .collect();
        let default = given.unwrap_or_else(|| {
            let of_base = owners.iter().find(|(input, _)| Some(*input) == base);
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
        padded_rows: pad_to_multiple_of
            .map_or(tokens, |multiple| tokens.next_multiple_of(multiple)),
        warnings,
    })
}

fn given_row(
    models: &Models,
    vocabularies: &HashMap<usize, Vocabulary>,
    token: &str,
    source: &TokenSource,
    index_of: impl Fn(&str) -> usize,
) -> Result<RowOrigin, MergeError> {
    let row_of = |model: &str, wanted: &str| {
        let index = index_of(model);
        match vocabularies[&index].id(wanted) {
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
            let index = index_of(&model.text);
            let rows = models
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
