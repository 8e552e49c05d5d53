//! Conversation layouts: which tokens surround a turn, by LLaMA-Factory's template names.
//!
//! A template is data: one row of [`TEMPLATES`]. Each piece (prefix, system and user text, then
//! the answer) is tokenised on its own with special tokens recognised and none added, and the
//! pieces are concatenated.

/// A turn's text is put where this stands in a layout.
const SLOT: &str = "{}";
/// The tokenizer's beginning-of-sequence token, where a layout writes it.
const BOS: &str = "{bos}";
/// The tokenizer's end-of-sequence token.
const EOS: &str = "{eos}";

/// One layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name in a recipe.
    pub name: &'static str,
    /// Stands once, before the first turn.
    prefix: &'static str,
    /// The system text's surroundings; nothing is written where there is no system text.
    system: &'static str,
    /// A user turn's surroundings, up to where the answer begins.
    user: &'static str,
    /// The answer's surroundings; all of it is trained on.
    assistant: &'static str,
    /// The system text where neither the row nor the recipe gives one.
    pub default_system: &'static str,
    /// Texts that end a turn; the first becomes the tokenizer's EOS.
    pub stop_words: &'static [&'static str],
    /// Whether an answer without thoughts gets an empty thought block (Qwen3).
    pub is_reasoning: bool,
    /// Whether a model trained with it needs its own chat template in place of the old one.
    pub replaces_chat_template: bool,
}

const CHATML_SYSTEM: &str = "<|im_start|>system\n{}<|im_end|>\n";
const CHATML_USER: &str = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n";
const CHATML_ASSISTANT: &str = "{}<|im_end|>\n";

/// ChatML without a default system text; the Qwen rows differ from it by a field or two.
const CHATML: Template = Template {
    name: "chatml",
    prefix: "",
    system: CHATML_SYSTEM,
    user: CHATML_USER,
    assistant: CHATML_ASSISTANT,
    default_system: "",
    stop_words: &["<|im_end|>", "<|im_start|>"],
    is_reasoning: false,
    replaces_chat_template: false,
};

const PLAIN: Template = Template {
    name: "empty",
    prefix: "",
    system: "{}",
    user: "{}",
    assistant: "{}",
    default_system: "",
    stop_words: &[],
    is_reasoning: false,
    replaces_chat_template: false,
};

/// Every layout. To add one: a row here and a case in the golden tokenisations.
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "qwen",
        default_system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        stop_words: &["<|im_end|>"],
        ..CHATML
    },
    // The seed's generation of LLaMA-Factory (0.9.2) had another default system text.
    Template {
        name: "qwen@0.9.2",
        default_system: "You are a helpful assistant.",
        stop_words: &["<|im_end|>"],
        ..CHATML
    },
    Template {
        name: "qwen3",
        stop_words: &["<|im_end|>"],
        is_reasoning: true,
        ..CHATML
    },
    Template {
        name: "qwen3_nothink",
        stop_words: &["<|im_end|>"],
        ..CHATML
    },
    CHATML,
    Template {
        name: "llama3",
        prefix: BOS,
        system: "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        user: "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>\
               <|start_header_id|>assistant<|end_header_id|>\n\n",
        assistant: "{}<|eot_id|>",
        stop_words: &["<|eot_id|>", "<|eom_id|>"],
        ..PLAIN
    },
    Template {
        name: "default",
        replaces_chat_template: true,
        system: "System: {}{eos}\n",
        user: "Human: {}{eos}\nAssistant:",
        assistant: "{}{eos}\n",
        ..PLAIN
    },
    Template {
        name: "default@0.9.2",
        replaces_chat_template: true,
        system: "System: {}\n",
        user: "Human: {}\nAssistant:",
        assistant: "{}{eos}\n",
        ..PLAIN
    },
    Template {
        name: "alpaca",
        replaces_chat_template: true,
        system: "{}",
        user: "### Instruction:\n{}\n\n### Response:\n",
        assistant: "{}{eos}\n\n",
        default_system: "Below is an instruction that describes a task. \
                         Write a response that appropriately completes the request.\n\n",
        ..PLAIN
    },
    PLAIN,
];

impl Template {
    /// The layout with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TEMPLATES.iter().find(|template| template.name == name)
    }

    /// The source piece of a turn. `system` is given for the first turn only, empty for none.
    pub fn source(&self, system: Option<&str>, user: &str, special: &Special<'_>) -> String {
        let mut text = String::new();
        if let Some(system) = system {
            text.push_str(&special.fill(self.prefix, ""));
            if !system.is_empty() {
                text.push_str(&special.fill(self.system, system));
            }
        }
        text.push_str(&special.fill(self.user, user));
        text
    }

    /// The layout as a chat template (Jinja). A user turn ends where the answer begins, whether or
    /// not one is asked for.
    pub fn to_jinja(&self, bos: &str, eos: &str) -> String {
        let special = Special { bos, eos };
        let text = |text: &str| {
            let text = special.fill(text, SLOT).replace('\\', "\\\\");
            format!("'{}'", text.replace('\'', "\\'").replace('\n', "\\n"))
        };
        let around = |layout: &str, content: &str| {
            let (before, after) = layout.split_once(SLOT).unwrap_or((layout, ""));
            format!("{{{{ {} + {content} + {} }}}}", text(before), text(after))
        };
        format!(
            "{{{{ {} }}}}{{% if messages[0]['role'] == 'system' %}}{{% set system = \
             messages[0]['content'] %}}{{% set turns = messages[1:] %}}{{% else %}}{{% set system = \
             {} %}}{{% set turns = messages %}}{{% endif %}}{{% if system %}}{}{{% endif %}}{{% for \
             message in turns %}}{{% if message['role'] == 'assistant' %}}{}{{% else %}}{}{{% endif \
             %}}{{% endfor %}}",
            text(self.prefix),
            text(self.default_system),
            around(self.system, "system"),
            around(self.assistant, "message['content']"),
            around(self.user, "message['content']"),
        )
    }

    /// The answer piece of a turn.
    pub fn answer(&self, answer: &str, special: &Special<'_>) -> String {
        special.fill(self.assistant, answer)
    }
}

/// The special tokens' texts that a layout may write.
#[derive(Clone, Copy, Debug)]
pub struct Special<'a> {
    /// Beginning of sequence; empty where the tokenizer has none.
    pub bos: &'a str,
    /// End of sequence.
    pub eos: &'a str,
}

impl Special<'_> {
    /// A layout with its places filled; the text itself is never searched for places.
    fn fill(&self, layout: &str, text: &str) -> String {
        let special = |part: &str| part.replace(BOS, self.bos).replace(EOS, self.eos);
        match layout.split_once(SLOT) {
            Some((before, after)) => format!("{}{text}{}", special(before), special(after)),
            None => special(layout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_inside_the_text_are_left_alone() {
        let special = Special {
            bos: "<s>",
            eos: "</s>",
        };
        let template = Template::find("default").unwrap();
        assert_eq!(
            template.source(Some(""), "{eos}{}", &special),
            "Human: {eos}{}</s>\nAssistant:"
        );
        assert_eq!(template.answer("x", &special), "x</s>\n");
    }

    #[test]
    fn names_are_unique() {
        for (i, template) in TEMPLATES.iter().enumerate() {
            assert!(
                TEMPLATES[..i]
                    .iter()
                    .all(|other| other.name != template.name)
            );
        }
    }
}
