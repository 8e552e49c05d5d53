//! Chat templates of Hugging Face tokenizers, rendered as transformers renders them.
//!
//! Same engine settings (blocks trimmed, an undefined name prints nothing), same functions
//! (`raise_exception`, `strftime_now`, `tojson` without HTML escapes), Python's string methods,
//! loop controls, and the `{% generation %}` marks, which change nothing about the text.

use std::fmt;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::clock;
use super::error::TaskError;
use super::template::{TEMPLATE, compile, environment, message};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
        }
    }
}

/// How a conversation is to end, and what else the template may ask for.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Ends the text with the start of an answer; otherwise the final message is left open, so
    /// that the model continues it.
    pub add_generation_prompt: bool,
    /// The template variable of that name; the reference passes `false`, which makes Qwen3-style
    /// templates write an empty think block.
    pub enable_thinking: bool,
    /// More template variables (`chat_template_args` of the reference).
    pub arguments: Map<String, serde_json::Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            enable_thinking: false,
            arguments: Map::new(),
        }
    }
}

/// A compiled chat template with the special tokens of its tokenizer.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are variables such as (`bos_token`, `<s>`); a token
    /// that the tokenizer lacks is left out, and prints as nothing.
    ///
    /// # Errors
    /// The template engine's message with the line.
    pub fn new(source: &str, special_tokens: &[(&str, &str)]) -> Result<Self, TaskError> {
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|error| TaskError::Chat(message(&error)))?;
        let mut environment = environment(UndefinedBehavior::Lenient, syntax);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        for (name, token) in special_tokens {
            environment.add_global((*name).to_owned(), Value::from(*token));
        }
        compile(&mut environment, &without_generation_marks(source)).map_err(TaskError::Chat)?;
        Ok(Self {
            environment: Arc::new(environment),
            source: Arc::from(source),
        })
    }

    /// The template as the checkpoint has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// The template refuses the messages (`raise_exception`), or the final message to continue
    /// cannot be found in the text.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TaskError> {
        let text = self.text(messages, options)?;
        match messages.last() {
            Some(last) if !options.add_generation_prompt => open_end(text, &last.content),
            _ => Ok(text),
        }
    }

    /// Renders a conversation that ends with its final message, as a model is to have said it.
    ///
    /// # Errors
    /// The template refuses the messages.
    pub fn render_closed(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<String, TaskError> {
        let options = ChatOptions {
            add_generation_prompt: false,
            ..options.clone()
        };
        self.text(messages, &options)
    }

    fn text(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TaskError> {
        let mut variables = json!({
            "messages": messages,
            "tools": null,
            "documents": null,
            "add_generation_prompt": options.add_generation_prompt,
            "enable_thinking": options.enable_thinking,
        });
        for (key, value) in &options.arguments {
            variables[key] = value.clone();
        }
        let template = self.environment.get_template(TEMPLATE);
        template
            .and_then(|template| template.render(Serde(&variables)))
            .map_err(|error| TaskError::Chat(message(&error)))
    }

    /// As [`Self::render`]; if the template refuses, once more without system messages, as the
    /// reference does. The second value tells whether they were left out.
    ///
    /// # Errors
    /// The first refusal, when there is no system message to leave out or that does not help.
    pub fn render_or_drop_system(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<(String, bool), TaskError> {
        let refusal = match self.render(messages, options) {
            Ok(text) => return Ok((text, false)),
            Err(refusal) => refusal,
        };
        let others: Vec<Message> = messages
            .iter()
            .filter(|message| message.role != "system")
            .cloned()
            .collect();
        if others.len() == messages.len() {
            return Err(refusal);
        }
        match self.render(&others, options) {
            Ok(text) => Ok((text, true)),
            Err(_) => Err(refusal),
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.source).finish()
    }
}

/// Cuts the text behind the final message, so that nothing closes it: transformers'
/// `continue_final_message`. Where the template trimmed the message, so is the end.
fn open_end(mut text: String, content: &str) -> Result<String, TaskError> {
    let trimmed = content.trim();
    let Some(at) = text.rfind(trimmed) else {
        let problem = "the final message does not appear in the rendered text, so it cannot be \
                       continued";
        return Err(TaskError::Chat(problem.to_owned()));
    };
    let with_end = content.trim_start();
    let kept = if text[at..].starts_with(with_end) {
        with_end
    } else {
        trimmed
    };
    text.truncate(at + kept.len());
    Ok(text)
}

/// Replaces `{% generation %}...{% endgeneration %}` by a block that is always taken: the marks
/// tell trainers which tokens are the model's, and keep their effect on blanks.
fn without_generation_marks(source: &str) -> String {
    let mut clean = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let inside = &rest[start + 2..start + length];
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => Some(inside.replace("generation", "if true")),
            "endgeneration" => Some(inside.replace("endgeneration", "endif")),
            _ => None,
        };
        let end = start + length;
        clean.push_str(&rest[..start + 2]);
        match replacement {
            Some(replacement) => {
                clean.push_str(&replacement);
                clean.push_str("%}");
                rest = &rest[end + 2..];
            }
            // `{%` may stand in a text or comment: only what follows it is looked at again.
            None => rest = &rest[start + 2..],
        }
    }
    clean.push_str(rest);
    clean
}

fn raise_exception(text: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, text.to_owned()))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    clock::format_now(format).map_err(|problem| Error::new(ErrorKind::InvalidOperation, problem))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=...)`; transformers turns off jinja's
/// own HTML escapes.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let bad = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > 16) {
        return Err(bad("tojson: at most 16 blanks of indent".to_owned()));
    }
    let mut json = serde_json::to_value(value).map_err(|error| bad(error.to_string()))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut text = String::new();
    write_json(&json, indent, 0, &mut text);
    Ok(text)
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { separator });
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { separator });
                line(depth + 1, out);
                out.push_str(&json!(key).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Vec<Message> {
        vec![Message::new("user", text)]
    }

    fn render(source: &str, messages: &[Message], options: &ChatOptions) -> String {
        let template = ChatTemplate::new(source, &[("bos_token", "<s>"), ("eos_token", "</s>")]);
        template.unwrap().render(messages, options).unwrap()
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n[{{ m['content'] }}]\n    {% endif %}\n{% endfor %}\n{{ unk_token }}{{ eos_token }}\n";
        assert_eq!(
            render(source, &user("hi"), &ChatOptions::default()),
            "<s>\n[hi]\n</s>"
        );
    }

    #[test]
    fn the_vocabulary_of_real_templates_is_there() {
        let source = "{%- set ns = namespace(last=0) %}{%- for m in messages[::-1] %}\
            {%- set i = (messages|length - 1) - loop.index0 %}{%- if loop.first %}{%- set ns.last = i %}{%- endif %}\
            {%- if m.content is string and not(m.content.startswith('<t>') and m.content.endswith('</t>')) %}\
            {{- m.content.split('</think>')[-1].lstrip('\\n').rstrip() }}{%- break %}{%- endif %}{%- endfor %}\
            {{- '|' ~ ns.last }}{% if tools %}t{% endif %}{% if tools is none %}n{% endif %}\
            {% if enable_thinking is defined and enable_thinking is false %}|<think>{% endif %}\
            {{- {'a': [1, 'é<b>', true, none]} | tojson }}{{ messages[0].get('name', 'x') }}\
            {% generation %}g{%- endgeneration %}{{ '%d'|string }}{{ 'a-b'.upper().replace('-', '+') }}";
        let shown = render(source, &user("x</think>\n\nhi  "), &ChatOptions::default());
        assert_eq!(
            shown,
            "hi|0n|<think>{\"a\": [1, \"é<b>\", true, null]}xg%dA+B"
        );
    }

    #[test]
    fn a_refused_system_message_is_dropped() {
        let source = "{% for m in messages %}{% if m.role == 'system' %}\
            {{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source, &[]).unwrap();
        let mut messages = user("hi");
        messages.insert(0, Message::new("system", "be brief"));
        let options = ChatOptions::default();
        let error = template
            .render(&messages, &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("System role not supported"), "{error}");
        let (text, dropped) = template.render_or_drop_system(&messages, &options).unwrap();
        assert_eq!((text.as_str(), dropped), ("hi", true));
    }

    #[test]
    fn a_final_message_stays_open() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let mut messages = user("hi");
        messages.push(Message::new("assistant", "The answer is "));
        let options = ChatOptions {
            add_generation_prompt: false,
            ..ChatOptions::default()
        };
        assert_eq!(
            render(source, &messages, &options),
            "<user>hi</><assistant>The answer is"
        );
    }

    #[test]
    fn hostile_templates_are_refused() {
        for source in [
            "{% for %}",
            "{{ messages",
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        ] {
            let template = ChatTemplate::new(source, &[]);
            let rendered = template.and_then(|t| t.render(&user("x"), &ChatOptions::default()));
            assert!(rendered.is_err(), "{source}");
        }
    }
}
