//! The tokenizer that a recipe asks for, with the rows that embeddings take.

use std::collections::HashMap;

use super::{Alignment, OutputVocabulary, Vocabularies, Vocabulary, align};
use crate::merge::architecture::{EMBEDDING, HEAD};
use crate::merge::error::MergeError;
use crate::merge::layout::Layout;
use crate::merge::model::{Models, OpenOptions};
use crate::merge::recipe::{TokenSource, TokenizerRecipe, VocabularySource};
use crate::merge::tensor::RowOrigin;

/// A tokenizer that is built, with the rows that embeddings take.
pub(crate) struct OutputTokenizer {
    pub(crate) vocabulary: OutputVocabulary,
    pub(crate) alignment: Alignment,
}

/// Builds the vocabulary and finds every row.
pub(crate) fn build_tokenizer(
    recipe: &TokenizerRecipe,
    layout: &Layout<'_>,
    models: &mut Models,
    open: &OpenOptions<'_>,
) -> Result<OutputTokenizer, MergeError> {
    let mut lenders = HashMap::new();
    for token in &recipe.tokens {
        if let Some(TokenSource::Model(model) | TokenSource::ModelToken { model, .. }) =
            &token.source
        {
            lenders.insert(model.text.clone(), models.open(model, open)?);
        }
    }
    let donor = match &recipe.source {
        VocabularySource::Model(model) => models.open(model, open)?,
        VocabularySource::Base | VocabularySource::Union => layout.donor,
    };
    let mut vocabularies = HashMap::new();
    for index in 0..models.len() {
        vocabularies.insert(index, Vocabulary::of(models.get(index))?);
    }
    let others: Vec<&Vocabulary> = match &recipe.source {
        VocabularySource::Union => layout.inputs.iter().map(|i| &vocabularies[i]).collect(),
        _ => Vec::new(),
    };
    let output = super::build(
        models.get(donor),
        &vocabularies[&donor],
        &others,
        &recipe.tokens,
    )?;
    let alignment = align(
        &Vocabularies {
            models,
            by_model: &vocabularies,
            inputs: &layout.inputs,
            base: layout.donor,
            lenders: &lenders,
        },
        &output,
        recipe,
    )?;
    check_rows(models, &alignment)?;
    Ok(OutputTokenizer {
        vocabulary: output,
        alignment,
    })
}

/// Every row that is read must exist: a tokenizer may know more tokens than the embedding has.
fn check_rows(models: &Models, alignment: &Alignment) -> Result<(), MergeError> {
    let mut sizes = Vec::new();
    for model in models.iter() {
        let rows = model.stored(EMBEDDING)?.0.first().copied().unwrap_or(0);
        let head = match model.has(HEAD) {
            true => model.stored(HEAD)?.0.first().copied().unwrap_or(0),
            false => rows,
        };
        sizes.push(rows.min(head));
    }
    let origins = alignment.rows.values().flatten();
    let rows = origins.flat_map(|origin| match origin {
        RowOrigin::Row(model, row) => vec![(*model, *row)],
        RowOrigin::Mean(rows) => rows.clone(),
        RowOrigin::Zero => Vec::new(),
    });
    for (model, row) in rows {
        if row >= sizes[model] {
            let model = models.get(model);
            let problem = format!(
                "the tokenizer has token {row}, but the embedding has only {} rows",
                sizes[models
                    .iter()
                    .position(|m| m.name == model.name)
                    .unwrap_or(0)]
            );
            return Err(MergeError::model(&model.name, problem));
        }
    }
    Ok(())
}
