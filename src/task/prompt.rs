//! From documents to what the model reads: description, few-shot examples, question, chat
//! template. Byte for byte what the reference (0.4.9) builds.

use serde_json::Value;

use super::chat::{ChatOptions, ChatTemplate, Message};
use super::config::{Sampler, TaskConfig};
use super::data::TaskData;
use super::document::Document;
use super::error::TaskError;
use super::fewshot::FewshotSampler;
use super::python;

/// The reference's default seed for few-shot examples.
pub const DEFAULT_FEWSHOT_SEED: u64 = 1234;

/// How prompts are built, beyond what the task says.
#[derive(Clone, Debug)]
pub struct PromptOptions<'a> {
    /// The model's chat template; `None` gives the plain text.
    pub chat_template: Option<&'a ChatTemplate>,
    /// Variables of the template; how the conversation ends is decided by the task's `gen_prefix`.
    pub chat_options: ChatOptions,
    /// Text that stands before everything.
    pub system_instruction: Option<&'a str>,
    /// Whether examples are turns of their own; needs a chat template.
    pub fewshot_as_multiturn: bool,
    /// Seed of the examples.
    pub fewshot_seed: u64,
}

impl Default for PromptOptions<'_> {
    fn default() -> Self {
        Self {
            chat_template: None,
            chat_options: ChatOptions::default(),
            system_instruction: None,
            fewshot_as_multiturn: false,
            fewshot_seed: DEFAULT_FEWSHOT_SEED,
        }
    }
}

/// What the model reads for one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The document's index in the split.
    pub doc_id: usize,
    /// The text, chat template applied. Tokenise it without adding special tokens if it came from
    /// a chat template: the template writes those it wants.
    pub text: String,
    /// The target: text, or a field's value, or a list.
    pub target: Value,
    /// Whether the chat template refused the system message, which was then left out.
    pub system_dropped: bool,
}

impl Prompt {
    /// The target as it is logged and hashed: Python's `str` of it.
    pub fn target_text(&self) -> String {
        python::text(&self.target)
    }
}

/// Builds the prompts of the documents `doc_ids`, in that order.
///
/// Examples are drawn per prompt in this order from one generator, so a prompt with random
/// examples depends on the documents before it, as in the reference.
///
/// # Errors
/// A template that fails on a document, too few examples, a chat template that refuses.
///
/// # Panics
/// An index in `doc_ids` beyond the documents.
pub fn prompts(
    task: &TaskConfig,
    data: &TaskData,
    doc_ids: &[usize],
    options: &PromptOptions<'_>,
) -> Result<Vec<Prompt>, TaskError> {
    let mut builder = Builder {
        task,
        data,
        options,
        sampler: FewshotSampler::new(options.fewshot_seed),
    };
    doc_ids
        .iter()
        .map(|doc_id| builder.prompt(*doc_id))
        .collect()
}

struct Builder<'a> {
    task: &'a TaskConfig,
    data: &'a TaskData,
    options: &'a PromptOptions<'a>,
    sampler: FewshotSampler,
}

impl Builder<'_> {
    fn prompt(&mut self, doc_id: usize) -> Result<Prompt, TaskError> {
        let task = self.task;
        let doc = &self.data.documents[doc_id];
        let question = doc.text(task, &task.doc_to_text)?;
        let prefix = match &task.gen_prefix {
            Some(template) => Some(python::text(&doc.value(task, "gen_prefix", template)?)),
            None => None,
        };
        let system = self.system(doc)?;
        let (text, system_dropped) = match self.options.chat_template {
            None => {
                let mut text = system.unwrap_or_default();
                text.push_str(&self.examples(doc, prefix.as_deref())?);
                text.push_str(&question);
                if let Some(prefix) = &prefix {
                    text.push_str(&task.target_delimiter);
                    text.push_str(prefix);
                }
                (text, false)
            }
            Some(template) => {
                let messages = self.messages(doc, system, question, prefix.as_deref())?;
                let chat_options = ChatOptions {
                    add_generation_prompt: prefix.is_none_or(|prefix| prefix.is_empty()),
                    ..self.options.chat_options.clone()
                };
                template.render_or_drop_system(&messages, &chat_options)?
            }
        };
        Ok(Prompt {
            doc_id,
            text,
            target: doc.target(task, &task.doc_to_target)?,
            system_dropped,
        })
    }

    /// The system instruction and the task's description, joined by the few-shot delimiter.
    fn system(&self, doc: &Document) -> Result<Option<String>, TaskError> {
        let description = match &self.task.description {
            Some(template) => {
                let text = template
                    .render(&doc.fields)
                    .map_err(|message| TaskError::Render {
                        origin: doc.origin.to_string(),
                        key: "description".to_owned(),
                        task: self.task.name.clone(),
                        message,
                    })?;
                Some(text).filter(|text| !text.is_empty())
            }
            None => None,
        };
        Ok(match (self.options.system_instruction, description) {
            (Some(system), Some(text)) => {
                Some(format!("{system}{}{text}", self.task.fewshot_delimiter))
            }
            (Some(system), None) => Some(system.to_owned()),
            (None, text) => text,
        })
    }

    fn messages(
        &mut self,
        doc: &Document,
        system: Option<String>,
        question: String,
        prefix: Option<&str>,
    ) -> Result<Vec<Message>, TaskError> {
        let mut messages = Vec::new();
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            messages.push(Message::new("system", system));
        }
        if self.task.num_fewshot == 0 {
            messages.push(Message::new("user", question));
        } else if self.options.fewshot_as_multiturn {
            for (text, target) in self.drawn(doc)? {
                messages.push(Message::new("user", text));
                messages.push(Message::new("assistant", spaced(prefix) + &target));
            }
            messages.push(Message::new("user", question));
        } else {
            // The reference draws here and then again where it lays the examples out: of every
            // two draws the first is lost. Prompts depend on it.
            self.draw()?;
            let examples = self.examples(doc, prefix)?;
            messages.push(Message::new("user", examples + &question));
        }
        if let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
            messages.push(Message::new("assistant", prefix));
        }
        Ok(messages)
    }

    /// The examples laid out as text.
    fn examples(&mut self, doc: &Document, prefix: Option<&str>) -> Result<String, TaskError> {
        let mut laid_out = String::new();
        if self.task.num_fewshot == 0 {
            return Ok(laid_out);
        }
        for (text, target) in self.drawn(doc)? {
            laid_out.push_str(&text);
            if !target.is_empty() {
                laid_out.push_str(&self.task.target_delimiter);
                laid_out.push_str(&spaced(prefix));
                laid_out.push_str(&target);
                laid_out.push_str(&self.task.fewshot_delimiter);
            }
        }
        Ok(laid_out)
    }

    /// Text and target of the examples for `doc`, which is never one of them.
    fn drawn(&mut self, doc: &Document) -> Result<Vec<(String, String)>, TaskError> {
        let task = self.task;
        let indices = self.draw()?;
        let examples = indices.into_iter().map(|index| &self.data.examples[index]);
        let by_text = task
            .fewshot
            .doc_to_text
            .as_ref()
            .unwrap_or(&task.doc_to_text);
        let by_target = task
            .fewshot
            .doc_to_target
            .as_ref()
            .unwrap_or(&task.doc_to_target);
        examples
            .filter(|example| example.fields != doc.fields)
            .take(task.num_fewshot)
            .map(|example| {
                let target = match example.target(task, by_target)? {
                    Value::Array(items) => items.first().map(python::text).unwrap_or_default(),
                    other => python::text(&other),
                };
                Ok((example.text(task, by_text)?, target))
            })
            .collect()
    }

    /// Indices of the next examples: one more than asked for where the document itself may be
    /// among them.
    fn draw(&mut self) -> Result<Vec<usize>, TaskError> {
        let dataset = &self.task.dataset;
        // The names are compared, so two absent ones are equal too: as in the reference.
        let spare = usize::from(dataset.fewshot_split == dataset.test_split);
        let num_drawn = self.task.num_fewshot + spare;
        let pool = self.data.examples.len();
        let drawn = match self.task.fewshot.sampler {
            Sampler::FirstN => (num_drawn <= pool).then(|| (0..num_drawn).collect()),
            Sampler::Random => self.sampler.draw(pool, num_drawn),
        };
        drawn.ok_or_else(|| TaskError::Fewshot {
            task: self.task.name.clone(),
            problem: format!("{num_drawn} few-shot examples wanted, {pool} available"),
        })
    }
}

fn spaced(prefix: Option<&str>) -> String {
    match prefix {
        Some(prefix) if !prefix.is_empty() => format!("{prefix} "),
        _ => String::new(),
    }
}
