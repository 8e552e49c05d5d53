//! Flags about prompts, the same wherever prompts are built.

use std::sync::{Mutex, PoisonError};

use crate::formats::Tokenizer;
use crate::hub::{Hub, Transfer};
use crate::task::{ChatOptions, ChatTemplate, DEFAULT_FEWSHOT_SEED, PromptOptions};

use super::exit::usage;
use super::notice::notice;
use super::quantities::human_bytes;

/// A download that is shown on its way, not only at its ends.
const LARGE_BYTES: u64 = 64 << 20;

/// How prompts are built.
#[derive(clap::Args)]
pub(super) struct PromptArgs {
    /// Examples before each question; tasks that fix 0 keep it.
    #[arg(long = "num_fewshot", short = 'f', value_name = "N")]
    pub(super) num_fewshot: Option<usize>,

    /// Renders prompts with the model's chat template, or with one of its templates by name.
    #[arg(
        long = "apply_chat_template",
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = ""
    )]
    apply_chat_template: Option<String>,

    /// Text of a system message (or, without a chat template, text before everything).
    #[arg(long = "system_instruction", value_name = "TEXT")]
    system_instruction: Option<String>,

    /// Makes each few-shot example a turn of its own; needs --apply_chat_template.
    #[arg(long = "fewshot_as_multiturn", requires = "apply_chat_template")]
    fewshot_as_multiturn: bool,
}

impl PromptArgs {
    /// For commands with fewer flags: shots, and whether the model's own template is used.
    pub(super) fn new(num_fewshot: Option<usize>, apply_chat_template: bool) -> Self {
        Self {
            num_fewshot,
            apply_chat_template: apply_chat_template.then(String::new),
            system_instruction: None,
            fewshot_as_multiturn: false,
        }
    }

    /// Whether a chat template is asked for.
    pub(super) fn wants_template(&self) -> bool {
        self.apply_chat_template.is_some()
    }

    /// The chat template that is asked for, if one is.
    pub(super) fn chat_template(
        &self,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Option<ChatTemplate>> {
        let Some(name) = &self.apply_chat_template else {
            return Ok(None);
        };
        let source = if name.is_empty() || name.eq_ignore_ascii_case("true") {
            tokenizer.chat_template()
        } else {
            tokenizer.chat_template_named(name)
        };
        let Some(source) = source else {
            let names: Vec<&str> = tokenizer.chat_template_names().collect();
            return Err(usage(anyhow::anyhow!(
                "--apply_chat_template: the model has {}",
                if names.is_empty() {
                    "no chat template".to_owned()
                } else {
                    format!("no template `{name}`, only {}", names.join(", "))
                }
            )));
        };
        Ok(Some(ChatTemplate::new(
            source,
            &tokenizer.special_tokens(),
        )?))
    }

    /// The options for building prompts.
    pub(super) fn options<'a>(
        &'a self,
        template: Option<&'a ChatTemplate>,
    ) -> anyhow::Result<PromptOptions<'a>> {
        Ok(PromptOptions {
            chat_template: template,
            chat_options: ChatOptions::default(),
            system_instruction: self.system_instruction.as_deref(),
            fewshot_as_multiturn: self.fewshot_as_multiturn,
            fewshot_seed: DEFAULT_FEWSHOT_SEED,
        })
    }
}

/// Says that the model has a chat template which prompts go without.
pub(super) fn say_unused_template(tokenizer: &Tokenizer) {
    if tokenizer.chat_template().is_some() {
        notice(
            "the model has a chat template and prompts go without it; a chat model needs \
             --apply_chat_template",
        );
    }
}

/// The hub with lines on stderr for each file that is downloaded: at its begin, at each tenth of a
/// large one, and at its end.
pub(super) fn hub() -> Hub {
    let shown = Mutex::new((String::new(), 0));
    Hub::from_env().with_progress(move |transfer: &Transfer| {
        let tenths = match transfer.total_bytes {
            0 => 10,
            total => transfer.done_bytes.saturating_mul(10) / total,
        };
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = shown.0 != transfer.file;
        let is_large = transfer.total_bytes >= LARGE_BYTES;
        if is_new || (tenths > shown.1 && (is_large || tenths == 10)) {
            let size = human_bytes(transfer.total_bytes);
            notice(&format!("{} ({size}): {}%", transfer.file, tenths * 10));
            *shown = (transfer.file.clone(), tenths);
        }
    })
}
