//! The text that an importance matrix is collected from.

use std::path::PathBuf;

use anyhow::{Context, anyhow};

use crate::cli::exit::usage;
use crate::cli::prompting::{self, PromptArgs};
use crate::formats::Tokenizer;
use crate::task::{self, DataSources, Overrides, Registry};

/// A file, or tasks and how their prompts are built.
#[derive(clap::Args)]
pub(super) struct TextArgs {
    /// A text file, taken as a whole.
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// The prompts of these tasks, one behind the other (comma list as in `micota eval`).
    #[arg(long, value_name = "TASKS", conflicts_with = "file")]
    tasks: Option<String>,
    /// Prompts of each task.
    #[arg(long, short = 'L', value_name = "N", requires = "tasks")]
    limit: Option<usize>,
    /// Examples before each question; tasks that fix 0 keep it.
    #[arg(long = "num_fewshot", value_name = "N", requires = "tasks")]
    num_fewshot: Option<usize>,
    /// Renders prompts with the model's chat template.
    #[arg(long = "apply_chat_template", requires = "tasks")]
    apply_chat_template: bool,
    /// Folders with more task files.
    #[arg(long = "include_path", value_name = "DIR", value_delimiter = ',')]
    include_path: Vec<PathBuf>,
    /// Data folder (SET/SPLIT.jsonl) or file.
    #[arg(long, alias = "data_dir", value_name = "PATH", env = "MICOTA_DATA")]
    data_dir: Option<PathBuf>,
}

/// A text as tokens.
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// What it is, as the matrix says it: a file's name, or tasks.
    pub(super) sources: Vec<String>,
}

impl TextArgs {
    pub(super) fn is_given(&self) -> bool {
        self.file.is_some() || self.tasks.is_some()
    }

    /// Special tokens that are spelt out in the text are taken as such.
    pub(super) fn tokens(&self, tokenizer: &Tokenizer) -> anyhow::Result<Tokens> {
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--file {}", path.display()))
                .map_err(usage)?;
            return Ok(Tokens {
                ids: tokenizer.encode(&text, true)?,
                sources: vec![path.display().to_string()],
            });
        }
        let Some(tasks) = &self.tasks else {
            return Err(usage(anyhow!("give a text: --file FILE or --tasks TASKS")));
        };
        let mut ids = Vec::new();
        for text in self.prompts(tasks, tokenizer)? {
            ids.extend(tokenizer.encode(&text, !self.apply_chat_template)?);
        }
        Ok(Tokens {
            ids,
            sources: vec![format!("tasks: {tasks}")],
        })
    }

    fn prompts(&self, patterns: &str, tokenizer: &Tokenizer) -> anyhow::Result<Vec<String>> {
        let prompt = PromptArgs::new(self.num_fewshot, self.apply_chat_template);
        let template = prompt.chat_template(tokenizer)?;
        let options = prompt.options(template.as_ref())?;
        let overrides = Overrides {
            num_fewshot: self.num_fewshot,
            ..Overrides::default()
        };
        let registry = Registry::load(&self.include_path).map_err(usage)?;
        let sources = DataSources::new(self.data_dir.clone(), Some(prompting::hub()));
        let mut texts = Vec::new();
        for mut task in registry
            .resolve(&[patterns.to_owned()])
            .map_err(usage)?
            .tasks
        {
            task.apply(&overrides);
            let data = sources.load(&task)?;
            let count = self.limit.unwrap_or(usize::MAX).min(data.documents.len());
            let doc_ids: Vec<usize> = (0..count).collect();
            let prompts = task::prompts(&task, &data, &doc_ids, &options)?;
            texts.extend(prompts.into_iter().map(|prompt| prompt.text));
        }
        Ok(texts)
    }
}
