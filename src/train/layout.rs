//! How a conversation is written: by a named template, or by the model's own chat template.

use super::TrainError;
use super::encode::{self, Conversation, EncodeOptions};
use super::template::{Special, TEMPLATES, Template};
use crate::formats::Tokenizer;
use crate::task::{ChatOptions, ChatTemplate, Message};

/// The recipe's word for the model's own chat template; a recipe without `template` means it too.
pub(super) const OWN: &str = "model";

/// Writes conversations as (source, answer) texts.
pub enum Layout {
    /// One of [`TEMPLATES`].
    Named(&'static Template),
    /// As the model's chat template writes it: a source is what it asks with, an answer is what it
    /// adds when the answer is there.
    Own(ChatTemplate),
}

impl Layout {
    /// The layout that a recipe names.
    ///
    /// # Errors
    /// The name is unknown, or the model has no chat template that can be read.
    pub(super) fn find(name: Option<&str>, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let setting = |reason: String| TrainError::Setting(format!("template: {reason}"));
        let known = || {
            let names: Vec<_> = TEMPLATES.iter().map(|template| template.name).collect();
            names.join(", ")
        };
        match name {
            None | Some(OWN) => {
                let source = tokenizer.chat_template().ok_or_else(|| {
                    let known = known();
                    setting(format!(
                        "the model has no chat template; name one of {known}"
                    ))
                })?;
                let chat = ChatTemplate::new(source, &tokenizer.special_tokens());
                chat.map(Self::Own).map_err(|error| {
                    setting(format!("the model's chat template: {error}; name a layout"))
                })
            }
            Some(name) => Template::find(name).map(Self::Named).ok_or_else(|| {
                let known = known();
                setting(format!("expected {OWN} or one of {known}, found {name}"))
            }),
        }
    }

    /// The named template, where it is one.
    pub(super) fn named(&self) -> Option<&'static Template> {
        match self {
            Self::Named(template) => Some(template),
            Self::Own(_) => None,
        }
    }

    /// The (source, answer) texts of every turn, in order.
    ///
    /// # Errors
    /// The model's chat template refuses the conversation, or does not write it piece by piece.
    pub(super) fn pieces(
        &self,
        conversation: &Conversation,
        special: &Special<'_>,
        options: &EncodeOptions,
    ) -> Result<Vec<(String, String)>, TrainError> {
        match self {
            Self::Named(template) => Ok(encode::pieces(conversation, template, special, options)),
            Self::Own(chat) => own_pieces(chat, conversation, options).map_err(|reason| {
                TrainError::Setting(format!(
                    "template: the model's chat template {reason}; name a layout instead"
                ))
            }),
        }
    }
}

fn own_pieces(
    chat: &ChatTemplate,
    conversation: &Conversation,
    options: &EncodeOptions,
) -> Result<Vec<(String, String)>, String> {
    let system = if conversation.system.is_empty() {
        options.default_system.as_deref().unwrap_or("")
    } else {
        &conversation.system
    };
    let mut messages = Vec::with_capacity(2 * conversation.turns.len() + 1);
    if !system.is_empty() {
        messages.push(Message::new("system", system));
    }
    let chat_options = ChatOptions {
        enable_thinking: options.enable_thinking,
        ..ChatOptions::default()
    };
    let refused = |error: crate::task::TaskError| format!("refuses a row ({error})");
    let mut pieces = Vec::with_capacity(conversation.turns.len());
    let mut written = String::new();
    for (user, assistant) in &conversation.turns {
        messages.push(Message::new("user", user.as_str()));
        let asked = chat.render(&messages, &chat_options).map_err(refused)?;
        let source = asked
            .strip_prefix(&written)
            .ok_or("writes an earlier turn otherwise once another follows")?;
        messages.push(Message::new("assistant", assistant.as_str()));
        let whole = chat.render_closed(&messages, &chat_options);
        let whole = whole.map_err(refused)?;
        let answer = whole
            .strip_prefix(&asked)
            .ok_or("does not begin an answer with what it asks for it with")?;
        pieces.push((source.to_owned(), answer.to_owned()));
        written = whole;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(turns: &[(&str, &str)]) -> Conversation {
        let turns = turns.iter();
        Conversation {
            system: String::new(),
            turns: turns
                .map(|(user, answer)| ((*user).to_owned(), (*answer).to_owned()))
                .collect(),
        }
    }

    fn options() -> EncodeOptions {
        EncodeOptions {
            cutoff_len: 100,
            train_on_prompt: false,
            mask_history: false,
            enable_thinking: true,
            default_system: Some("Be brief.".into()),
        }
    }

    #[test]
    fn a_chat_template_is_taken_apart_at_its_answers() {
        let chat = "{% for m in messages %}[{{ m.role }}]{{ m.content }}.{% endfor %}\
                    {% if add_generation_prompt %}[assistant]{% endif %}";
        let chat = ChatTemplate::new(chat, &[]).unwrap();
        let pieces = own_pieces(&chat, &conversation(&[("a", "b"), ("c", "d")]), &options());
        let pair = |source: &str, answer: &str| (source.to_owned(), answer.to_owned());
        assert_eq!(
            pieces.unwrap(),
            [
                pair("[system]Be brief..[user]a.[assistant]", "b."),
                pair("[user]c.[assistant]", "d.")
            ]
        );
    }

    #[test]
    fn a_chat_template_that_rewrites_what_it_wrote_is_refused() {
        let thinks = "{% for m in messages %}{{ m.content }}{% endfor %}\
                      {% if add_generation_prompt %}<think>{% endif %}";
        let chat = ChatTemplate::new(thinks, &[]).unwrap();
        let error = own_pieces(&chat, &conversation(&[("a", "b")]), &options()).unwrap_err();
        assert!(error.contains("does not begin an answer"), "{error}");
        let forgets = "{% for m in messages %}{% if loop.last or m.role == 'user' %}\
                       {{ m.content }}{% endif %}{% endfor %}";
        let chat = ChatTemplate::new(forgets, &[]).unwrap();
        let turns = conversation(&[("a", "b"), ("c", "d")]);
        let error = own_pieces(&chat, &turns, &options()).unwrap_err();
        assert!(error.contains("an earlier turn"), "{error}");
    }
}
