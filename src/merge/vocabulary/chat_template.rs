//! The output's chat template: a named one, the inputs' most frequent one, or the recipe's text.

use serde_json::Value;

use crate::merge::error::MergeError;
use crate::merge::model::Model;

/// A shorter text is taken for a mistyped name.
const MIN_INLINE_CHARS: usize = 20;

const NAMED: &[(&str, &str)] = &[
    (
        "chatml",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n",
    ),
    (
        "llama3",
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "mistral",
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}{% else %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}",
    ),
    (
        "alpaca",
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
    ),
    (
        "exaone",
        "{% for message in messages %}{{ '[|' + message['role'] + '|]' + message['content'] }}{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    ),
];

/// The template that a recipe's `chat_template` asks for; `None` if it is `auto` and no input has
/// one.
pub(crate) fn chat_template<'m>(
    setting: &str,
    models: impl Iterator<Item = &'m Model>,
) -> Result<Option<String>, MergeError> {
    if setting == "auto" {
        return Ok(most_frequent(models.filter_map(template_of)));
    }
    if let Some((_, text)) = NAMED.iter().find(|(name, _)| *name == setting) {
        return Ok(Some((*text).to_owned()));
    }
    if setting.contains('{') && setting.chars().count() >= MIN_INLINE_CHARS {
        return Ok(Some(setting.to_owned()));
    }
    let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
    Err(MergeError::Tokenizer(format!(
        "chat_template `{setting}` is neither `auto`, nor one of {}, nor a template (which holds \
         `{{` and at least {MIN_INLINE_CHARS} characters)",
        names.join(", ")
    )))
}

/// The first of the templates that occur most often.
fn most_frequent(templates: impl Iterator<Item = String>) -> Option<String> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for template in templates {
        match counts.iter_mut().find(|(text, _)| *text == template) {
            Some((_, count)) => *count += 1,
            None => counts.push((template, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(text, _)| text)
}

fn template_of(model: &Model) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(model.folder.join("chat_template.jinja")) {
        return Some(text);
    }
    let config = std::fs::read(model.folder.join("tokenizer_config.json")).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    Some(config.get("chat_template")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_told_apart() {
        let none = || std::iter::empty();
        assert!(
            chat_template("chatml", none())
                .unwrap()
                .unwrap()
                .contains("im_start")
        );
        let inline = "{% for m in messages %}{{ m }}{% endfor %}";
        assert_eq!(chat_template(inline, none()).unwrap().unwrap(), inline);
        assert!(chat_template("chatmll", none()).is_err());
        assert!(chat_template("{{ short }}", none()).is_err());
        assert_eq!(chat_template("auto", none()).unwrap(), None);
    }

    #[test]
    fn the_first_of_the_most_frequent_wins() {
        let texts = ["b", "a", "a", "b"].map(String::from);
        assert_eq!(most_frequent(texts.into_iter()).as_deref(), Some("b"));
    }

    #[test]
    fn named_templates_are_templates() {
        for (name, text) in NAMED {
            let mut environment = minijinja::Environment::new();
            environment.add_template(name, text).unwrap();
            let context = minijinja::context! {
                messages => [minijinja::context! { role => "user", content => "hi" }],
                add_generation_prompt => true,
                bos_token => "<s>",
                eos_token => "</s>",
            };
            let rendered = environment
                .get_template(name)
                .unwrap()
                .render(context)
                .unwrap();
            assert!(rendered.contains("hi"), "{name}: {rendered}");
        }
    }
}
