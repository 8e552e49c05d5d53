//! The model card: what was merged, how, and what is needed to do it again.

use std::fmt::Write;

use super::layout::Layout;
use super::model::Models;
use super::randomness::Randomness;
use super::recipe::Recipe;

/// `README.md` for a merge into a folder called `title`.
pub(crate) fn model_card(
    title: &str,
    recipe: &Recipe,
    layout: &Layout<'_>,
    models: &Models,
    randomness: Option<&Randomness>,
) -> String {
    let method = recipe.method;
    let mut card = String::from("---\nbase_model:\n");
    for model in &layout.inputs {
        let name = &models.get(*model).name;
        let _ = writeln!(card, "- {}", serde_json::Value::from(name.as_str()));
    }
    card.push_str("library_name: transformers\ntags:\n- mergekit\n- merge\n---\n");
    let _ = writeln!(
        card,
        "# {title}\n\nA merge of pre-trained language models made with micota.\n"
    );
    let name = match method.reference() {
        Some(url) => format!("[{}]({url})", method.title()),
        None => method.title().to_owned(),
    };
    let _ = write!(
        card,
        "## Merge Details\n\n### Merge Method\n\nMerged with {name}"
    );
    match &recipe.base_model {
        Some(base) => {
            let _ = writeln!(card, ", using {} as the base.", base.text);
        }
        None => card.push_str(".\n"),
    }
    match randomness {
        Some(Randomness::Reference(seed)) => {
            let _ = writeln!(
                card,
                "\nRandom masks: the reference's stream, `--random-seed {seed}`."
            );
        }
        Some(Randomness::Counter(seed)) => {
            let _ = writeln!(
                card,
                "\nRandom masks: counter-based (Philox4x32-10), `--counter-seed {seed}` repeats them."
            );
        }
        Some(Randomness::Masks(_)) => card.push_str("\nMasks were read from a file.\n"),
        None => {}
    }
    card.push_str("\n### Models Merged\n\n");
    for model in &layout.inputs {
        let name = &models.get(*model).name;
        if recipe
            .base_model
            .as_ref()
            .is_none_or(|base| base.text != *name)
        {
            let _ = writeln!(card, "* {name}");
        }
    }
    // A fence longer than any run of backticks in the recipe cannot be closed by it.
    let longest = recipe
        .text
        .split(|c| c != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = write!(
        card,
        "\n### Configuration\n\n{fence}yaml\n{}\n{fence}\n",
        recipe.text.trim_end()
    );
    card
}
